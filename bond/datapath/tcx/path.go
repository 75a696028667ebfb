// Package tcx is the data path that needs no process: eBPF programs on the face and on
// both NICs, pinned, which steer by one word of shared memory and turn to the other port
// by themselves when the NIC they are on has lost its carrier.
//
// The programs are in programs.go, what they share with this process in shared.go. open.go
// makes a path or takes over what an earlier process left; attach.go puts programs onto
// interfaces, pins.go keeps them there. What a kernel lacks is done without, step by step,
// and named in Describe.
//
// Invariants, beside those of datapath and of shared.go:
//   - What is in place works without this process. Nothing here is kept in memory alone.
//   - A NIC's ifindex is in the shared state before a program is attached to it, and is
//     taken out after the programs are: whoever comes next knows where to look.
//   - A port is active or eligible only while both its programs are attached.
package tcx

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cilium/ebpf"

	"ft/bond/datapath"
	"ft/bond/datapath/pair"
	"ft/drivers"
)

// path is a path that is in place.
type path struct {
	spec        datapath.Spec
	pair        pair.Pair
	description datapath.Description
	attacher    attacher
	carrier     *carrierCheck // nil: this kernel has none

	// slow is held by what attaches and detaches. Never taken while mapped is held.
	slow     sync.Mutex
	programs programs
	looking  *ebpf.Program // for Look; nil until the first one

	// mapped is held for reading by all who use state, and for writing by who ends it:
	// the calls that a failover makes wait for nothing else.
	mapped sync.RWMutex
	state  *stateMap // nil after Close or Remove
}

var errClosed = errors.New("the data path is closed")

func (p *path) Describe() datapath.Description { return p.description }

func (p *path) Face() int { return p.pair.Face }

func (p *path) SetCarrier(up bool) error { return p.pair.SetCarrier(up) }

// indexOf is the interface that a place is on, 0 for none.
func (p *path) indexOf(pl place) int {
	if pl.side.Valid() {
		return int(p.state.Index[pl.side].Load())
	}
	return p.pair.Face
}

func (p *path) SetPort(s drivers.Side, port *datapath.Port) error {
	if !s.Valid() {
		return fmt.Errorf("there is no port %d", s)
	}
	p.slow.Lock()
	defer p.slow.Unlock()
	p.mapped.RLock()
	defer p.mapped.RUnlock()
	switch {
	case p.state == nil:
		return errClosed
	case port == nil:
		return p.forget(s, p.attacher)
	case len(port.MAC) != 6:
		return fmt.Errorf("the MAC %q of %s is none of Ethernet", port.MAC, port.Name)
	case port.Index <= 0 || port.Index == p.pair.Face || port.Index == int(p.state.Index[s.Other()].Load()):
		return fmt.Errorf("%s (interface %d) cannot be port %d: it is the face, or the other port", port.Name, port.Index, s)
	}
	if p.isOn(s, port.Index) {
		p.state.OwnMAC[s].Store(destination(port.MAC))
		return nil
	}
	if err := p.forget(s, p.attacher); err != nil {
		return err
	}
	p.state.OwnMAC[s].Store(destination(port.MAC))
	p.state.Index[s].Store(uint32(port.Index))
	for _, pl := range []place{nicIn[s], nicOut[s]} {
		if err := p.attacher.attach(pl, port.Index, p.programs[pl.name]); err != nil {
			return errors.Join(fmt.Errorf("put %s under %s: %w", port.Name, p.spec.Face, err), p.forget(s, p.attacher))
		}
	}
	return nil
}

// isOn says whether a port's programs are all on that interface. In doubt they are not.
func (p *path) isOn(s drivers.Side, index int) bool {
	if int(p.state.Index[s].Load()) != index {
		return false
	}
	in, errIn := p.attacher.attached(nicIn[s], index)
	out, errOut := p.attacher.attached(nicOut[s], index)
	return in && out && errIn == nil && errOut == nil
}

// forget ends a port: no packet takes it any more, then its programs go.
func (p *path) forget(s drivers.Side, by attacher) error {
	p.state.change(func(word uint64) uint64 {
		if activeOf(word) == s {
			word = withActive(word, datapath.None)
		}
		return word &^ bit(eligibleShift, s)
	})
	index := int(p.state.Index[s].Load())
	if err := errors.Join(by.detach(nicIn[s], index), by.detach(nicOut[s], index)); err != nil {
		return err
	}
	p.state.Index[s].Store(0)
	p.state.OwnMAC[s].Store(0)
	p.state.Flags &^= flagClsactMade << s
	return nil
}

