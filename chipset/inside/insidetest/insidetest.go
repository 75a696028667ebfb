// Package insidetest lets a test's own program be the CPU modules of the machines under test.
package insidetest

import (
	"os"
	"testing"

	"ft/chipset/backplane"
	"ft/chipset/inside"
)

// Main is a TestMain: it runs the tests, or is a CPU module when a chipset has started it.
func Main(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == backplane.Role {
		os.Exit(inside.Run(os.Args[2:], os.Stderr))
	}
	os.Exit(m.Run())
}
