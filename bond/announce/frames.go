package announce

import (
	"encoding/binary"
	"net/netip"
)

// The frames that say where a station is: gratuitous ARP, unsolicited neighbour
// advertisement, RARP. They are what the kernel itself sends for arp_notify and
// ndisc_notify (net/ipv4/devinet.c inetdev_send_gratuitous_arp, net/ipv6/ndisc.c
// ndisc_send_unsol_na), byte for byte: the tests compare.

// mac is an Ethernet address.
type mac [6]byte

var (
	macBroadcast = mac{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	macAllNodes  = mac{0x33, 0x33, 0, 0, 0, 1}
	ip6AllNodes  = netip.MustParseAddr("ff02::1")
)

// station is a sender as the network sees one: a MAC, on a VLAN or on none. tags are the
// VLAN tags as they stand in the frame behind the source, the outermost first, four bytes
// each (IEEE 802.1Q, 9.3): "" for an untagged one.
type station struct {
	tags string
	mac  mac
}

// tag is one VLAN tag, with priority 0.
func tag(protocol, vid uint16) string {
	return string([]byte{byte(protocol >> 8), byte(protocol), byte(vid>>8) & 0x0f, byte(vid)})
}

// Ethernet types (linux/if_ether.h).
const (
	etherIPv4 = 0x0800
	etherARP  = 0x0806
	etherRARP = 0x8035
	etherIPv6 = 0x86dd
	etherVLAN = 0x8100
)

// headerMax is the room for Ethernet, eight tags, IPv6 and a hop-by-hop header.
const headerMax = 14 + 4*stackMax + 40 + 8

// ethernet begins a frame, with room for body bytes behind all headers. It is not padded
// to the least size of Ethernet: that is the NIC driver's part, as for the kernel's frames.
func ethernet(from station, to mac, etherType uint16, body int) []byte {
	b := make([]byte, 0, headerMax+body)
	b = append(b, to[:]...)
	b = append(b, from.mac[:]...)
	b = append(b, from.tags...)
	return binary.BigEndian.AppendUint16(b, etherType)
}

// Operations (linux/if_arp.h).
const (
	arpRequest  = 1
	rarpRequest = 3
)

// gratuitousARP announces an IPv4 address: a request for the address by its owner.
//
// The reply form is not sent beside it. RFC 5944 (4.6) allows either, RFC 5227 (3) gives
// the reasons for the request: some hosts take a reply only when they have asked. Reports of devices
// that take nothing but replies are about an address that moves to another MAC. Here the
// MAC stays: no cache has anything to learn, and what a switch learns is the source of the
// frame, whatever its form.
func gratuitousARP(from station, ip netip.Addr) []byte {
	return arp(ethernet(from, macBroadcast, etherARP, 28), arpRequest, from.mac, ip, mac{}, ip)
}

// rarp announces a MAC of which no address is known: a request for its address, to which
// nobody answers in these days. It is what QEMU sends for a guest that has moved
// (net/announce.c).
func rarp(from station) []byte {
	none := netip.IPv4Unspecified()
	return arp(ethernet(from, macBroadcast, etherRARP, 28), rarpRequest, from.mac, none, from.mac, none)
}

// arp is RFC 826 and RFC 903 for Ethernet and IPv4.
func arp(b []byte, op uint16, senderMAC mac, senderIP netip.Addr, targetMAC mac, targetIP netip.Addr) []byte {
	b = append(b, 0, 1, etherIPv4>>8, etherIPv4&0xff, 6, 4)
	b = binary.BigEndian.AppendUint16(b, op)
	b = append(b, senderMAC[:]...)
	b = append(b, senderIP.AsSlice()...)
	b = append(b, targetMAC[:]...)
	return append(b, targetIP.AsSlice()...)
}

// Fields of a neighbour advertisement (RFC 4861, 4.4 and 4.6.1).
const (
	icmpNeighbourAdvert = 136
	naRouter            = 0x80
	naOverride          = 0x20
	optTargetLinkAddr   = 2
)

// protoICMPv6 is the next header (linux/in6.h).
const protoICMPv6 = 58

// neighbourAdvert announces an IPv6 address to all nodes, unasked (RFC 4861, 7.2.6).
// override is false only for an optimistic address (RFC 4429, 3.3).
func neighbourAdvert(from station, ip netip.Addr, router, override bool) []byte {
	flags := byte(0)
	if router {
		flags |= naRouter
	}
	if override {
		flags |= naOverride
	}
	b := ethernet(from, macAllNodes, etherIPv6, 32)
	b = ipv6(b, protoICMPv6, 32, 255, ip, ip6AllNodes)
	start := len(b)
	b = append(b, icmpNeighbourAdvert, 0, 0, 0, flags, 0, 0, 0)
	b = append(b, ip.AsSlice()...)
	b = append(b, optTargetLinkAddr, 1)
	b = append(b, from.mac[:]...)
	sealICMPv6(b[start:], ip, ip6AllNodes)
	return b
}

// ipv6 is the fixed header (RFC 8200, 3).
func ipv6(b []byte, next byte, payload int, hops byte, src, dst netip.Addr) []byte {
	b = append(b, 0x60, 0, 0, 0, byte(payload>>8), byte(payload), next, hops)
	b = append(b, src.AsSlice()...)
	return append(b, dst.AsSlice()...)
}

// sealICMPv6 writes the checksum over the pseudo header and the message (RFC 8200, 8.1).
func sealICMPv6(message []byte, src, dst netip.Addr) {
	sum := add(0, src.AsSlice())
	sum = add(sum, dst.AsSlice())
	sum += uint32(len(message)) + protoICMPv6
	binary.BigEndian.PutUint16(message[2:], fold(add(sum, message)))
}

// add sums 16-bit words for the Internet checksum (RFC 1071). An odd last byte is the
// high half of a word. It does not overflow for less than 64 KiB.
func add(sum uint32, b []byte) uint32 {
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	return sum
}

// fold ends the checksum.
func fold(sum uint32) uint16 {
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
