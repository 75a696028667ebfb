package tcx

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"ft/bond/bondtest"
	"ft/bond/datapath"
	"ft/drivers"
)

func TestFrames(t *testing.T) {
	r := newRig(t)
	for name, test := range map[string]func(*testing.T){
		"group frames come once": r.groupFramesComeOnce,
		"VLAN tags pass":         r.vlanTagsPass,
		"own frames are dropped": r.ownFramesAreDropped,
		"what the NIC gets":      r.whatTheNICGets,
		"a NIC sends by itself":  r.nicSendsByItself,
	} {
		r.setState(0, both, false)
		t.Run(name, test)
	}
}

func (r *rig) groupFramesComeOnce(t *testing.T) {
	face, peer := r.wire(bondtest.Box, "net0"), r.wire(bondtest.Peer, bondtest.PeerNIC)
	for _, to := range []net.HardwareAddr{broadcast, {0x01, 0x00, 0x5e, 0, 0, 0xfb}, {0x33, 0x33, 0, 0, 0, 0x01}} {
		const n = 20
		for i := 0; i < n; i++ {
			peer.send(frame(to, bondtest.PeerMAC(), fmt.Sprintf("group %v", to)))
		}
		if all := face.receive(fmt.Sprintf("group %v", to), n+1); len(all) != n {
			t.Errorf("%d frames to %v, %d came", n, to, len(all))
		}
	}
	if dropped := r.count("port1_dropped_standby"); dropped < 60 {
		t.Errorf("the standby dropped %d frames", dropped)
	}
}

func (r *rig) vlanTagsPass(t *testing.T) {
	face, peer := r.wire(bondtest.Box, "net0"), r.wire(bondtest.Peer, bondtest.PeerNIC)
	for _, active := range []drivers.Side{0, 1} {
		r.setState(active, both, false)
		marker := fmt.Sprintf("tagged by %d", active)
		face.send(tagged(frame(bondtest.PeerMAC(), faceMAC, marker), 100))
		all := peer.receive(marker, 1)
		if len(all) != 1 || all[0].tci != 100 {
			t.Errorf("out by port %d: %v", active, all)
		}
		peer.send(tagged(frame(faceMAC, bondtest.PeerMAC(), marker), 3<<13|101)) // with a priority
		all = face.receive(marker, 1)
		if len(all) != 1 || all[0].tci != 3<<13|101 {
			t.Errorf("in by port %d: %v", active, all)
		}
	}
}

func (r *rig) ownFramesAreDropped(t *testing.T) {
	face := r.wire(bondtest.Box, "net0")
	for s := drivers.Side(0); s <= 1; s++ {
		cable := r.wire(bondtest.Switch, r.Port(s))
		cable.send(frame(broadcast, faceMAC, "reflected"), frame(faceMAC, faceMAC, "reflected"))
		if n := r.count(fmt.Sprintf("port%d_dropped_own", s)); n < 2 {
			t.Errorf("port %d dropped %d own frames", s, n)
		}
	}
	if all := face.receive("reflected", 1); len(all) != 0 {
		t.Errorf("the face got its own frames: %v", all)
	}
}

// Answers to probes, and what neighbours on a cable say to each other, are the NIC's.
func (r *rig) whatTheNICGets(t *testing.T) {
	face := r.wire(bondtest.Box, "net0")
	for s := drivers.Side(0); s <= 1; s++ {
		nic, cable := r.wire(bondtest.Box, r.NIC(s)), r.wire(bondtest.Switch, r.Port(s))
		other := append(net.HardwareAddr{}, bondtest.NICMAC(s)...)
		other[5]++
		cable.send(
			frame(bondtest.NICMAC(s), bondtest.PeerMAC(), "to the NIC"),
			frame(net.HardwareAddr{0x01, 0x80, 0xc2, 0, 0, 0x0e}, bondtest.PeerMAC(), "to the NIC"), // LLDP
			frame(net.HardwareAddr{0x01, 0x80, 0xc2, 0, 0, 0x10}, bondtest.PeerMAC(), "not to the NIC"),
			frame(other, bondtest.PeerMAC(), "not to the NIC"),
		)
		// A packet socket on the NIC sees all; what the stack is given shows on the face.
		if all := nic.receive("to the NIC", 4); len(all) != 4 {
			t.Errorf("port %d: %d frames came", s, len(all))
		}
	}
	if all := face.receive("to the NIC", 3); len(all) != 2 {
		t.Errorf("the face got %d frames, not the 2 of the active port", len(all))
	}
}

