package tc

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ft/bond/datapath"
	"ft/drivers"
)

// Classes mark our filters. The upper bits say whose, the lowest:
//
//	bit 0       the side; at the face, the active one
//	bits 1, 2   at the face: the eligible sides
const classBits = 0xf

func (p *path) sideClass(s drivers.Side) uint32 { return p.mark | uint32(s) }

func (p *path) class(st datapath.State) uint32 {
	c := p.sideClass(max(st.Active, 0))
	for s, eligible := range st.Eligible {
		if eligible {
			c |= 2 << s
		}
	}
	return c
}

func (p *path) ours(u *netlink.U32) bool { return u != nil && u.ClassId&^classBits == p.mark }

func sideOf(class uint32) drivers.Side { return drivers.Side(class & 1) }

func eligibleOf(class uint32) [2]bool { return [2]bool{class&2 != 0, class&4 != 0} }

func (p *path) SetPort(s drivers.Side, new *datapath.Port) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.k.Handle == nil:
		return errClosed
	case !s.Valid():
		return fmt.Errorf("%s has no port %d", p.spec.Face, s)
	case new == nil:
		return p.release(s)
	case new.Index == p.pair.Face || new.Index == p.pair.Peer || new.Index == p.ports[s.Other()].Index:
		return fmt.Errorf("port %d of %s: %s is its other port, or the face itself", s, p.spec.Face, new.Name)
	case len(new.MAC) != 6:
		return fmt.Errorf("port %d of %s: %s has no Ethernet address (%q)", s, p.spec.Face, new.Name, new.MAC)
	}
	old := &p.ports[s]
	if old.Index == new.Index && old.MAC.String() == new.MAC.String() {
		old.Name = new.Name
		return nil
	}
	if err := p.release(s); err != nil {
		return err
	}
	if err := p.install(s, *new); err != nil {
		return errors.Join(fmt.Errorf("put port %d of %s onto %s: %w", s, p.spec.Face, new.Name, err), p.strip(new.Index))
	}
	return nil
}

// release forgets a side's NIC, and takes our filters off it if it is still there. The
// caller holds mu.
func (p *path) release(s drivers.Side) error {
	port := p.ports[s]
	if port.Index == 0 {
		return nil
	}
	st := datapath.State{Active: p.out, Eligible: p.eligible}
	st.Eligible[s] = false
	if st.Active == s {
		st.Active = datapath.None
	}
	if err := p.setState(st, false); err != nil {
		return fmt.Errorf("take port %d of %s (%s) out: %w", s, p.spec.Face, port.Name, err)
	}
	if err := p.strip(port.Index); err != nil {
		return fmt.Errorf("take the filters of %s off %s: %w", p.spec.Face, port.Name, err)
	}
	p.ports[s].Port, p.ports[s].table = datapath.Port{}, 0
	return nil
}

// install puts the filters of a standby onto a NIC: what drops first, the mark last.
func (p *path) install(s drivers.Side, new datapath.Port) error {
	face, err := p.k.LinkByIndex(p.pair.Face)
	if err != nil {
		return fmt.Errorf("look at the face: %w", err)
	}
	if err := p.k.addClsact(new.Index); err != nil {
		return err
	}
	if err := p.clear(new.Index); err != nil { // a process that was killed may have got half way
		return err
	}
	if err := p.k.drop(p.dropper, new.Index, ingress, prioDrop, nil); err != nil {
		return err
	}
	if err := p.k.drop(p.dropper, new.Index, ingress, prioOwn, face.Attrs().HardwareAddr); err != nil {
		return err
	}
	if p.ports[s].fault != datapath.FaultNone {
		if err := p.setFault(new.Index, p.ports[s].fault); err != nil {
			return err
		}
	}
	own := node{index: new.Index, hook: ingress, number: nodeNIC, class: p.sideClass(s), keys: macKeys(new.MAC, offDestination)}
	if err := p.k.add(own); err != nil {
		return err
	}
	_, table, err := p.k.nodes(new.Index, ingress)
	if err != nil {
		return err
	}
	p.ports[s].Port, p.ports[s].table = new, table
	p.ports[s].open, p.ports[s].late = false, false
	return nil
}

// clear takes our filters off a NIC: the mark first, what drops last.
func (p *path) clear(index int) error {
	for _, prio := range []uint16{prioWays, prioFault, prioOwn, prioDrop} {
		if err := p.k.removePriority(index, ingress, prio); err != nil {
			return err
		}
	}
	return p.k.removePriority(index, egress, prioFault)
}

// strip leaves a NIC without our filters, and without the hooks when they are of no use
// to anybody else.
func (p *path) strip(index int) error {
	if _, err := p.k.LinkByIndex(index); err != nil {
		var none netlink.LinkNotFoundError
		if errors.As(err, &none) || errors.Is(err, unix.ENODEV) {
			return nil
		}
		return fmt.Errorf("look at interface %d: %w", index, err)
	}
	if err := p.clear(index); err != nil {
		return err
	}
	return p.k.dropClsact(index)
}

