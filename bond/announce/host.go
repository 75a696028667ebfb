package announce

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// procMax is how much of a table in /proc is read: some 20,000 groups.
const procMax = 1 << 20

// Limits of waiting for the kernel.
const (
	netlinkTimeout = 2 * time.Second
	dumpTriesMax   = 3
)

// host is the kernel of this machine, in the network namespace of the process.
type host struct{ nl *netlink.Handle }

func openHost() (*host, error) {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	if err := nl.SetSocketTimeout(netlinkTimeout); err != nil {
		nl.Close()
		return nil, fmt.Errorf("set the time limit of netlink: %w", err)
	}
	return &host{nl}, nil
}

func (h *host) close() { h.nl.Close() }

// dump asks for a table again when it has changed while it was read. Where it always
// does, the last answer is taken, which may lack a line: somebody who changes links and
// addresses at that rate calls for the next look as well.
func dump[T any](ask func() ([]T, error)) (list []T, err error) {
	for range dumpTriesMax {
		if list, err = ask(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return list, err
		}
	}
	return list, nil
}

func (h *host) links() ([]ifLink, error) {
	all, err := dump(h.nl.LinkList)
	if err != nil {
		return nil, err
	}
	out := make([]ifLink, 0, len(all))
	for _, l := range all {
		a := l.Attrs()
		m, ok := macOf(a.HardwareAddr)
		if !ok {
			continue // no Ethernet
		}
		i := ifLink{
			index: a.Index, parent: a.ParentIndex, kind: l.Type(), name: a.Name, mac: m, mtu: a.MTU,
			up: a.RawFlags&unix.IFF_UP != 0, noARP: a.RawFlags&unix.IFF_NOARP != 0,
		}
		if a.NetNsID >= 0 {
			i.parent = 0 // an ifindex of another namespace
		}
		if v, ok := l.(*netlink.Vlan); ok {
			i.vlan, i.protocol = uint16(v.VlanId), etherVLAN
			if v.VlanProtocol != netlink.VLAN_PROTOCOL_UNKNOWN {
				i.protocol = uint16(v.VlanProtocol)
			}
		}
		out = append(out, i)
	}
	return out, nil
}

// addresses leaves out those that are not (yet) the host's own: an answer to duplicate
// address detection may still forbid them, or has (RFC 4862, 5.4). Optimistic ones are in
// use meanwhile.
func (h *host) addresses() (map[int][]address, error) {
	all, err := dump(func() ([]netlink.Addr, error) { return h.nl.AddrList(nil, unix.AF_UNSPEC) })
	if err != nil {
		return nil, err
	}
	out := map[int][]address{}
	for _, a := range all {
		if a.IPNet == nil {
			continue
		}
		ip, ok := netip.AddrFromSlice(a.IP)
		if !ok {
			continue
		}
		optimistic := a.Flags&unix.IFA_F_OPTIMISTIC != 0
		if a.Flags&unix.IFA_F_DADFAILED != 0 || a.Flags&unix.IFA_F_TENTATIVE != 0 && !optimistic {
			continue
		}
		out[a.LinkIndex] = append(out[a.LinkIndex], address{ip: ip, optimistic: optimistic})
	}
	return out, nil
}

// filters reads the forwarding tables of all links; those of links that are no bridges are
// their address filters (ndo_dflt_fdb_dump), marked as their own.
func (h *host) filters() (map[int][]mac, error) {
	all, err := dump(func() ([]netlink.Neigh, error) { return h.nl.NeighList(0, unix.AF_BRIDGE) })
	if err != nil {
		return nil, err
	}
	out := map[int][]mac{}
	for _, n := range all {
		m, ok := macOf(n.HardwareAddr)
		if ok && n.Flags&netlink.NTF_SELF != 0 && n.MasterIndex == 0 && m[0]&1 == 0 {
			out[n.LinkIndex] = append(out[n.LinkIndex], m)
		}
	}
	return out, nil
}

func (h *host) proc(path string) ([]byte, error) {
	// /proc/net is that of the process's first thread, which may be in another namespace.
	if strings.HasPrefix(path, "net/") {
		path = "thread-self/" + path
	}
	path = "/proc/" + path
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // no IPv6, or the link has just gone
	}
	if err != nil {
		return nil, err // names the file
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, procMax))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return text, nil
}

func macOf(b []byte) (m mac, ok bool) {
	if len(b) != len(m) {
		return m, false
	}
	return mac(b), true
}