// A NIC sends by itself: probes, announcements, LLDP. They stay on that NIC, and an
// injected fault stops them too.
func (r *rig) nicSendsByItself(t *testing.T) {
	for s := drivers.Side(0); s <= 1; s++ {
		nic, cable := r.wire(bondtest.Box, r.NIC(s)), r.wire(bondtest.Switch, r.Port(s))
		for _, f := range []datapath.Fault{datapath.FaultSilent, datapath.FaultDark, datapath.FaultNone} {
			r.fault(s, f)
			marker := fmt.Sprintf("fault %d", f)
			nic.send(frame(broadcast, bondtest.NICMAC(s), marker))
			if all := cable.receive(marker, 1); (len(all) == 1) != (f == datapath.FaultNone) {
				t.Errorf("port %d, fault %d: %d frames left", s, f, len(all))
			}
		}
	}
}

func TestSilentPortKeepsQuietAndIsNotLeft(t *testing.T) {
	r := newRig(t)
	w := r.ways()
	r.fault(0, datapath.FaultSilent)
	if out, in := w.out(20), w.in(20); out != 0 || in != 0 || r.count("port0_dropped_fault") < 40 {
		t.Errorf("%d frames left and %d came by a silent port; %v", out, in, r.Counters())
	}
	if st, turn := r.now(); st.Active != 0 || turn.Count != 0 {
		t.Errorf("the kernel left a silent port: %+v, %+v", st, turn)
	}
	r.setState(1, both, false)
	if out, in := w.out(20), w.in(20); out != 20 || in != 20 {
		t.Errorf("%d frames left and %d came by the other port", out, in)
	}
}

// longGrace is for tests of what is lost: the switch learns from a stream, which may have to
// wait for a processor.
func longGrace(t *testing.T) {
	before := graceTime
	t.Cleanup(func() { graceTime = before })
	graceTime = 10 * time.Second
}

func TestPlannedSwitchLosesNothing(t *testing.T) {
	longGrace(t)
	r := newRig(t)
	s, back := r.Stream(bondtest.ToPeer, 5000), r.Stream(bondtest.FromPeer, 5000)
	for i := 0; i < 10; i++ {
		s.WaitArrived(100, 5*time.Second)
		r.setState(drivers.Side(1-i%2), both, true)
	}
	s.WaitArrived(100, 5*time.Second)
	for name, res := range map[string]bondtest.StreamResult{"to the peer": s.Stop(), "from the peer": back.Stop()} {
		if t.Logf("%s: %v", name, res); res.Lost != 0 || res.Duplicated != 0 {
			t.Errorf("%s: %v", name, res)
		}
	}
	if _, turn := r.now(); turn.Count != 0 {
		t.Errorf("orders were counted as turns: %+v", turn)
	}
}

// What was sent to the port that was active comes in for a moment, if it is unicast, and
// only after a planned switch.
func TestGrace(t *testing.T) {
	r := newRig(t)
	face, cable := r.wire(bondtest.Box, "net0"), r.wire(bondtest.Switch, r.Port(0))
	late := func(marker string) int {
		cable.send(frame(faceMAC, bondtest.PeerMAC(), marker), frame(broadcast, bondtest.PeerMAC(), marker))
		return len(face.receive(marker, 3))
	}
	if n := late("before"); n != 2 {
		t.Errorf("before the switch: %d of 2 frames", n)
	}
	for try := 0; ; try++ { // the moment may have passed on a busy machine
		r.setState(0, both, false)
		r.setState(1, both, true)
		marker := fmt.Sprintf("in grace %d", try)
		now, _ := monotonic()
		cable.send(frame(faceMAC, bondtest.PeerMAC(), marker), frame(broadcast, bondtest.PeerMAC(), marker))
		if then, _ := monotonic(); then-now > uint64(graceTime/2) && try < 100 {
			continue
		}
		if all := face.receive(marker, 3); len(all) != 1 || all[0].frame[0] == 0xff {
			t.Errorf("in grace: %d frames, not the unicast one", len(all))
		}
		break
	}
	until := r.state.Grace.Load()
	bondtest.WaitFor(t, "the grace has passed", time.Second, func() bool { now, err := monotonic(); return err == nil && now > until })
	if n := late("after grace"); n != 0 {
		t.Errorf("after the grace: %d frames", n)
	}
	r.setState(0, both, true)
	r.setState(1, both, false)
	if n := late("unplanned"); n != 0 {
		t.Errorf("after an unplanned switch: %d frames", n)
	}
}

