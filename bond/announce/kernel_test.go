package announce

import (
	"encoding/binary"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ft/bond/bondtest"
)

// setSysctl sets one of the box for the test.
func setSysctl(t *testing.T, path, value string) {
	t.Helper()
	path = "/proc/sys/net/" + path
	old, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, []byte(value), 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.WriteFile(path, old, 0) }) // it goes with the interface
}

// join joins groups on an interface with a real socket, for all sources or for one.
func join(t *testing.T, index int, ip, source string) (leave func()) {
	t.Helper()
	a := netip.MustParseAddr(ip)
	family, level, option := unix.AF_INET6, unix.IPPROTO_IPV6, mcastJoinGroup
	if a.Is4() {
		family, level = unix.AF_INET, unix.IPPROTO_IP
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	// struct group_req and group_source_req (linux/in.h): 32 bits, aligned to a word, then sockaddr_storage.
	req := make([]byte, 8+128, 8+2*128)
	binary.NativeEndian.PutUint32(req, uint32(index))
	putSockaddr(req[8:], a)
	if source != "" {
		option = mcastJoinSourceGroup
		req = req[:8+2*128]
		putSockaddr(req[8+128:], netip.MustParseAddr(source))
	}
	if err := unix.SetsockoptString(fd, level, option, string(req)); err != nil {
		unix.Close(fd)
		t.Fatalf("join %s: %v", ip, err)
	}
	return func() { unix.Close(fd) }
}

// Options of linux/in.h.
const (
	mcastJoinGroup       = 42
	mcastJoinSourceGroup = 46
)

func putSockaddr(b []byte, a netip.Addr) {
	if a.Is4() {
		binary.NativeEndian.PutUint16(b, unix.AF_INET)
		copy(b[4:], a.AsSlice())
		return
	}
	binary.NativeEndian.PutUint16(b, unix.AF_INET6)
	copy(b[8:], a.AsSlice())
}

// The kernel's own announcements and reports are the model of ours: byte for byte the same,
// but for the identification of IPv4 and what depends on it.
func TestFramesAreTheKernels(t *testing.T) {
	n := bondtest.New(t)
	nic := n.NIC(0)
	index := n.Index(nic)
	for path, value := range map[string]string{
		"ipv4/conf/" + nic + "/arp_notify":           "1",
		"ipv6/conf/" + nic + "/ndisc_notify":         "1",
		"ipv6/conf/" + nic + "/forwarding":           "1",
		"ipv6/conf/" + nic + "/dad_transmits":        "0",
		"ipv6/conf/" + nic + "/addr_gen_mode":        "1",
		"ipv6/conf/" + nic + "/router_solicitations": "0",
	} {
		setSysctl(t, path, value)
	}
	l, err := netlink.LinkByName(nic)
	if err != nil {
		t.Fatal(err)
	}
	own, err := netlink.AddrList(l, unix.AF_INET6) // reports come from the first address of the link
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range own {
		if err := netlink.AddrDel(l, &a); err != nil {
			t.Fatal(err)
		}
	}
	give(t, l, fe80.String()+"/64")
	n.GiveAddresses(nic)
	c := listen(t, n, bondtest.Switch, n.Port(0))

	// A new MAC makes the kernel announce its addresses.
	if err := netlink.LinkSetHardwareAddr(l, faceMAC[:]); err != nil {
		t.Fatal(err)
	}
	// same waits for a frame of the kernel's for which make, told what it says, makes the same.
	same := func(what string, says string, make func(d decoded) []byte) {
		t.Helper()
		var near []byte
		bondtest.WaitFor(t, what+" of the kernel", 5*time.Second, func() bool {
			for _, f := range c.from(faceMAC) {
				d, err := decode(f.frame)
				if err == nil && strings.Contains(d.what, says) {
					near = atomic4(f.frame)
					return true
				}
			}
			return false
		})
		d, _ := decode(near)
		if ours := make(d); string(ours) != string(near) {
			t.Errorf("%s:\n    ours %x\nkernel's %x", what, ours, near)
		}
	}
	alone := func(frame []byte) func(decoded) []byte { return func(decoded) []byte { return frame } }
	box4, box6 := netip.MustParseAddr(bondtest.BoxIP4), netip.MustParseAddr(bondtest.BoxIP6)
	same("gratuitous ARP", "garp "+bondtest.BoxIP4, alone(gratuitousARP(face, box4)))
	same("unsolicited NA", "na "+bondtest.BoxIP6, alone(neighbourAdvert(face, box6, true, true)))

	v3 := func(d decoded) []byte { return igmpReportsV3(face, box4, recordsOf(t, d), 1500)[0] }
	v2 := func(d decoded) []byte { return mldReportsV2(face, fe80, recordsOf(t, d), 1500)[0] }
	defer join(t, index, "239.129.2.3", "")()
	same("IGMPv3", "to_ex 239.129.2.3", v3)
	defer join(t, index, "232.1.2.3", "192.0.2.1")()
	same("IGMPv3 of a source", "allow 232.1.2.3,192.0.2.1", v3)
	defer join(t, index, "ff15::1:2:3", "")()
	same("MLDv2", "to_ex ff15::1:2:3", v2)
	defer join(t, index, "ff3e::8000:1", "2001:db8::1")()
	same("MLDv2 of a source", "allow ff3e::8000:1,2001:db8::1", v2)

	setSysctl(t, "ipv4/conf/"+nic+"/force_igmp_version", "2")
	setSysctl(t, "ipv6/conf/"+nic+"/force_mld_version", "1")
	defer join(t, index, "239.129.2.4", "")()
	same("IGMPv2", "igmpv2 239.129.2.4", alone(igmpReport(face, box4, netip.MustParseAddr("239.129.2.4"), igmpReportV2)))
	defer join(t, index, "ff15::1:2:4", "")()
	same("MLDv1", "mldv1 ff15::1:2:4", alone(mldReport(face, fe80, netip.MustParseAddr("ff15::1:2:4"))))
	setSysctl(t, "ipv4/conf/"+nic+"/force_igmp_version", "1")
	defer join(t, index, "239.129.2.5", "")()
	same("IGMPv1", "igmpv1 239.129.2.5", alone(igmpReport(face, box4, netip.MustParseAddr("239.129.2.5"), igmpReportV1)))
}

// recordsOf reads a report's records back from its words: the kernel may have put some into
// it that it had said before.
func recordsOf(t *testing.T, d decoded) (out []record) {
	t.Helper()
	_, text, _ := strings.Cut(d.what, " ")
	text, _, _ = strings.Cut(text, " from ")
	for _, r := range strings.Split(text, "; ") {
		kind, addrs, _ := strings.Cut(r, " ")
		list := strings.Split(addrs, ",")
		one := record{kind: changeToExclude, group: netip.MustParseAddr(list[0])}
		if kind == "allow" {
			one.kind = allowNewSources
		}
		for _, s := range list[1:] {
			one.sources = append(one.sources, netip.MustParseAddr(s))
		}
		out = append(out, one)
	}
	return out
}

// atomic4 sets the identification of an IPv4 frame to 0, with the checksum that this gives.
func atomic4(f []byte) []byte {
	f = append([]byte(nil), f...)
	if binary.BigEndian.Uint16(f[12:]) == etherIPv4 {
		h := f[14 : 14+4*int(f[14]&15)]
		h[4], h[5], h[10], h[11] = 0, 0, 0, 0
		binary.BigEndian.PutUint16(h[10:], ^sum16(h))
	}
	return f
}

// give gives a link an address without duplicate address detection.
func give(t *testing.T, l netlink.Link, cidr string) {
	t.Helper()
	a, err := netlink.ParseAddr(cidr)
	if err != nil {
		t.Fatal(err)
	}
	if a.IP.To4() == nil {
		a.Flags = unix.IFA_F_NODAD
	}
	if err := netlink.AddrAdd(l, a); err != nil {
		t.Fatalf("give %s to %s: %v", cidr, l.Attrs().Name, err)
	}
}
