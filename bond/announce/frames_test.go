package announce

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var (
	faceMAC = mac{0x02, 0x00, 0x5e, 0x10, 0x00, 0x01}
	face    = station{mac: faceMAC}
	onVLAN  = station{tags: tag(0x8100, 5), mac: faceMAC}
	onQinQ  = station{tags: tag(0x88a8, 100) + tag(0x8100, 4094), mac: faceMAC}

	ip4  = netip.MustParseAddr("192.0.2.10")
	ip6  = netip.MustParseAddr("2001:db8::10")
	fe80 = netip.MustParseAddr("fe80::5eff:fe10:1")
	any4 = netip.IPv4Unspecified()

	ssm6    = netip.MustParseAddr("ff3e::8000:1")
	source6 = netip.MustParseAddr("2001:db8::1")
)

// unhex reads bytes written with spaces and line breaks.
func unhex(t *testing.T, s string) string {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// The bytes were put together by hand from the RFCs; the checksums were computed apart.
func TestGoldenFrames(t *testing.T) {
	g4, g6 := netip.MustParseAddr("239.129.2.3"), netip.MustParseAddr("ff15::1:2:3")
	for name, c := range map[string]struct {
		frame []byte
		want  string
	}{
		"garp": {gratuitousARP(face, ip4), `
			ffffffffffff 02005e100001 0806
			0001 0800 06 04 0001  02005e100001 c000020a  000000000000 c000020a`},
		"garp vlan": {gratuitousARP(onVLAN, ip4), `
			ffffffffffff 02005e100001 8100 0005 0806
			0001 0800 06 04 0001  02005e100001 c000020a  000000000000 c000020a`},
		"rarp qinq": {rarp(onQinQ), `
			ffffffffffff 02005e100001 88a8 0064 8100 0ffe 8035
			0001 0800 06 04 0003  02005e100001 00000000  02005e100001 00000000`},
		"na": {neighbourAdvert(face, ip6, false, true), `
			333300000001 02005e100001 86dd
			60000000 0020 3a ff 20010db8000000000000000000000010 ff020000000000000000000000000001
			88 00 9afc 20000000 20010db8000000000000000000000010 02 01 02005e100001`},
		"na of a router": {neighbourAdvert(face, ip6, true, true), `
			333300000001 02005e100001 86dd
			60000000 0020 3a ff 20010db8000000000000000000000010 ff020000000000000000000000000001
			88 00 1afc a0000000 20010db8000000000000000000000010 02 01 02005e100001`},
		"igmpv2": {igmpReport(face, ip4, g4, igmpReportV2), `
			01005e010203 02005e100001 0800
			46 c0 0020 0000 4000 01 02 3089 c000020a ef810203 94040000
			16 00 f87a ef810203`},
		"igmpv3": {igmpReportsV3(face, any4, []record{{kind: changeToExclude, group: g4}}, 1500)[0], `
			01005e000016 02005e100001 0800
			46 c0 0028 0000 4000 01 02 03fa 00000000 e0000016 94040000
			22 00 e879 0000 0001  04 00 0000 ef810203`},
		"mldv1": {mldReport(face, fe80, g6), `
			333300020003 02005e100001 86dd
			60000000 0020 00 01 fe8000000000000000005efffe100001 ff150000000000000000000100020003
			3a 00 0502 0000 0100
			83 00 22e3 0000 0000 ff150000000000000000000100020003`},
		"mldv2": {mldReportsV2(face, fe80, []record{
			{kind: changeToExclude, group: g6}, {allowNewSources, ssm6, []netip.Addr{source6}}}, 1500)[0], `
			333300000016 02005e100001 86dd
			60000000 0048 00 01 fe8000000000000000005efffe100001 ff020000000000000000000000000016
			3a 00 0502 0000 0100
			8f 00 60c0 0000 0002
			04 00 0000 ff150000000000000000000100020003
			05 00 0001 ff3e0000000000000000000080000001 20010db8000000000000000000000001`},
	} {
		if want := unhex(t, c.want); string(c.frame) != want {
			t.Errorf("%s:\n got %x\nwant %x", name, c.frame, want)
		}
	}
}

// draw makes a group of either family, with sources or without.
func draw(t *rapid.T, v6 bool) group {
	addr := func(label string, first byte) netip.Addr {
		if v6 {
			b := rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, label)
			return netip.AddrFrom16([16]byte(append([]byte{first}, b[1:]...)))
		}
		b := rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, label)
		return netip.AddrFrom4([4]byte(append([]byte{first}, b[1:]...)))
	}
	g := group{addr: addr("group", 0xef), users: 1}
	if v6 {
		g.addr = addr("group6", 0xff)
	}
	for i := range rapid.IntRange(0, 150).Draw(t, "sources") {
		g.sources = append(g.sources, addr(fmt.Sprint("source", i), 0x20))
		g.wanted = 1
	}
	return g
}

