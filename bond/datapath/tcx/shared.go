package tcx

// What the programs and this process share: one value of a BPF_F_MMAPABLE array map. The
// programs reach it as a constant address (no helper call, no lookup), this process by
// mmap, so that neither side makes a system call to read or to change it.
//
// Invariants:
//   - Everything that must change together is in one 64-bit word, and the word is changed
//     by compare-and-swap alone: by a program that turns to the other port, and by
//     SetState, SetPort and Fault here. Nobody overwrites what another has just written.
//   - The turn counter is in the word. So no turn is ever uncounted, and a turn and what
//     the daemon orders at the same moment have an order.
//   - A program that turns takes the port it leaves out of the eligible mask in the same
//     step: between two calls of SetState the kernel turns once at most, and two dead
//     ports never play ping-pong.
//   - The programs write nothing here for a packet that goes its way. Counters are of
//     what was dropped, in cache lines that no packet that passes looks at.

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"ft/bond/datapath"
	"ft/drivers"
)

// The word, from its lowest bit on:
//
//	 0- 7  the active port: 0, 1, or 0xff for none
//	 8- 9  eligible: the kernel may turn to this port by itself
//	10-11  dark: an injected fault, the port counts as without carrier
//	12-13  silent: an injected fault, nothing passes
//	32-63  turns that the kernel has made
//
// All masks but the counter are below bit 31, so that they are immediates in eBPF.
const (
	activeMask    = 0xff
	activeNone    = 0xff
	eligibleShift = 8
	darkShift     = 10
	silentShift   = 12
	turnShift     = 32
)

func bit(shift int, s drivers.Side) uint64 { return 1 << (shift + int(s)) }

func activeOf(word uint64) drivers.Side {
	if a := word & activeMask; a <= 1 {
		return drivers.Side(a)
	}
	return datapath.None
}

func withActive(word uint64, s drivers.Side) uint64 {
	if s == datapath.None {
		return word&^activeMask | activeNone
	}
	return word&^activeMask | uint64(s)
}

// header is the part of the shared value that every version of this package lays out
// alike, so that a newer or an older one can carry a face over without losing a packet.
// Change nothing here; what is new goes behind the counters, with a new layoutVersion.
type header struct {
	Magic  uint64
	Layout uint32
	Flags  uint32        // how the programs are attached: flag*
	Tag    uint64        // of all programs that are attached; 0 while they are being replaced
	Word   atomic.Uint64 // see above

	Index [2]atomic.Uint32 // the NICs, 0 for none
	Face  uint32           // ifindex
	_     uint32
	Grace atomic.Uint64    // CLOCK_MONOTONIC in ns: until then unicast may come in by the standby port
	Turn  [2]atomic.Uint64 // CLOCK_MONOTONIC in ns of the last turns, by the counter's lowest bit
	// MACs as the programs load them from a packet: see source and destination.
	FaceMAC atomic.Uint64
	OwnMAC  [2]atomic.Uint64
	_       [4]uint64 // the header has room
}

const (
	magic         = 0x646e6f622d7466 // "ft-bond", little-endian
	layoutVersion = 1
)

// Flags of the header. A clsact qdisc that was not there before is ours to remove.
const (
	flagClassifier = 1 << 0 // attached as classifiers of clsact, not by TCX
	flagClsactMade = 1 << 1 // and << 1 + side: of that NIC
	headerSize     = 128
	countersSize   = 64
)

// graceTime is how long after a planned switch unicast may come in by the port that was
// left: until the network has learned. Tests have more, on machines that do much else.
var graceTime = 20 * time.Millisecond

// counter is a place in a side's counters.
type counter int

// Counters of one side.
const (
	countStandby  counter = iota // in: came by the port that is not active
	countOwn                     // in: the face's own frame, reflected by a switch
	countFaulty                  // in and out: an injected fault
	countDead                    // out: no carrier, and no port to turn to
	countLoop                    // out: no carrier here either, after it had been turned over
	countDetoured                // out: no carrier here, sent by the other port; not a drop
	countSide
)

