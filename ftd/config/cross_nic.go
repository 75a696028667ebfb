package config

import (
	"fmt"

	"ft/bond/nic"
	"ft/drivers/netns"
)

// within names something in its network namespace, where names and addresses are unique.
func (n NIC) within(what string) string {
	if n.Netns == "" {
		return what
	}
	return netns.Path(n.Netns) + " " + what
}

// checkPorts finds a NIC that is written twice, and one that has a face's name. Two names
// of one NIC are found by Check, which looks at the machine.
func (r *reader) checkPorts(c *Config) {
	first, faces := map[string]int{}, map[string]string{}
	for _, n := range c.NICs {
		faces[n.within(n.Name)] = n.Name
	}
	for _, n := range c.NICs {
		for _, p := range n.Ports {
			if p.NIC == "" {
				continue
			}
			name, err := nic.Canonical(p.NIC)
			if err != nil {
				continue // has been complained about
			}
			if name == n.MAC {
				r.complainAt(p.Line, fmt.Sprintf("%s is named by the MAC that the face of %s is to have", p.NIC, n.Name), "leave mac out: a NIC keeps its own, the face has another")
			}
			if face, taken := faces[n.within(name)]; taken {
				r.complainAt(p.Line, fmt.Sprintf("%s has the name of the face of [[nic]] %q", p.NIC, face), "give one of them another name: the face is an interface of its own")
			}
			if before, taken := first[n.within(name)]; taken {
				r.complainAt(p.Line, fmt.Sprintf("%s is used twice: in line %d already", p.NIC, before), "each port needs a NIC of its own")
				continue
			}
			first[n.within(name)] = p.Line
		}
	}
}

// checkAddresses finds an address or a face's MAC that is given twice.
func (r *reader) checkAddresses(c *Config) {
	first := map[string]int{}
	once := func(i int, key, name, what, wayOut string) {
		line := r.lines.of(fmt.Sprintf("nic[%d].%s", i, key))
		if before, taken := first[name]; taken {
			r.complainAt(line, fmt.Sprintf("%s is given twice: in line %d already", what, before), wayOut)
			return
		}
		first[name] = line
	}
	for i, n := range c.NICs {
		for _, p := range n.Addresses {
			if p.Addr().Is6() && p.Addr().IsLinkLocalUnicast() {
				continue // belongs to a link: another face may have the same
			}
			once(i, "addresses", n.within(p.Addr().String()), p.Addr().String(), "each address belongs to one face, and once")
		}
		if n.MAC != "" {
			once(i, "mac", "mac "+n.MAC, n.MAC, "each face needs a MAC of its own")
		}
	}
}
