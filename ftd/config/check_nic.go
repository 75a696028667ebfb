package config

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"ft/bond/nic"
	"ft/drivers"
	"ft/drivers/netns"
)

// Found is what a look into the network namespace of one [[nic]] has shown.
type Found struct {
	Namespace string // which one it is, whatever its name
	Ports     [2]FoundPort
	Face      string // an interface with the face's name that is not ours, in words
}

// FoundPort is what has been found for one configured port.
type FoundPort struct {
	Err    error // nic.ErrNone: it is absent
	Index  int   // ifindex
	Name   string
	Slot   string // the card that it is a port of, where that is known
	MTUMax int    // 0 for no limit
	Unfit  error  // why it cannot be a port of this bond
}

// checkedCard is a NIC that has been found.
type checkedCard struct {
	namespace string
	nic       string // the device that it is a port of
	side      int
	port      Port
	found     FoundPort
}

func (c checkedCard) String() string {
	return fmt.Sprintf("%s of %s (%s, line %d)", moduleKeys[c.side], c.nic, c.port.NIC, c.port.Line)
}

// netAdmin: without the right nothing of a NIC can be set up, or be put back.
func (k *checker) netAdmin(c *Config, h Host) {
	if err := h.NetAdmin(); err != nil {
		k.add(c.NICs[0].Line, Problem{
			What:   fmt.Sprintf("network interfaces cannot be changed by this process: %v", err),
			WayOut: "run ftd as root, and in a service with CAP_NET_ADMIN in its CapabilityBoundingSet"})
	}
}

func (k *checker) nic(n NIC, look func(NIC) (Found, error)) {
	found, err := look(n)
	if errors.Is(err, netns.ErrNone) {
		k.add(n.Line, Problem{Absent: true,
			What:   fmt.Sprintf("the network namespace of %s is not there: there is no %s", n.Name, netns.Path(n.Netns)),
			WayOut: "make it (ip netns add), or mend netns"})
		return
	}
	if errors.Is(err, unix.EPERM) {
		k.add(n.Line, Problem{Advice: true,
			What:   fmt.Sprintf("this process may not look at the NICs of %s: %v", n.Name, err),
			WayOut: "its driver, which may, says what is wrong with them; `ftd --check-config` as root looks as well"})
		return
	}
	if err != nil {
		k.add(n.Line, Problem{
			What:   fmt.Sprintf("the NICs of %s cannot be looked at: %v", n.Name, err),
			WayOut: "run ftd as root"})
		return
	}
	if found.Face != "" {
		k.add(n.Line, Problem{
			What:   fmt.Sprintf("there is %s already, and it is not a face of ours", found.Face),
			WayOut: fmt.Sprintf("rename or delete it (ip link del %s), or give this [[nic]] another name", n.Name)})
	}
	for side, port := range n.Ports {
		if port.NIC == "" {
			continue
		}
		c := checkedCard{found.Namespace, n.Name, side, port, found.Ports[side]}
		if k.usable(n, c) {
			k.alone(c)
			k.cards = append(k.cards, c)
		}
	}
}

// usable says whether there is a NIC; what speaks against it is complained about.
func (k *checker) usable(n NIC, c checkedCard) bool {
	line, p := c.port.Line, c.found
	switch {
	case errors.Is(p.Err, nic.ErrNone):
		k.add(line, Problem{Absent: true,
			What:   "there is no NIC " + c.port.NIC + where(n),
			WayOut: "mend the name, or plug it in; MACs and PCI addresses are names that do not change"})
		return false
	case p.Err != nil:
		k.add(line, Problem{What: p.Err.Error(), WayOut: "name another NIC, or mend that"})
		return false
	}
	var refused *drivers.Refused
	switch {
	case errors.As(p.Unfit, &refused):
		k.add(line, Problem{What: refused.Sentence, WayOut: "a port carries its face and nothing else"})
	case p.Unfit != nil:
		k.add(line, Problem{What: p.Unfit.Error(), WayOut: "name another NIC, or mend that"})
	}
	if p.MTUMax > 0 && n.MTU > p.MTUMax {
		k.add(line, Problem{
			What:   fmt.Sprintf("%s cannot take mtu = %d: its limit is %d", c.port.NIC, n.MTU, p.MTUMax),
			WayOut: fmt.Sprintf("set mtu = %d or less", p.MTUMax)})
	}
	return true
}

func where(n NIC) string {
	if n.Netns == "" {
		return ""
	}
	return " in the network namespace " + n.Netns
}

// alone finds one NIC under two names, and two that are lost together.
func (k *checker) alone(c checkedCard) {
	for _, o := range k.cards {
		switch {
		case o.namespace != c.namespace:
		case o.found.Index == c.found.Index:
			k.add(c.port.Line, Problem{
				What:   fmt.Sprintf("%s is the same NIC (%s) as %v", c.port.NIC, c.found.Name, o),
				WayOut: "each port needs a NIC of its own"})
		case o.nic == c.nic && c.found.Slot != "" && o.found.Slot == c.found.Slot:
			k.add(c.port.Line, Problem{Advice: true,
				What:   fmt.Sprintf("%s is on the same card (%s) as %v, so that both are lost together", c.port.NIC, c.found.Slot, o),
				WayOut: "use two cards where there are two"})
		}
	}
}
