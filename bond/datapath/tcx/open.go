package tcx

import (
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"ft/bond/datapath"
	"ft/bond/datapath/pair"
	"ft/drivers"
)

// limits take abilities away that this kernel has, so that a test sees what happens on
// one that lacks them. Zero outside tests.
type limits struct {
	noBPF, noCarrier, refuseCarrier, noTCX bool
	salt                                   uint64 // makes the programs another version's
	layout                                 uint32 // of the state map; 0 for layoutVersion
}

var limited limits

// abilities are what this kernel and the rights of this process allow, found out without
// changing anything outside this process.
type abilities struct {
	carrier *carrierCheck
	tcx     bool
	tag     uint64
	missing []string

	state    *stateMap // a new one, of which nobody knows
	programs programs  // over it
}

func (a *abilities) close() { a.programs.close(); a.state.close() }

func unsupported(format string, args ...any) error {
	return fmt.Errorf("eBPF path: %w: %w", fmt.Errorf(format, args...), datapath.ErrUnsupported)
}

func probe() (*abilities, error) {
	a := &abilities{}
	err := error(unix.EPERM)
	if !limited.noBPF {
		a.state, err = newStateMap()
	}
	if errors.Is(err, unix.EPERM) {
		return nil, unsupported("%w: it needs CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN, and a kernel that does not forbid bpf(2)", err)
	}
	if err != nil {
		return nil, unsupported("%w (BPF_F_MMAPABLE is of Linux 5.5)", err)
	}
	if limited.layout != 0 {
		a.state.Layout = limited.layout
	}
	if err := a.load(); err != nil {
		a.state.close()
		return nil, err
	}
	if a.tcx = haveTCX(a.programs[faceOut.name]) && !limited.noTCX; !a.tcx {
		a.missing = append(a.missing, "TCX links (Linux 6.6): the programs are attached as classifiers of a clsact qdisc, which other tools can remove, and the kernel drops what a NIC sends at the moment at which it is taken in or out")
	}
	if a.tag, err = tagOf(a.carrier, limited.salt); err != nil {
		a.close()
		return nil, fmt.Errorf("eBPF path: %w", err)
	}
	return a, nil
}

// load loads the programs, with the carrier check where it can be had.
func (a *abilities) load() (err error) {
	const cost = ": a port without carrier is left by the daemon, about a millisecond later than the kernel would"
	if limited.noCarrier {
		err = errors.New("not wanted")
	} else {
		a.carrier, err = findCarrierCheck()
	}
	if err == nil && limited.refuseCarrier {
		a.carrier.cast = 1 // a type that is no function: the verifier refuses it
	}
	if err == nil {
		if a.programs, err = loadPrograms(a.state, a.carrier); err == nil {
			return nil
		}
	}
	a.carrier = nil
	a.missing = append(a.missing, fmt.Sprintf("carrier check in the kernel (%v)%s", err, cost))
	if a.programs, err = loadPrograms(a.state, nil); err != nil {
		return unsupported("%w (Linux 5.12 or later, 64-bit, with its compiler for eBPF)", err)
	}
	return nil
}

// Open finds the path of a face that an earlier process made, or makes it.
func Open(spec datapath.Spec) (datapath.Path, bool, error) {
	if err := checkKey(spec); err != nil {
		return nil, false, err
	}
	if len(spec.MAC) != 6 {
		return nil, false, fmt.Errorf("the MAC %q of %s is none of Ethernet", spec.MAC, spec.Face)
	}
	if spec.Log == nil {
		spec.Log = slog.New(slog.DiscardHandler)
	}
	can, err := probe()
	if err != nil {
		return nil, false, err
	}
	if err := mountBPFFS(); err != nil {
		can.close()
		return nil, false, unsupported("%w", err)
	}
	face, err := pair.Open(spec, datapath.TCX)
	if err != nil {
		can.close()
		return nil, false, fmt.Errorf("eBPF path: %w", err)
	}
	p := &path{spec: spec, pair: face, description: can.describe(), carrier: can.carrier}
	adopted, err := p.adopt(can)
	if err == nil && !adopted {
		err = p.build(can)
	}
	if err == nil {
		return p, adopted, nil
	}
	can.close()
	err = fmt.Errorf("eBPF path of %s: %w", spec.Face, err)
	if !face.Adopted { // what was not there before, is not there afterwards
		err = errors.Join(err, Unpin(spec.Key), face.Remove())
	}
	return nil, false, err
}

func (a *abilities) describe() datapath.Description {
	d := datapath.Description{Kind: datapath.TCX, Variant: "TCX", Missing: a.missing}
	if !a.tcx {
		d.Variant = "classifiers"
	}
	if a.carrier != nil {
		d.Variant += ", carrier checked in the kernel"
	} else {
		d.Variant += ", switched by the daemon"
	}
	return d
}

func (a *abilities) flags() uint32 {
	if a.tcx {
		return 0
	}
	return flagClassifier
}

// build makes a path of which nothing is there but, perhaps, the face. Pins under its key
// are of one that is gone.
func (p *path) build(a *abilities) error {
	if err := Unpin(p.spec.Key); err != nil {
		return err
	}
	if err := os.MkdirAll(pinDir(p.spec.Key), 0o700); err != nil {
		return fmt.Errorf("make the directory of pins: %w", err)
	}
	p.state, p.programs = a.state, a.programs
	p.attacher = p.attacherBy(a.flags(), p.state)
	p.state.Face, p.state.Flags = uint32(p.pair.Face), a.flags()
	p.state.FaceMAC.Store(source(p.spec.MAC))
	if err := p.state.m.Pin(pinPath(p.spec.Key, statePin)); err != nil {
		return fmt.Errorf("pin the path's state: %w", err)
	}
	if err := p.attacher.attach(faceOut, p.pair.Face, p.programs[faceOut.name]); err != nil {
		if !a.tcx {
			err = fmt.Errorf("neither TCX nor classifiers: %w: %w", err, datapath.ErrUnsupported)
		}
		return err
	}
	p.state.Tag = a.tag
	return nil
}

