package backend

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"ft/chipset/virtio"
)

// A network interface of a machine: a macvtap that is made on a link and removed again, or
// a macvtap or TAP that is there. Frames pass with their virtio_net_hdr_v1, so checksums
// and segmentation are left to whoever does them best.
//
// It works in the network namespace of the process. Three goroutines do it: one reads
// frames, one writes them, and the keeper (network_keep.go) follows the interface, which
// may go and come back: with its link gone a macvtap vanishes, and is made again when there
// is a link of that name.
//
// Invariants:
//   - Transmit never waits. A frame for which there is no room, or no interface, is dropped
//     and counted, as by any NIC.
//   - The guest's link is up when, and only when, there is an interface with a carrier.

const (
	// Frames that wait to be written: some 10 ms at a gigabit.
	sendFrames = 512
	sendBytes  = 2 << 20
)

// NetworkConfig is what a network interface is opened with. One of Link and Device is set.
type NetworkConfig struct {
	// Link is the interface on which a macvtap is made (bridge mode), by the name of Name,
	// up to 15 bytes. Host and guest do not reach each other over it, only the network.
	Link, Name string
	// Device is a macvtap or a TAP that is there, and stays.
	Device string
	MAC    net.HardwareAddr // that the guest has; of a macvtap too, which filters by it

	// Frame gets each frame that comes in. It must not block; p is good during the call.
	Frame func(p []byte)
	// Carrier is called at each change of the link after the opening, on one goroutine. May
	// be nil.
	Carrier func(up bool)
}

// Network is an open network interface.
type Network struct {
	cfg  NetworkConfig
	out  *frameQueue
	quit chan struct{}
	look chan struct{} // has room for one: the keeper is to look
	done sync.WaitGroup

	want  atomic.Uint64 // offloads that the guest takes
	port  atomic.Pointer[port]
	mtu   int // at the opening
	stats netStats

	mu      sync.Mutex // guards the fields below
	up      bool
	reason  string // why it is not up
	offered bool   // offloads are there
}

// netStats are counted by several goroutines.
type netStats struct {
	sent, received, sentBytes, receivedBytes atomic.Uint64
	noRoom, noPort, refused, losses          atomic.Uint64
}

// NetworkStats count from the opening; bytes are with the virtio header.
type NetworkStats struct {
	Interface               string // "" while there is none
	Up                      bool
	Reason                  string // why it is not up
	Sent, Received          uint64 // frames
	SentBytes, RecvBytes    uint64
	DroppedNoRoom           uint64 // the host was too slow
	DroppedDown             uint64 // there was no interface, or it was down
	DroppedRefused          uint64 // the kernel found fault with the frame
	Losses                  uint64 // the interface vanished
	Offloads, OffloadsAsked uint64 // virtio.OffloadCsum …: set, and asked for by the guest
}

// OpenNetwork makes or opens the interface.
func OpenNetwork(cfg NetworkConfig) (*Network, error) {
	if (cfg.Link == "") == (cfg.Device == "") {
		return nil, fmt.Errorf("open a network interface: one of link (%q) and device (%q) is to be named", cfg.Link, cfg.Device)
	}
	if cfg.Link != "" && (cfg.Name == "" || len(cfg.Name) >= unix.IFNAMSIZ || len(cfg.MAC) != 6) {
		return nil, fmt.Errorf("open a network interface on %s: a name of up to %d bytes (%q) and a MAC (%s) are needed", cfg.Link, unix.IFNAMSIZ-1, cfg.Name, cfg.MAC)
	}
	bell, err := openBell()
	if err != nil {
		return nil, fmt.Errorf("follow the links of this network namespace: %w", err)
	}
	n := &Network{
		cfg: cfg, out: newFrameQueue(sendFrames, sendBytes),
		quit: make(chan struct{}), look: make(chan struct{}, 1),
	}
	p, err := n.attach()
	if err != nil {
		bell.Close()
		return nil, fmt.Errorf("open a network interface: %w", err)
	}
	n.mtu, n.offered = p.mtu, p.offloads
	n.up, n.reason = p.carrier() // Front tells it; later changes are called out
	n.take(p)
	n.done.Add(3)
	go n.write()
	go n.hear(bell)
	go n.keep(bell)
	return n, nil
}

