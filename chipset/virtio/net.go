package virtio

import (
	"encoding/binary"
	"fmt"
)

// The network device (5.1), one pair of queues. Frames go in and out with the 12 bytes of
// struct virtio_net_hdr_v1 before them, as a TAP or macvtap with IFF_VNET_HDR and a
// TUNSETVNETHDRSZ of 12 has them, so that checksums and segmentation stay undone from the
// guest to the hardware.
//
// What is sent is copied at the doorbell and given back at once; nothing is outside.

// Features (5.1.3).
const (
	featureNetCsum      = 1 << 0
	featureNetGuestCsum = 1 << 1
	featureNetMTU       = 1 << 3
	featureNetMAC       = 1 << 5
	featureNetGuestTSO4 = 1 << 7
	featureNetGuestTSO6 = 1 << 8
	featureNetHostTSO4  = 1 << 11
	featureNetHostTSO6  = 1 << 12
	featureNetMergeable = 1 << 15
	featureNetStatus    = 1 << 16

	featuresNetOffload = featureNetCsum | featureNetGuestCsum | featureNetGuestTSO4 |
		featureNetGuestTSO6 | featureNetHostTSO4 | featureNetHostTSO6
)

// struct virtio_net_hdr_v1 (5.1.6), little-endian: flags u8, gso_type u8, hdr_len u16,
// gso_size u16, csum_start u16, csum_offset u16, num_buffers u16.
const (
	// NetHeader is its length in bytes.
	NetHeader = 12

	headerFlags   = 0
	headerGSO     = 1
	headerBuffers = 10

	flagNeedsCsum = 1 // VIRTIO_NET_HDR_F_NEEDS_CSUM

	gsoNone  = 0
	gsoTCPv4 = 1
	gsoTCPv6 = 4
)

// Bits of an Offloads request: frames may come without a checksum, or unsegmented.
const (
	OffloadCsum = 1 << iota
	OffloadTSO4
	OffloadTSO6
)

const (
	netReceive  = 0 // receiveq1
	netTransmit = 1 // transmitq1

	netConfig = 12 // mac[6], status u16, max_virtqueue_pairs u16, mtu u16
	linkUp    = 1  // VIRTIO_NET_S_LINK_UP

	// NetFrameMax is the longest frame, its header included: 64 KiB of IP, and what stands
	// before that on the wire and here.
	NetFrameMax = NetHeader + 65536 + 64
)

// NetConfig is what a network device is made from.
type NetConfig struct {
	MAC      [6]byte
	MTU      uint16 // from 68 to 65535, told to the guest; 0: not told
	Offloads bool   // the backend's frames carry checksums and segmentation undone
	LinkDown bool   // at the start
}

// netState is all that a network device knows.
type netState struct {
	transportState
	Down bool // the link

	// A ring of frames, each with its length before it.
	WaitCount uint16
	WaitStart uint32
	WaitUsed  uint32
	Wait      [waitBytes]byte
}

func (s *netState) code(c *codec) {
	s.transportState.code(c)
	c.flag(&s.Down)
	word(c, &s.WaitCount, 2, waitFrames)
	word(c, &s.WaitUsed, 4, waitBytes)
	if c.loading {
		s.WaitStart = 0
		c.bytes(s.Wait[:s.WaitUsed])
		c.check(s.wellFormed())
		return
	}
	head := s.Wait[s.WaitStart:min(waitBytes, s.WaitStart+s.WaitUsed)]
	c.bytes(head)
	c.bytes(s.Wait[:int(s.WaitUsed)-len(head)])
}

// Net is a network device.
type Net struct {
	transport
	cfg   NetConfig
	state netState

	space  [netConfig]byte
	chain  chain
	frame  []byte // under way
	header [NetHeader]byte
	spread spread
}

var _ Device = (*Net)(nil)

// NewNet makes a network device after reset.
func NewNet(slot int, mem Memory, port Port, cfg NetConfig) (*Net, error) {
	if cfg.MAC[0]&1 != 0 || cfg.MAC == [6]byte{} {
		return nil, fmt.Errorf("virtio slot %d: make a network device: the MAC %x is not one of a single host", slot, cfg.MAC)
	}
	if cfg.MTU != 0 && cfg.MTU < 68 {
		return nil, fmt.Errorf("virtio slot %d: make a network device: an MTU of %d is below IPv4's least, 68", slot, cfg.MTU)
	}
	n := &Net{cfg: cfg, frame: make([]byte, NetFrameMax)}
	n.state.Down = cfg.LinkDown
	n.transport = transport{
		slot: slot, kind: "net", id: idNet, queues: 2, offered: cfg.features(),
		config: n.space[:], mem: mem, port: port, front: n, s: &n.state.transportState,
	}
	n.described()
	return n, nil
}

