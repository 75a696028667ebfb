//go:build !ftdrill

package translate

import "fmt"

// breakRule refuses every rule to break: only drills' binaries have any.
func breakRule(name string) error {
	if name != "" {
		return fmt.Errorf("break the translation rule %q: only binaries built with -tags ftdrill can", name)
	}
	return nil
}
