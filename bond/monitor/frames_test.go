package monitor

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net"
	"net/netip"
	"strings"
	"testing"
)

var (
	ownMAC   = net.HardwareAddr{0x00, 0x00, 0x5e, 0x00, 0x53, 0x10}
	theirMAC = [macLen]byte{0x00, 0x00, 0x5e, 0x00, 0x53, 0x01}
	otherMAC = [macLen]byte{0x00, 0x00, 0x5e, 0x00, 0x53, 0x77}
	own      = newIdentity(ownMAC)
	their6   = netip.MustParseAddr("2001:db8::1")
	theirLL  = netip.MustParseAddr("fe80::1")
)

func unhex(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return b
}

// arpAnswer is what Linux answers to own.probe(one).
func arpAnswer() []byte {
	return unhex("00005e005310 00005e005301 0806 0001 0800 06 04 0002 00005e005301 c0000201 00005e005310 00000000")
}

func ndAnswer(target netip.Addr) []byte {
	from := identity{mac: theirMAC, local: target}
	b := from.nd(ndAdvertise, ndFlagSolicited|ndFlagOverride, target, own.local, own.mac, ndOptionTarget)
	return b
}

// resum puts the right checksum into a changed frame.
func resum(b []byte) []byte {
	binary.BigEndian.PutUint16(b[icmp6Type+2:], 0)
	end := ethHeader + ip6Header + int(binary.BigEndian.Uint16(b[ethHeader+4:]))
	binary.BigEndian.PutUint16(b[icmp6Type+2:], ^checksum6(b[ethHeader:min(end, len(b))]))
	return b
}

func TestProbesOnTheWire(t *testing.T) {
	want := unhex("ffffffffffff 00005e005310 0806 0001 0800 06 04 0001 00005e005310 00000000 000000000000 c0000201")
	if got := own.probe(one); !bytes.Equal(got, want) {
		t.Errorf("ARP probe\n%x, want\n%x", got, want)
	}
	want = unhex("3333ff000001 00005e005310 86dd 60000000 0020 3a ff fe80000000000000 02005efffe005310 ff0200000000000000000001ff000001" +
		"87 00 ea41 00000000 20010db8000000000000000000000001 01 01 00005e005310")
	if got := own.probe(their6); !bytes.Equal(got, want) {
		t.Errorf("solicitation\n%x, want\n%x", got, want)
	}
}

func TestARPAnswers(t *testing.T) {
	change := func(at int, to ...byte) []byte {
		b := arpAnswer()
		copy(b[at:], to)
		return b
	}
	for name, c := range map[string]struct {
		frame []byte
		want  sight
	}{
		"an answer":                    {arpAnswer(), answer},
		"with padding":                 {append(arpAnswer(), make([]byte, 18)...), answer},
		"cut short":                    {arpAnswer()[:arpFrame-1], ofNoInterest},
		"a request":                    {change(arpOperation, 0, 1), ofNoInterest},
		"no ARP":                       {change(12, 8, 0), ofNoInterest},
		"not for IPv4":                 {change(16, 0x86, 0xdd), ofNoInterest},
		"to another MAC":               {change(0, otherMAC[:]...), looksForeign},
		"broadcast":                    {change(0, 255, 255, 255, 255, 255, 255), looksForeign},
		"for another MAC":              {change(32, otherMAC[:]...), looksForeign},
		"for an address":               {change(38, 192, 0, 2, 10), looksForeign},
		"our own, reflected":           {change(6, ownMAC...), looksForeign},
		"our MAC is said to have it":   {change(22, ownMAC...), looksForeign},
		"no MAC is said to have it":    {change(22, 0, 0, 0, 0, 0, 0), looksForeign},
		"a group is said to have it":   {change(22, 1, 0, 0x5e, 0, 0, 1), looksForeign},
		"of a router's second MAC":     {change(22, otherMAC[:]...), answer},
		"hardware that is no Ethernet": {change(14, 0, 6), ofNoInterest},
	} {
		from, got := own.readARP(c.frame)
		if got != c.want || got == answer && from != one {
			t.Errorf("%s: %v from %v, want %v", name, got, from, c.want)
		}
	}
}

