package monitor

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

const (
	// A storm of foreign answers must not push ours out while the prober is held up.
	probeBufferBytes = 512 << 10
	// Probes go ahead of bulk data: TC_PRIO_CONTROL, linux/pkt_sched.h.
	priorityControl = 7
	// PACKET_MR_… of linux/if_packet.h.
	memberMulticast = unix.PACKET_MR_MULTICAST
	memberUnicast   = unix.PACKET_MR_UNICAST
)

// probeSocket is a packet(7) socket on one NIC for one protocol. A protocol's own socket
// is served after the NIC's ingress programs have passed a frame on, and before a bridge
// or bond on the NIC, whose frames then carry that one's number.
type probeSocket struct {
	fd       int
	index    int
	protocol uint16
}

// openProbeSocket opens a socket that sees only what could concern a prober.
func openProbeSocket(name string, index int, protocol uint16, id identity) (*probeSocket, error) {
	// With protocol 0 it hears nothing until it is bound: nothing gets in before the filter.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open a packet socket for probes on %s: %w (it takes CAP_NET_RAW)", name, err)
	}
	s := &probeSocket{fd: fd, index: index, protocol: protocol}
	if err := s.prepare(id); err != nil {
		s.close()
		return nil, fmt.Errorf("a packet socket for probes on %s (index %d): %w", name, index, err)
	}
	return s, nil
}

func (s *probeSocket) prepare(id identity) error {
	filter := arpFilter()
	if s.protocol == unix.ETH_P_IPV6 {
		filter = ndFilter(id.local)
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.SetsockoptSockFprog(s.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program); err != nil {
		return fmt.Errorf("attach the filter: %w", err)
	}
	if err := unix.SetsockoptInt(s.fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1); err != nil && !errors.Is(err, unix.ENOPROTOOPT) {
		return fmt.Errorf("leave out what goes out: %w", err) // from Linux 4.20 on; the frames' source tells, too
	}
	// Either is a help where it is permitted, and no loss where it is not.
	_ = unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, probeBufferBytes)
	_ = unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_PRIORITY, priorityControl)
	// The NIC may wear another MAC than the one that it probes with (under the kernel's
	// bonding driver all ports wear the bond's).
	if err := s.join(memberUnicast, id.mac); err != nil {
		return err
	}
	if s.protocol == unix.ETH_P_IPV6 {
		if err := s.join(memberMulticast, groupMAC(solicitedNode(id.local))); err != nil {
			return err
		}
	}
	if err := unix.Bind(s.fd, &unix.SockaddrLinklayer{Protocol: networkOrder(s.protocol), Ifindex: s.index}); err != nil {
		return fmt.Errorf("bind it: %w", err)
	}
	return nil
}

// join makes the NIC let a MAC through, for as long as the socket is open.
func (s *probeSocket) join(kind uint16, mac [macLen]byte) error {
	member := unix.PacketMreq{Ifindex: int32(s.index), Type: kind, Alen: macLen}
	copy(member.Address[:], mac[:])
	if err := unix.SetsockoptPacketMreq(s.fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &member); err != nil {
		return fmt.Errorf("let %s through: %w", net.HardwareAddr(mac[:]), err)
	}
	return nil
}

// send never waits. The destination names the NIC, so that ENXIO means that it is gone
// and ENETDOWN that it is down (af_packet.c, packet_snd).
func (s *probeSocket) send(frame []byte) error {
	return unix.Sendto(s.fd, frame, unix.MSG_DONTWAIT, &unix.SockaddrLinklayer{Protocol: networkOrder(s.protocol), Ifindex: s.index})
}

// arrival is what the kernel says of a frame beside its bytes (struct sockaddr_ll).
type arrival struct {
	index  int  // of the link that it is shown to
	strays bool // not PACKET_HOST: for another MAC than the link's, or of a VLAN that nobody has
}

// receive returns the next frame; EAGAIN when there is none.
func (s *probeSocket) receive(b []byte) (n int, by arrival, err error) {
	n, from, err := unix.Recvfrom(s.fd, b, unix.MSG_DONTWAIT)
	if err != nil {
		return 0, by, err
	}
	if a, ok := from.(*unix.SockaddrLinklayer); ok {
		by = arrival{index: a.Ifindex, strays: a.Pkttype != unix.PACKET_HOST}
	}
	return n, by, nil
}

// attached says whether the NIC still is what the socket is bound to: the kernel unbinds
// it when the NIC goes (af_packet.c, packet_notifier), and never binds it again.
func (s *probeSocket) attached() bool {
	a, err := unix.Getsockname(s.fd)
	if err != nil {
		return false
	}
	l, ok := a.(*unix.SockaddrLinklayer)
	return ok && l.Ifindex == s.index
}

func (s *probeSocket) close() { unix.Close(s.fd) }

// Classic BPF, linux/filter.h.
const (
	loadByte   = unix.BPF_LD | unix.BPF_B | unix.BPF_ABS
	loadHalf   = unix.BPF_LD | unix.BPF_H | unix.BPF_ABS
	loadWord   = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	jumpEqual  = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	giveBack   = unix.BPF_RET | unix.BPF_K
	wholeFrame = 1 << 16
)

// test is one condition of a filter: a load, and what it must give.
type test struct {
	load uint16
	at   uint32
	want uint32
}

// all accepts frames for which every test holds; its last instruction rejects the others.
func all(tests ...test) []unix.SockFilter {
	var program []unix.SockFilter
	var jumps []int
	for _, t := range tests {
		program = append(program, unix.SockFilter{Code: t.load, K: t.at})
		jumps = append(jumps, len(program))
		program = append(program, unix.SockFilter{Code: jumpEqual, K: t.want})
	}
	program = append(program, unix.SockFilter{Code: giveBack, K: wholeFrame}, unix.SockFilter{Code: giveBack})
	for _, j := range jumps {
		program[j].Jf = uint8(len(program) - 1 - (j + 1))
	}
	return program
}

// arpFilter lets replies through.
func arpFilter() []unix.SockFilter {
	return all(test{loadHalf, arpOperation, arpOpReply})
}

// ndFilter lets advertisements through, and solicitations of our address.
func ndFilter(local netip.Addr) []unix.SockFilter {
	a := local.As16()
	word := func(i int) uint32 {
		return uint32(a[i])<<24 | uint32(a[i+1])<<16 | uint32(a[i+2])<<8 | uint32(a[i+3])
	}
	solicit := all(
		test{loadByte, ip6Next, protocolICMPv6},
		test{loadByte, icmp6Type, ndSolicit},
		test{loadWord, ndTarget, word(0)},
		test{loadWord, ndTarget + 4, word(4)},
		test{loadWord, ndTarget + 8, word(8)},
		test{loadWord, ndTarget + 12, word(12)},
	)
	advertise := all(
		test{loadByte, ip6Next, protocolICMPv6},
		test{loadByte, icmp6Type, ndAdvertise},
	)
	// What the first rejects falls into the second.
	return append(solicit[:len(solicit)-1], advertise...)
}

func networkOrder(v uint16) uint16 {
	b := [2]byte{byte(v >> 8), byte(v)}
	return uint16(b[1])<<8 | uint16(b[0])
}
