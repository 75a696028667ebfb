package nic

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

// sendICMPv6 sends one message with the hop limit that neighbour discovery asks for. The
// kernel fills in the checksum.
func sendICMPv6(to, dev string, message []byte) error {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.BindToDevice(fd, dev); err != nil {
		return err
	}
	for _, opt := range []int{unix.IPV6_MULTICAST_HOPS, unix.IPV6_UNICAST_HOPS} {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, opt, 255); err != nil {
			return err
		}
	}
	return unix.Sendto(fd, message, 0, &unix.SockaddrInet6{Addr: netip.MustParseAddr(to).As16()})
}
