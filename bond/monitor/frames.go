package monitor

// The frames of the path probes, built and read by hand.
//
// A probe must not teach any switch or host anything about the face: it comes from the
// NIC's own MAC, with no sender address (ARP, RFC 5227) or with the link-local address
// that this MAC makes (neighbour discovery, RFC 4861). What is read here comes from
// anyone on the network; nothing is trusted but what has been checked.

import (
	"encoding/binary"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Lengths and offsets, with the Ethernet header (linux/if_ether.h, RFC 826, RFC 8200,
// RFC 4861).
const (
	ethHeader    = 14
	arpFrame     = ethHeader + 28
	ip6Header    = 40
	ndFixed      = 24 // of a solicitation and of an advertisement, without options
	ndLinkOption = 8  // source or target link-layer address
	ndFrame      = ethHeader + ip6Header + ndFixed + ndLinkOption

	arpOperation = 20 // offset of ar_op
	ip6Next      = ethHeader + 6
	icmp6Type    = ethHeader + ip6Header
	ndTarget     = icmp6Type + 8

	ndSolicit         = 135
	ndAdvertise       = 136
	ndOptionSource    = 1
	ndOptionTarget    = 2
	ndFlagSolicited   = 0x40
	ndFlagOverride    = 0x20
	ndHopLimit        = 255 // a frame that a router has passed on has less
	arpOpRequest      = 1
	arpOpReply        = 2
	macLen            = 6
	protocolICMPv6    = 58
	hardwareEthernet  = 1
	ip6Version        = 6
	multicastMACBit   = 1
	universalLocalBit = 2
)

// sight is what a received frame is to a prober.
type sight uint8

const (
	ofNoInterest sight = iota
	looksForeign       // like an answer, but not to a probe of ours
	answer             // to one of ours, if there is one for that target
	solicitation       // of our link-local address
)

// prober's identity on the wire.
type identity struct {
	mac   [macLen]byte
	local netip.Addr // fe80::/64 and the EUI-64 of mac
}

func newIdentity(mac net.HardwareAddr) identity {
	id := identity{mac: [macLen]byte(mac)}
	// RFC 4291, appendix A.
	a := [16]byte{0: 0xfe, 1: 0x80, 8: mac[0] ^ universalLocalBit, 9: mac[1], 10: mac[2], 11: 0xff, 12: 0xfe, 13: mac[3], 14: mac[4], 15: mac[5]}
	id.local = netip.AddrFrom16(a)
	return id
}

// probe builds the question for a target's MAC.
func (id identity) probe(target netip.Addr) []byte {
	if target.Is4() {
		return id.arpProbe(target)
	}
	group := solicitedNode(target)
	return id.nd(ndSolicit, 0, target, group, groupMAC(group), ndOptionSource)
}

// arpProbe is RFC 5227's: nobody who hears it puts it into a cache.
func (id identity) arpProbe(target netip.Addr) []byte {
	b := make([]byte, 0, arpFrame)
	b = append(b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)
	b = append(b, id.mac[:]...)
	b = binary.BigEndian.AppendUint16(b, unix.ETH_P_ARP)
	b = binary.BigEndian.AppendUint16(b, hardwareEthernet)
	b = binary.BigEndian.AppendUint16(b, unix.ETH_P_IP)
	b = append(b, macLen, net.IPv4len)
	b = binary.BigEndian.AppendUint16(b, arpOpRequest)
	b = append(b, id.mac[:]...)
	b = append(b, 0, 0, 0, 0) // the sender has no address
	b = append(b, 0, 0, 0, 0, 0, 0)
	return append(b, target.AsSlice()...)
}

// advertise answers a solicitation of our link-local address.
func (id identity) advertise(to netip.Addr, at [macLen]byte) []byte {
	return id.nd(ndAdvertise, ndFlagSolicited|ndFlagOverride, id.local, to, at, ndOptionTarget)
}

// nd builds a neighbour solicitation or advertisement with our MAC in its option.
func (id identity) nd(kind, flags byte, target, to netip.Addr, at [macLen]byte, option byte) []byte {
	b := make([]byte, 0, ndFrame)
	b = append(b, at[:]...)
	b = append(b, id.mac[:]...)
	b = binary.BigEndian.AppendUint16(b, unix.ETH_P_IPV6)
	b = append(b, ip6Version<<4, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, ndFixed+ndLinkOption)
	b = append(b, protocolICMPv6, ndHopLimit)
	b = append(b, id.local.AsSlice()...)
	b = append(b, to.AsSlice()...)
	b = append(b, kind, 0, 0, 0) // type, code, checksum
	b = append(b, flags, 0, 0, 0)
	b = append(b, target.AsSlice()...)
	b = append(b, option, ndLinkOption/8)
	b = append(b, id.mac[:]...)
	binary.BigEndian.PutUint16(b[icmp6Type+2:], ^checksum6(b[ethHeader:]))
	return b
}

// readARP reads a frame of the ARP socket. from is the probed target when it is an answer.
func (id identity) readARP(b []byte) (from netip.Addr, what sight) {
	if len(b) < arpFrame || binary.BigEndian.Uint16(b[12:]) != unix.ETH_P_ARP {
		return from, ofNoInterest
	}
	a := b[ethHeader:]
	if binary.BigEndian.Uint16(a) != hardwareEthernet || binary.BigEndian.Uint16(a[2:]) != unix.ETH_P_IP ||
		a[4] != macLen || a[5] != net.IPv4len || binary.BigEndian.Uint16(a[6:]) != arpOpReply {
		return from, ofNoInterest
	}
	senderMAC, sender := [macLen]byte(a[8:]), netip.AddrFrom4([4]byte(a[14:]))
	targetMAC, target := [macLen]byte(a[18:]), netip.AddrFrom4([4]byte(a[24:]))
	// An answer repeats the question: it is for our MAC, and for no address.
	ours := id.toUs(b) && targetMAC == id.mac && target.IsUnspecified() && !id.bogus(senderMAC)
	if !ours {
		return sender, looksForeign
	}
	return sender, answer
}

// readND reads a frame of the IPv6 socket. from is the probed target when it is an
// answer, and who asks, at, when it is a solicitation.
func (id identity) readND(b []byte) (from netip.Addr, at [macLen]byte, what sight) {
	if len(b) < ethHeader+ip6Header+ndFixed || binary.BigEndian.Uint16(b[12:]) != unix.ETH_P_IPV6 {
		return from, at, ofNoInterest
	}
	ip := b[ethHeader:]
	payload := int(binary.BigEndian.Uint16(ip[4:]))
	if ip[0]>>4 != ip6Version || ip[6] != protocolICMPv6 || payload < ndFixed || payload > len(ip)-ip6Header {
		return from, at, ofNoInterest
	}
	ip = ip[:ip6Header+payload] // what follows is padding
	source, to := netip.AddrFrom16([16]byte(ip[8:])), netip.AddrFrom16([16]byte(ip[24:]))
	icmp := ip[ip6Header:]
	target := netip.AddrFrom16([16]byte(icmp[8:]))
	link, hasLink, ok := linkOption(icmp)
	sound := ok && ip[7] == ndHopLimit && icmp[1] == 0 && checksum6(ip) == 0xffff && !source.IsMulticast() && !(hasLink && id.bogus(link))
	switch icmp[0] {
	case ndAdvertise:
		solicited := icmp[4]&ndFlagSolicited != 0
		if !sound || !solicited || !id.toUs(b) || to != id.local || source.IsUnspecified() {
			return target, at, looksForeign
		}
		return target, at, answer
	case ndSolicit:
		// One without a source is somebody's duplicate address detection; ours has long
		// been in use, and needs nobody's.
		asked := to == id.local && id.toUs(b) || to == solicitedNode(id.local)
		if !sound || !asked || target != id.local || source.IsUnspecified() {
			return from, at, ofNoInterest
		}
		if !hasLink {
			link = [macLen]byte(b[macLen:])
		}
		if id.bogus(link) {
			return from, at, ofNoInterest
		}
		return source, link, solicitation
	}
	return from, at, ofNoInterest
}

// linkOption finds the link-layer address that goes with the type of an ICMPv6 message.
// ok is false when the options are no options (RFC 4861, 6.1 and 7.1: discard).
func linkOption(icmp []byte) (mac [macLen]byte, found, ok bool) {
	want := byte(ndOptionSource)
	if icmp[0] == ndAdvertise {
		want = ndOptionTarget
	}
	for o := icmp[ndFixed:]; len(o) > 0; {
		if len(o) < 8 || o[1] == 0 || int(o[1])*8 > len(o) {
			return mac, false, false
		}
		if o[0] == want && o[1] == ndLinkOption/8 {
			mac, found = [macLen]byte(o[2:]), true
		}
		o = o[int(o[1])*8:]
	}
	return mac, found, true
}

// toUs says whether the frame is addressed to our MAC, and not sent by it.
func (id identity) toUs(b []byte) bool {
	return [macLen]byte(b) == id.mac && [macLen]byte(b[macLen:]) != id.mac
}

// bogus says whether a MAC is none that another host could have.
func (id identity) bogus(mac [macLen]byte) bool {
	return mac == [macLen]byte{} || mac[0]&multicastMACBit != 0 || mac == id.mac
}

// solicitedNode is the group that a host with that address listens to (RFC 4291, 2.7.1).
func solicitedNode(a netip.Addr) netip.Addr {
	b := a.As16()
	return netip.AddrFrom16([16]byte{0: 0xff, 1: 0x02, 11: 0x01, 12: 0xff, 13: b[13], 14: b[14], 15: b[15]})
}

// groupMAC is where frames to an IPv6 group go (RFC 2464, 7).
func groupMAC(group netip.Addr) [macLen]byte {
	b := group.As16()
	return [macLen]byte{0x33, 0x33, b[12], b[13], b[14], b[15]}
}

// checksum6 sums an ICMPv6 packet with its pseudo header (RFC 8200, 8.1), from the IPv6
// header on: 0xffff when the checksum in it is right, and the complement of what belongs
// there when that is zero.
func checksum6(ip []byte) uint16 {
	sum := uint32(len(ip)-ip6Header) + protocolICMPv6
	b := ip[8:] // the addresses, then the payload
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return uint16(sum)
}
