// Package inside is what a CPU module's process runs: the executor on the machine that its
// chipset has described.
package inside

import (
	"fmt"
	"io"
	"os"
	"runtime"

	"ft/chipset/backplane"
	"ft/chipset/bare"
	"ft/chipset/cpu"
	"ft/chipset/engine"
	"ft/chipset/lockstep"
	"ft/chipset/module"
)

// A CPU module executes on the process's first thread, whose state is that of the process
// for all who look at it. Only an init function can have that.
func init() {
	if len(os.Args) > 1 && os.Args[1] == backplane.Role {
		runtime.LockOSThread()
	}
}

// Run is the process of a CPU module, with the arguments behind its role.
func Run(args []string, errs io.Writer) (code int) {
	side, err := backplane.Place(args)
	if err != nil {
		fmt.Fprintf(errs, "ftd: %v\n", err)
		return 2
	}
	return backplane.Run(side, errs, func(s *backplane.Settings, ram []byte, send func(*lockstep.Record)) (backplane.Executor, error) {
		cfg := cpu.Config{RAM: ram, Build: Machine(s.Machine), Engine: s.Engine, Send: send}
		x, err := cpu.New(cfg)
		if err != nil && s.Engine != engine.Interpreter { // a machine that is slow is better than none, and it says what it has
			fmt.Fprintf(errs, "%s: %v; it interprets\n", side, err)
			cfg.Engine = engine.Interpreter
			x, err = cpu.New(cfg)
		}
		if err != nil {
			return nil, err
		}
		// The translator has its memory by now, and nothing of the guest has been looked at.
		if err := confine(); err != nil { // it computes as well without
			fmt.Fprintf(errs, "%s: %v\n", side, err)
		}
		return x, nil
	})
}

// Machine says how a module's machine is built.
func Machine(c backplane.MachineConfig) func([]byte, module.Sink, func(uint64)) (cpu.Machine, error) {
	return func(ram []byte, sink module.Sink, onFirstWrite func(page uint64)) (cpu.Machine, error) {
		switch {
		case c.Kind == backplane.KindMachine:
			return module.New(module.Config{
				RAM: ram, Disk: c.Disk, NIC: c.NIC, Entropy: c.Entropy, Compare: c.Compare, OnFirstWrite: onFirstWrite,
			}, sink)
		case c.Kind == backplane.KindBare && c.Bare != nil:
			return bare.NewModule(*c.Bare, ram, sink, onFirstWrite)
		}
		return nil, fmt.Errorf("there is no machine of kind %q", c.Kind)
	}
}