var counterNames = [countSide]string{"dropped_standby", "dropped_own", "dropped_fault", "dropped_no_carrier", "dropped_both_dead", "detoured"}

// shared is the whole value.
type shared struct {
	header
	Counts [2][countersSize / 8]atomic.Uint64
	NoPort atomic.Uint64 // out: no port was active
	_      [countersSize/8 - 1]uint64
}

var _ = [1]struct{}{}[unsafe.Sizeof(header{})-headerSize]

func offsetCount(s drivers.Side, c counter) int16 {
	return int16(unsafe.Offsetof(shared{}.Counts)) + int16(s)*countersSize + int16(c)*8
}

// stateMap is the map with its mapping into this process.
type stateMap struct {
	m   *ebpf.Map
	mem []byte
	*shared
}

func newStateMap() (*stateMap, error) {
	m, err := ebpf.NewMap(&ebpf.MapSpec{
		Name: "ft_bond", Type: ebpf.Array, KeySize: 4, ValueSize: uint32(unsafe.Sizeof(shared{})),
		MaxEntries: 1, Flags: unix.BPF_F_MMAPABLE,
	})
	if err != nil {
		return nil, fmt.Errorf("make the map of the path's state: %w", err)
	}
	sm, err := mapState(m)
	if err != nil {
		return nil, err
	}
	sm.Magic, sm.Layout = magic, layoutVersion
	sm.Word.Store(activeNone)
	return sm, nil
}

// mapState takes m over, also when it fails.
func mapState(m *ebpf.Map) (*stateMap, error) {
	mem, err := unix.Mmap(m.FD(), 0, int(unsafe.Sizeof(shared{})), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		m.Close()
		return nil, fmt.Errorf("map the path's state into memory: %w", err)
	}
	return &stateMap{m: m, mem: mem, shared: (*shared)(unsafe.Pointer(&mem[0]))}, nil
}

func (sm *stateMap) close() error {
	sm.shared = nil
	return errors.Join(unix.Munmap(sm.mem), sm.m.Close())
}

// change applies f to the word, again when somebody else was faster.
func (sm *stateMap) change(f func(word uint64) uint64) {
	for {
		old := sm.Word.Load()
		if sm.Word.CompareAndSwap(old, f(old)) {
			return
		}
	}
}

// stampOf is when the last turn that a word counts was made.
func (sm *stateMap) stampOf(word uint64) uint64 { return sm.Turn[word>>turnShift&1].Load() }

// inherit takes over what a map of another layout says.
func (sm *stateMap) inherit(old *header) {
	sm.Flags, sm.Face = old.Flags, old.Face
	sm.Word.Store(old.Word.Load())
	sm.Grace.Store(old.Grace.Load())
	sm.FaceMAC.Store(old.FaceMAC.Load())
	for s := range sm.Index {
		sm.Index[s].Store(old.Index[s].Load())
		sm.Turn[s].Store(old.Turn[s].Load())
		sm.OwnMAC[s].Store(old.OwnMAC[s].Load())
	}
}

// destination and source are addresses as the programs load them from a packet, whose
// bytes 0-1, 2-5, 6-9 and 10-11 are aligned (NET_IP_ALIGN) on machines that care.
func destination(mac net.HardwareAddr) uint64 {
	return uint64(binary.NativeEndian.Uint16(mac[0:])) | uint64(binary.NativeEndian.Uint32(mac[2:]))<<16
}

func source(mac net.HardwareAddr) uint64 {
	return uint64(binary.NativeEndian.Uint32(mac[0:])) | uint64(binary.NativeEndian.Uint16(mac[4:]))<<32
}

// monotonic is the clock that the programs read with bpf_ktime_get_ns.
func monotonic() (uint64, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0, fmt.Errorf("read CLOCK_MONOTONIC: %w", err)
	}
	return uint64(ts.Nano()), nil
}
