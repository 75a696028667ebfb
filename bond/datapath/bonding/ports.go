package bonding

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"ft/bond/datapath"
	"ft/drivers"
)

// SetPort puts a NIC into the bond, closed, or takes it out.
func (p *path) SetPort(s drivers.Side, to *datapath.Port) error {
	if !s.Valid() {
		return fmt.Errorf("%s has no side %d", p.face.name, s)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.ports[s]
	if to == nil {
		return p.forget(s)
	}
	if other := p.ports[s.Other()]; other != nil && other.Index == to.Index {
		return fmt.Errorf("%s is the other port of %s already", to.Name, p.face.name)
	}
	nic, err := p.wire.link(to.Index)
	if err != nil {
		return fmt.Errorf("put %s into %s: %w", to.Name, p.face.name, err)
	}
	switch {
	case nic.index == p.face.index:
		return fmt.Errorf("%s cannot be a port of itself", p.face.name)
	case nic.master != 0 && nic.master != p.face.index:
		return fmt.Errorf("%s cannot be a port of %s: it is in another interface (%d): take it out there", nic.name, p.face.name, nic.master)
	case bytes.Equal(nic.own(), p.face.mac):
		return fmt.Errorf("%s has the MAC of %s, %v, as its own: give the face another, or answers to probes cannot be told from its traffic", nic.name, p.face.name, p.face.mac)
	case nic.master == p.face.index && old != nil && old.Index == nic.index:
		old.Name = nic.name
		return nil
	}
	if old != nil && old.Index != nic.index {
		if err := p.forget(s); err != nil {
			return err
		}
	}
	if nic.master == 0 {
		if _, err := p.keepMAC(); err != nil { // ports that have vanished were not let go of
			return err
		}
		if err := p.enslave(nic); err != nil {
			return err
		}
	} else if err := dropGate(nic.index); err != nil { // another side's, or a strange one
		return err
	}
	n := newPort(nic)
	p.ports[s] = n
	p.shut(s)
	// The NIC has the face's MAC now; answers to probes come to its own.
	if err := p.wire.filterMAC(n.Index, n.MAC, true); err != nil {
		p.miss(fmt.Sprintf("%s does not take frames to its own MAC (%v): answers to probes may not come in", n.Name, err))
	}
	return nil
}

func newPort(nic info) *port {
	return &port{Port: datapath.Port{Index: nic.index, Name: nic.name, MAC: nic.own()}}
}

func (p *path) place(s drivers.Side) place {
	return place{p.ports[s].Index, s, p.ports[s].MAC, p.face.mac}
}

// adopt finds the ports that a predecessor has put into the bond, with their gates.
func (p *path) adopt(mac net.HardwareAddr) error {
	slaves, err := p.wire.slaves(p.face.index)
	if err != nil {
		return err
	}
	if len(slaves) == 0 && len(mac) > 0 {
		p.face.mac = mac
		if _, err := p.keepMAC(); err != nil {
			return err
		}
	}
	for _, nic := range slaves {
		s, g, err := gateOf(nic.index, nic.own(), p.face.mac)
		if err != nil {
			return fmt.Errorf("read the gate of %s: %w", nic.name, err)
		}
		if s == datapath.None || p.ports[s] != nil {
			continue // SetPort may name it yet
		}
		n := newPort(nic)
		n.gate = g
		switch {
		case !nic.up:
			n.fault = datapath.FaultDark
		case g == gateSilent:
			n.fault = datapath.FaultSilent
		}
		p.ports[s] = n
		p.want.Eligible[s] = g == gateOpen
	}
	return nil
}

// enslave puts a NIC into the bond. It must be down for that; the driver sets it up.
func (p *path) enslave(nic info) error {
	fail := func(what string, err error) error {
		err = fmt.Errorf("put %s into %s: %s: %w", nic.name, p.face.name, what, err)
		if gone(err) {
			return err
		}
		return errors.Join(err, p.wire.release(nic))
	}
	if err := p.wire.setUp(nic.index, false); err != nil {
		return fail("set it down", err)
	}
	if err := p.wire.set(nic.index, unix.IFLA_MASTER, nl.Uint32Attr(uint32(p.face.index))); err != nil {
		if errors.Is(err, unix.EOPNOTSUPP) {
			err = fmt.Errorf("%w (it cannot change its MAC, which the bonding driver needs)", err)
		}
		return fail("the bonding driver does not take it", err)
	}
	now, err := p.wire.link(nic.index)
	if err == nil && (now.master != p.face.index || !now.up) {
		err = fmt.Errorf("it is in interface %d, up %v", now.master, now.up)
	}
	if err == nil {
		var face info
		if face, err = p.wire.link(p.face.index); err == nil && !bytes.Equal(face.mac, now.mac) {
			err = fmt.Errorf("its MAC is %v and not the face's", now.mac)
		}
	}
	if err != nil {
		return fail("look at it in the bond", err)
	}
	return nil
}

// shut closes the gate of a NIC that has none yet. A kernel that cannot do it is no
// reason to have no face.
func (p *path) shut(s drivers.Side) {
	n := p.ports[s]
	err := p.place(s).turn(gateNone, gateClosed)
	if err == nil {
		n.gate = gateClosed
		return
	}
	n.gateless = true
	p.miss(fmt.Sprintf("%s cannot be closed (%v): the kernel may turn to it when it should not, and the face may hear its own frames", n.Name, err))
	if err := dropGate(n.Index); err != nil {
		p.log.Warn("filters of ours may be left", "nic", n.Name, "error", err)
	}
}

// miss notes for people what this kernel or NIC cannot do, once.
func (p *path) miss(what string) {
	if !slices.Contains(p.missing, what) {
		p.missing = append(p.missing, what)
		p.log.Warn("the bonding path lacks something", "face", p.face.name, "missing", what)
	}
}

// forget takes a side's NIC out of the bond; one that has vanished has left it already.
func (p *path) forget(s drivers.Side) error {
	n := p.ports[s]
	p.want.Eligible[s] = false
	if p.want.Active == s {
		p.want.Active = datapath.None
	}
	if n == nil {
		return nil
	}
	nic, err := p.wire.link(n.Index)
	switch {
	case err != nil:
	case nic.master == p.face.index:
		err = p.takeOut(nic)
	default: // somebody has, and left on it what is ours
		err = p.strip(nic)
	}
	if err != nil && !gone(err) {
		return fmt.Errorf("take %s out of %s: %w", n.Name, p.face.name, err)
	}
	p.ports[s] = nil
	_, err = p.keepMAC()
	return err
}

// KeepMAC puts the face's MAC back if the bond has no ports: the driver gives it one of
// chance when the last one goes, and would give it the next port's (__bond_release_one,
// bond_enslave). With ports the MAC is what somebody has set, and is left alone.
func (p *path) KeepMAC() (kept bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.keepMAC()
}

func (p *path) keepMAC() (kept bool, err error) {
	slaves, err := p.wire.slaves(p.face.index)
	if err != nil || len(slaves) > 0 {
		return false, err
	}
	if err := p.wire.set(p.face.index, unix.IFLA_ADDRESS, p.face.mac); err != nil && !gone(err) {
		return false, fmt.Errorf("give %s its MAC %v back: %w", p.face.name, p.face.mac, err)
	}
	return true, nil
}

// MadeUpMAC says whether an interface is a bond without ports: its MAC may be one that the
// bonding driver has made up, and says nothing.
func MadeUpMAC(index int) bool {
	w, err := dial()
	if err != nil {
		return false
	}
	defer w.close()
	face, err := w.link(index)
	if err != nil || face.kind != kind {
		return false
	}
	slaves, err := w.slaves(index)
	return err == nil && len(slaves) == 0
}

// takeOut gives a NIC up. What is ours on it goes while the bond still tells whose it is.
func (p *path) takeOut(nic info) error {
	if err := p.strip(nic); err != nil {
		return err
	}
	return p.wire.release(nic)
}

// strip removes what we have put onto a NIC in the bond.
func (p *path) strip(nic info) error {
	if err := dropGate(nic.index); err != nil && !gone(err) {
		return fmt.Errorf("take our filters off %s: %w", nic.name, err)
	}
	if err := p.wire.filterMAC(nic.index, nic.own(), false); err != nil && !gone(err) && !errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("take the MAC of %s out of its filter: %w", nic.name, err)
	}
	return nil
}

