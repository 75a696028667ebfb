// Package virtio is the front ends of a machine's paravirtual devices: block, network,
// console and entropy over virtio-mmio (Virtual I/O Device Version 1.2, OASIS CS01; section
// numbers in this package are of that text), version 2 registers, split virtqueues.
//
// A front end is a part of the module: a deterministic function of its start state, of the
// guest's accesses at their steps (Load, Store) and of inputs at named steps (Complete,
// Receive, SetLink). It reads no clock, starts no goroutine, does no I/O, and allocates
// nothing after New. What it wants done outside leaves through Port.Emit; nobody outside
// ever looks into guest memory.
//
// Invariants:
//   - Everything in a ring is untrusted. What breaks the rules of the specification ends
//     in DEVICE_NEEDS_RESET with a configuration interrupt and a Violation that says
//     which rule; memory is touched only through Memory, which refuses what is not RAM.
//   - A device does a bounded amount of work at one access or input, whatever the rings
//     say: a chain has at most chainMax descriptors, a queue at most queueSizeMax
//     entries, a device at most inFlightMax requests and about inFlightBytes outside.
//   - What was validated is what is used: a request's writable segments are copied when
//     it is taken from the ring, and the answer goes there, whatever the descriptors say
//     by then.
//   - A device that has been reset (or whose queue has been stopped) with requests outside
//     is held until each of them is answered, and its guest does not run on meanwhile:
//     memory that the guest takes back is never written to.
//   - All that a front end knows is in its state (state.go), apart from its configuration.
//
// Data flows down: transport.go has the registers and the life of a device, queue.go the
// rings, chain.go the descriptors, inflight.go what is outside; on these stand block.go,
// net.go, console.go and entropy.go.
package virtio

// Memory is the guest's physical memory. Both calls do all of it, or nothing and return
// false when not all of it is RAM.
type Memory interface {
	ReadRAM(addr uint64, p []byte) bool
	WriteRAM(addr uint64, p []byte) bool
}

// Port is what a device does to the machine around it. Its calls come during a Load, a
// Store or an input, and must not call back into the device.
type Port interface {
	// Interrupt sets the level of the slot's line.
	Interrupt(slot int, level bool)
	// Emit is an output. *r and r.Data are valid only during the call.
	Emit(slot int, r *Request)
	// Hold stops the hart behind the present step. It is not to run on while Held.
	Hold(slot int)
}

// Op says what a request asks for.
type Op uint8

// Operations. Those up to Entropy are answered, by Complete; the others are not.
const (
	Read        Op = iota + 1 // Length bytes at Sector; answered with Data
	Write                     // Data at Sector
	Flush                     // what was completed before is to be on stable storage
	Discard                   // Length bytes at Sector are not needed any more
	WriteZeroes               // Length bytes at Sector read as zeroes afterwards
	Entropy                   // Length random bytes; answered with at least one
	Transmit                  // a frame, from its virtio_net_hdr_v1 on
	Offloads                  // Length holds what frames may come with: Offload bits
	Output                    // bytes of a console
	opEnd
)

func (o Op) String() string {
	if o == 0 || o >= opEnd {
		return "none"
	}
	return [...]string{"read", "write", "flush", "discard", "write zeroes", "entropy", "transmit", "offloads", "output"}[o-1]
}

// Request is an output of a device.
type Request struct {
	ID uint64 // never 0 and never twice in a device's life; 0 where nothing is answered
	Op Op

	// Unmap: zeroes may be written by giving the space back (WriteZeroes).
	Unmap bool
	// Stable: to be answered when the data is on stable storage. It is set on writes of a
	// driver that does not know of flushing (5.2.6.2).
	Stable bool

	Sector uint64 // units of SectorSize
	Length uint64 // bytes
	Data   []byte
}

// SectorSize is virtio's unit of places on a disk, in bytes, whatever the disk's own.
const SectorSize = 512

// Completion is the answer to a request, an input of the machine.
type Completion struct {
	ID     uint64
	Status Status
	Data   []byte // of a Read that is OK its Length bytes; of Entropy up to Length
}

// Status is what became of a request (5.2.6).
type Status uint8

// Values of virtio_blk_req.status.
const (
	OK          Status = 0 // VIRTIO_BLK_S_OK
	IOError     Status = 1 // VIRTIO_BLK_S_IOERR
	Unsupported Status = 2 // VIRTIO_BLK_S_UNSUPP
)

// Device is one virtio-mmio slot.
type Device interface {
	// Load and Store are the guest's accesses, off from the slot's base, size 1, 2, 4 or 8
	// and off a multiple of it. !ok is an access fault.
	Load(off uint64, size int) (v uint64, ok bool)
	Store(off uint64, size int, v uint64) (ok bool)

	// Complete is the answer to a request. One that nobody asked for is counted and ignored.
	Complete(c *Completion)
	// Receive is a network frame from its virtio_net_hdr_v1 on, or what was typed on a
	// console. It returns how many bytes were taken: of a frame all or, dropped, none.
	Receive(p []byte) (taken int)

	// Emit emits again each request that is outside, in the order in which they left: for
	// a new one to answer them. Answers of both may then come; the first counts.
	Emit()

	// Held says that a reset, or a queue's stop, waits for requests outside.
	Held() bool
	// Info is for people.
	Info() Info

	// SaveState appends all that the device knows to dst, in one canonical form.
	SaveState(dst []byte) []byte
	// LoadState makes the device what SaveState described, and drives its interrupt line.
	// After an error it is as after New.
	LoadState(p []byte) error
}

// Info is what a person wants to know of a device.
type Info struct {
	Kind      string
	Phase     Phase
	Violation Violation // why it needs a reset
	Features  uint64    // negotiated
	InFlight  int       // requests outside
	Counters
}

// Counters count from the machine's start.
type Counters struct {
	Resets     uint64
	Violations uint64
	Requests   uint64 // taken from the rings
	Errors     uint64 // answered to the guest with an error
	Unasked    uint64 // completions that belonged to no request
	Sent       uint64 // frames, or bytes of a console
	Received   uint64 // the same, given to the guest
	Dropped    uint64 // the same, neither sent nor given to the guest
}
