package nic

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// FaceMAC is the face's own MAC: the configured one, or one that is made when there is
// none and kept in STATEDIR/FACE.mac. One that is lost while the face is there is what
// the face has: the network knows it by that.
func FaceMAC(stateDir, face, configured string) (net.HardwareAddr, error) {
	if err := checkName(face); err != nil {
		return nil, err
	}
	if configured != "" {
		mac, err := parseMAC(configured)
		if err != nil {
			return nil, fmt.Errorf("the MAC of %s: %w", face, err)
		}
		return mac, nil
	}
	path := filepath.Join(stateDir, face+".mac")
	text, err := readBounded(path, 64)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the MAC of %s: %w", face, err)
	}
	if mac, perr := parseMAC(strings.TrimSpace(string(text))); err == nil && perr == nil {
		return mac, nil
	}
	mac, err := newMAC(face)
	if err != nil {
		return nil, fmt.Errorf("make a MAC for %s: %w", face, err)
	}
	if err := replace(path, []byte(mac.String()+"\n"), 0o644); err != nil {
		return nil, fmt.Errorf("keep the MAC of %s: %w", face, err)
	}
	return mac, nil
}

func parseMAC(s string) (net.HardwareAddr, error) {
	mac, err := net.ParseMAC(s)
	if err != nil {
		return nil, fmt.Errorf("%q is no MAC, as 02:46:54:00:00:01", s)
	}
	return mac, checkMAC(mac)
}

func newMAC(face string) (net.HardwareAddr, error) {
	if l, err := ByName(face); err == nil && ours.MatchString(l.Alias) && checkMAC(l.MAC) == nil {
		return l.MAC, nil
	}
	mac := make(net.HardwareAddr, macLen)
	if _, err := rand.Read(mac); err != nil {
		return nil, err
	}
	mac[0] = mac[0]&^1 | 2 // of one interface, locally administered (IEEE 802, 8.4)
	return mac, nil
}

// EnsureAddresses gives the face the addresses that it lacks. What it has is not touched,
// so that no duplicate address detection begins again; what was configured before and is
// not now is taken away; what somebody has added by hand stays.
func EnsureAddresses(face int, want, before []netip.Prefix) error {
	l, err := ByIndex(face)
	if err != nil {
		return fmt.Errorf("give the face its addresses: %w", err)
	}
	want, before = plain(want), plain(before)
	for _, p := range want {
		if !p.IsValid() {
			return fmt.Errorf("give %s its addresses: %v is none", l.Name, p)
		}
	}
	var surplus []netip.Prefix
	for _, p := range before {
		if p.IsValid() && !slices.Contains(want, p) {
			surplus = append(surplus, p)
		}
	}
	// IPv6 takes an address once only: another length of prefix means to replace it.
	replaced := func(p netip.Prefix) bool {
		return p.Addr().Is6() && slices.ContainsFunc(want, func(w netip.Prefix) bool { return w.Addr() == p.Addr() })
	}
	for _, p := range surplus {
		if replaced(p) {
			if err := removeAddress(l, p); err != nil {
				return err
			}
		}
	}
	if err := addMissing(l, want); err != nil {
		return err
	}
	removed := false
	for _, p := range surplus {
		if replaced(p) {
			continue
		}
		if p.Addr().Is4() && !removed {
			// Otherwise the other addresses of a network go with its first one.
			keepSecondaries(l)
		}
		removed = true
		if err := removeAddress(l, p); err != nil {
			return err
		}
	}
	if !removed {
		return nil
	}
	return addMissing(l, want) // where secondaries could not be kept
}

func plain(ps []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range ps {
		if a := p.Addr(); a.Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
		}
		if !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out
}

func addMissing(l Link, want []netip.Prefix) error {
	have, err := addresses(l.Index)
	if err != nil {
		return fmt.Errorf("give %s its addresses: %w", l.Name, err)
	}
	for _, p := range want {
		if slices.ContainsFunc(have, func(a address) bool { return a.prefix == p }) {
			continue
		}
		err := netlink.AddrAdd(byIndex(l.Index), rtAddress(p))
		switch {
		case errors.Is(err, unix.EEXIST):
			return fmt.Errorf("give %s the address %v: it has %v already, with another prefix: take that off (ip addr show dev %s)", l.Name, p, p.Addr(), l.Name)
		case errors.Is(err, unix.EACCES) && p.Addr().Is6():
			return fmt.Errorf("give %s the address %v: IPv6 is turned off on it: sysctl -w net.ipv6.conf.%s.disable_ipv6=0", l.Name, p, l.Name)
		case err != nil:
			return fmt.Errorf("give %s the address %v: %w", l.Name, p, gone(err))
		}
	}
	return nil
}

func removeAddress(l Link, p netip.Prefix) error {
	err := netlink.AddrDel(byIndex(l.Index), rtAddress(p))
	if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return fmt.Errorf("take the address %v off %s: %w", p, l.Name, gone(err))
	}
	return nil
}

func rtAddress(p netip.Prefix) *netlink.Addr {
	return &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
}

// keepSecondaries makes the second address of a network the first when that goes. The
// setting is the face's own, and goes with it. Where it cannot be set, EnsureAddresses
// puts back what was lost.
func keepSecondaries(l Link) {
	path := filepath.Join("/proc/sys/net/ipv4/conf", l.Name, "promote_secondaries")
	if now, err := os.ReadFile(path); err == nil && !bytes.HasPrefix(now, []byte("1")) {
		_ = os.WriteFile(path, []byte("1"), 0)
	}
}