// release takes a NIC out of whatever it is in. nic is as it was before.
func (w *wire) release(nic info) error {
	if err := w.set(nic.index, unix.IFLA_MASTER, nl.Uint32Attr(0)); err != nil && !gone(err) {
		return fmt.Errorf("take %s out of the bond: %w", nic.name, err)
	}
	return w.restored(nic)
}

// restored sees to it that a NIC that has left the bond is as it was: the driver gives it
// its MAC back and leaves it down.
func (w *wire) restored(nic info) error {
	if nic.up {
		if err := w.setUp(nic.index, true); err != nil && !gone(err) {
			return fmt.Errorf("set %s up again: %w", nic.name, err)
		}
	}
	now, err := w.link(nic.index)
	if gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if !bytes.Equal(now.mac, nic.own()) {
		return fmt.Errorf("%s left the bond with the MAC %v instead of its own, %v", nic.name, now.mac, nic.own())
	}
	return nil
}

// dropStrangers takes NICs out of the bond that are no port of ours: a predecessor's, with
// another configuration, or somebody else's.
func (p *path) dropStrangers(slaves []info) error {
	var errs []error
	for _, nic := range slaves {
		if p.sideOf(nic.index) == datapath.None {
			p.log.Info("taking an interface out of the bond that is no port of it", "face", p.face.name, "nic", nic.name)
			if err := p.takeOut(nic); err != nil {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

func (p *path) sideOf(index int) drivers.Side {
	for s, n := range p.ports {
		if n != nil && n.Index == index {
			return drivers.Side(s)
		}
	}
	return datapath.None
}
