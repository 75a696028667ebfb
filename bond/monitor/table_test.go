package monitor

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ft/bond/nic"
)

// told writes changes down as a story.
func told(changes []change) string {
	var out []string
	for _, c := range changes {
		switch {
		case c.addrs:
			out = append(out, fmt.Sprintf("addresses of %d", c.index))
		case c.gone:
			out = append(out, fmt.Sprintf("%d %s gone", c.link.Index, c.link.Name))
		default:
			out = append(out, fmt.Sprintf("%d %s carrier %v", c.link.Index, c.link.Name, c.link.Carrier))
		}
	}
	return strings.Join(out, ", ")
}

func link(index int, name string, carrier bool) message {
	return message{kind: linkIs, index: index, link: nic.Link{Index: index, Name: name, Carrier: carrier, Kind: "veth", MAC: net.HardwareAddr{2, 0, 0, 0, 0, byte(index)}}}
}

func addr(index int, prefix string, flags uint32) message {
	return message{kind: addrIs, index: index, addr: address{local: netip.MustParsePrefix(prefix)}, flags: flags}
}

func TestTableTellsDifferencesOnly(t *testing.T) {
	table := newTable()
	other := link(5, "eth0", true)
	other.link.Kind = "bridge"
	withoutAddress := addr(5, "192.0.2.10/24", 0)
	withoutAddress.kind = addrGone
	for _, c := range []struct {
		m    message
		want string
	}{
		{link(5, "eth0", true), "5 eth0 carrier true"},
		{link(5, "eth0", true), ""},
		{link(5, "eth0", false), "5 eth0 carrier false"},
		{link(5, "eth7", false), "5 eth7 carrier false"},
		{withoutAddress, ""},
		{addr(5, "192.0.2.10/24", unix.IFA_F_PERMANENT), "addresses of 5"},
		{addr(5, "192.0.2.10/24", unix.IFA_F_PERMANENT), ""},
		{addr(5, "192.0.2.10/24", 0), "addresses of 5"},
		{withoutAddress, "addresses of 5"},
		{addr(5, "2001:db8::10/64", unix.IFA_F_TENTATIVE), "addresses of 5"},
		{message{kind: linkGone, index: 5}, "addresses of 5, 5 eth7 gone"},
		{message{kind: linkGone, index: 5}, ""},
		{link(5, "eth0", true), "5 eth0 carrier true"},
		{other, "5 eth0 gone, 5 eth0 carrier true"}, // its going was not seen
	} {
		if got := told(table.apply(c.m)); got != c.want {
			t.Errorf("%+v: told %q, want %q", c.m, got, c.want)
		}
	}
}

func TestTableAfterDump(t *testing.T) {
	before, after := newTable(), newTable()
	for _, m := range []message{
		link(1, "lo", true), link(2, "eth0", true), link(3, "eth1", true),
		addr(1, "127.0.0.1/8", 0), addr(2, "192.0.2.10/24", 0), addr(3, "192.0.2.11/24", 0),
	} {
		before.apply(m)
	}
	for _, m := range []message{
		link(1, "lo", true), link(3, "eth1", false), link(4, "eth0", true),
		addr(1, "127.0.0.1/8", 0), addr(4, "192.0.2.10/24", 0),
	} {
		after.apply(m)
	}
	want := "addresses of 2, 2 eth0 gone, 3 eth1 carrier false, 4 eth0 carrier true, addresses of 3, addresses of 4"
	if got := told(before.replace(after)); got != want {
		t.Errorf("told %q, want %q", got, want)
	}
	if got := told(before.apply(link(4, "eth0", true))); got != "" {
		t.Errorf("the table is not what the dump found: %q", got)
	}
}

// A piece of a dump may have been built before a notification that comes ahead of it.
func TestNotificationHasTheLastWordInADump(t *testing.T) {
	w := &Links{log: quiet(t)}
	d := dump{w: w, next: newTable(), spokenLinks: map[int]bool{}, spokenAddrs: map[addressOf]bool{}}
	gone := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(gone[4:], 7)
	d.take(unix.RTM_DELLINK, gone, false)
	d.take(unix.RTM_NEWLINK, linkMessage(7, "eth0"), true)
	if len(d.next.links) != 0 {
		t.Error("the dump brings back a link that is gone")
	}
	d.take(unix.RTM_NEWLINK, linkMessage(7, "eth1"), false)
	d.take(unix.RTM_NEWLINK, linkMessage(7, "eth0"), true)
	if d.next.links[7].Name != "eth1" {
		t.Error("the dump is believed more than a notification")
	}
	// A dump that may have missed links takes nothing away but what has been reported gone.
	before := newTable()
	before.apply(link(8, "eth2", true))
	before.apply(message{kind: linkIs, index: 7, link: nic.Link{Index: 7, Name: "eth0"}})
	before.apply(link(9, "eth3", true))
	before.apply(addr(8, "192.0.2.10/24", 0))
	binary.NativeEndian.PutUint32(gone[4:], 9)
	d.take(unix.RTM_DELLINK, gone, false)
	d.keep(before)
	if got, want := told(before.replace(d.next)), "9 eth3 gone, 7 eth1 carrier true"; got != want {
		t.Errorf("told %q, want %q", got, want)
	}
}

