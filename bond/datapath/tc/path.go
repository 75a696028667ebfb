// Package tc is the data path for kernels without usable eBPF: filters of the kind u32
// with the action mirred on clsact hooks, set over netlink.
//
//	net0 ⇄ net0-peer      the face and its other end (package pair)
//	  egress of net0:     all → out of the active NIC; else dropped
//	  ingress of a NIC:   [fault: dropped] · from the face's MAC: dropped ·
//	                      to the NIC's own MAC: to the NIC ·
//	                      [active: all → out of net0-peer, so into net0] · dropped
//	  egress of a NIC:    [fault: dropped]
//
// What comes in goes to the face through its other end and not straight into its ingress:
// the kernel takes a frame that was not for the NIC's MAC for another host's, and only
// the way through the veth makes it judge that anew by the face's MAC.
//
// Invariants, beside those of package datapath:
//   - A hook that can lead somewhere ends in a filter that drops. It is the first to be
//     made and the last to go, so that putting a way in and taking it out are one step
//     each, and what no way takes is dropped.
//   - The way in of the port that was active is closed before that of the new one opens;
//     but for groups' frames, which every port gets, it may stay half open for lateTime
//     after a planned switch.
//   - The kernel's filters are the state. They carry marks by which the next process finds
//     its ports and which of them is active. A NIC's mark is set when all else is there.
//
// The kernel does not turn by itself here: tc's filters do not see a carrier.
package tc

import (
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ft/bond/datapath"
	"ft/bond/datapath/pair"
	"ft/drivers"
)

// Priorities of our filters: the order in which a packet meets them.
const (
	prioFault uint16 = 0x0f70 + iota
	prioOwn          // the face's own frames, sent back by a switch
	prioWays         // the nodes
	prioDrop
	prioTry // only while Open finds out what works
)

// Numbers of the nodes at a NIC's ingress, and of the one at the face's egress.
const (
	nodeNIC  uint32 = 1 // frames to the NIC itself
	nodeLate uint32 = 2 // to one station, after a planned switch
	nodeIn   uint32 = 3
	nodeOut  uint32 = 3
)

// lateTime is how long frames that were on their way to the port that was active are taken
// in after a planned switch: until the switches of the network have heard of it.
const lateTime = 20 * time.Millisecond

var errClosed = errors.New("the data path is closed")

// port is a side as the kernel has it.
type port struct {
	datapath.Port       // Index 0 while there is none
	table         table // of the nodes at its ingress
	open          bool  // nodeIn is there
	late          bool  // nodeLate is there
	fault         datapath.Fault
}

type path struct {
	spec    datapath.Spec
	pair    pair.Pair
	dropper dropper
	mark    uint32 // of our filters: the class without its lowest bits

	mu       sync.Mutex // held over changes, and for as long as the kernel takes for them
	k        kernel     // nil Handle when closed
	ports    [2]port
	out      drivers.Side // where the face's egress leads
	outTable table
	eligible [2]bool
	timer    *time.Timer // ends the half open way; nil when there is none
	switches uint64
}

// Open finds the face's path, or makes it: a face without carrier, without ports.
func Open(spec datapath.Spec) (datapath.Path, bool, error) {
	if spec.Log == nil {
		spec.Log = slog.New(slog.DiscardHandler)
	}
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, false, fmt.Errorf("open a netlink socket: %w", err)
	}
	p := &path{spec: spec, k: kernel{handle}, mark: mark(spec.Key), out: datapath.None}
	if p.pair, err = pair.Open(spec, datapath.TC); err != nil {
		handle.Close()
		return nil, false, err
	}
	if err = p.prepareFace(); err == nil && p.pair.Adopted {
		err = p.adopt()
	}
	if err != nil {
		if !p.pair.Adopted {
			err = errors.Join(err, p.pair.Remove())
		}
		handle.Close()
		return nil, false, fmt.Errorf("put filters onto %s: %w", spec.Face, err)
	}
	return p, p.pair.Adopted, nil
}

// mark tells our filters from others'.
func mark(key string) uint32 {
	h := fnv.New32a()
	h.Write([]byte(key))
	return max(h.Sum32()&^classBits, classBits+1) // never 0, which is no class
}

