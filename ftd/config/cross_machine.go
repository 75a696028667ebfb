package config

import (
	"fmt"
	"path/filepath"
)

// checkMachines: what a machine hangs on must be there, and be its own. Two names of one
// device are found by Check, which looks at the computer.
func (r *reader) checkMachines(c *Config) {
	var disks, nics []string
	for _, d := range c.Disks {
		disks = append(disks, d.Name)
	}
	for _, n := range c.NICs {
		nics = append(nics, n.Name)
	}
	for i, m := range c.Machines {
		if m.Disk.Device != "" {
			r.mustName(fmt.Sprintf("machine[%d].disk", i), m.Disk.Device, "disk", disks)
		}
		if m.NIC.Device != "" {
			r.mustName(fmt.Sprintf("machine[%d].nic", i), m.NIC.Device, "nic", nics)
		}
	}
	r.checkMachineDisks(c)
	r.checkMachineLinks(c)
	r.checkRecords(c)
}

// checkRecords: a record is a file of its own, for it is written anew at each start.
func (r *reader) checkRecords(c *Config) {
	used := map[string]string{}
	for _, d := range c.Disks {
		for side, leg := range d.Legs {
			used[filepath.Clean(leg.Path)] = fmt.Sprintf("%s of %s", moduleKeys[side], d.Name)
		}
	}
	for _, m := range c.Machines {
		used[filepath.Clean(m.Kernel.Path)] = "the kernel of " + m.Name
		used[filepath.Clean(m.Initrd.Path)] = "the initrd of " + m.Name
		used[filepath.Clean(m.Disk.Path)] = "the disk of " + m.Name
	}
	for _, m := range c.Machines {
		if m.Record.Path == "" {
			continue
		}
		path := filepath.Clean(m.Record.Path)
		if by := used[path]; by != "" {
			r.complainAt(m.Record.Line, fmt.Sprintf("%s is %s, and would be overwritten by a record", path, by), "give record a file of its own")
			continue
		}
		used[path] = "the record of " + m.Name
	}
}

// checkMachineDisks finds a disk of two machines, and one that is a leg.
func (r *reader) checkMachineDisks(c *Config) {
	type use struct {
		by   string
		line int
	}
	first := map[string]use{}
	for _, d := range c.Disks {
		for side, leg := range d.Legs {
			if leg.Path != "" {
				first[filepath.Clean(leg.Path)] = use{fmt.Sprintf("%s of %s", moduleKeys[side], d.Name), leg.Line}
			}
		}
	}
	for _, m := range c.Machines {
		what := m.Disk.Device
		if m.Disk.Path != "" {
			what = filepath.Clean(m.Disk.Path)
		}
		if what == "" {
			continue
		}
		if u, taken := first[what]; taken {
			r.complainAt(m.Disk.Line, fmt.Sprintf("%s is used already: as %s in line %d", what, u.by, u.line), "each machine needs a disk of its own")
			continue
		}
		first[what] = use{"the disk of " + m.Name, m.Disk.Line}
	}
}

// checkMachineLinks finds an interface of two machines, one that is a face or the port of
// one, and a MAC that is given twice.
func (r *reader) checkMachineLinks(c *Config) {
	used, ports, macs := map[string]int{}, map[string]string{}, map[string]int{}
	faces := map[string]bool{}
	for _, n := range c.NICs {
		faces[n.within(n.Name)] = true
		for _, p := range n.Ports {
			ports[n.within(p.NIC)] = n.Name
		}
		if n.MAC != "" {
			macs[n.MAC] = n.Line
		}
	}
	for _, m := range c.Machines {
		link := m.NIC.link()
		switch where := (NIC{Netns: m.NIC.Netns}).within(link); {
		case link == "":
			continue
		case m.NIC.Device == "" && faces[where]:
			r.complainAt(m.NIC.Line, fmt.Sprintf("%s is the face of a [[nic]]", link), fmt.Sprintf("write nic = %q: the machine is then started when it is up", link))
		case m.NIC.Device == "" && ports[where] != "":
			r.complainAt(m.NIC.Line, fmt.Sprintf("%s is a port of %s", link, ports[where]), fmt.Sprintf("a port carries its face and nothing else: write nic = %q", ports[where]))
		case used[where] != 0:
			r.complainAt(m.NIC.Line, fmt.Sprintf("%s is used already, in line %d", link, used[where]), "each machine needs a NIC of its own")
		default:
			used[where] = m.NIC.Line
		}
		if m.NIC.MAC == "" {
			continue
		}
		if before, taken := macs[m.NIC.MAC]; taken {
			r.complainAt(m.NIC.Line, fmt.Sprintf("the MAC %s is given twice: in line %d already", m.NIC.MAC, before), "leave mac out: a machine has one of its own then")
			continue
		}
		macs[m.NIC.MAC] = m.NIC.Line
	}
}

// link is the interface that a machine's NIC hangs on, "" for none.
func (n MachineNIC) link() string { return n.Device + n.Link + n.TAP }
