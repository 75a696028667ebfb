package tc

import (
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	"ft/bond/bondtest"
	"ft/bond/datapath"
	"ft/drivers"
	"ft/drivers/kerneltest"
)

// A stream goes on through failovers and planned switches, and nothing of it comes twice.
func TestStreamThroughSwitches(t *testing.T) {
	for _, d := range []bondtest.Direction{bondtest.ToPeer, bondtest.FromPeer} {
		for _, planned := range []bool{true, false} {
			t.Run(fmt.Sprintf("%v, planned %v", d, planned), func(t *testing.T) {
				b := newBench(t)
				face := b.Raw(bondtest.Box, "net0")
				b.learn(face, "start")
				s := b.Stream(d, 5000)
				s.WaitArrived(200, patience)
				for i := range 10 {
					b.activate(drivers.Side(i+1)&1, planned)
					b.learn(face, fmt.Sprint("switch ", i)) // as package announce does
					s.WaitArrived(200, patience)
				}
				r := s.Stop()
				t.Logf("10 switches: %v", r)
				if r.Duplicated != 0 {
					t.Errorf("%d datagrams came twice", r.Duplicated)
				}
			})
		}
	}
}

// As the driver does it: the carrier goes, and the port with it.
func TestStreamThroughPulledCables(t *testing.T) {
	for _, d := range []bondtest.Direction{bondtest.ToPeer, bondtest.FromPeer} {
		t.Run(d.String(), func(t *testing.T) {
			b := newBench(t)
			face := b.Raw(bondtest.Box, "net0")
			b.learn(face, "start")
			s := b.Stream(d, 5000)
			s.WaitArrived(200, patience)
			for i := range drivers.Side(4) {
				b.PullCable(i & 1)
				b.activate((i+1)&1, false)
				b.learn(face, fmt.Sprint("failover ", i))
				s.WaitArrived(200, patience)
				b.ReturnCable(i & 1)
				s.WaitArrived(200, patience)
			}
			r := s.Stop()
			t.Logf("4 failovers: %v", r)
			if r.Duplicated != 0 {
				t.Errorf("%d datagrams came twice", r.Duplicated)
			}
		})
	}
}

// Frames on their way to the port that was active still come in after a planned switch,
// and not for ever, and not those that every port gets.
func TestPlannedSwitchLeavesTheOldPortHalfOpen(t *testing.T) {
	b := newBench(t)
	face, old := b.Raw(bondtest.Box, "net0"), b.Raw(bondtest.Switch, b.Port(0))
	b.activate(1, true)
	late := bondtest.Frame(faceMAC, bondtest.PeerMAC(), 0, "late")
	all := bondtest.Frame(net.HardwareAddr{0x01, 0, 0x5e, 1, 2, 3}, bondtest.PeerMAC(), 0, "all")
	if b.whileHalfOpen(0, func() {
		tap := b.Raw(bondtest.Box, b.NIC(0))
		old.Send(all)
		old.Send(late)
		tap.Next("a frame by the old port", patience, bondtest.Same(late))
	}) {
		face.Next("a frame that was on its way", patience, func(f []byte) bool {
			if bondtest.Same(all)(f) {
				t.Error("a group's frame came in by the old port")
			}
			return bondtest.Same(late)(f)
		})
	} else {
		t.Log("this machine is busy: the way was closed before it could be tried")
	}
	b.closed(0)
	face.Waiting()
	tap := b.Raw(bondtest.Box, b.NIC(0))
	late = bondtest.Frame(faceMAC, bondtest.PeerMAC(), 0, "too late")
	old.Send(late)
	tap.Next("a frame by the old port", patience, bondtest.Same(late))
	mark := bondtest.Frame(faceMAC, bondtest.PeerMAC(), 0, "mark")
	b.Raw(bondtest.Switch, b.Port(1)).Send(mark)
	face.Next("a frame by the new port", patience, func(f []byte) bool {
		if bondtest.Same(late)(f) {
			t.Error("a frame came in by the old port too late")
		}
		return bondtest.Same(mark)(f)
	})
}

// whileHalfOpen keeps a way half open while f runs, if it still is.
func (b *bench) whileHalfOpen(s drivers.Side, f func()) bool {
	b.p.mu.Lock()
	defer b.p.mu.Unlock()
	if b.p.ports[s].late {
		f()
		return true
	}
	return false
}

