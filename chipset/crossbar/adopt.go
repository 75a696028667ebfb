package crossbar

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"ft/chipset/backplane"
	"ft/chipset/lockstep"
	"ft/chipset/port"
)

// Adopting: the process that was the chipset has died, and its modules go on waiting for
// commands. The journal says which of them were in lockstep; the rings still hold what they
// were sent last, so that one that was sent less of the stream than the other can be given the
// rest (package lockstep, adopt.go, has what follows).

// tailMax bounds how long a module may take to take what the other was sent before.
const tailMax = 5 * time.Second

// Adopt takes over the machine of a predecessor, of which the journal in cfg.Keeper tells.
// modules are its descriptors by name; those of modules that are not in lockstep are ended.
// Run has to be called next.
func Adopt(cfg Config, modules map[string][]int) (*Crossbar, error) {
	x := newCrossbar(cfg)
	e := cfg.Keeper.Journal.Entry()
	var sides []lockstep.Side
	var errs []error
	for name, fds := range modules {
		m, in, err := x.adoptModule(name, fds, e)
		switch {
		case err != nil:
			errs = append(errs, err)
		case in && !e.Judging:
			x.mods[m.side] = m
		default:
			m.Fence("its chipset has died, and it was not in lockstep")
			x.bury(m)
		}
	}
	for s, m := range x.mods {
		if m != nil {
			sides = append(sides, lockstep.Side(s))
		}
	}
	if e.Judging {
		errs = append(errs, errors.New("its modules were at odds when it died"))
	}
	var number uint64
	var short map[lockstep.Side]string
	if len(sides) > 0 {
		var err error
		number, short, err = even(sides, func(s lockstep.Side) sentTo { return x.mods[s] })
		errs = append(errs, err)
	}
	if number == 0 {
		x.Close()
		return nil, errors.Join(append(errs, errors.New("no CPU module of it can be taken over"))...)
	}
	for s := range x.mods {
		x.links[s].open = x.mods[s] != nil
		x.journalWithin(lockstep.Side(s), x.mods[s] != nil)
	}
	x.cfg.Core.Pages = len(x.mods[sides[0]].RAM()) / lockstep.PageSize
	x.start(func() { x.core = lockstep.Adopt(x.cfg.Core, (*hands)(x), sides, number) })
	for s, why := range short {
		x.start(func() { x.core.Gone(s, "short", why) })
	}
	return x, nil
}

// adoptModule takes a module over by its name.
func (x *Crossbar) adoptModule(name string, fds []int, e Entry) (m *mod, in bool, err error) {
	for s := range lockstep.Side(2) {
		var pid int
		if _, err := fmt.Sscanf(name, s.String()+"-%d", &pid); err != nil || ModuleName(s, pid) != name {
			continue
		}
		b, err := backplane.Adopt(s, fds, x.inbox, x.cfg.Backplane.Limits)
		if err != nil {
			return nil, false, err
		}
		return &mod{Module: b, side: s, pid: pid}, e.Pids[s] == pid, nil
	}
	return nil, false, fmt.Errorf("%q is the name of no CPU module", name)
}

// sentTo is a module as far as its stream goes.
type sentTo interface {
	Last() (number uint64, ok bool)
	Tail(from uint64) ([]lockstep.Command, bool)
	Send(*lockstep.Command) error
}

// even gives all of the modules the same stream, and says up to which number it goes. short are
// those that cannot be given it, and why; one of them may have come in just before the death.
func even(sides []lockstep.Side, module func(lockstep.Side) sentTo) (number uint64, short map[lockstep.Side]string, err error) {
	last := map[lockstep.Side]uint64{}
	short = map[lockstep.Side]string{}
	for _, s := range sides {
		n, ok := module(s).Last()
		if !ok {
			short[s] = "it had not been sent anything of the stream when its chipset died"
			continue
		}
		last[s], number = n, max(number, n)
	}
	if number == 0 {
		return 0, nil, errors.New("no CPU module had been sent anything yet")
	}
	for s, n := range last {
		if n == number {
			continue
		}
		rest, ok := module(s.Other()).Tail(n + 1)
		if !ok || sendAll(module(s), rest) != nil {
			short[s] = "it had been sent less than its partner when its chipset died"
		}
	}
	return number, short, nil
}

func sendAll(m sentTo, list []lockstep.Command) error {
	deadline := time.Now().Add(tailMax)
	for i := range list {
		for {
			err := m.Send(&list[i])
			if err == nil {
				break
			}
			if !errors.Is(err, port.ErrFull) || time.Now().After(deadline) {
				return err
			}
			time.Sleep(flushEvery)
		}
	}
	return nil
}

// HandOver leaves the modules running for a successor, once Run has returned.
func (x *Crossbar) HandOver() {
	for s, m := range x.mods {
		if m == nil {
			continue
		}
		x.mods[s] = nil
		if !x.core.Heritable(lockstep.Side(s)) {
			m.Fence("it was not in lockstep when its chipset was replaced")
			x.bury(m)
			continue
		}
		x.beside.Go(func() {
			m.use.Wait()
			m.HandOver()
		})
	}
	x.beside.Wait()
}

// newCrossbar is one without modules.
func newCrossbar(cfg Config) *Crossbar {
	if cfg.Slots == nil {
		cfg.Slots = &Slots{}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Crossbar{cfg: cfg, began: time.Now(), inbox: backplane.NewInbox(), wake: make(chan struct{}, 1), started: make(chan struct{})}
}

// End ends modules by their descriptors, as a predecessor has stored them.
func End(modules map[string][]int) {
	x := newCrossbar(Config{})
	for name, fds := range modules {
		if m, _, err := x.adoptModule(name, fds, Entry{}); err == nil {
			m.Fence("its machine is not gone on with")
			x.bury(m)
		}
	}
	x.beside.Wait()
}
