//go:build ftdrill

package translate

import (
	"fmt"
	"slices"
)

// BrokenRules are the rules that Options.BreakRule can name.
var BrokenRules = []string{"addw", "sra", "bltu", "mul crash", "xor crash"}

func breakRule(name string) error {
	if name != "" && !slices.Contains(BrokenRules, name) {
		return fmt.Errorf("there is no translation rule %q to break (%v)", name, BrokenRules)
	}
	return nil
}