// linkMessage is the body of an RTM_NEWLINK: struct ifinfomsg and attributes.
func linkMessage(index int, name string, more ...byte) []byte {
	b := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	binary.NativeEndian.PutUint32(b[8:], unix.IFF_UP|unix.IFF_LOWER_UP)
	return append(attribute(b, unix.IFLA_IFNAME, append([]byte(name), 0)...), more...)
}

func attribute(b []byte, kind uint16, v ...byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofNlAttr+len(v)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, v...)
	return append(b, make([]byte, align(len(v))-len(v))...)
}

func TestWhatIsNoReportOfALink(t *testing.T) {
	port := linkMessage(7, "eth0")
	port[0] = unix.AF_BRIDGE
	wireless := make([]byte, unix.SizeofIfInfomsg)
	for name, c := range map[string]struct {
		kind uint16
		body []byte
	}{
		"a port that leaves a bridge": {unix.RTM_DELLINK, port},
		"a port of a bridge":          {unix.RTM_NEWLINK, port},
		"a wireless event":            {unix.RTM_NEWLINK, wireless},
		"a route":                     {unix.RTM_NEWROUTE, make([]byte, 64)},
		"a label of another protocol": {unix.RTM_NEWADDR, make([]byte, 64)},
	} {
		if m, ok, err := decode(c.kind, c.body); ok || err != nil {
			t.Errorf("%s is taken for %+v (%v)", name, m, err)
		}
	}
	// The library panics at this one, for which the kernel has no reason.
	if _, ok, err := decode(unix.RTM_NEWLINK, attribute(linkMessage(7, "eth0"), unix.IFLA_IFALIAS)); ok || err == nil {
		t.Error("a link whose alias has not even an end is taken for one")
	}
}

func FuzzReport(f *testing.F) {
	f.Add(uint16(unix.RTM_NEWLINK), linkMessage(7, "eth0"))
	f.Add(uint16(unix.RTM_NEWLINK), attribute(linkMessage(7, "eth0"), unix.IFLA_LINKINFO, attribute(nil, unix.IFLA_INFO_KIND, 'v', 'e', 't', 'h', 0)...))
	f.Add(uint16(unix.RTM_NEWLINK), attribute(linkMessage(7, "eth0"), unix.IFLA_LINKINFO, 4, 0, 1, 0))
	f.Add(uint16(unix.RTM_NEWLINK), attribute(linkMessage(7, "eth0"), unix.IFLA_MAX_MTU, 255, 255, 0, 0))
	f.Add(uint16(unix.RTM_DELLINK), linkMessage(7, "eth0"))
	f.Add(uint16(unix.RTM_NEWADDR), attribute([]byte{unix.AF_INET, 24, 0, 0, 7, 0, 0, 0}, unix.IFA_LOCAL, 192, 0, 2, 10))
	f.Add(uint16(unix.RTM_DELADDR), attribute([]byte{unix.AF_INET6, 64, 0, 0, 7, 0, 0, 0}, unix.IFA_ADDRESS, make([]byte, 16)...))
	f.Fuzz(func(t *testing.T, kind uint16, body []byte) {
		datagram := make([]byte, unix.SizeofNlMsghdr, unix.SizeofNlMsghdr+len(body))
		datagram = append(datagram, body...)
		binary.NativeEndian.PutUint32(datagram, uint32(len(datagram)))
		binary.NativeEndian.PutUint16(datagram[4:], kind)
		table, seen := newTable(), 0
		err := messages(datagram, func(h unix.NlMsghdr, b []byte) error {
			seen++
			m, ok, err := decode(h.Type, b)
			if !ok {
				return nil
			}
			if err != nil || m.kind == linkIs && (m.link.Name == "" || m.link.Index != m.index) {
				t.Errorf("type %d, %x: %+v, %v", h.Type, b, m, err)
			}
			table.apply(m)
			return nil
		})
		if err != nil || seen != 1 {
			t.Errorf("%d messages, %v", seen, err)
		}
		// The same bytes as a datagram: whatever they are, it ends.
		_ = messages(body, func(unix.NlMsghdr, []byte) error { return nil })
	})
}
