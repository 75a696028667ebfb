package config

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"ft/bond/nic"
	"ft/chipset/engine"
	"ft/drivers/netns"
)

// machines looks at what machines are made of. A running machine needs none of its files:
// what is wrong with them counts as absent.
func (k *checker) machines(c *Config, h Host) {
	var memory int64
	for _, m := range c.Machines {
		k.device = m.Name
		memory += m.Memory
		if _, err := engine.Choice(m.Engine).Of(); err != nil {
			k.add(m.Line, Problem{What: err.Error(), WayOut: `leave engine out, or write engine = "interpret"`})
		}
		kernel, initrd := k.readable(m.Kernel, "the kernel", h), k.readable(m.Initrd, "the initrd", h)
		if kernel && initrd {
			k.boots(m, h)
		}
		if m.Record.Path != "" {
			k.record(m.Record, h)
		}
		if m.Disk.Path != "" {
			k.machineDisk(m, h)
		}
		if m.NIC.Link != "" || m.NIC.TAP != "" {
			k.machineLink(m.NIC, h)
		}
	}
	k.device = ""
	if len(c.Machines) == 0 {
		return
	}
	if have := h.Memory(); have > 0 && memory > have {
		k.add(c.Machines[len(c.Machines)-1].Line, Problem{
			What:   fmt.Sprintf("the machines have %s of memory together, and this computer %s", sizeText(memory), sizeText(have>>20<<20)),
			WayOut: "lower memory, and leave some for the computer itself"})
	}
}

// readable says whether there is a file to be read; one that is not configured is no problem.
func (k *checker) readable(f File, what string, h Host) bool {
	if f.Path == "" {
		return true
	}
	dev, err := h.Leg(f.Path)
	problem := func(text, wayOut string) bool {
		k.add(f.Line, Problem{Absent: true, What: text, WayOut: wayOut})
		return false
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return problem(fmt.Sprintf("%s %s does not exist", what, f.Path), "mend the path, or put the file there")
	case err != nil:
		return problem(fmt.Sprintf("%s %s cannot be looked at: %v", what, f.Path, err), "make it readable for root")
	case dev.Kind != RegularFile:
		return problem(fmt.Sprintf("%s %s is no file", what, f.Path), "name the file itself")
	case dev.Bytes == 0:
		return problem(fmt.Sprintf("%s %s is empty", what, f.Path), "put the file there again")
	}
	return true
}

// record: the file comes by itself, its directory does not; and it replaces nothing but a file.
func (k *checker) record(f File, h Host) {
	dir := filepath.Dir(f.Path)
	if dev, err := h.Leg(dir); err != nil || dev.Kind != Directory {
		k.add(f.Line, Problem{Absent: true,
			What:   fmt.Sprintf("the record cannot be written: there is no directory %s", dir),
			WayOut: "make it, or mend the path"})
		return
	}
	if dev, err := h.Leg(f.Path); err == nil && dev.Kind != RegularFile {
		k.add(f.Line, Problem{Absent: true,
			What:   fmt.Sprintf("the record cannot be written: %s is there, and no file", f.Path),
			WayOut: "give record a file of its own"})
	}
}

// boots: the kernel is one, and it all fits in the machine's memory.
func (k *checker) boots(m Machine, h Host) {
	var unfit *unfitFile
	switch err := h.Boot(m); {
	case errors.As(err, &unfit):
		k.add(unfit.line, Problem{Absent: true, What: unfit.what, WayOut: unfit.wayOut})
	case err != nil:
		// What package firmware says mostly ends with the way out.
		what, wayOut, found := cutLast(err.Error(), "; ")
		if !found {
			wayOut = "give a riscv64 Image or ELF, as is or compressed by gzip"
		}
		k.add(m.Kernel.Line, Problem{Absent: true, What: what, WayOut: wayOut})
	}
}

// cutLast is strings.Cut at the last sep.
func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// machineDisk: a disk that is no [[disk]] is there, and no leg.
func (k *checker) machineDisk(m Machine, h Host) {
	as := Leg{Path: m.Disk.Path, Line: m.Disk.Line}
	dev, err := h.Leg(as.Path)
	if !k.fit(as, dev, err) {
		return
	}
	l := checkedLeg{user: "the disk of " + m.Name, leg: as, device: dev}
	k.apart(l)
	k.seen = append(k.seen, l)
}

// machineLink: the interface is there, and of the kind that is said.
func (k *checker) machineLink(n MachineNIC, h Host) {
	tap, err := h.Link(n.Netns, n.link())
	in := where(NIC{Netns: n.Netns})
	switch {
	case errors.Is(err, netns.ErrNone):
		k.add(n.Line, Problem{Absent: true,
			What:   fmt.Sprintf("the network namespace is not there: there is no %s", netns.Path(n.Netns)),
			WayOut: "make it (ip netns add), or mend netns"})
	case errors.Is(err, nic.ErrNone) && n.TAP != "":
		k.add(n.Line, Problem{Absent: true,
			What:   fmt.Sprintf("there is no interface %s%s", n.TAP, in),
			WayOut: fmt.Sprintf("make it: ip tuntap add %s mode tap", n.TAP)})
	case errors.Is(err, nic.ErrNone):
		k.add(n.Line, Problem{Absent: true, What: fmt.Sprintf("there is no interface %s%s", n.Link, in), WayOut: "mend the name, or plug it in"})
	case errors.Is(err, unix.EPERM):
		k.add(n.Line, Problem{Advice: true, What: fmt.Sprintf("this process may not look at %s%s: %v", n.link(), in, err),
			WayOut: "the machine's driver, which may, says what is wrong with it; `ftd --check-config` as root looks as well"})
	case err != nil:
		k.add(n.Line, Problem{What: err.Error(), WayOut: "name another interface, or mend that"})
	case n.TAP != "" && !tap:
		k.add(n.Line, Problem{
			What:   fmt.Sprintf("%s is no TAP", n.TAP),
			WayOut: fmt.Sprintf("write nic = \"link:%s\" for a macvtap on it, or name a TAP (ip tuntap add NAME mode tap)", n.TAP)})
	}
}