// A switch back before the half open way has ended, and a failover, leave one port open.
func TestSwitchesInQuickSuccession(t *testing.T) {
	b := newBench(t)
	for i := range 60 {
		b.activate(drivers.Side(i+1)&1, i%3 != 0)
	}
	b.closed(1)
	nodes, _, err := b.p.k.nodes(b.Index(b.NIC(0)), ingress)
	b.must(err)
	if nodes[nodeIn] == nil || nodes[nodeLate] != nil {
		t.Errorf("the active port's nodes: %v", nodes)
	}
}

// Bulk TCP with segmentation offload both ways, over IPv4 and IPv6, while ports change.
func TestTCP(t *testing.T) {
	size := int64(32 << 20)
	if kerneltest.InGuest() { // where a processor manages a few megabytes a second
		size = 4 << 20
	}
	for _, to := range []string{bondtest.PeerIP4, bondtest.PeerIP6} {
		t.Run(to, func(t *testing.T) {
			b := newBench(t)
			face := b.Raw(bondtest.Box, "net0")
			var l net.Listener
			var err error
			b.InPeer(func() { l, err = net.Listen("tcp", net.JoinHostPort(to, "0")) })
			b.must(err)
			defer l.Close()
			echoed := make(chan error, 1)
			go func() { // ends with the connection, or with the listener
				c, err := l.Accept()
				if err == nil {
					_, err = io.Copy(c, c)
					c.Close()
				}
				echoed <- err
			}()
			c, err := net.DialTimeout("tcp", l.Addr().String(), patience)
			b.must(err)
			defer c.Close()
			b.must(c.SetDeadline(time.Now().Add(2 * time.Minute)))

			sent, got := sha256.New(), sha256.New()
			wrote := make(chan error, 1)
			go func() {
				_, err := io.CopyN(io.MultiWriter(c, sent), rand.NewChaCha8([32]byte{1}), size)
				wrote <- err
			}()
			for i := range 8 {
				if _, err := io.CopyN(got, c, size/8); err != nil {
					t.Fatalf("after %d of 8 parts: %v", i, err)
				}
				b.activate(drivers.Side(i+1)&1, i%2 == 0)
				b.learn(face, fmt.Sprint("part ", i))
			}
			b.must(<-wrote)
			b.must(c.(*net.TCPConn).CloseWrite())
			b.must(<-echoed)
			if string(sent.Sum(nil)) != string(got.Sum(nil)) {
				t.Error("what came back is not what was sent")
			}
		})
	}
}

// Group traffic that the kernel itself has joined, through the active port.
func TestMulticast(t *testing.T) {
	b := newBench(t)
	group := &net.UDPAddr{IP: net.IPv4(239, 1, 2, 3), Port: 4242}
	ifi, err := net.InterfaceByName("net0")
	b.must(err)
	in, err := net.ListenMulticastUDP("udp4", ifi, group)
	b.must(err)
	defer in.Close()
	var out *net.UDPConn
	b.InPeer(func() {
		out, err = net.DialUDP("udp4", &net.UDPAddr{IP: net.ParseIP(bondtest.PeerIP4)}, group)
	})
	b.must(err)
	defer out.Close()
	for i, active := range []drivers.Side{0, 1} {
		b.activate(active, false)
		want := []string{fmt.Sprint("one ", i), fmt.Sprint("two ", i)}
		for _, text := range want {
			_, err := out.Write([]byte(text))
			b.must(err)
		}
		for _, text := range want {
			var got [16]byte
			b.must(in.SetReadDeadline(time.Now().Add(patience)))
			n, err := in.Read(got[:])
			b.must(err)
			if string(got[:n]) != text {
				t.Errorf("port %d: got %q, not %q: lost or doubled", active, got[:n], text)
			}
		}
	}
	b.activate(datapath.None, false)
}

func TestCounters(t *testing.T) {
	b := newBench(t)
	s := b.Stream(bondtest.ToPeer, 1000)
	s.WaitArrived(20, patience)
	r := s.Stop()
	// The first frames of all are ARP's, which both sides send.
	got := b.p.Counters()
	if got["sent_since_switch"] < uint64(r.Sent) || got["port0_received_since_switch"] == 0 || got["switches"] != 1 {
		t.Errorf("after %v: %v", r, got)
	}
	if b.p.dropper == byGact && got["port1_dropped_own"] == 0 {
		t.Errorf("no frame of the face's own was dropped on the standby: %v", got)
	}
	b.must(b.p.Close())
	if got := b.p.Counters(); got != nil {
		t.Errorf("a closed path counts: %v", got)
	}
	b.reopen()
	if d := b.p.Describe(); d.Kind != datapath.TC || !strings.Contains(d.Variant, b.p.dropper.String()) {
		t.Errorf("description: %+v", d)
	}
}
