package integration_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	nshandle "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"ft/bond/bondtest"
	"ft/drivers/netns"
)

// stream starts numbered datagrams at a rate, from the face to the peer or back.
func (n *nicBox) stream(d bondtest.Direction, rate int) *bondtest.Stream {
	n.t.Helper()
	from, to, fromIP, toIP := n.net.Box, n.net.Peer, boxIP4, peerIP4
	if d == bondtest.FromPeer {
		from, to, fromIP, toIP = to, from, toIP, fromIP
	}
	var in, out *net.UDPConn
	n.within(to, func() (err error) {
		in, err = net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(toIP)})
		return err
	})
	n.within(from, func() (err error) {
		out, err = net.DialUDP("udp", &net.UDPAddr{IP: net.ParseIP(fromIP)}, in.LocalAddr().(*net.UDPAddr))
		return err
	})
	s, err := bondtest.StartStream(n.t, out, in, rate)
	if err != nil {
		n.t.Fatal(err)
	}
	return s
}

// streams are one in each direction, by bondtest.Direction.
type streams [2]*bondtest.Stream

func (n *nicBox) streams(rate int) streams {
	n.t.Helper()
	return streams{n.stream(bondtest.ToPeer, rate), n.stream(bondtest.FromPeer, rate)}
}

// goOn waits until more have arrived, both ways.
func (s streams) goOn(more int) {
	for _, x := range s {
		x.WaitArrived(more, 10*time.Second)
	}
}

// stop ends them. Nothing may have arrived twice.
func (s streams) stop(t *testing.T) (results [2]bondtest.StreamResult) {
	t.Helper()
	for i, x := range s {
		r := x.Stop()
		t.Logf("UDP %v: %v", bondtest.Direction(i), r)
		if r.Duplicated > 0 {
			t.Errorf("UDP %v: %d datagrams arrived twice", bondtest.Direction(i), r.Duplicated)
		}
		results[i] = r
	}
	return results
}

// within runs f in a namespace; the sockets that it opens stay there.
func (n *nicBox) within(namespace string, f func() error) {
	n.t.Helper()
	if err := netns.Do(namespace, f); err != nil {
		n.t.Fatal(err)
	}
}

// transfer is one TCP connection from the peer to the box, which sends back all that it
// gets: a stream in both directions with a checksum at its end.
type transfer struct {
	t     *testing.T
	conn  *net.TCPConn
	sent  hash.Hash
	got   hash.Hash
	bytes atomic.Int64 // that came back
	stop  chan struct{}
	once  sync.Once
	ended chan struct{} // closed with err
	err   error
}

const (
	transferPiece = 16 << 10
	transferEvery = 2 * time.Millisecond // 8 MB/s
	transferEnd   = 60 * time.Second
)

// transfer starts one to an address of the box.
func (n *nicBox) transfer(ip string) *transfer { n.t.Helper(); return n.transferTo(n.net.Box, ip) }

// transferTo starts one to an address in any namespace.
func (n *nicBox) transferTo(namespace, ip string) *transfer {
	n.t.Helper()
	x := &transfer{t: n.t, sent: sha256.New(), got: sha256.New(), stop: make(chan struct{}), ended: make(chan struct{})}
	var server net.Listener
	n.within(namespace, func() (err error) {
		server, err = net.Listen("tcp", net.JoinHostPort(ip, "0"))
		return err
	})
	defer server.Close()
	n.within(n.net.Peer, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		c, err := new(net.Dialer).DialContext(ctx, "tcp", server.Addr().String())
		if err == nil {
			x.conn = c.(*net.TCPConn)
		}
		return err
	})
	far, err := server.Accept() // it is there: the dial has ended
	if err != nil {
		x.conn.Close()
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { x.conn.Close(); far.Close(); <-x.ended })
	echoed := make(chan error, 1)
	go func() {
		defer far.Close()
		_, err := io.Copy(far, far)
		echoed <- err
	}()
	go func() {
		defer close(x.ended)
		x.err = x.run()
		if err := <-echoed; err != nil {
			x.err = errors.Join(x.err, fmt.Errorf("the box's end: %w", err))
		}
	}()
	return x
}

func (x *transfer) run() error {
	read := make(chan error, 1)
	go func() {
		_, err := io.Copy(x, x.conn)
		read <- err
	}()
	random := rand.NewChaCha8([32]byte{1})
	piece := make([]byte, transferPiece)
	tick := time.NewTicker(transferEvery)
	defer tick.Stop()
	for going := true; going; {
		select {
		case <-x.stop:
			going = false
		case <-tick.C:
			_, _ = random.Read(piece) // it never fails
			x.sent.Write(piece)
			if _, err := x.conn.Write(piece); err != nil {
				x.conn.Close()
				return fmt.Errorf("the peer's end: %w", errors.Join(err, <-read))
			}
		}
	}
	if err := x.conn.CloseWrite(); err != nil {
		return fmt.Errorf("the peer's end: %w", err)
	}
	if err := <-read; err != nil {
		return fmt.Errorf("the peer's end: %w", err)
	}
	return nil
}

// Write takes what has come back.
func (x *transfer) Write(p []byte) (int, error) {
	x.bytes.Add(int64(len(p)))
	return x.got.Write(p)
}

