package nic

import (
	"bytes"
	"fmt"
	"net"
	"strings"
)

const (
	macLen      = 6
	altNameSize = 128 // ALTIFNAMSIZ, linux/if.h, with the NUL at its end
)

// spec is a NIC as a person names it. Names cannot have colons (dev_valid_name() in the
// kernel's net/core/dev.c), MACs and PCI addresses always do here: the three cannot be
// mistaken for each other. Forms of a MAC without colons are names.
type spec struct {
	name string
	mac  net.HardwareAddr
	pci  string // 0000:03:00.0, lower case
}

func parseSpec(s string) (spec, error) {
	if !strings.Contains(s, ":") {
		if err := checkName(s); err != nil {
			return spec{}, err
		}
		return spec{name: s}, nil
	}
	if mac, err := net.ParseMAC(s); err == nil && len(mac) == macLen {
		if err := checkMAC(mac); err != nil {
			return spec{}, err
		}
		return spec{mac: mac}, nil
	}
	if pci, ok := parsePCI(s); ok {
		return spec{pci: pci}, nil
	}
	return spec{}, fmt.Errorf("%q is no NIC: write a name (eth0), a MAC (52:54:00:12:34:56) or a PCI address (0000:03:00.0)", s)
}

// checkName has the rules of the kernel, for alternative names too.
func checkName(s string) error {
	switch {
	case s == "":
		return fmt.Errorf("a NIC without a name: write a name (eth0), a MAC (52:54:00:12:34:56) or a PCI address (0000:03:00.0)")
	case s == "." || s == ".." || strings.ContainsAny(s, "/:\x00 \t\n\v\f\r") || strings.IndexByte(s, 0xa0) >= 0: // the kernel's isspace
		return fmt.Errorf("%q cannot be the name of a NIC: the kernel takes no spaces, slashes or colons in it", s)
	case len(s) >= altNameSize:
		return fmt.Errorf("the name %.20q… has %d bytes: the kernel takes at most %d", s, len(s), altNameSize-1)
	}
	return nil
}

// checkMAC refuses what cannot be an interface's own address.
func checkMAC(mac net.HardwareAddr) error {
	switch {
	case len(mac) != macLen:
		return fmt.Errorf("%s is no MAC of Ethernet: it has %d bytes, not %d", mac, len(mac), macLen)
	case mac[0]&1 != 0:
		return fmt.Errorf("%s is a group's MAC (the lowest bit of its first byte is set): an interface needs one of its own", mac)
	case bytes.Equal(mac, make([]byte, macLen)):
		return fmt.Errorf("%s is no interface's MAC", mac)
	}
	return nil
}

// parsePCI reads DOMAIN:BUS:DEVICE.FUNCTION as the kernel writes it ("%04x:%02x:%02x.%d"),
// with or without udev's "pci-" before it.
func parsePCI(s string) (string, bool) {
	s = strings.ToLower(strings.TrimPrefix(s, "pci-"))
	part := strings.Split(s, ":")
	if len(part) != 3 {
		return "", false
	}
	device, function, ok := strings.Cut(part[2], ".")
	// The domain is wider than four digits behind some host bridges, as Intel's VMD.
	if !ok || !isHex(part[0], 4, 8) || !isHex(part[1], 2, 2) || !isHex(device, 2, 2) ||
		len(function) != 1 || function[0] < '0' || function[0] > '7' {
		return "", false
	}
	return s, true
}

func isHex(s string, least, most int) bool {
	return len(s) >= least && len(s) <= most && strings.Trim(s, "0123456789abcdef") == ""
}
