package config

import (
	"fmt"
	"path/filepath"

	"ft/mirror/frontend/nbdserver"
	"ft/mirror/nbd"
)

// moduleKeys are the keys of the two sides, by side.
var moduleKeys = [2]string{"pci0", "pci1"}

// crossCheck looks at what tables say of one another.
func (r *reader) crossCheck(c *Config) {
	r.checkNames(c)
	r.checkLegs(c)
	r.checkSockets(c)
	r.checkPorts(c)
	r.checkAddresses(c)
	r.checkMachines(c)
}

// complainAt is for what concerns two tables: it stands at the later one's line.
func (r *reader) complainAt(line int, what, wayOut string) {
	r.problems = append(r.problems, Problem{File: r.file, Line: line, What: what, WayOut: wayOut})
}

// checkNames: all devices share one space of names, as `ftctl show NAME` does not
// say of which kind it is.
func (r *reader) checkNames(c *Config) {
	first := map[string]int{}
	check := func(name, path string) {
		if name == "" {
			return
		}
		line := r.lines.of(path)
		if name == c.System.Name {
			r.complainAt(line, fmt.Sprintf("the name %q is that of the box itself", name), "give this device another")
			return
		}
		if before, taken := first[name]; taken {
			r.complainAt(line, fmt.Sprintf("the name %q is taken already, in line %d", name, before), "give this one another")
			return
		}
		first[name] = line
	}
	for i, d := range c.Disks {
		check(d.Name, fmt.Sprintf("disk[%d].name", i))
	}
	for i, n := range c.NICs {
		check(n.Name, fmt.Sprintf("nic[%d].name", i))
	}
	for i, m := range c.Machines {
		check(m.Name, fmt.Sprintf("machine[%d].name", i))
	}
}

// checkLegs finds a leg that is written twice. Two names of one device are found by
// Check, which looks at the machine.
func (r *reader) checkLegs(c *Config) {
	type use struct {
		disk, key string
		line      int
	}
	first := map[string]use{}
	for _, d := range c.Disks {
		for side, leg := range d.Legs {
			if leg.Path == "" {
				continue
			}
			clean := filepath.Clean(leg.Path)
			if u, taken := first[clean]; taken {
				r.complainAt(leg.Line, fmt.Sprintf("%s is used twice: as %s of %s in line %d already", leg.Path, u.key, u.disk, u.line),
					"each leg needs a device of its own")
				continue
			}
			first[clean] = use{d.Name, moduleKeys[side], leg.Line}
		}
	}
}

// checkSockets finds an NBD socket that is written twice, or cannot be one.
func (r *reader) checkSockets(c *Config) {
	type use struct {
		disk string
		line int
	}
	first := map[string]use{}
	for i, d := range c.Disks {
		if d.NBD == "" {
			continue
		}
		line := r.lines.of(fmt.Sprintf("disk[%d].nbd", i))
		if len(d.NBD) > nbdserver.PathBytesMax {
			r.complainAt(line, fmt.Sprintf("nbd has %d bytes, which is too long for a socket", len(d.NBD)),
				fmt.Sprintf("the longest path has %d", nbdserver.PathBytesMax))
			continue
		}
		clean := filepath.Clean(d.NBD)
		if u, taken := first[clean]; taken {
			r.complainAt(line, fmt.Sprintf("%s is the NBD socket of %s already, in line %d", d.NBD, u.disk, u.line), "give each disk a socket of its own")
			continue
		}
		first[clean] = use{d.Name, line}
	}
	for _, d := range c.Disks {
		for _, leg := range d.Legs {
			a, err := nbd.ParseAddress(leg.Path)
			if u, own := first[filepath.Clean(a.Host)]; err == nil && a.Network == "unix" && own {
				r.complainAt(leg.Line, fmt.Sprintf("%s is the NBD socket of %s of this box and cannot be a leg as well", a.Host, u.disk),
					"give the address of another server")
			}
		}
	}
}

func (r *reader) mustName(path, name, kind string, known []string) {
	for _, k := range known {
		if k == name {
			return
		}
	}
	wayOut := fmt.Sprintf("add a [[%s]] with this name", kind)
	if n := nearest(name, known); n != "" {
		wayOut = fmt.Sprintf("did you mean %q?", n)
	}
	r.complainAt(r.lines.of(path), fmt.Sprintf("there is no [[%s]] named %q", kind, name), wayOut)
}
