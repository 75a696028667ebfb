package programs

import (
	"os"
	"testing"

	"ft/chipset/backplane"
	"ft/chipset/inside"
)

// TestMain lets the test's own program be the CPU modules of our machine.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == backplane.Role {
		os.Exit(inside.Run(os.Args[2:], os.Stderr))
	}
	os.Exit(m.Run())
}