// adopt finds what an earlier process has left, and ends what it was in the midst of: the
// way out says which port is active, and the ways in follow it.
func (p *path) adopt() error {
	nodes, table, err := p.k.nodes(p.pair.Face, egress)
	if err != nil {
		return err
	}
	if err := p.adoptPorts(); err != nil {
		return err
	}
	st := datapath.State{Active: datapath.None}
	if out := nodes[nodeOut]; p.ours(out) {
		p.outTable = table
		p.out, p.eligible = sideOf(out.ClassId), eligibleOf(out.ClassId)
		if port := p.ports[p.out]; port.Index != 0 && target(out) == port.Index {
			st.Active = p.out
		}
		for s, was := range p.eligible {
			st.Eligible[s] = was && p.ports[s].Index != 0
		}
	} else if err := p.k.removePriority(p.pair.Face, egress, prioWays); err != nil {
		return err
	}
	return p.setState(st, false)
}

func (p *path) adoptPorts() error {
	links, err := p.k.clsactLinks()
	if err != nil {
		return err
	}
	for _, index := range links {
		if index == p.pair.Face {
			continue
		}
		if err := p.adoptPort(index); err != nil {
			return err
		}
	}
	return nil
}

func (p *path) adoptPort(index int) error {
	nodes, table, err := p.k.nodes(index, ingress)
	if err != nil {
		return gone(err) // it may just have been removed
	}
	own := nodes[nodeNIC]
	if !p.ours(own) {
		return nil
	}
	link, err := p.k.LinkByIndex(index)
	if err != nil {
		var none netlink.LinkNotFoundError
		if errors.As(err, &none) {
			return nil
		}
		return fmt.Errorf("look at interface %d: %w", index, err)
	}
	s := sideOf(own.ClassId)
	if has := p.ports[s]; has.Index != 0 {
		return fmt.Errorf("both %s and %s carry filters of port %d of %s: remove those of one (tc qdisc del dev … clsact)", has.Name, link.Attrs().Name, s, p.spec.Face)
	}
	_, faulty, err := p.k.dropperOf(index, ingress, prioFault)
	if err != nil {
		return err
	}
	port := port{Port: datapath.Port{Index: index, Name: link.Attrs().Name, MAC: macOf(own)}, table: table,
		open: nodes[nodeIn] != nil, late: nodes[nodeLate] != nil}
	if faulty {
		port.fault = datapath.FaultSilent
	}
	p.ports[s] = port
	// The face may have got another MAC since.
	face, err := p.k.LinkByIndex(p.pair.Face)
	if err != nil {
		return fmt.Errorf("look at the face: %w", err)
	}
	return gone(p.k.dropFrom(p.dropper, index, ingress, prioOwn, face.Attrs().HardwareAddr))
}

// State asks the kernel. It never turns by itself.
func (p *path) State() (datapath.State, datapath.Turn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	st := datapath.State{Active: datapath.None, Eligible: p.eligible}
	if p.k.Handle == nil {
		return st, datapath.Turn{}, errClosed
	}
	nodes, _, err := p.k.nodes(p.pair.Face, egress)
	if err != nil {
		return st, datapath.Turn{}, fmt.Errorf("ask which port of %s is active: %w", p.spec.Face, err)
	}
	if out := nodes[nodeOut]; p.ours(out) {
		if s := sideOf(out.ClassId); p.ports[s].Index != 0 && target(out) == p.ports[s].Index {
			st.Active = s
		}
	}
	return st, datapath.Turn{}, nil
}

// Counters are what the kernel counts: of what is sent and received, since the last
// change; of what is dropped, since the port was made, and only where gact drops.
func (p *path) Counters() map[string]uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.k.Handle == nil {
		return nil
	}
	all := map[string]uint64{"switches": p.switches}
	count := func(index int, h hook, names map[uint16]string) {
		list, err := p.k.filters(index, h)
		if err != nil {
			return // the NIC has just gone
		}
		for _, f := range list {
			u, ok := f.(*netlink.U32)
			name := names[f.Attrs().Priority]
			if !ok || name == "" {
				continue
			}
			for _, a := range u.Actions {
				if st := a.Attrs().Statistics; st != nil && st.Basic != nil {
					all[name] += uint64(st.Basic.Packets)
				}
			}
		}
	}
	count(p.pair.Face, egress, map[uint16]string{prioWays: "sent_since_switch", prioDrop: "dropped_no_port"})
	for s, port := range p.ports {
		if port.Index == 0 {
			continue
		}
		name := func(what string) string { return fmt.Sprintf("port%d_%s", s, what) }
		count(port.Index, ingress, map[uint16]string{prioFault: name("dropped_fault"), prioOwn: name("dropped_own"),
			prioWays: name("received_since_switch"), prioDrop: name("dropped_standby")})
	}
	return all
}
