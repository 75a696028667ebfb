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

// asideMax bounds how long a module that stands may take to answer.
const asideMax = 5 * time.Second

// SetAside takes a module that stands out of a machine that has ended, before Close.
func (x *Crossbar) SetAside(s lockstep.Side) (*Apart, error) {
	r, err := x.ask(s, lockstep.Save, lockstep.Saved)
	if err != nil {
		return nil, fmt.Errorf("the state of %v: %w", s, err)
	}
	m := x.mods[s]
	x.mods[s] = nil
	return &Apart{State: r.Data, x: x, m: m}, nil
}

// Test has a module that stands test itself, between Run and Close. It says what is wrong.
func (x *Crossbar) Test(s lockstep.Side) (wrong string, err error) {
	r, err := x.ask(s, lockstep.Test, lockstep.Tested)
	if err != nil {
		return "", fmt.Errorf("the self-test of %v: %w", s, err)
	}
	return string(r.Data), nil
}

// ask asks a module that stands, and waits for its answer.
func (x *Crossbar) ask(s lockstep.Side, verb lockstep.Verb, answer lockstep.RecordKind) (*lockstep.Record, error) {
	if !x.Stands(s) {
		return nil, errors.New("it has no module that stands where the machine ended")
	}
	m := x.mods[s]
	if err := m.Send(&lockstep.Command{Verb: verb}); err != nil {
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
			case d.Record.Kind == answer:
				return d.Record, nil
			}
		}
		select {
		case <-x.inbox.Wake():
		case <-deadline.C:
			return nil, fmt.Errorf("it does not answer within %v", asideMax)
		}
	}
}

// Agreed are the digests of the machine's state and of its pages that were agreed on last,
// once Run has returned; with lockstep.Config.Prove those of its end.
func (x *Crossbar) Agreed() (state uint64, pages []uint64) { return x.core.Agreed() }

// MemoryOf is the memory of a module that stands, nil without one, between Run and Close.
func (x *Crossbar) MemoryOf(s lockstep.Side) []byte {
	if !x.Stands(s) {
		return nil
	}
	return x.mods[s].RAM()
}
