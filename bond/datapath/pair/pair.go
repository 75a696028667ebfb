// Package pair makes the face of the tcx and tc paths: one end of a veth pair, whose
// other end (the peer) shows carrier on it. A veth has carrier while its other end is up.
//
// Invariants:
//   - A face under its configured name is whole: both ends are marked as ours, and the
//     peer takes no part in the network. It is made under a name that only we use, and
//     gets its own in the last step; what a crash leaves before that, the next Open
//     takes away.
//   - An interface that is not marked as ours is never changed.
//
// The mark is the alias (IFLA_IFALIAS; `ip link` shows it), so that people see it too.
package pair

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ft/bond/datapath"
)

// Pair is a face that is there.
type Pair struct {
	Face, Peer int // ifindexes
	Adopted    bool
}

// nameMax is the length of an interface's name (linux/if.h, IFNAMSIZ, without its NUL).
const nameMax = unix.IFNAMSIZ - 1

// Mark is the alias of a face that a path of this kind keeps for a key.
func Mark(key, kind string) string { return "ft " + key + " " + kind }

func peerMark(key, kind string) string { return Mark(key, kind) + " carrier" }

// PeerName is the name of a face's other end.
func PeerName(face string) string {
	if name := face + "-peer"; len(name) <= nameMax {
		return name
	}
	return "ftp" + digest(face)
}

// unfinished is the name that a face has while it is being made.
func unfinished(face string) string { return "ftn" + digest(face) }

func digest(face string) string {
	sum := sha256.Sum256([]byte(face))
	return fmt.Sprintf("%x", sum)[:nameMax-3]
}

// Open finds the face of spec that a path of this kind has made, or makes it: down, with
// its MAC and MTU, and without carrier. It refuses an interface of that name that is not
// ours, or is a path of another kind.
func Open(spec datapath.Spec, kind string) (Pair, error) {
	if l := len(spec.Face); l == 0 || l > nameMax {
		return Pair{}, fmt.Errorf("make the face %q: a name has 1 to %d characters", spec.Face, nameMax)
	}
	link, err := find(spec.Face)
	if err != nil {
		return Pair{}, err
	}
	if link != nil {
		return adopt(link, spec, kind)
	}
	if err := clearUnfinished(spec.Face); err != nil {
		return Pair{}, err
	}
	return build(spec, kind)
}

// Kind says what an interface under a face's name is: ours, and then what kind of path
// made it, or (with ours false) somebody else's, and then what kind of interface. kind is
// "" when there is none.
func Kind(face, key string) (kind string, ours bool, err error) {
	link, err := find(face)
	if err != nil || link == nil {
		return "", false, err
	}
	if kind, ok := strings.CutPrefix(link.Attrs().Alias, Mark(key, "")); ok && kind != "" && !strings.Contains(kind, " ") {
		return kind, true, nil
	}
	return link.Type(), false, nil
}

func adopt(link netlink.Link, spec datapath.Spec, kind string) (Pair, error) {
	have, ours, err := Kind(spec.Face, spec.Key)
	switch attrs := link.Attrs(); {
	case err != nil:
		return Pair{}, err
	case !ours:
		return Pair{}, fmt.Errorf("there is an interface %s already (%s %s, alias %q), and it is not a face of ours: rename or delete it, or give the face another name",
			spec.Face, link.Type(), attrs.Name, attrs.Alias)
	case have != kind:
		return Pair{}, fmt.Errorf("%s carries a path of kind %s, not %s: remove it first", spec.Face, have, kind)
	}
	name := PeerName(spec.Face)
	peer, err := find(name)
	if err != nil {
		return Pair{}, err
	}
	// IFLA_LINK of a veth is its other end.
	if peer == nil || peer.Attrs().Index != link.Attrs().ParentIndex || peer.Attrs().Alias != peerMark(spec.Key, kind) {
		return Pair{}, fmt.Errorf("the other end of %s should be %s in the same network namespace and is not: delete %s, and it is made anew", spec.Face, name, spec.Face)
	}
	return Pair{Face: link.Attrs().Index, Peer: peer.Attrs().Index, Adopted: true}, nil
}

