package cpu

import (
	"errors"

	"ft/chipset/module"
)

type faults struct{ e *Executor }

func (f *faults) run(steps uint64) module.Stop {
	_, stop := f.e.machine.Run(steps)
	return stop
}

func (e *Executor) arm(injection []byte) error {
	if len(injection) == 0 {
		return nil
	}
	return errors.New("there are no faults yet")
}

func (e *Executor) test() string { return "" }
