package config

import (
	"errors"
	"fmt"
	"io/fs"

	"ft/mirror/nbd"
)

// DeviceKind is what a leg's path leads to.
type DeviceKind uint8

// Kinds.
const (
	OtherDevice DeviceKind = iota // a socket, pipe …
	BlockDevice
	RegularFile
	Directory
	CharDevice
	Export // of an NBD server
)

// Extent is a piece of storage, as far down as it can be traced: a block device or
// file, and which part of it. Two legs whose extents overlap are one leg.
type Extent struct {
	Store string // names the device or file: "block 8:0", "file 254:1 inode 77"
	Off   int64  // bytes
	Len   int64  // bytes
}

func (e Extent) overlaps(o Extent) bool {
	return e.Store == o.Store && e.Off < o.Off+o.Len && o.Off < e.Off+e.Len
}

// Device is what Probe found at a path.
type Device struct {
	Kind  DeviceKind
	Bytes int64
	// Extents is where it lies, from the device itself down: for a loop device its
	// file, for a partition its disk.
	Extents []Extent
}

// Host is what Check looks at a computer through.
type Host struct {
	// Leg looks at a path. An error that is fs.ErrNotExist means that the leg is absent.
	Leg func(path string) (Device, error)
	// NIC looks into the network namespace of a NIC. An error that is netns.ErrNone
	// means that the namespace is absent.
	NIC func(NIC) (Found, error)
	// NetAdmin says why this process may not change network interfaces.
	NetAdmin func() error
	// Boot says why a machine cannot be started from its files, which are there.
	Boot func(Machine) error
	// Link says whether an interface is a TAP or macvtap. The error is netns.ErrNone or
	// nic.ErrNone when there is none.
	Link func(netns, name string) (tap bool, err error)
	// Memory is how much the computer has, in bytes; 0 when that is not known.
	Memory func() int64
	// Hook says why a program may not be run when there is an alarm.
	Hook func(path string) error
}

// ThisHost is the one that this process runs on.
var ThisHost = Host{Leg: Probe, NIC: LookAtNIC, NetAdmin: netAdmin, Boot: LookAtBoot, Link: LookAtLink, Memory: hostMemory, Hook: LookAtHook}

// Check looks at the computer: are the legs there, of a fit kind and equal size, and is
// each a device of its own; are the NICs there, free, and each one of its own; can the
// machines be started. Problems that are Absent or Advice are no reason not to start a box
// that has run before; the caller decides.
func Check(c *Config, h Host) Problems {
	k := &checker{file: c.File}
	for _, d := range c.Disks {
		k.device = d.Name
		k.disk(d, h.Leg)
	}
	k.device = ""
	if len(c.NICs) > 0 {
		k.netAdmin(c, h)
	}
	for _, n := range c.NICs {
		k.device = n.Name
		k.nic(n, h.NIC)
	}
	k.machines(c, h)
	k.hook(c.Alarms, h.Hook)
	return k.problems.sorted()
}

type checker struct {
	file     string
	device   string // that is being looked at
	problems Problems
	seen     []checkedLeg
	cards    []checkedCard
}

// checkedLeg is a leg that is there, or another disk of a machine.
type checkedLeg struct {
	disk   string // that it is a leg of, "" for none
	user   string // "pci0 of disk0"
	leg    Leg
	device Device
}

func (l checkedLeg) String() string {
	return fmt.Sprintf("%s (%s, line %d)", l.user, l.leg.Path, l.leg.Line)
}

func (k *checker) add(line int, p Problem) {
	p.File, p.Line, p.Device = k.file, line, k.device
	k.problems = append(k.problems, p)
}

