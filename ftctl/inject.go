package main

import (
	"context"

	"github.com/spf13/cobra"

	"ft/ftd/api"
)

// Faults by what they are put into, as offered at completion; which of them a component
// takes, its driver decides.
var (
	sideFaults = map[string][]string{
		"disk":  {"read-error", "write-error", "corrupt", "slow", "hang", "vanish", "return", "clear"},
		kindNIC: {"cable-pull", "cable-return", "silent-path", "remove", "return", "flap", "clear"},
	}
	moduleFaults = []string{"power-off", "power-on", "clear"}
	deviceFaults = []string{"crash", "clear"}
	ftdFaults    = []string{"crash"}
)

// faultsOf are the faults of what an id stands for, none for what is not there.
func faultsOf(st api.Status, id string) []string {
	if id == "ftd" {
		return ftdFaults
	}
	for _, m := range st.Modules {
		if m.ID == id {
			return moduleFaults
		}
	}
	for _, d := range st.Devices {
		if d.ID == id {
			return deviceFaults
		}
		for _, x := range d.Sides {
			if x.ID == id {
				return sideFaults[d.Kind]
			}
		}
	}
	return nil
}

func (a *app) injectCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "inject ID FAULT [ARGS]",
		Short: "Put a fault in, for a drill",
		Long: `inject makes a part fail as it would by itself. It is refused unless the box allows it:
[system] drills = true.

  a leg, pci1/disk0      read-error, write-error [OFFSET LENGTH], corrupt [OFFSET],
                         slow MS, hang, vanish, return
  a NIC, pci0/net0       cable-pull, cable-return, silent-path, remove, return,
                         flap [N]
  a module, pci1         power-off, power-on
  a device, or ftd       crash (its process)
  any                    clear (ends what was put in)`,
		Example:           "  ftctl inject pci1/disk0 hang\n  ftctl inject pci1/disk0 slow 200\n  ftctl inject pci0/net0 cable-pull\n  ftctl inject disk0 crash",
		Args:              args(2, -1),
		ValidArgsFunction: a.completeFault,
		RunE: a.verb(func(ctx context.Context, args []string) error {
			return a.change(ctx, api.Change{Verb: api.Inject, ID: args[0], Fault: args[1], Args: args[2:]}, "")
		}),
	}
}