func TestNoPort(t *testing.T) {
	r := newRig(t)
	w := r.ways()
	r.setState(datapath.None, [2]bool{}, false)
	if out, in := w.out(20), w.in(20); out != 0 || in != 0 || r.count("dropped_no_port") < 20 {
		t.Errorf("%d frames left and %d came without a port; %v", out, in, r.Counters())
	}
	r.setState(0, both, false)
	if out, in := w.out(20), w.in(20); out != 20 || in != 20 {
		t.Errorf("%d frames left and %d came by the port that is active again", out, in)
	}
}

// Bulk in both directions over both families, in large segments with checksums left to
// the NIC, while the active port changes under it.
func TestTCPBulk(t *testing.T) {
	r := newRig(t)
	face := r.wire(bondtest.Box, "net0")
	const size = 32 << 20
	for _, test := range []struct {
		name, from, to string
		sender         bondtest.Place
	}{
		{"IPv4 to the peer", bondtest.BoxIP4, bondtest.PeerIP4, bondtest.Box},
		{"IPv6 to the peer", bondtest.BoxIP6, bondtest.PeerIP6, bondtest.Box},
		{"IPv4 from the peer", bondtest.PeerIP4, bondtest.BoxIP4, bondtest.Peer},
		{"IPv6 from the peer", bondtest.PeerIP6, bondtest.BoxIP6, bondtest.Peer},
	} {
		t.Run(test.name, func(t *testing.T) {
			receiver := bondtest.Peer
			if test.sender == bondtest.Peer {
				receiver = bondtest.Box
			}
			packets := packetsOf(t, "net0") + packetsOf(t, "eth0") + packetsOf(t, "eth1")
			began := time.Now()
			sums := make(chan [sha256.Size]byte, 1)
			var ln net.Listener
			r.In(receiver, func() {
				var err error
				if ln, err = net.Listen("tcp", net.JoinHostPort(test.to, "0")); err != nil {
					t.Error(err)
				}
			})
			if ln == nil {
				return
			}
			defer ln.Close()
			go func() { defer close(sums); serve(t, ln, sums) }()
			var c net.Conn
			r.In(test.sender, func() {
				var err error
				d := net.Dialer{Timeout: 5 * time.Second}
				if c, err = d.Dial("tcp", ln.Addr().String()); err != nil {
					t.Error(err)
				}
			})
			if c == nil {
				return
			}
			sent := sha256.New()
			block := make([]byte, 1<<20)
			for j := range block {
				block[j] = byte(j*7 + j>>8)
			}
			for i := 0; i < size/len(block); i++ {
				block[i]++
				sent.Write(block)
				if _, err := c.Write(block); err != nil {
					t.Fatal(err)
				}
				if i%8 == 0 {
					r.setState(r.active().Other(), both, true)
					face.send(frame(broadcast, faceMAC, "the switch learns where the face is"))
				}
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
			if got, ok := <-sums; !ok || got != [sha256.Size]byte(sent.Sum(nil)) {
				t.Error("what came is not what was sent")
			}
			packets = packetsOf(t, "net0") + packetsOf(t, "eth0") + packetsOf(t, "eth1") - packets
			t.Logf("%d MiB in %v, %d packets on the NICs", size>>20, time.Since(began).Round(time.Millisecond), packets)
			if packets > size/1448 {
				t.Errorf("%d packets for %d bytes: they were cut before the NIC", packets, size)
			}
		})
	}
}

func serve(t *testing.T, ln net.Listener, sums chan<- [sha256.Size]byte) {
	c, err := ln.Accept()
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Error(err)
		return
	}
	got := sha256.New()
	if _, err := io.Copy(got, c); err != nil {
		t.Error(err)
		return
	}
	sums <- [sha256.Size]byte(got.Sum(nil))
}

func packetsOf(t *testing.T, name string) int {
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return int(l.Attrs().Statistics.TxPackets + l.Attrs().Statistics.RxPackets)
}