// Whatever the groups and the MTU: reports are sound, none is longer than the MTU, and
// together they say each record once, in order.
func TestReportsSayAllRecords(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v6 := rapid.Bool().Draw(t, "v6")
		mtu := rapid.SampledFrom([]int{0, 576, 1280, 1500, 9000}).Draw(t, "mtu")
		at := rapid.SampledFrom([]station{face, onVLAN, onQinQ}).Draw(t, "station")
		var records []record
		var want []string
		for range rapid.IntRange(0, 40).Draw(t, "groups") {
			for _, r := range draw(t, v6).records() {
				records = append(records, r)
				text := reportKinds[r.kind] + " " + r.group.String()
				for _, s := range r.sources {
					text += "," + s.String()
				}
				want = append(want, text)
			}
		}
		name, src, header, frames := "igmpv3 ", ip4, 14, [][]byte(nil)
		if v6 {
			name, src = "mldv2 ", fe80
			frames = mldReportsV2(at, src, records, mtu)
			mtu = max(mtu, mldMTULeast)
		} else {
			frames = igmpReportsV3(at, src, records, mtu)
			mtu = max(mtu, groupMTULeast)
		}
		var got []string
		for _, f := range frames {
			if n := len(f) - header - len(at.tags); n > mtu {
				t.Fatalf("%d bytes over an MTU of %d", n, mtu)
			}
			d, err := decode(f)
			if err != nil {
				t.Fatal(err)
			}
			if d.src != at.mac {
				t.Fatalf("from %x", d.src)
			}
			text := strings.TrimSuffix(strings.TrimPrefix(d.what, name), " from "+src.String())
			got = append(got, strings.Split(text, "; ")...)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestAddressesDecode(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a4 := netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "ip4")))
		a6 := netip.AddrFrom16([16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "ip6")))
		from := station{mac: mac(rapid.SliceOfN(rapid.Byte(), 6, 6).Draw(t, "mac"))}
		router, override := rapid.Bool().Draw(t, "router"), rapid.Bool().Draw(t, "override")
		flags := map[bool]string{true: "R"}[router] + map[bool]string{true: "O"}[override]
		for _, c := range []struct {
			frame []byte
			want  string
		}{
			{gratuitousARP(from, a4), "garp " + a4.String()},
			{neighbourAdvert(from, a6, router, override), fmt.Sprintf("na %v %s", a6, flags)},
			{rarp(from), "rarp"},
		} {
			d, err := decode(c.frame)
			if err != nil || d.what != c.want || d.src != from.mac {
				t.Fatalf("%v, %v: want %s of %x", d, err, c.want, from.mac)
			}
		}
	})
}

// The versions of MLD and IGMP have the same source-specific records, and no others.
func TestRecords(t *testing.T) {
	two := []netip.Addr{ip4, netip.MustParseAddr("192.0.2.11")}
	for name, c := range map[string]struct {
		g    group
		want []byte
	}{
		"any source":                    {group{addr: netip.MustParseAddr("239.1.1.1"), users: 3}, []byte{changeToExclude}},
		"some sources":                  {group{addr: netip.MustParseAddr("239.1.1.1"), users: 1, sources: two, wanted: 1}, []byte{allowNewSources}},
		"some sources, and perhaps any": {group{addr: netip.MustParseAddr("239.1.1.1"), users: 2, sources: two, wanted: 1}, []byte{allowNewSources, changeToExclude}},
		"source-specific":               {group{addr: netip.MustParseAddr("232.1.1.1"), users: 2, sources: two, wanted: 1}, []byte{allowNewSources}},
		"source-specific 6":             {group{addr: ssm6, users: 2, sources: []netip.Addr{source6}, wanted: 1}, []byte{allowNewSources}},
		"not quite source-specific 6":   {group{addr: netip.MustParseAddr("ff3e:1::1"), users: 2, sources: []netip.Addr{source6}, wanted: 1}, []byte{allowNewSources, changeToExclude}},
	} {
		var got []byte
		for _, r := range c.g.records() {
			got = append(got, r.kind)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}