// clearUnfinished takes away what a process that was killed has left half made.
func clearUnfinished(face string) error {
	link, err := find(unfinished(face))
	if err != nil || link == nil {
		return err
	}
	if link.Type() != "veth" {
		return fmt.Errorf("make the face %s: its name while it is made, %s, is taken by a %s that is not ours: delete it", face, unfinished(face), link.Type())
	}
	return remove(link.Attrs().Index, "an unfinished face "+link.Attrs().Name)
}

func build(spec datapath.Spec, kind string) (p Pair, err error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = unfinished(spec.Face)
	attrs.MTU = spec.MTU
	attrs.HardwareAddr = spec.MAC
	peerName := PeerName(spec.Face)
	err = netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: peerName, PeerMTU: uint32(spec.MTU)})
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPERM) {
		return Pair{}, fmt.Errorf("make the face %s as a veth: %w: %w", spec.Face, err, datapath.ErrUnsupported)
	}
	if err != nil {
		return Pair{}, fmt.Errorf("make the face %s as a veth (its other end: %s): %w", spec.Face, peerName, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, clearUnfinished(spec.Face))
		}
	}()
	face, err := netlink.LinkByName(attrs.Name)
	if err != nil {
		return Pair{}, fmt.Errorf("find the face %s that was just made: %w", spec.Face, err)
	}
	peer, err := netlink.LinkByName(peerName)
	if err != nil {
		return Pair{}, fmt.Errorf("find %s that was just made: %w", peerName, err)
	}
	if err := silence(peer); err != nil {
		return Pair{}, err
	}
	for _, m := range []struct {
		link netlink.Link
		mark string
	}{{peer, peerMark(spec.Key, kind)}, {face, Mark(spec.Key, kind)}} {
		if err := netlink.LinkSetAlias(m.link, m.mark); err != nil {
			return Pair{}, fmt.Errorf("mark %s as ours: %w", m.link.Attrs().Name, err)
		}
	}
	if err := netlink.LinkSetName(face, spec.Face); err != nil {
		return Pair{}, fmt.Errorf("name the new face %s: %w", spec.Face, err)
	}
	return Pair{Face: face.Attrs().Index, Peer: peer.Attrs().Index}, nil
}

// silence keeps the kernel's own protocols off the peer, which is up as soon as the face
// has carrier: no IPv6 addresses, no answers to ARP.
func silence(peer netlink.Link) error {
	name := peer.Attrs().Name
	path := "/proc/sys/net/ipv6/conf/" + name + "/disable_ipv6"
	// A kernel without IPv6 has no such file, and nothing to turn off.
	if err := os.WriteFile(path, []byte("1"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("turn IPv6 off on %s: %w", name, err)
	}
	if err := netlink.LinkSetARPOff(peer); err != nil {
		return fmt.Errorf("turn ARP off on %s: %w", name, err)
	}
	return nil
}

// SetCarrier shows carrier on the face, or none.
func (p Pair) SetCarrier(up bool) error {
	link := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: p.Peer}}
	word, set := "no carrier", netlink.LinkSetDown
	if up {
		word, set = "carrier", netlink.LinkSetUp
	}
	if err := set(link); err != nil {
		return fmt.Errorf("show %s on the face (interface %d, by its other end %d): %w", word, p.Face, p.Peer, err)
	}
	return nil
}

// Remove takes both ends away. One that is gone already is no error.
func (p Pair) Remove() error { return remove(p.Face, "the face") }

func remove(index int, what string) error {
	err := netlink.LinkDel(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}})
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove %s (interface %d): %w", what, index, err)
	}
	return nil
}

// find returns nil when there is no interface of that name.
func find(name string) (netlink.Link, error) {
	link, err := netlink.LinkByName(name)
	var none netlink.LinkNotFoundError
	if errors.As(err, &none) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for the interface %s: %w", name, err)
	}
	return link, nil
}
