package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"ft/ftd/api"
)

// Faults by what they are put into, as offered at completion; which of them a component
// takes, its driver decides.
var (
	sideFaults = map[string][]string{
		"disk":  {"read-error", "write-error", "corrupt", "slow", "hang", "vanish", "return", "clear"},
		kindNIC: {"cable-pull", "cable-return", "silent-path", "remove", "return", "flap", "clear"},
		kindMachine: {"kill", "stop", "bad-code", "double-store", "flip-csr", "flip-memory", "flip-pc", "flip-register", "lose-store", "slow", "stuck",
			"wrong-result", "clear"},
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
	var step, seed uint64
	c := &cobra.Command{
		Use:   "inject ID FAULT [ARGS] [--at-step N] [--seed N]",
		Short: "Put a fault in, for a drill",
		Long: `inject makes a part fail as it would by itself. It is refused unless the box allows it:
[system] drills = true.

  a leg, pci1/disk0      read-error, write-error [OFFSET LENGTH], corrupt [OFFSET],
                         slow MS, hang, vanish, return
  a NIC, pci0/net0       cable-pull, cable-return, silent-path, remove, return,
                         flap [N]
  a CPU side, cpu1/guest kill, stop, slow, flip-register [REG [BIT]], flip-pc [BIT],
                         flip-csr [NAME [BIT]], flip-memory [ADDRESS [BIT]],
                         stuck [REG [BIT]], wrong-result [CLASS], lose-store,
                         double-store, bad-code (of a module that translates)
  a module, pci1 or cpu0 power-off, power-on
  a device, or ftd       crash (its process)
  any                    clear (ends what was put in)

A fault of a CPU side is put in at once, or with --at-step at a step of its machine (ftctl show
NAME has them). What is not said, which register, address or bit, is drawn by lot: --seed
makes it the same again. stuck, wrong-result and slow stay in the module's place until they are
cleared, whatever module comes in there.`,
		Example: "  ftctl inject pci1/disk0 hang\n  ftctl inject pci1/disk0 slow 200\n  ftctl inject pci0/net0 cable-pull\n" +
			"  ftctl inject cpu1/guest flip-register x14 3\n  ftctl inject cpu1 power-off\n  ftctl inject disk0 crash",
		Args:              args(2, -1),
		ValidArgsFunction: a.completeFault,
	}
	c.Flags().Uint64Var(&step, "at-step", 0, "of a CPU side: not before its machine's step `N`")
	c.Flags().Uint64Var(&seed, "seed", 0, "of a CPU side: `N` decides what is not said")
	c.RunE = a.verb(func(ctx context.Context, args []string) error {
		more := args[2:]
		if c.Flags().Changed("at-step") {
			more = append(more, fmt.Sprintf("--at-step=%d", step))
		}
		if c.Flags().Changed("seed") {
			more = append(more, fmt.Sprintf("--seed=%d", seed))
		}
		return a.change(ctx, api.Change{Verb: api.Inject, ID: args[0], Fault: args[1], Args: more}, "")
	})
	return c
}
