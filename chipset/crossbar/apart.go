package crossbar

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"ft/chipset/lockstep"
)

// Apart is a module that was split off: its process stands, with this state.
type Apart struct {
	State []byte
	x     *Crossbar
	m     *mod
}

// Memory is its memory as a file, whoever it is released by meanwhile.
func (a *Apart) Memory() (*os.File, error) {
	fd, err := unix.FcntlInt(uintptr(a.m.Descriptors()[0]), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("the memory of %v: %w", a.m.side, err)
	}
	return os.NewFile(uintptr(fd), "memory of "+a.m.side.String()), nil
}

// Release ends its process, and waits until it is gone.
func (a *Apart) Release() {
	a.m.Fence("its memory has been written out")
	a.m.use.Wait()
	a.x.release(a.m)
}

// Stands says whether a side has a module that ran the machine to its end, once Run has
// returned.
func (x *Crossbar) Stands(s lockstep.Side) bool { return x.mods[s] != nil && x.core.Within(s) }

// asideMax bounds how long a module that stands may take to tell its state.
const asideMax = 5 * time.Second

// SetAside takes a module that stands out of a machine that has ended, before Close.
func (x *Crossbar) SetAside(s lockstep.Side) (*Apart, error) {
	if !x.Stands(s) {
		return nil, fmt.Errorf("%v has no module that stands where the machine ended", s)
	}
	m := x.mods[s]
	if err := m.Send(&lockstep.Command{Verb: lockstep.Save}); err != nil {
		return nil, err
	}
	deadline := time.NewTimer(asideMax)
	defer deadline.Stop()
	for {
		for _, d := range x.inbox.Take(nil) {
			switch {
			case d.Module != m.Module:
			case d.Gone != nil:
				return nil, errors.New(d.Gone.Text)
			case d.Record.Kind == lockstep.Saved:
				x.mods[s] = nil
				return &Apart{State: d.Record.Data, x: x, m: m}, nil
			}
		}
		select {
		case <-x.inbox.Wake():
		case <-deadline.C:
			return nil, fmt.Errorf("%v does not tell its state", s)
		}
	}
}
