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
// and closes the others: a gate is never closed before the face has another port.
//
// A port without carrier can be asked for (its cable may be pulled at that moment). The
// driver has then another active port, or none, and State says so; it takes the port as
// soon as it has a carrier and the driver no other, or State asks for it again.
func (p *path) SetState(st datapath.State, planned bool) error {
	if st.Active != datapath.None && !st.Active.Valid() {
		return fmt.Errorf("%s has no side %d", p.face.name, st.Active)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for s, n := range p.ports {
		if n == nil && carries(st, drivers.Side(s)) {
			return fmt.Errorf("side %d cannot carry %s: it has no NIC", s, p.face.name)
		}
	}
	for s := range p.ports {
		if side := drivers.Side(s); carries(st, side) {
			if err := p.turnGate(side, gateOpen); err != nil {
				return err
			}
		}
	}
	if st.Active.Valid() {
		if err := p.activate(p.ports[st.Active]); err != nil {
			return err
		}
	}
	p.want = st
	var errs []error
	for s, n := range p.ports {
		if n != nil && !carries(st, drivers.Side(s)) {
			errs = append(errs, p.turnGate(drivers.Side(s), gateClosed))
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

// turnGate turns a gate unless a fault holds it. A NIC that has vanished has none.
func (p *path) turnGate(s drivers.Side, to gate) error {
	n := p.ports[s]
	if n.fault == datapath.FaultSilent {
		to = gateSilent
	}
	if n.gateless || n.gate == to {
		return nil
	}
	err := p.place(s).turn(n.gate, to)
	if err == nil {
		n.gate = to
		return nil
	}
	if _, e := p.wire.link(n.Index); gone(e) {
		return nil
	}
	if _, g, e := gateOf(n.Index, n.MAC, p.face.mac); e == nil && g != gateNone {
		n.gate = g // what came of it
	}
	return fmt.Errorf("turn the gate of %s to %v: %w", n.Name, to, err)
}

// lookMax bounds the wait for the driver's look at the carriers, which the kernel begins
// at once when it is asked to and does within a millisecond on a machine at rest.
const lookMax = miimon * time.Millisecond

// activate makes a port the active one. The driver refuses a port whose carrier it has not
// seen yet, which may be up to miimon after it came. So when it refuses it is made to look:
// setting miimon to 0 and back starts the look at once (bond_option_miimon_set).
func (p *path) activate(n *port) error {
	err := p.setActive(n)
	if errors.Is(err, unix.EINVAL) {
		if nic, e := p.wire.link(n.Index); e == nil && nic.lit && nic.master == p.face.index {
			err = p.activateSoon(n)
		}
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EINVAL), gone(err):
		// The NIC has no carrier or has vanished; what the monitor sees next tells the core.
		if _, e := p.wire.link(p.face.index); e == nil {
			p.log.Warn("the bonding driver does not take the port that it was told to", "face", p.face.name, "nic", n.Name, "error", err)
			return nil
		}
	}
	return fmt.Errorf("make %s the active port of %s: %w", n.Name, p.face.name, err)
}

func (p *path) setActive(n *port) error {
	return p.wire.setOption(p.face.index, attrActiveSlave, nl.Uint32Attr(uint32(n.Index)))
}

func (p *path) activateSoon(n *port) error {
	for _, ms := range []uint32{0, miimon} {
		if err := p.wire.setOption(p.face.index, attrMiimon, nl.Uint32Attr(ms)); err != nil {
			return fmt.Errorf("have the bonding driver look at the carriers: set miimon to %d: %w", ms, err)
		}
	}
	for deadline := time.Now().Add(lookMax); ; time.Sleep(time.Millisecond) {
		// With no active port the driver takes one by itself, and refuses to be told.
		if active, err := p.active(); err == nil && active == n.Index {
			return nil
		}
		if err := p.setActive(n); !errors.Is(err, unix.EINVAL) || time.Now().After(deadline) {
			return err
		}
	}
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
	if want := p.want.Active; want.Valid() && p.ports[want].Index != index && !p.open(p.sideOf(index)) {
		// It was told to take another, which it could not then.
		if p.setActive(p.ports[want]) == nil {
			index = p.ports[want].Index
		}
	}
	st := datapath.State{Active: p.sideOf(index), Eligible: p.want.Eligible}
	switch {
	case !p.open(st.Active):
		st.Active = datapath.None
	case p.want.Active == datapath.None:
		p.want.Active = st.Active // adopted
	case p.want.Active != st.Active:
		p.noticed(st.Active)
	}
	return st, p.turn, nil
}

// open says whether a port may carry the face, but for an injected fault.
func (p *path) open(s drivers.Side) bool {
	if !s.Valid() {
		return false
	}
	g := p.ports[s].gate
	return g == gateOpen || g == gateNone || g == gateSilent && carries(p.want, s)
}

// Fault darkens a port (the NIC is set down, which is how the kernel sees a cable pulled)
// or silences it.
func (p *path) Fault(s drivers.Side, f datapath.Fault) error {
	if !s.Valid() {
		return fmt.Errorf("%s has no side %d", p.face.name, s)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.ports[s]
	switch {
	case n == nil && f == datapath.FaultNone:
		return nil
	case n == nil:
		return fmt.Errorf("side %d of %s has no NIC to put a fault into", s, p.face.name)
	case f == datapath.FaultSilent && n.gateless:
		return drivers.Refuse(drivers.RuleState, "%s cannot be silenced: this kernel lacks what filters its frames (modules sch_ingress, cls_u32, act_gact); cable-pull works", n.Name)
	}
	if up := f != datapath.FaultDark; up != (n.fault != datapath.FaultDark) {
		if err := p.wire.setUp(n.Index, up); err != nil && !gone(err) {
			return fmt.Errorf("fault on %s: set it up %v: %w", n.Name, up, err)
		}
	}
	n.fault = f
	to := gateClosed // a fault that silences keeps it silent
	if carries(p.want, s) {
		to = gateOpen
	}
	return p.turnGate(s, to)
}