func TestNDAnswers(t *testing.T) {
	change := func(at int, to ...byte) []byte {
		b := ndAnswer(their6)
		copy(b[at:], to)
		return resum(b)
	}
	wrongSum := ndAnswer(their6)
	wrongSum[icmp6Type+2] ^= 1
	loop := append(ndAnswer(their6), 0, 0) // an option of length 0
	binary.BigEndian.PutUint16(loop[ethHeader+4:], ndFixed+ndLinkOption+2)
	bare := ndAnswer(their6)[:ndFrame-ndLinkOption]
	binary.BigEndian.PutUint16(bare[ethHeader+4:], ndFixed)
	for name, c := range map[string]struct {
		frame []byte
		want  sight
	}{
		"an answer":                   {ndAnswer(their6), answer},
		"with padding":                {append(ndAnswer(their6), 1, 2, 3), answer},
		"without its MAC":             {resum(bare), answer},
		"of a router from another":    {change(ethHeader+8, theirLL.AsSlice()...), answer},
		"cut short":                   {ndAnswer(their6)[:60], ofNoInterest},
		"longer than the frame":       {change(ethHeader+4, 1, 0), ofNoInterest},
		"no IPv6":                     {change(ethHeader, 0x40), ofNoInterest},
		"UDP":                         {change(ip6Next, 17), ofNoInterest},
		"behind an extension header":  {change(ip6Next, 0), ofNoInterest},
		"an echo":                     {change(icmp6Type, 129), ofNoInterest},
		"unsolicited":                 {change(icmp6Type+4, ndFlagOverride), looksForeign},
		"through a router":            {change(ethHeader+7, 254), looksForeign},
		"wrong checksum":              {wrongSum, looksForeign},
		"wrong code":                  {change(icmp6Type+1, 1), looksForeign},
		"to another MAC":              {change(0, otherMAC[:]...), looksForeign},
		"to another address":          {change(ethHeader+24, their6.AsSlice()...), looksForeign},
		"from nobody":                 {change(ethHeader+8, make([]byte, 16)...), looksForeign},
		"our own, reflected":          {change(6, ownMAC...), looksForeign},
		"our MAC is said to have it":  {change(ndFrame-macLen, ownMAC...), looksForeign},
		"an option without a length":  {resum(loop), looksForeign},
		"an option that is too long":  {change(ndFrame-7, 200), looksForeign},
		"a group is said to have it":  {change(ndFrame-macLen, 1), looksForeign},
		"an option that nobody knows": {change(ndFrame-8, 77), answer},
	} {
		from, _, got := own.readND(c.frame)
		if got != c.want || got == answer && from != their6 {
			t.Errorf("%s: %v from %v, want %v", name, got, from, c.want)
		}
	}
}

func TestSolicitationsOfOurAddress(t *testing.T) {
	they := identity{mac: theirMAC, local: theirLL}
	unicast := they.nd(ndSolicit, 0, own.local, own.local, own.mac, ndOptionSource)
	group := solicitedNode(own.local)
	multicast := they.nd(ndSolicit, 0, own.local, group, groupMAC(group), ndOptionSource)
	other := they.nd(ndSolicit, 0, their6, group, groupMAC(group), ndOptionSource)
	detection := resum(append(append(bytes.Clone(multicast[:ethHeader+8]), make([]byte, 16)...), multicast[ethHeader+24:]...))
	for name, c := range map[string]struct {
		frame []byte
		want  sight
	}{
		"to our MAC":                   {unicast, solicitation},
		"to our group":                 {multicast, solicitation},
		"of another address":           {other, ofNoInterest},
		"duplicate address detection":  {detection, ofNoInterest},
		"our own, reflected":           {own.nd(ndSolicit, 0, own.local, group, groupMAC(group), ndOptionSource), ofNoInterest},
		"to a MAC that only passes by": {they.nd(ndSolicit, 0, own.local, own.local, otherMAC, ndOptionSource), ofNoInterest},
	} {
		from, mac, got := own.readND(c.frame)
		if got != c.want || got == solicitation && (from != theirLL || mac != theirMAC) {
			t.Errorf("%s: %v from %v at %x, want %v", name, got, from, mac, c.want)
		}
	}
	// And the asker takes our answer for one.
	if from, _, got := they.readND(own.advertise(theirLL, theirMAC)); got != answer || from != own.local {
		t.Errorf("our advertisement is %v from %v", got, from)
	}
}

func FuzzARP(f *testing.F) {
	f.Add(arpAnswer())
	f.Add(own.probe(one))
	f.Add(arpAnswer()[:20])
	f.Fuzz(func(t *testing.T, b []byte) {
		from, what := own.readARP(b)
		if what == answer && (!bytes.Equal(b[:macLen], ownMAC) || !from.Is4() || b[21] != arpOpReply) {
			t.Errorf("%x is taken for an answer from %v", b, from)
		}
	})
}

func FuzzND(f *testing.F) {
	they := identity{mac: theirMAC, local: theirLL}
	f.Add(ndAnswer(their6))
	f.Add(ndAnswer(theirLL))
	f.Add(own.probe(their6))
	f.Add(they.nd(ndSolicit, 0, own.local, own.local, own.mac, ndOptionSource))
	f.Add(ndAnswer(their6)[:70])
	f.Fuzz(func(t *testing.T, b []byte) {
		from, mac, what := own.readND(b)
		switch what {
		case answer:
			if !bytes.Equal(b[:macLen], ownMAC) || b[icmp6Type] != ndAdvertise || b[ethHeader+7] != ndHopLimit {
				t.Errorf("%x is taken for an answer from %v", b, from)
			}
		case solicitation:
			if own.bogus(mac) || from.IsMulticast() || from.IsUnspecified() || b[icmp6Type] != ndSolicit {
				t.Errorf("%x is taken for a solicitation by %v at %x", b, from, mac)
			}
		}
	})
}