func (p *path) SetState(st datapath.State, planned bool) error {
	p.mapped.RLock()
	defer p.mapped.RUnlock()
	if p.state == nil {
		return errClosed
	}
	if st.Active != datapath.None && !st.Active.Valid() {
		return fmt.Errorf("there is no port %d", st.Active)
	}
	var eligible uint64
	for s := drivers.Side(0); s <= 1; s++ {
		if (st.Active == s || st.Eligible[s]) && p.state.Index[s].Load() == 0 {
			return fmt.Errorf("port %d of %s has no NIC", s, p.spec.Face)
		}
		if st.Eligible[s] {
			eligible |= bit(eligibleShift, s)
		}
	}
	var grace uint64
	if planned {
		now, err := monotonic()
		if err != nil {
			return err
		}
		grace = now + uint64(graceTime)
	}
	for {
		old := p.state.Word.Load()
		if activeOf(old) != st.Active {
			p.state.Grace.Store(grace) // before the word: the first packet after it has it
		}
		new := withActive(old, st.Active)&^(bit(eligibleShift, 0)|bit(eligibleShift, 1)) | eligible
		if p.state.Word.CompareAndSwap(old, new) {
			return nil
		}
	}
}

func (p *path) State() (datapath.State, datapath.Turn, error) {
	p.mapped.RLock()
	defer p.mapped.RUnlock()
	if p.state == nil {
		return datapath.State{Active: datapath.None}, datapath.Turn{}, errClosed
	}
	word := p.state.Word.Load()
	stamp := p.state.stampOf(word)
	for { // the time of that very turn: its place is used again by the next but one
		again := p.state.Word.Load()
		if again>>turnShift == word>>turnShift {
			break
		}
		word, stamp = again, p.state.stampOf(again)
	}
	st := datapath.State{Active: activeOf(word)}
	for s := range st.Eligible {
		st.Eligible[s] = word&bit(eligibleShift, drivers.Side(s)) != 0
	}
	turn := datapath.Turn{Count: word >> turnShift}
	if turn.Count > 0 {
		at, err := wallTime(stamp)
		if err != nil {
			return st, turn, err
		}
		turn.At = at
	}
	return st, turn, nil
}

// wallTime is when the programs' clock showed stamp. Who reads two clocks may have to wait for a
// core in between: then they are read again.
func wallTime(stamp uint64) (at time.Time, err error) {
	const atOnce, tries = 50 * time.Microsecond, 5
	for range tries {
		began := time.Now()
		now, err := monotonic()
		if err != nil {
			return time.Time{}, err
		}
		at = began.Add(-time.Duration(now - stamp))
		if time.Since(began) < atOnce {
			break
		}
	}
	return at, nil
}

func (p *path) Fault(s drivers.Side, f datapath.Fault) error {
	p.mapped.RLock()
	defer p.mapped.RUnlock()
	if p.state == nil {
		return errClosed
	}
	if !s.Valid() {
		return fmt.Errorf("there is no port %d", s)
	}
	var set uint64
	switch f {
	case datapath.FaultNone:
	case datapath.FaultDark:
		set = bit(darkShift, s)
	case datapath.FaultSilent:
		set = bit(silentShift, s)
	default:
		return fmt.Errorf("there is no fault %d of a port", f)
	}
	p.state.change(func(word uint64) uint64 {
		return word&^(bit(darkShift, s)|bit(silentShift, s)) | set
	})
	return nil
}

func (p *path) Counters() map[string]uint64 {
	p.mapped.RLock()
	defer p.mapped.RUnlock()
	if p.state == nil {
		return nil
	}
	all := map[string]uint64{
		"kernel_turns":    p.state.Word.Load() >> turnShift,
		"dropped_no_port": p.state.NoPort.Load(),
	}
	for s := range p.state.Counts {
		for c, name := range counterNames {
			all[fmt.Sprintf("port%d_%s", s, name)] = p.state.Counts[s][c].Load()
		}
	}
	return all
}

func (p *path) Close() error {
	p.slow.Lock()
	defer p.slow.Unlock()
	return p.letGo()
}

// letGo leaves everything in place. The caller holds slow.
func (p *path) letGo() error {
	p.mapped.Lock()
	defer p.mapped.Unlock()
	if p.state == nil {
		return nil
	}
	err := errors.Join(p.programs.close(), p.looking.Close(), p.state.close())
	p.state, p.looking = nil, nil
	return err
}

// Remove can be called again after an error, until nothing is left.
func (p *path) Remove() error {
	p.slow.Lock()
	defer p.slow.Unlock()
	if p.state == nil {
		return errClosed
	}
	var errs []error
	for s := drivers.Side(0); s <= 1; s++ {
		errs = append(errs, p.forget(s, p.attacher))
	}
	if err := errors.Join(append(errs, p.pair.Remove())...); err != nil {
		return fmt.Errorf("remove the eBPF path of %s: %w", p.spec.Face, err)
	}
	if err := Unpin(p.spec.Key); err != nil {
		return fmt.Errorf("remove the eBPF path of %s: %w", p.spec.Face, err)
	}
	return p.letGo()
}