// prepareFace puts the hook and the drop filter onto the face, where they are missing.
func (p *path) prepareFace() (err error) {
	face := p.pair.Face
	if err := p.k.addClsact(face); err != nil {
		return unsupported(err)
	}
	var found bool
	if p.dropper, found, err = p.k.dropperOf(face, egress, prioDrop); err != nil {
		return err
	}
	if found { // and with it perhaps what a process that was killed was trying
		return p.k.removePriority(face, egress, prioTry)
	}
	if p.dropper, err = p.k.tryDroppers(face, egress, prioDrop); err != nil {
		return err
	}
	// Whether u32 and mirred are there is better known now than at the first switch.
	// Nothing comes to a filter behind the one that drops.
	try := u32(face, egress, prioTry, 0, nil)
	try.Actions = []netlink.Action{netlink.NewMirredAction(p.pair.Peer)}
	if err := p.k.FilterAdd(try); err != nil {
		return unsupported(fmt.Errorf("add a u32 filter with the action mirred: %w", err))
	}
	return p.k.removePriority(face, egress, prioTry)
}

// unsupported tells what a kernel or a process cannot do from what went wrong.
func unsupported(err error) error {
	for _, e := range []error{unix.EPERM, unix.EOPNOTSUPP, unix.ENOENT} {
		if errors.Is(err, e) {
			return fmt.Errorf("%w: %w: it takes CAP_NET_ADMIN, and clsact, u32 and mirred in the kernel", datapath.ErrUnsupported, err)
		}
	}
	return err
}

func (p *path) Describe() datapath.Description {
	d := datapath.Description{Kind: datapath.TC, Variant: "u32 and mirred, drops by " + p.dropper.String(),
		Missing: []string{"no turn by the kernel itself: tc filters do not see a carrier, so what is sent is lost until the driver has switched"}}
	if p.dropper != byGact {
		d.Missing = append(d.Missing, "no gact in the kernel (CONFIG_NET_ACT_GACT): drops are done by classic BPF, and are not counted")
	}
	return d
}

func (p *path) Face() int { return p.pair.Face }

// SetState closes, turns, opens: in this order, so that two ports are never open. What is
// as wanted already is left alone, so that it can be called again after an error.
func (p *path) SetState(st datapath.State, planned bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.check(st); err != nil {
		return err
	}
	if err := p.setState(st, planned); err != nil {
		return fmt.Errorf("make port %d of %s the active one: %w", st.Active, p.spec.Face, err)
	}
	return nil
}

func (p *path) check(st datapath.State) error {
	if p.k.Handle == nil {
		return errClosed
	}
	if st.Active != datapath.None && !st.Active.Valid() {
		return fmt.Errorf("%s has no port %d", p.spec.Face, st.Active)
	}
	for s := drivers.Side(0); s <= 1; s++ {
		if (st.Active == s || st.Eligible[s]) && p.ports[s].Index == 0 {
			return fmt.Errorf("port %d of %s has no NIC", s, p.spec.Face)
		}
	}
	return nil
}

func (p *path) setState(st datapath.State, planned bool) error {
	for s := drivers.Side(0); s <= 1; s++ {
		if s == st.Active {
			continue
		}
		if err := p.closeIn(s, planned && st.Active != datapath.None); err != nil {
			return err
		}
	}
	if err := p.turnOut(st); err != nil {
		return err
	}
	if st.Active == datapath.None {
		return nil
	}
	return p.openIn(st.Active)
}

// closeIn closes a port's way in; when late, half of it stays for lateTime.
func (p *path) closeIn(s drivers.Side, late bool) error {
	port := &p.ports[s]
	if port.open && late {
		if err := p.k.add(p.nodeLate(s)); err != nil {
			p.spec.Log.Warn("frames on their way to the port that was active will be lost", "face", p.spec.Face, "port", port.Name, "error", err)
		} else {
			port.late = true
			p.endLateAfter(lateTime)
		}
	}
	if port.open {
		if err := p.k.remove(port.table, p.nodeIn(s)); err != nil {
			return err
		}
		port.open = false
	}
	if port.late && !late {
		return p.endLate(s)
	}
	return nil
}

