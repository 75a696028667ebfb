package nic

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ErrNone says that there is no such NIC now. It may come.
var ErrNone = errors.New("there is no such NIC")

// Find finds a NIC by its name, an alternative name, its MAC, or the address of its PCI
// function (0000:03:00.0, also with pci- before it). The error is ErrNone when there is
// none, and another when there are several, or what is asked for can be no NIC.
//
// A MAC means the one that is burnt in, where the kernel knows that: a driver may give a
// NIC another one, as the kernel's bonding does.
func Find(name string) (Link, error) {
	sp, err := parseSpec(name)
	if err != nil {
		return Link{}, err
	}
	if sp.name != "" {
		return ByName(sp.name)
	}
	all, err := links()
	if err != nil {
		return Link{}, fmt.Errorf("find the NIC %s: %w", name, err)
	}
	var found []Link
	var wears string // the MAC that is asked for, and is not its own
	for _, l := range all {
		switch {
		case sp.matches(l):
			found = append(found, l)
		case sp.mac != nil && stands(l) && bytes.Equal(sp.mac, l.MAC):
			wears = fmt.Sprintf(" (%s has that MAC at present, its own is %s)", l.Name, l.PermMAC)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return Link{}, fmt.Errorf("find the NIC %s: %w%s", name, ErrNone, wears)
	}
	var names []string
	for _, l := range found {
		names = append(names, l.Name)
	}
	return Link{}, fmt.Errorf("%s is %s: say which by its name", name, strings.Join(names, " and "))
}

// ByIndex is the NIC with that ifindex.
func ByIndex(i int) (Link, error) {
	if i <= 0 {
		return Link{}, fmt.Errorf("find the NIC with index %d: %w", i, ErrNone)
	}
	l, err := link(i, "")
	if err != nil {
		return Link{}, fmt.Errorf("find the NIC with index %d: %w", i, err)
	}
	return l, nil
}

// ByName is the NIC with that name, or with that alternative name.
func ByName(name string) (Link, error) {
	if err := checkName(name); err != nil {
		return Link{}, err
	}
	l, err := link(0, name)
	if err != nil {
		return Link{}, fmt.Errorf("find the NIC %s: %w", name, err)
	}
	return l, nil
}

// Matches says whether a link is the NIC that Find would look for.
func Matches(name string, l Link) bool {
	sp, err := parseSpec(name)
	return err == nil && sp.matches(l)
}

func (sp spec) matches(l Link) bool {
	switch {
	case sp.name != "":
		return l.Name == sp.name || slices.Contains(l.AltNames, sp.name)
	case sp.mac != nil && len(l.PermMAC) > 0:
		return stands(l) && bytes.Equal(l.PermMAC, sp.mac)
	case sp.mac != nil:
		return stands(l) && bytes.Equal(l.MAC, sp.mac)
	case l.PCI != "":
		return l.PCI == sp.pci
	}
	// A virtio NIC hangs on the virtio bus: only its driver names the PCI function.
	return l.Kind == "" && busAddress(l.Name) == sp.pci
}

// stands says that a link is not one on top of others, which wear their MACs: a VLAN, a
// bridge, a bond.
func stands(l Link) bool {
	return l.Parent == 0 && !gathers(l.Kind)
}

// gathers are the kinds of links that have others in them.
func gathers(kind string) bool {
	return kind == "bridge" || kind == "bond" || kind == "team" || kind == "vrf" || kind == "hsr" || kind == "openvswitch"
}
