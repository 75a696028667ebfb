package drill

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strings"

	"ft/drivers/netns"
	"ft/ftd/api"
)

// nicFace is where and how a NIC's face can be reached, as its driver tells.
type nicFace struct {
	device    string
	face      string
	netns     string // "" for the one of this process
	addresses []netip.Addr
	targets   []netip.Addr // neighbours that are known to answer
}

func faceOf(d api.DeviceStatus) nicFace {
	f := nicFace{device: d.ID, face: d.Face}
	f.netns, _ = d.Stats["netns"].(string)
	for _, text := range texts(d.Stats["addresses"]) {
		if p, err := netip.ParsePrefix(text); err == nil {
			f.addresses = append(f.addresses, p.Addr())
		}
	}
	for _, text := range texts(d.Stats["probe"]) {
		if a, err := netip.ParseAddr(text); err == nil {
			f.targets = append(f.targets, a)
		}
	}
	return f
}

func texts(list any) (all []string) {
	items, _ := list.([]any)
	for _, i := range items {
		if text, ok := i.(string); ok {
			all = append(all, text)
		}
	}
	return all
}

// address is the face's own for talking to another.
func (f nicFace) address(to netip.Addr) (netip.Addr, bool) {
	for _, a := range f.addresses {
		if a.Is4() == to.Is4() {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// Network namespaces of a test box: the face's, and the neighbour's.
const (
	boxPrefix  = "ft-box"
	peerPrefix = "ft-peer"
)

// findPeer is the namespace of a neighbour: the one that was named, or a test box's. That is
// known by its name and by an address that the NICs probe.
func findPeer(faces []nicFace, named string) string {
	if named != "" {
		return named
	}
	for _, f := range faces {
		suffix, ok := strings.CutPrefix(f.netns, boxPrefix)
		if !ok {
			continue
		}
		name := peerPrefix + suffix
		for _, a := range addressesIn(name) {
			for _, t := range f.targets {
				if a == t {
					return name
				}
			}
		}
	}
	return ""
}

// addressesIn are those of all interfaces of a namespace, none when it cannot be entered.
func addressesIn(namespace string) (all []netip.Addr) {
	_ = netns.Do(namespace, func() error {
		addrs, err := net.InterfaceAddrs()
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().IsGlobalUnicast() {
				all = append(all, p.Addr())
			}
		}
		return err
	})
	return all
}

// netLoads are those on one NIC.
func netLoads(f nicFace, peer string) (loads []Load, notes []string) {
	note := func(format string, args ...any) {
		notes = append(notes, f.device+": "+fmt.Sprintf(format, args...))
	}
	if len(f.targets) == 0 {
		note("it has no probe targets that could be asked for an echo (probe = […] in its configuration)")
	}
	for _, t := range f.targets[:min(len(f.targets), echoTargetsMax)] {
		l, err := newEchoLoad(f, t)
		switch {
		case err != nil:
			note("no echo of %s: %v%s", t, err, asRoot(err))
		default:
			loads = append(loads, l)
		}
	}
	if peer == "" {
		note("no TCP: there is no neighbour to talk to (--peer-netns)")
		return loads, notes
	}
	found := false
	for _, at := range addressesIn(peer) {
		from, ok := f.address(at)
		if !ok {
			continue
		}
		l, err := newTCPLoad(f, peer, from, at)
		if err != nil {
			note("no TCP with %s: %v%s", at, err, asRoot(err))
			continue
		}
		found = true
		loads = append(loads, l)
	}
	if !found {
		note("no TCP with anybody in %s", peer)
	}
	return loads, notes
}

// asRoot is the way out where rights are missing.
func asRoot(err error) string {
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, os.ErrPermission) {
		return "; sudo ftctl drill can"
	}
	return ""
}

// onesComplement is the checksum of ICMP (RFC 1071).
func onesComplement(b []byte) uint16 {
	var sum uint32
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
