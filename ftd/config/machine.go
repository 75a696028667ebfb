package config

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"ft/chipset/engine"
	"ft/chipset/firmware"
)

// This file reads [[machine]]. What the tables say of one another is in cross_machine.go,
// and what needs a look at the computer in check_machine.go.

// Machine is a table [[machine]].
type Machine struct {
	Name        string
	Kernel      File
	Initrd      File   // a zero File: none
	Cmdline     string // of the kernel
	Memory      int64  // bytes
	Disk        MachineDisk
	NIC         MachineNIC
	Engine      string // auto, interpret, translate, unlike
	Compare     string // step, store, off
	ConsoleLog  int64  // bytes of the console's past that are kept
	Record      File   // of the machine's inputs, for `ftd replay`; a zero File: none
	BlackoutMax time.Duration
	Throttle    bool   // the guest may be slowed so that a re-integration ends
	Undecided   string // stop, cpu0, cpu1
	Line        int
}

// File is a path and where it stands.
type File struct {
	Path string
	Line int
}

// MachineDisk is what a machine has as its disk: a [[disk]] of this file, or a block device
// or file. A zero MachineDisk: it has none.
type MachineDisk struct {
	Device string // name of the [[disk]]
	Path   string
	Line   int
}

// MachineNIC is what a machine's NIC hangs on. A zero MachineNIC: it has none.
type MachineNIC struct {
	Device string // name of the [[nic]]: a macvtap on its face
	Link   string // name of another interface: a macvtap on that
	TAP    string // name of a TAP or macvtap that is there
	Netns  string // of Link or TAP; "" for the host's
	MAC    string // that the guest sees, "" for one that is derived from its name
	Line   int
}

const (
	memoryDefault     = 256 << 20
	consoleLogDefault = 256 << 10
	consoleLogMin     = 4 << 10
	consoleLogMax     = 64 << 20
)

func (r *reader) machine(t *table) Machine {
	m := Machine{
		Name:        t.name(),
		Kernel:      t.file("kernel"),
		Initrd:      t.file("initrd"),
		Cmdline:     t.str("cmdline", "console=ttyS0 root=/dev/vda"),
		Memory:      t.size("memory", memoryDefault, firmware.MemoryMin),
		Disk:        t.machineDisk("disk"),
		NIC:         t.machineNIC("nic"),
		Engine:      t.choice("engine", engine.Choices[0], engine.Choices...),
		Compare:     t.choice("compare", "step", "step", "store", "off"),
		ConsoleLog:  t.size("console_log", consoleLogDefault, consoleLogMin),
		Record:      t.file("record"),
		BlackoutMax: t.duration("blackout_max", 20*time.Millisecond, time.Millisecond, time.Minute),
		Throttle:    t.boolean("throttle", false),
		Undecided:   t.choice("undecided", "stop", "stop", "cpu0", "cpu1"),
		Line:        t.line(""),
	}
	m.NIC.Netns, m.NIC.MAC = t.netns("netns"), t.mac("mac")
	if m.Kernel.Path == "" && !t.has("kernel") {
		t.complain("", fmt.Sprintf("machine %q has no kernel", m.Name), `add kernel = "/path/to/vmlinux"`)
	}
	t.checkMemory(m)
	t.checkMachineNIC(m.NIC)
	if n := len(m.Cmdline); n > firmware.BootargsMax {
		t.complain("cmdline", fmt.Sprintf("cmdline has %d bytes, and a kernel drops what is beyond %d", n, firmware.BootargsMax), "shorten it")
	}
	if m.ConsoleLog > consoleLogMax {
		t.complain("console_log", fmt.Sprintf("console_log = %s is too large", sizeText(m.ConsoleLog)), sizeText(consoleLogMax)+" is the most")
	}
	t.refuseRest()
	return m
}

// checkMemory: kernels map RAM in pages of 2 MiB, and lose what is left over.
func (t *table) checkMemory(m Machine) {
	switch {
	case m.Memory > firmware.MemoryMax:
		t.complain("memory", fmt.Sprintf("memory = %s is too much", sizeText(m.Memory)), sizeText(firmware.MemoryMax)+" is the most")
	case m.Memory%firmware.MemoryAlign != 0:
		whole := m.Memory - m.Memory%firmware.MemoryAlign
		t.complain("memory", fmt.Sprintf("memory is %d bytes, no multiple of 2 MiB", m.Memory), fmt.Sprintf("write it like \"256MiB\"; memory = %q is the next less", sizeText(whole)))
	}
}

func (t *table) checkMachineNIC(n MachineNIC) {
	if n.Line == 0 && !t.has("nic") {
		for _, key := range []string{"mac", "netns"} {
			if t.has(key) {
				t.complain(key, key+" is given, and no nic", "add nic, or leave "+key+" out")
			}
		}
	}
	if n.Device != "" && t.has("netns") {
		t.complain("netns", fmt.Sprintf("%s says itself which network namespace it is in", n.Device), "leave netns out")
	}
}

// file is a file of the host, by its absolute path.
func (t *table) file(key string) File {
	p := t.path(key)
	if p == "" {
		return File{}
	}
	return File{Path: p, Line: t.line(key)}
}

// machineDisk is a name, or an absolute path.
func (t *table) machineDisk(key string) MachineDisk {
	s := t.str(key, "")
	if _, isString := t.raw[key].(string); !isString {
		return MachineDisk{}
	}
	d := MachineDisk{Line: t.line(key)}
	switch face, isFace := strings.CutPrefix(filepath.Clean(s), "/dev/ft/"); {
	case isFace && filepath.IsAbs(s):
		t.complain(key, fmt.Sprintf("%s is a face of this box", s), fmt.Sprintf("write %s = %q, the name of the [[disk]]: the machine is then started when the disk is up", key, face))
		return MachineDisk{}
	case filepath.IsAbs(s):
		d.Path = s
	case componentName.MatchString(s):
		d.Device = s
	default:
		t.complain(key, fmt.Sprintf("%s = %q is neither the name of a [[disk]] nor an absolute path", key, s), `write it like "disk0", or "/dev/…"`)
		return MachineDisk{}
	}
	return d
}

// machineNIC is the name of a [[nic]], or of an interface with its kind before it.
func (t *table) machineNIC(key string) MachineNIC {
	s := t.str(key, "")
	if _, isString := t.raw[key].(string); !isString {
		return MachineNIC{}
	}
	n := MachineNIC{Line: t.line(key)}
	kind, name, other := strings.Cut(s, ":")
	switch {
	case other && kind == "tap" && isIfname(name):
		n.TAP = name
	case other && kind == "link" && isIfname(name):
		n.Link = name
	case componentName.MatchString(s):
		n.Device = s
	default:
		t.complain(key, fmt.Sprintf("%s = %q names nothing that a NIC can hang on", key, s),
			`give the name of a [[nic]], like "net0"; or "tap:NAME" for a TAP that is there, "link:NAME" for a macvtap on another interface`)
		return MachineNIC{}
	}
	return n
}

// isIfname is the kernel's rule for interface names (dev_valid_name, net/core/dev.c).
func isIfname(s string) bool {
	return s != "" && len(s) <= ifnameMax && s != "." && s != ".." && !strings.ContainsAny(s, "/: \t")
}