// Front is the virtio device for this interface as it is now; its MTU is that at the opening.
func (n *Network) Front() *virtio.NetConfig {
	n.mu.Lock()
	defer n.mu.Unlock()
	c := &virtio.NetConfig{Offloads: n.offered, LinkDown: !n.up, MTU: uint16(min(n.mtu, 65535))}
	copy(c.MAC[:], n.cfg.MAC)
	return c
}

// Up says whether the link is up now.
func (n *Network) Up() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.up
}

// Transmit takes a copy of a frame, from its virtio_net_hdr_v1 on.
func (n *Network) Transmit(frame []byte) {
	if !n.out.put(frame) {
		n.stats.noRoom.Add(1)
	}
}

// SetOffloads is what frames may come with from now on, virtio.OffloadCsum and so on: what
// the guest's driver has agreed to. It takes effect a moment later.
func (n *Network) SetOffloads(bits uint64) {
	n.want.Store(bits)
	n.wake()
}

func (n *Network) wake() {
	select {
	case n.look <- struct{}{}:
	default:
	}
}

// Stats are for people.
func (n *Network) Stats() NetworkStats {
	n.mu.Lock()
	s := NetworkStats{Up: n.up, Reason: n.reason}
	n.mu.Unlock()
	if p := n.port.Load(); p != nil {
		s.Interface, s.Offloads = p.name, p.set.Load()
	}
	s.OffloadsAsked = n.want.Load()
	c := &n.stats
	s.Sent, s.SentBytes = c.sent.Load(), c.sentBytes.Load()
	s.Received, s.RecvBytes = c.received.Load(), c.receivedBytes.Load()
	s.DroppedNoRoom, s.DroppedDown, s.DroppedRefused = c.noRoom.Load(), c.noPort.Load(), c.refused.Load()
	s.Losses = c.losses.Load()
	return s
}

// write sends frames out.
func (n *Network) write() {
	defer n.done.Done()
	for {
		frame, ok := n.out.next()
		if !ok {
			return
		}
		n.send(frame)
		n.out.drop()
	}
}

func (n *Network) send(frame []byte) {
	p := n.port.Load()
	if p == nil {
		n.stats.noPort.Add(1)
		return
	}
	_, err := p.file.Write(frame)
	switch {
	case err == nil:
		n.stats.sent.Add(1)
		n.stats.sentBytes.Add(uint64(len(frame)))
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EMSGSIZE), errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.ENOMEM):
		n.stats.refused.Add(1)
	default: // down (EIO), gone (EBADFD), closed
		n.stats.noPort.Add(1)
		n.wake()
	}
}

// read hands frames in until the port is closed or its interface is gone.
func (n *Network) read(p *port) {
	defer n.done.Done()
	buf := make([]byte, virtio.NetFrameMax)
	for {
		k, err := p.file.Read(buf)
		if err != nil {
			p.failed.Store(true)
			n.wake()
			return
		}
		n.stats.received.Add(1)
		n.stats.receivedBytes.Add(uint64(k))
		n.cfg.Frame(buf[:k])
	}
}

// Close ends the interface, and removes it if it was made here.
func (n *Network) Close() error {
	select {
	case <-n.quit:
		return nil
	default:
	}
	close(n.quit)
	n.out.close()
	p := n.port.Load()
	if p != nil {
		_ = p.file.SetDeadline(time.Unix(1, 0)) // whoever reads or writes
	}
	n.done.Wait()
	if p = n.port.Swap(nil); p == nil {
		return nil
	}
	p.file.Close()
	if p.made {
		if err := removeLink(p.index); err != nil {
			return fmt.Errorf("remove the macvtap %s: %w", p.name, err)
		}
	}
	return nil
}