func (k *checker) disk(d Disk, probe func(string) (Device, error)) {
	var fit [2]*checkedLeg
	for side, leg := range d.Legs {
		if leg.Path == "" {
			continue
		}
		dev, err := probe(leg.Path)
		if !k.fit(leg, dev, err) {
			continue
		}
		l := checkedLeg{d.Name, moduleKeys[side] + " of " + d.Name, leg, dev}
		if k.apart(l) {
			fit[side] = &l
		}
		k.seen = append(k.seen, l)
	}
	if fit[0] != nil && fit[1] != nil && fit[0].device.Bytes != fit[1].device.Bytes {
		k.add(fit[1].leg.Line, Problem{
			What: fmt.Sprintf("the legs of %s differ in size: %s has %d bytes, %s has %d",
				d.Name, d.Legs[0].Path, fit[0].device.Bytes, d.Legs[1].Path, fit[1].device.Bytes),
			WayOut: "make both the same size (a partition of the larger one will do)",
		})
	}
}

// fit says whether there is something at the path that can be a leg.
func (k *checker) fit(leg Leg, dev Device, err error) bool {
	switch {
	case nbd.IsAddress(leg.Path) && err != nil:
		k.add(leg.Line, Problem{Absent: true,
			What:   fmt.Sprintf("%s cannot be used: %v", leg.Path, err),
			WayOut: "mend the address, or start the server"})
	case errors.Is(err, fs.ErrNotExist):
		k.add(leg.Line, Problem{Absent: true,
			What:   leg.Path + " does not exist",
			WayOut: "mend the path, or plug the device in; /dev/disk/by-id/ has names that do not change"})
	case err != nil:
		k.add(leg.Line, Problem{
			What:   fmt.Sprintf("%s cannot be looked at: %v", leg.Path, err),
			WayOut: "make it readable for root"})
	case dev.Kind == Directory:
		k.add(leg.Line, Problem{
			What:   leg.Path + " is a directory",
			WayOut: "give a block device, or a file of the size that the disk shall have (truncate -s 1G FILE)"})
	case dev.Kind != BlockDevice && dev.Kind != RegularFile && dev.Kind != Export:
		k.add(leg.Line, Problem{
			What:   leg.Path + " is neither a block device nor a file",
			WayOut: "give a block device, or a file of the size that the disk shall have (truncate -s 1G FILE)"})
	case dev.Bytes == 0 && dev.Kind == BlockDevice:
		k.add(leg.Line, Problem{Absent: true,
			What:   leg.Path + " is empty: it has 0 bytes",
			WayOut: "put a medium in, or set the loop device up (losetup)"})
	case dev.Bytes == 0:
		k.add(leg.Line, Problem{
			What:   leg.Path + " is an empty file",
			WayOut: "give it the size that the disk shall have (truncate -s 1G FILE)"})
	default:
		return true
	}
	return false
}

// apart says whether a leg shares no storage with the ones before.
func (k *checker) apart(l checkedLeg) bool {
	for _, o := range k.seen {
		switch {
		case l.shares(o):
			k.add(l.leg.Line, Problem{
				What:   fmt.Sprintf("%s lies on the same storage as %s", l.leg.Path, o),
				WayOut: l.needs()})
			return false
		case l.disk != "" && l.disk == o.disk && l.neighbours(o):
			k.add(l.leg.Line, Problem{Advice: true,
				What:   fmt.Sprintf("%s lies on the same disk as %s, so that both are lost together", l.leg.Path, o),
				WayOut: "put the legs on two disks where there are two"})
		}
	}
	return true
}

func (l checkedLeg) needs() string {
	if l.disk == "" {
		return "each machine needs a disk of its own"
	}
	return "each leg needs a device of its own"
}

func (l checkedLeg) shares(o checkedLeg) bool {
	for _, a := range l.device.Extents {
		for _, b := range o.device.Extents {
			if a.overlaps(b) {
				return true
			}
		}
	}
	return false
}

// neighbours are different parts of one store.
func (l checkedLeg) neighbours(o checkedLeg) bool {
	for _, a := range l.device.Extents {
		for _, b := range o.device.Extents {
			if a.Store == b.Store {
				return true
			}
		}
	}
	return false
}