// turnOut lets the face's frames leave by the active port, in one step.
func (p *path) turnOut(st datapath.State) error {
	if st.Active == p.out && st.Eligible == p.eligible {
		return nil
	}
	n := node{index: p.pair.Face, hook: egress, number: nodeOut, class: p.class(st)}
	if st.Active != datapath.None {
		n.to = p.ports[st.Active].Index
	}
	switch {
	case st.Active == datapath.None:
		if err := p.k.remove(p.outTable, n); err != nil {
			return err
		}
	case p.out == datapath.None:
		if err := p.k.add(n); err != nil {
			return err
		}
		var err error
		if _, p.outTable, err = p.k.nodes(p.pair.Face, egress); err != nil {
			return err
		}
	default:
		if err := p.k.replace(p.outTable, n); err != nil {
			return err
		}
	}
	if st.Active != p.out {
		p.switches++
	}
	p.out, p.eligible = st.Active, st.Eligible
	return nil
}

func (p *path) openIn(s drivers.Side) error {
	port := &p.ports[s]
	if !port.open {
		if err := p.k.add(p.nodeIn(s)); err != nil {
			return err
		}
		port.open = true
	}
	return p.endLate(s)
}

func (p *path) nodeIn(s drivers.Side) node {
	return node{index: p.ports[s].Index, hook: ingress, number: nodeIn, class: p.sideClass(s), to: p.pair.Peer}
}

func (p *path) nodeLate(s drivers.Side) node {
	n := p.nodeIn(s)
	n.number, n.keys = nodeLate, unicastKeys()
	return n
}

// endLateAfter arms the end of every half open way. The caller holds mu.
func (p *path) endLateAfter(d time.Duration) {
	if p.timer != nil {
		p.timer.Stop()
	}
	var t *time.Timer
	t = time.AfterFunc(d, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.timer != t || p.k.Handle == nil {
			return // a later switch has a later end
		}
		if err := p.endAllLate(); err != nil {
			p.spec.Log.Error("the port that was active still takes frames in", "face", p.spec.Face, "error", err)
		}
	})
	p.timer = t
}

func (p *path) endAllLate() error {
	if p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
	return errors.Join(p.endLate(0), p.endLate(1))
}

func (p *path) endLate(s drivers.Side) error {
	if !p.ports[s].late {
		return nil
	}
	if err := p.k.remove(p.ports[s].table, p.nodeLate(s)); err != nil {
		return err
	}
	p.ports[s].late = false
	return nil
}

// Fault drops everything in both directions. To tc, which does not look at carriers, both
// faults are the same.
func (p *path) Fault(s drivers.Side, f datapath.Fault) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.k.Handle == nil {
		return errClosed
	}
	port := &p.ports[s]
	if port.Index != 0 && (f == datapath.FaultNone) != (port.fault == datapath.FaultNone) {
		if err := p.setFault(port.Index, f); err != nil {
			return fmt.Errorf("fault of port %d of %s (%s): %w", s, p.spec.Face, port.Name, err)
		}
	}
	port.fault = f
	return nil
}

func (p *path) setFault(index int, f datapath.Fault) error {
	for _, h := range []hook{ingress, egress} {
		// First away with what half of an earlier try has left.
		if err := p.k.removePriority(index, h, prioFault); err != nil {
			return err
		}
		if f == datapath.FaultNone {
			continue
		}
		if err := p.k.drop(p.dropper, index, h, prioFault, nil); err != nil {
			return err
		}
	}
	return nil
}

func (p *path) SetCarrier(up bool) error { return p.pair.SetCarrier(up) }

// Close ends the half open way, too, which would have nobody to end it.
func (p *path) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.letGo()
}

func (p *path) letGo() error {
	if p.k.Handle == nil {
		return nil
	}
	err := p.endAllLate()
	p.k.Close()
	p.k.Handle = nil
	return err
}

func (p *path) Remove() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.k.Handle == nil {
		return errClosed
	}
	err := errors.Join(p.release(0), p.release(1), p.pair.Remove())
	return errors.Join(err, p.letGo())
}