// adopt takes over what an earlier process left in place, or says false when there is
// nothing to take over. a is used up when it says true.
func (p *path) adopt(a *abilities) (bool, error) {
	if !p.pair.Adopted {
		return false, nil
	}
	pinned, err := ebpf.LoadPinnedMap(pinPath(p.spec.Key, statePin), nil)
	if errors.Is(err, os.ErrNotExist) || isForeign(err) {
		return false, nil
	}
	if err != nil { // it may be there and well: nothing is torn down for a lack of memory
		return false, fmt.Errorf("open the pinned state: %w", err)
	}
	old, err := readHeader(pinned)
	if err == nil && int(old.Face) != p.pair.Face {
		err = errForeign
	}
	on := false
	if err == nil {
		on, err = p.attacherBy(old.Flags, nil).attached(faceOut, p.pair.Face)
	}
	if err != nil || !on {
		pinned.Close()
		if isForeign(err) {
			err = nil
		}
		return false, err
	}
	sameLayout := old.Layout == a.state.Layout
	if sameLayout {
		if err := a.takeState(pinned); err != nil {
			return false, err
		}
		pinned = nil
	} else {
		defer pinned.Close()
		a.state.inherit(old)
	}
	p.state, p.programs = a.state, a.programs
	p.attacher = p.attacherBy(a.flags(), p.state)
	p.state.FaceMAC.Store(source(p.spec.MAC))
	p.forgetLost(p.attacherBy(old.Flags, p.state))
	if sameLayout && old.Tag == a.tag && old.Flags&flagClassifier == a.flags() {
		return true, nil
	}
	p.spec.Log.Info("replacing the programs of another version", "face", p.spec.Face)
	return true, p.replace(a, pinned)
}

// takeState puts a pinned map in the place of the new one. It takes m over.
func (a *abilities) takeState(m *ebpf.Map) error {
	sm, err := mapState(m)
	if err != nil {
		return err
	}
	ps, err := loadPrograms(sm, a.carrier)
	if err != nil {
		return errors.Join(err, sm.close())
	}
	a.close()
	a.state, a.programs = sm, ps
	return nil
}

func (p *path) attacherBy(flags uint32, sm *stateMap) attacher {
	if flags&flagClassifier != 0 {
		return classifiers{p.spec.Key, sm}
	}
	return links{p.spec.Key}
}

// forgetLost forgets the ports whose programs are not where the state says: the NIC is
// gone, or has been in another network namespace.
func (p *path) forgetLost(by attacher) {
	for s := drivers.Side(0); s <= 1; s++ {
		index := int(p.state.Index[s].Load())
		in, errIn := by.attached(nicIn[s], index)
		out, errOut := by.attached(nicOut[s], index)
		if index != 0 && in && out {
			continue
		}
		if index != 0 {
			p.spec.Log.Warn("a NIC has lost its programs", "face", p.spec.Face, "side", s, "ifindex", index, "err", errors.Join(errIn, errOut))
		}
		if err := p.forget(s, by); err != nil {
			p.spec.Log.Warn("forget a NIC", "face", p.spec.Face, "side", s, "err", err)
		}
	}
}

// replace puts our programs in the place of another version's, each in one step: no packet
// is lost on the way, unless TCX takes over from classifiers or the other way round (the
// kernel deactivates an interface while a clsact qdisc comes or goes). With another layout, old is the map that the other version's
// programs use until then. A process that ends on the way leaves the tag 0 (or the old
// layout), and the next one does it all again.
func (p *path) replace(a *abilities, old *ebpf.Map) error {
	p.state.Tag = 0
	if old != nil {
		if err := os.Remove(pinPath(p.spec.Key, newStatePin)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove what an interrupted replacement has left: %w", err)
		}
		if err := p.state.m.Pin(pinPath(p.spec.Key, newStatePin)); err != nil {
			return fmt.Errorf("pin the path's new state: %w", err)
		}
	}
	for _, pl := range places {
		if index := p.indexOf(pl); index != 0 {
			if err := p.attacher.attach(pl, index, p.programs[pl.name]); err != nil {
				return err
			}
		}
	}
	other := p.attacherBy(a.flags()^flagClassifier, p.state)
	for _, pl := range places {
		if index := p.indexOf(pl); index != 0 {
			if err := other.detach(pl, index); err != nil {
				return err
			}
		}
	}
	p.state.Flags = p.state.Flags&^flagClassifier | a.flags()
	if old != nil {
		if err := p.inheritTurns(old); err != nil {
			return err
		}
		if err := os.Rename(pinPath(p.spec.Key, newStatePin), pinPath(p.spec.Key, statePin)); err != nil {
			return fmt.Errorf("pin the path's new state: %w", err)
		}
	}
	p.state.Tag = a.tag
	return nil
}

// inheritTurns takes over a turn that a program of the other version has made while its
// neighbours were being replaced.
func (p *path) inheritTurns(old *ebpf.Map) error {
	then, err := readHeader(old)
	if err != nil {
		return err
	}
	late := then.Word.Load()
	now := p.state.Word.Load()
	if late>>turnShift > now>>turnShift {
		n := (late >> turnShift) & 1
		p.state.Turn[n].Store(then.Turn[n].Load())
		p.state.Word.CompareAndSwap(now, late) // a turn here meanwhile is later still
	}
	return nil
}
