// Package datapath is the contract between the bond's driver and the ways in which the
// kernel can carry packets between one face and two NICs. The ways themselves are its
// sub-packages: tcx (eBPF), bonding (the kernel's bonding driver) and tc (classful
// filters without eBPF).
//
// A path lives in the kernel. It outlives the process that made it, and the next
// process opens it again; nothing is put together twice, nothing is interrupted by the
// opening. All of it happens in the network namespace of the calling process.
//
// Invariants of every path:
//   - At most one port is active. Only the active port's frames reach the face, and the
//     face's frames leave by the active port alone.
//   - A port that is not eligible is never made active by the kernel on its own.
//   - A frame that the face itself has sent never comes in as a received one.
package datapath

import (
	"errors"
	"log/slog"
	"net"
	"time"

	"ft/drivers"
)

// Kinds of paths, as in `datapath = "…"` of ft.toml.
const (
	Auto    = "auto"
	TCX     = "tcx"
	Bonding = "bonding"
	TC      = "tc"
)

// None stands for no active port.
const None = drivers.Whole

// ErrUnsupported is wrapped by an Open that fails because this kernel, or this process's
// rights, cannot do that path at all. The text says what is missing. Nothing was changed.
var ErrUnsupported = errors.New("not supported here")

// Spec is what a path is made from.
type Spec struct {
	// Key names what the path keeps in places that are not the network namespace's own
	// (pins in bpffs): letters, digits, - and _. It is the same for every process that
	// drives this face, and different for faces of the same name elsewhere.
	Key  string
	Face string           // the interface's name, as net0
	MAC  net.HardwareAddr // of the face
	MTU  int              // of a face that is made now; one that is adopted keeps its own
	Log  *slog.Logger
}

// Port is a NIC that carries one side.
type Port struct {
	Index int // ifindex
	Name  string
	// MAC is the NIC's own. The face has another: frames to this one are answers to
	// probes, which belong to the NIC and not to the face.
	MAC net.HardwareAddr
}

// State is which port carries the face.
type State struct {
	Active   drivers.Side // or None
	Eligible [2]bool      // the kernel may turn to this one by itself when the active one fails
}

// Turn is the last time that the kernel turned to the other port by itself.
type Turn struct {
	Count uint64    // of all turns since the path was made
	At    time.Time // of the last one; zero when there was none
}

// Fault is what an injected fault does to a port's frames.
type Fault uint8

// Faults of a port.
const (
	FaultNone   Fault = iota
	FaultDark         // as with the cable pulled: nothing passes, and the kernel's own look at the carrier finds none
	FaultSilent       // nothing passes, and the carrier looks good
)

// Description says what a path is, for people.
type Description struct {
	Kind    string   // tcx, bonding, tc
	Variant string   // e.g. "carrier checked in the kernel"
	Missing []string // steps that this kernel could not do, each with why and what it costs
}

// Path is a data path that is in place. Methods may be called from any goroutine; SetState
// and State are made for the thread that sees a carrier go and do not allocate more than
// they must, nor wait for anything but the kernel.
type Path interface {
	Describe() Description
	// Face is the face's ifindex.
	Face() int
	// SetPort puts the path onto a NIC (again, when the same NIC has come back under
	// another ifindex), or, with nil, forgets one: what the path has put onto a NIC that is
	// still there is removed. A port that is the active or an eligible one is neither
	// afterwards. Putting it onto the NIC that it is on already changes nothing.
	SetPort(s drivers.Side, p *Port) error
	// SetState makes a port the active one, in one step with what the kernel may turn to.
	// planned says that the port that was active until now is well: what is still on its
	// way to it may come in for a moment longer.
	SetState(st State, planned bool) error
	// State is as it is now: the kernel may have turned since.
	State() (State, Turn, error)
	// SetCarrier shows carrier on the face, or none.
	SetCarrier(up bool) error
	// Fault puts a fault into a port, as a real layer on its frames.
	Fault(s drivers.Side, f Fault) error
	// Counters are for `ftctl show`, by name.
	Counters() map[string]uint64
	// Close lets go of the path and leaves it in place.
	Close() error
	// Remove takes the path and the face down. NICs stay as nic.Restore then leaves them.
	Remove() error
}

// Looker is a Path that lets the kernel be asked for a NIC's carrier without its RTNL lock,
// which ETHTOOL_GLINK takes: whoever deletes an interface holds that for tens of
// milliseconds, and just then it matters.
type Looker interface {
	// Look makes ready to ask for the carrier of a side's NIC, as it is since SetPort. ok is
	// false where there is no NIC, or this kernel cannot be asked so.
	Look(s drivers.Side) (look CarrierLook, ok bool)
}

// CarrierLook is one system call, ready to be made again and again, by one thread in the
// network namespace of the path. When it succeeds Answer is 1 for a carrier and 0 for none;
// ENODEV says that the NIC is gone from the namespace, and any other error says nothing
// about it. It holds until the path is closed or removed, or has another NIC on that side:
// an ifindex that is free may be given to another interface.
type CarrierLook struct {
	Call   uintptr // its number
	Args   [3]uintptr
	Answer *uint32
	Held   any // what Args point to
}

// MACKeeper is a Path whose face the kernel gives another MAC at times, which no admin has.
type MACKeeper interface {
	// KeepMAC puts the face's MAC back if that was the kernel's doing, and says so.
	KeepMAC() (kept bool, err error)
}

// Open finds the path of a face that an earlier process made, or makes it. adopted says
// which. A face of that name that is nobody's of ours is an error and is left alone.
type Open func(Spec) (p Path, adopted bool, err error)