func (c *NetConfig) features() uint64 {
	f := uint64(featuresCommon | featureNetMAC | featureNetStatus | featureNetMergeable)
	if c.MTU != 0 {
		f |= featureNetMTU
	}
	if c.Offloads {
		f |= featuresNetOffload
	}
	return f
}

// described fills struct virtio_net_config (5.1.4).
func (n *Net) described() {
	le := binary.LittleEndian
	copy(n.space[0:], n.cfg.MAC[:])
	le.PutUint16(n.space[6:], 0)
	if !n.state.Down {
		le.PutUint16(n.space[6:], linkUp)
	}
	le.PutUint16(n.space[8:], 1) // max_virtqueue_pairs
	le.PutUint16(n.space[10:], n.cfg.MTU)
}

// SetLink is the link's state, an input.
func (n *Net) SetLink(up bool) {
	if n.state.Down == !up {
		return
	}
	n.state.Down = !up
	n.described()
	if n.live() && n.negotiated(featureNetStatus) {
		n.configChanged()
	}
}

// acceptable: some offloads need others (5.1.3.1).
func (n *Net) acceptable(f uint64) bool {
	if f&(featureNetGuestTSO4|featureNetGuestTSO6) != 0 && f&featureNetGuestCsum == 0 {
		return false
	}
	return f&(featureNetHostTSO4|featureNetHostTSO6) == 0 || f&featureNetCsum != 0
}

func (n *Net) started() { n.offloads(n.accepted()) }

// accepted is what frames towards the driver may come with.
func (n *Net) accepted() (bits uint64) {
	if n.negotiated(featureNetGuestCsum) {
		bits |= OffloadCsum
	}
	if n.negotiated(featureNetGuestTSO4) {
		bits |= OffloadTSO4
	}
	if n.negotiated(featureNetGuestTSO6) {
		bits |= OffloadTSO6
	}
	return bits
}

func (n *Net) offloads(bits uint64) {
	if n.cfg.Offloads {
		n.req = Request{Op: Offloads, Length: bits}
		n.emit()
	}
}

func (n *Net) cleared() {
	n.state.WaitCount, n.state.WaitStart, n.state.WaitUsed = 0, 0, 0
	n.offloads(0)
}

func (n *Net) outside() int  { return 0 }
func (n *Net) code(c *codec) { n.state.code(c) }
func (n *Net) zero()         { n.state = netState{Down: n.cfg.LinkDown} }

// Complete: nothing is asked for.
func (n *Net) Complete(*Completion) { n.s.Counters.Unasked++ }

func (n *Net) notified(queue int) {
	if queue == netTransmit {
		n.transmit()
		return
	}
	n.deliverWaiting()
}

// transmit sends all frames that the driver has made available.
func (n *Net) transmit() {
	for left := n.available(netTransmit); left > 0 && n.live() && n.next(netTransmit, &n.chain); left-- {
		c := &n.chain
		n.s.Counters.Requests++
		if c.count > c.readable {
			n.violate(ViolationDirection)
			break
		}
		if c.readLen < NetHeader {
			n.violate(ViolationHeader)
			break
		}
		if !n.send(c) {
			break
		}
		n.push(netTransmit, c.head, 0)
	}
	n.arm(netTransmit)
	n.signal(netTransmit)
}

// send emits one frame, or drops one that cannot be sent.
func (n *Net) send(c *chain) bool {
	if c.readLen > NetFrameMax || n.state.Down {
		n.s.Counters.Dropped++
		return true
	}
	frame := n.frame[:c.readLen]
	if !n.gather(c.read(), 0, frame) {
		n.violate(ViolationDataOutside)
		return false
	}
	if !n.sendable(frame) {
		n.s.Counters.Dropped++
		return true
	}
	n.req = Request{Op: Transmit, Length: c.readLen, Data: frame}
	n.emit()
	n.s.Counters.Sent++
	return true
}

// sendable says whether a frame's header asks only for what was negotiated (5.1.6.2), and
// makes nothing of the fields that mean nothing then.
func (n *Net) sendable(frame []byte) bool {
	h := frame[:NetHeader]
	h[headerFlags] &= flagNeedsCsum
	if h[headerFlags] != 0 && !n.negotiated(featureNetCsum) {
		return false
	}
	binary.LittleEndian.PutUint16(h[headerBuffers:], 0)
	switch h[headerGSO] {
	case gsoNone:
		if h[headerFlags] == 0 {
			clear(h)
		}
		return true
	case gsoTCPv4:
		return n.negotiated(featureNetHostTSO4) && h[headerFlags] != 0
	case gsoTCPv6:
		return n.negotiated(featureNetHostTSO6) && h[headerFlags] != 0
	}
	return false
}