// goesOn waits until more has come back than when it was called.
func (x *transfer) goesOn() {
	x.t.Helper()
	want := x.bytes.Load() + 4*transferPiece
	await(x.t, 20*time.Second, "the TCP transfer to go on", func() bool {
		select {
		case <-x.ended:
			x.t.Fatalf("the TCP transfer has ended: %v", x.err)
		default:
		}
		return x.bytes.Load() >= want
	})
}

// finish ends the transfer and compares.
func (x *transfer) finish() {
	x.t.Helper()
	x.once.Do(func() { close(x.stop) })
	select {
	case <-x.ended:
	case <-time.After(transferEnd):
		x.t.Fatal("the TCP transfer does not end")
	}
	if x.err != nil {
		x.t.Errorf("TCP transfer: %v", x.err)
	} else if !bytes.Equal(x.sent.Sum(nil), x.got.Sum(nil)) {
		x.t.Errorf("TCP transfer: what came back (%d bytes) is not what was sent", x.bytes.Load())
	}
	x.t.Logf("TCP: %d MB there and back", x.bytes.Load()/1e6)
}

// moves are the places at which the switch has learned a MAC, as it tells of them.
type moves struct {
	mu   sync.Mutex
	seen map[string][]string // MAC → ports in turn
	errs []error
}

// watchMACs follows the switch's forwarding table until the test ends.
func (n *nicBox) watchMACs() *moves {
	n.t.Helper()
	m := &moves{seen: map[string][]string{}}
	ns, err := nshandle.GetFromName(n.net.Switch)
	if err != nil {
		n.t.Fatal(err)
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		n.t.Fatal(err)
	}
	updates, done := make(chan netlink.NeighUpdate, 1024), make(chan struct{})
	err = netlink.NeighSubscribeWithOptions(updates, done, netlink.NeighSubscribeOptions{Namespace: &ns, ReceiveBufferSize: 4 << 20, ReceiveBufferForceSize: true,
		ErrorCallback: func(err error) { m.mu.Lock(); defer m.mu.Unlock(); m.errs = append(m.errs, err) }})
	if err != nil {
		h.Close()
		n.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for u := range updates {
			if u.Family != unix.AF_BRIDGE || u.Type != unix.RTM_NEWNEIGH {
				continue
			}
			port := fmt.Sprintf("interface %d", u.LinkIndex)
			if l, err := h.LinkByIndex(u.LinkIndex); err == nil {
				port = l.Attrs().Name
			}
			m.learned(u.HardwareAddr.String(), port)
		}
	}()
	n.t.Cleanup(func() { close(done); <-ended; h.Close() })
	return m
}

func (m *moves) learned(mac, port string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if ports := m.seen[mac]; len(ports) == 0 || ports[len(ports)-1] != port {
		m.seen[mac] = append(ports, port)
	}
}

// check compares the way that a MAC has gone through the switch with what it must be.
func (m *moves) check(t *testing.T, mac string, want ...string) {
	t.Helper()
	await(t, 2*time.Second, fmt.Sprintf("the switch to know %s at %s", mac, want[len(want)-1]), func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		ports := m.seen[mac]
		return len(ports) > 0 && ports[len(ports)-1] == want[len(want)-1]
	})
	m.mu.Lock()
	defer m.mu.Unlock()
	if got := m.seen[mac]; !slices.Equal(got, want) {
		t.Errorf("the switch has seen %s at %v, want %v", mac, got, want)
	}
	if len(m.errs) > 0 {
		t.Errorf("the switch's events: %v", m.errs)
	}
}

// flood counts the frames that reach the peer without being for it alone: broadcasts,
// multicasts, and what the switch has flooded. A storm would be tens of thousands a second.
type flood struct {
	t     *testing.T
	fd    int
	began time.Time
}

func (n *nicBox) countFlood() *flood {
	n.t.Helper()
	f := &flood{t: n.t, began: time.Now()}
	n.within(n.net.Peer, func() error {
		link, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		f.fd = fd
		// Classic BPF (linux/filter.h): all that is neither PACKET_HOST nor PACKET_OUTGOING.
		const pkttype = 0xfffff000 + 4 // SKF_AD_OFF + SKF_AD_PKTTYPE
		prog := []unix.SockFilter{
			{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: pkttype},
			{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.PACKET_HOST, Jt: 2},
			{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.PACKET_OUTGOING, Jt: 1},
			{Code: unix.BPF_RET | unix.BPF_K, K: 64},
			{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		}
		all := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL))
		return errors.Join(
			unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}),
			unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
			unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Index}))
	})
	n.t.Cleanup(func() { unix.Close(f.fd) })
	return f
}

// check fails the test when there were more than probes, announcements and the first
// questions for an address can be. The kernel counts also what did not fit into the
// socket, which nobody reads (packet(7), PACKET_STATISTICS).
func (f *flood) check() {
	f.t.Helper()
	st, err := unix.GetsockoptTpacketStats(f.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		f.t.Fatal(err)
	}
	const aSecond, atOnce = 60, 500
	seconds := time.Since(f.began).Seconds()
	if limit := atOnce + int(aSecond*seconds); int(st.Packets) > limit {
		f.t.Errorf("%d broadcast, multicast or flooded frames have reached the peer in %.0f s, more than %d", st.Packets, seconds, limit)
	}
	f.t.Logf("%d broadcast, multicast or flooded frames in %.0f s", st.Packets, seconds)
}
