// Package plan is what host and guest of chipset/programs say to each other: the host packs
// a Plan into the initramfs, the guest's init answers with Reports on the console.
package plan

import (
	"fmt"
	"regexp"
)

// File is where the plan is in the guest.
const File = "/plan.json"

// Mark begins each line that is a Report, in JSON; what else is on the console is the
// kernel's.
const Mark = "\x02"

// Plan is what a guest does between boot and power off.
type Plan struct {
	Commands []Command `json:"commands"`
}

// Command is a script for the guest's sh, run as root in an empty directory.
type Command struct {
	Name   string `json:"name"`
	Script string `json:"script"`
	Rules  []Rule `json:"rules,omitempty"`
}

// Rule takes out of a command's output what two good machines may differ in, such as times:
// what matches is replaced, line by line.
type Rule struct {
	Match string `json:"match"` // a regular expression (package regexp)
	Put   string `json:"put"`
}

// Report is a line from the guest; one of its fields is set.
type Report struct {
	Begin      string   `json:"begin,omitempty"` // the name of a command that now runs
	Result     *Result  `json:"result,omitempty"`
	Complaints []string `json:"complaints,omitempty"` // of the guest's kernel
	Failed     string   `json:"failed,omitempty"`     // why the plan could not be done
	Done       bool     `json:"done,omitempty"`       // all commands have run
}

// OutputMax is how much of a command's output, in bytes, a Result has at most.
const OutputMax = 256 << 10

// Result is what became of a command.
type Result struct {
	Status  int     `json:"status"`           // of exit(3), or 128 + the signal that killed it
	Output  string  `json:"output,omitempty"` // standard output and error, as the rules leave them
	Bytes   int     `json:"bytes"`            // of the whole output
	Sum     string  `json:"sum"`              // SHA-256 of the whole output
	Seconds float64 `json:"seconds"`          // by the guest's clock
}

// Normal makes of an output what the rules leave of it.
func (c *Command) Normal(output []byte) ([]byte, error) {
	for _, r := range c.Rules {
		re, err := regexp.Compile("(?m)" + r.Match)
		if err != nil {
			return nil, fmt.Errorf("a rule of %s: %w", c.Name, err)
		}
		output = re.ReplaceAll(output, []byte(r.Put))
	}
	return output, nil
}
