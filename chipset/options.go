package chipset

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"time"

	"ft/chipset/engine"
	"ft/chipset/firmware"
)

// This file is what ftd and the driver of a machine agree on: the options, and how the
// words of the driver contract apply to a machine.
//
//   - Sides are CPU modules. A side with an empty Resource.Path is not configured.
//   - Attach starts a machine that is off on that side; Detach of its last side with
//     drivers.RiskLastSide powers it off, when the I/O under way has ended and the disk is
//     flushed. SideConfig.Out says that it is to stay off at Start: the core keeps the word of
//     whoever stopped it.
//   - A machine that cannot be started is a side that stays offline. Attach refuses it with
//     drivers.RuleUnfit when a person has to mend something (the kernel is none); any other
//     error is tried again by ftd, at growing intervals (the disk is not there yet).
//   - A guest that powers itself off is a side that goes offline with drivers.OutByGuest. It
//     stays off, over restarts too, until a person has it started.
//   - A guest whose kernel has panicked and does not reset the machine is a face that is down
//     over a side in service, with the reason: the CPU module is well, and the machine serves
//     nobody.
//   - Command "machine" with "action": "reset" starts a machine that is on from the beginning.

// Options are the machine's part of a drivers.Config.
type Options struct {
	Kernel      string `json:"kernel"`           // file: a raw Image, an ELF, or one of them in gzip
	Initrd      string `json:"initrd,omitempty"` // file, "" for none
	Cmdline     string `json:"cmdline,omitempty"`
	MemoryBytes int64  `json:"memory_bytes"`

	Disk       string `json:"disk,omitempty"`        // block device or file, "" for none
	DiskSerial string `json:"disk_serial,omitempty"` // what the guest reads as its serial number, up to DiskSerialMax bytes

	// At most one of Link and TAP is set. The driver process lives in Netns already.
	Link  string `json:"link,omitempty"`  // an interface, which gets a macvtap of the machine's own
	TAP   string `json:"tap,omitempty"`   // a TAP or macvtap that is there and stays
	Netns string `json:"netns,omitempty"` // for people
	MAC   string `json:"mac,omitempty"`   // that the guest sees; set whenever there is a NIC

	ConsoleLogBytes int64 `json:"console_log_bytes,omitempty"` // of the console's past; 0 for DefaultConsoleLogBytes

	// Record is a file for the inputs of each run of the machine, from which `ftd replay` has
	// the run again; the one before stays beside it, with the ending .1. "" for none.
	Record string `json:"record,omitempty"`

	Engine      engine.Choice `json:"engine,omitempty"`
	Compare     Compare       `json:"compare,omitempty"`
	BlackoutMax time.Duration `json:"blackout_max_ns,omitempty"` // the longest stop of a re-integration
	Throttle    bool          `json:"throttle,omitempty"`        // a guest may be slowed down so that one ends
	Undecided   Undecided     `json:"undecided,omitempty"`       // whom to believe when nothing can be decided
}

// Compare is how much of what a hart does goes into its fingerprint.
type Compare string

// What is compared.
const (
	CompareStep  Compare = "step"  // every retired step
	CompareStore Compare = "store" // stores and control flow
	CompareOff   Compare = "off"   // nothing: for measuring
)

// Undecided says what follows when two CPU modules differ and nothing can be decided.
type Undecided string

// What follows.
const (
	UndecidedStop Undecided = "stop" // the machine stops
	UndecidedCPU0 Undecided = "cpu0" // cpu0 is believed
	UndecidedCPU1 Undecided = "cpu1"
)

// Limits and defaults of the options.
const (
	// DiskSerialMax is VIRTIO_BLK_ID_BYTES (linux/virtio_blk.h).
	DiskSerialMax = 20

	DefaultMemoryBytes     = 256 << 20
	DefaultConsoleLogBytes = 256 << 10
	DefaultBlackoutMax     = 20 * time.Millisecond
)

// ConsolePath is the socket of a machine's console: raw bytes both ways, first the end of
// its past. The driver makes it, for its own user alone (0600); ftd decides who may watch
// and who may type.
func ConsolePath(runDir, name string) string {
	return filepath.Join(runDir, "console", name+".sock")
}

func (o Options) withDefaults() Options {
	if o.MemoryBytes == 0 {
		o.MemoryBytes = DefaultMemoryBytes
	}
	if o.ConsoleLogBytes <= 0 {
		o.ConsoleLogBytes = DefaultConsoleLogBytes
	}
	if o.BlackoutMax <= 0 {
		o.BlackoutMax = DefaultBlackoutMax
	}
	if o.Engine == "" {
		o.Engine = engine.Auto
	}
	if o.Compare == "" {
		o.Compare = CompareStep
	}
	if o.Undecided == "" {
		o.Undecided = UndecidedStop
	}
	return o
}

// check refuses options that mean nothing; ftd has checked them before, with line numbers.
func (o Options) check() error {
	switch {
	case o.Kernel == "":
		return errors.New("no kernel is named")
	case o.MemoryBytes < firmware.MemoryMin || o.MemoryBytes > firmware.MemoryMax || o.MemoryBytes%firmware.MemoryAlign != 0:
		return fmt.Errorf("memory is %d bytes: it must be %d MiB to %d GiB, in steps of %d MiB",
			o.MemoryBytes, firmware.MemoryMin>>20, firmware.MemoryMax>>30, firmware.MemoryAlign>>20)
	case len(o.Cmdline) > firmware.BootargsMax:
		return fmt.Errorf("the command line has %d bytes: the kernel keeps %d", len(o.Cmdline), firmware.BootargsMax)
	case len(o.DiskSerial) > DiskSerialMax:
		return fmt.Errorf("the disk's serial number has %d bytes: a guest reads %d", len(o.DiskSerial), DiskSerialMax)
	case o.Link != "" && o.TAP != "":
		return fmt.Errorf("both a link (%s) and a TAP (%s) are named for the one NIC", o.Link, o.TAP)
	case !o.Engine.Valid():
		return fmt.Errorf("there is no engine %q (%s)", o.Engine, strings.Join(engine.Choices, ", "))
	case o.Compare != CompareStep && o.Compare != CompareStore && o.Compare != CompareOff:
		return fmt.Errorf("there is no compare %q (step, store, off)", o.Compare)
	case o.Undecided != UndecidedStop && o.Undecided != UndecidedCPU0 && o.Undecided != UndecidedCPU1:
		return fmt.Errorf("undecided is %q: it must be stop, cpu0 or cpu1", o.Undecided)
	}
	if o.Link != "" || o.TAP != "" {
		if mac, err := net.ParseMAC(o.MAC); err != nil || len(mac) != 6 || mac[0]&1 != 0 {
			return fmt.Errorf("%q is no MAC that a NIC can have", o.MAC)
		}
	}
	return nil
}
