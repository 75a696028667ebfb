package bonding

import (
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"ft/bond/datapath"
	"ft/drivers"
)

// SetState opens the gates of the active and the eligible ports, makes the active one so,
// and closes the others. The order matters: a gate is never closed before the face has
// another port, and none is left open when the switch has failed.
func (p *path) SetState(st datapath.State, planned bool) error {
	if st.Active != datapath.None && !st.Active.Valid() {
		return fmt.Errorf("%s has no side %d", p.face.name, st.Active)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var before [2]gate
	for s, n := range p.ports {
		side := drivers.Side(s)
		if n == nil {
			if st.Active == side {
				return fmt.Errorf("make side %d of %s active: it has no NIC", side, p.face.name)
			}
			continue
		}
		before[s] = n.gate
		if carries(st, side) {
			if err := p.turnGate(n, gateOpen); err != nil {
				return err
			}
		}
	}
	if st.Active.Valid() {
		if err := p.activate(p.ports[st.Active]); err != nil {
			for s, n := range p.ports {
				if n != nil && before[s] == gateClosed {
					err = errors.Join(err, p.turnGate(n, gateClosed))
				}
			}
			return err
		}
	}
	p.want = st
	var errs []error
	for s, n := range p.ports {
		if n == nil {
			p.want.Eligible[s] = false
		} else if !carries(st, drivers.Side(s)) {
			errs = append(errs, p.turnGate(n, gateClosed))
		}
	}
	return errors.Join(append(errs, p.checkStrangers())...)
}

// checkStrangers looks once, at the first state after an adoption: nobody but us puts
// NICs into our bond later.
func (p *path) checkStrangers() error {
	if p.checked {
		return nil
	}
	slaves, err := p.wire.slaves(p.face.index)
	if err == nil {
		err = p.dropStrangers(slaves)
	}
	p.checked = err == nil
	return err
}

func carries(st datapath.State, s drivers.Side) bool { return st.Active == s || st.Eligible[s] }

// turnGate turns a gate unless a fault holds it.
func (p *path) turnGate(n *port, to gate) error {
	if n.fault == datapath.FaultSilent {
		to = gateSilent
	}
	if n.gateless || n.gate == to {
		return nil
	}
	if err := setGate(n.Index, n.gate, to, n.MAC, p.face.mac); err != nil {
		if gone(err) {
			return nil // its SetPort will come
		}
		if g, e := gateOf(n.Index, n.MAC, p.face.mac); e == nil && g != gateNone {
			n.gate = g
		}
		return fmt.Errorf("turn the gate of %s to %v: %w", n.Name, to, err)
	}
	n.gate = to
	return nil
}

// lookMax bounds the wait for the driver's look at the carriers, which the kernel begins
// at once when it is asked to and does within a millisecond on a machine at rest.
const lookMax = miimon * time.Millisecond

// activate makes a port the active one. The driver refuses a port whose carrier it has not
// seen yet, which may be up to miimon after it came. So when it refuses it is made to look:
// setting miimon to 0 and back starts the look at once (bond_option_miimon_set).
func (p *path) activate(n *port) error {
	set := func() error {
		return p.wire.setOption(p.face.index, attrActiveSlave, nl.Uint32Attr(uint32(n.Index)))
	}
	err := set()
	if !errors.Is(err, unix.EINVAL) {
		return p.activated(n, err)
	}
	for _, ms := range []uint32{0, miimon} {
		if err := p.wire.setOption(p.face.index, attrMiimon, nl.Uint32Attr(ms)); err != nil {
			return fmt.Errorf("have the bonding driver look at the carriers of %s: set miimon to %d: %w", p.face.name, ms, err)
		}
	}
	for deadline := time.Now().Add(lookMax); errors.Is(err, unix.EINVAL) && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
		// With no active port the driver takes one by itself, and refuses to be told.
		if active, e := p.active(); e == nil && active == n.Index {
			return nil
		}
		err = set()
	}
	return p.activated(n, err)
}

func (p *path) activated(n *port, err error) error {
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("make %s the active port of %s: the bonding driver sees no carrier on it: %w", n.Name, p.face.name, err)
	}
	if err != nil {
		return fmt.Errorf("make %s the active port of %s: %w", n.Name, p.face.name, err)
	}
	return nil
}

// active is the ifindex of the port that the driver uses, 0 for none.
func (p *path) active() (int, error) {
	face, err := p.wire.link(p.face.index)
	if err != nil {
		return 0, err
	}
	if b := face.data[attrActiveSlave]; len(b) >= 4 {
		return int(nl.NativeEndian().Uint32(b)), nil
	}
	return 0, nil
}

// State asks the driver. A port that it has taken but that is closed carries nothing.
func (p *path) State() (datapath.State, datapath.Turn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	index, err := p.active()
	if err != nil {
		return datapath.State{Active: datapath.None}, p.turn, err
	}
	st := datapath.State{Active: p.sideOf(index), Eligible: p.want.Eligible}
	if st.Active.Valid() {
		switch n := p.ports[st.Active]; {
		case n.gate == gateClosed, n.gate == gateSilent && !carries(p.want, st.Active):
			st.Active = datapath.None
		case p.want.Active == datapath.None:
			p.want.Active = st.Active // adopted, or the first port to come
		case p.want.Active != st.Active:
			p.noticed(st.Active)
		}
	}
	return st, p.turn, nil
}

// Fault darkens a port (the NIC is set down, which is how the kernel sees a cable pulled)
// or silences it.
func (p *path) Fault(s drivers.Side, f datapath.Fault) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !s.Valid() || p.ports[s] == nil {
		return fmt.Errorf("side %d of %s has no NIC to put a fault into", s, p.face.name)
	}
	n := p.ports[s]
	if f == datapath.FaultSilent && n.gateless {
		return drivers.Refuse(drivers.RuleState, "%s cannot be silenced: this kernel lacks what filters its frames (modules sch_ingress, cls_u32, act_gact); cable-pull works", n.Name)
	}
	if up := f != datapath.FaultDark; up != (n.fault != datapath.FaultDark) {
		if err := p.wire.setUp(n.Index, up); err != nil {
			return fmt.Errorf("fault on %s: set it up %v: %w", n.Name, up, err)
		}
	}
	n.fault = f
	to := gateClosed // turnGate makes it silent
	if carries(p.want, s) {
		to = gateOpen
	}
	return p.turnGate(n, to)
}
