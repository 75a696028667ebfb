package virtio

import (
	"bytes"
	"encoding/binary"
	"testing"
)

const netFeatures = featuresCommon | featureNetMAC | featureNetStatus | featureNetMergeable | featureNetMTU | featuresNetOffload

func newNet(t tb, features uint64) (*guest, *Net) {
	t.Helper()
	g := newGuest(t)
	n, err := NewNet(slot, g, g, NetConfig{MAC: [6]byte{2, 0, 0, 0, 0, 1}, MTU: 1500, Offloads: true})
	if err != nil {
		t.Fatalf("%v", err)
	}
	g.dev = n
	g.start(features, 64)
	g.sent()
	return g, n
}

// packet is a frame of n bytes behind a header without requests.
func packet(n int) []byte {
	p := make([]byte, NetHeader+n)
	for i := NetHeader; i < len(p); i++ {
		p[i] = byte(i * 7)
	}
	return p
}

// supply makes receive buffers available; it returns their addresses.
func (g *guest) supply(sizes ...int) (addr []uint64) {
	r := g.queues[netReceive]
	before := r.availIdx
	for _, n := range sizes {
		a := g.allocate(n)
		addr = append(addr, a)
		r.add(buffer{a, n, true})
	}
	r.kick(before)
	return addr
}

func TestNetSends(t *testing.T) {
	g, n := newNet(t, netFeatures)
	p := packet(60)
	g.queues[netTransmit].send(buffer{g.put(p[:5]), 5, false}, buffer{g.put(p[5:]), len(p) - 5, false})
	out := g.sent()
	if len(out) != 1 || out[0].Op != Transmit || !bytes.Equal(out[0].Data, p) || out[0].ID != 0 {
		t.Fatalf("left: %v", out)
	}
	if got := g.queues[netTransmit].harvest(); len(got) != 1 || got[0].written != 0 {
		t.Fatalf("came back: %v", got)
	}
	if i := n.Info(); i.Sent != 1 || i.InFlight != 0 {
		t.Fatalf("%+v", i)
	}
}

func TestNetHeadersOfWhatIsSent(t *testing.T) {
	header := func(flags, gso byte) []byte {
		return []byte{flags, gso, 54, 0, 0xb4, 5, 34, 0, 16, 0, 9, 9}
	}
	tso := uint64(netFeatures)
	csum := tso &^ (featureNetHostTSO4 | featureNetHostTSO6)
	plain := csum &^ (featureNetCsum | featureNetGuestCsum | featureNetGuestTSO4 | featureNetGuestTSO6)
	for _, c := range []struct {
		name     string
		features uint64
		header   []byte
		want     []byte // nil: dropped
	}{
		{"nothing asked for", tso, header(0, gsoNone), make([]byte, NetHeader)},
		{"a checksum", tso, header(flagNeedsCsum, gsoNone), []byte{1, 0, 54, 0, 0xb4, 5, 34, 0, 16, 0, 0, 0}},
		{"flags that are for receiving", tso, header(0xfe, gsoNone), make([]byte, NetHeader)},
		{"segmentation", tso, header(flagNeedsCsum, gsoTCPv4), []byte{1, 1, 54, 0, 0xb4, 5, 34, 0, 16, 0, 0, 0}},
		{"segmentation without a checksum", tso, header(0, gsoTCPv4), nil},
		{"segmentation of IPv6, not negotiated", tso &^ featureNetHostTSO6, header(flagNeedsCsum, gsoTCPv6), nil},
		{"segmentation, not negotiated", csum, header(flagNeedsCsum, gsoTCPv4), nil},
		{"a checksum, not negotiated", plain, header(flagNeedsCsum, gsoNone), nil},
		{"a kind that there is not", tso, header(flagNeedsCsum, 0x81), nil},
	} {
		g, n := newNet(t, c.features)
		g.queues[netTransmit].send(buffer{g.put(append(c.header, make([]byte, 60)...)), NetHeader + 60, false})
		out := g.sent()
		if c.want == nil {
			if len(out) != 0 || n.Info().Dropped != 1 {
				t.Errorf("%s: left %v, %d dropped", c.name, out, n.Info().Dropped)
			}
		} else if len(out) != 1 || !bytes.Equal(out[0].Data[:NetHeader], c.want) {
			t.Errorf("%s: left with %x, want %x", c.name, out, c.want)
		}
		if got := g.queues[netTransmit].harvest(); len(got) != 1 {
			t.Errorf("%s: the buffer did not come back", c.name)
		}
	}
}

func TestNetFeaturesNeedEachOther(t *testing.T) {
	g, _ := newNet(t, netFeatures)
	for _, f := range []uint64{featureNetGuestTSO4, featureNetGuestTSO6 | featureNetCsum, featureNetHostTSO4, featureNetHostTSO6 | featureNetGuestCsum} {
		if g.negotiate(featureVersion1 | f); g.read(regStatus)&statusFeaturesOK != 0 {
			t.Errorf("%#x was accepted", f)
		}
	}
}

func TestNetTellsWhatFramesMayComeWith(t *testing.T) {
	g := newGuest(t)
	n, _ := NewNet(slot, g, g, NetConfig{MAC: [6]byte{2}, Offloads: true})
	g.dev = n
	g.start(featuresCommon|featureNetGuestCsum|featureNetGuestTSO6, 8)
	out := g.sent()
	if last := out[len(out)-1]; last.Op != Offloads || last.Length != OffloadCsum|OffloadTSO6 {
		t.Fatalf("left: %v", out)
	}
	g.write(regStatus, 0)
	if out := g.sent(); len(out) != 1 || out[0].Op != Offloads || out[0].Length != 0 {
		t.Fatalf("left at the reset: %v", out)
	}
}

func TestNetReceives(t *testing.T) {
	g, n := newNet(t, netFeatures)
	a := g.supply(2048)
	p := packet(1000)
	if taken := n.Receive(p); taken != len(p) {
		t.Fatalf("%d bytes were taken", taken)
	}
	if got := g.queues[netReceive].harvest(); len(got) != 1 || got[0].written != uint32(len(p)) {
		t.Fatalf("came back: %v", got)
	}
	binary.LittleEndian.PutUint16(p[headerBuffers:], 1)
	if !bytes.Equal(g.mem(a[0], len(p)), p) || !g.line {
		t.Fatal("the frame did not arrive, or no interrupt")
	}
}

func TestNetSpreadsAFrameOverBuffers(t *testing.T) {
	g, n := newNet(t, netFeatures)
	a := g.supply(500, 12, 300, 2000, 2000)
	p := packet(1000)
	n.Receive(p)
	got := g.queues[netReceive].harvest()
	want := []uint32{500, 12, 300, 200}
	if len(got) != len(want) {
		t.Fatalf("came back: %v", got)
	}
	binary.LittleEndian.PutUint16(p[headerBuffers:], uint16(len(want)))
	var all []byte
	for i, w := range want {
		if got[i].written != w {
			t.Fatalf("came back: %v, want lengths %v", got, want)
		}
		all = append(all, g.mem(a[i], int(w))...)
	}
	if !bytes.Equal(all, p) {
		t.Fatal("the frame is not the one that came")
	}
}

func TestNetKeepsFramesUntilThereAreBuffers(t *testing.T) {
	g, n := newNet(t, netFeatures)
	g.supply(100) // too few for a frame of 1000
	for i := range 3 {
		p := packet(1000)
		p[NetHeader] = byte(i)
		n.Receive(p)
	}
	if got := g.queues[netReceive].harvest(); len(got) != 0 {
		t.Fatalf("came back: %v", got)
	}
	before := g.queues[netReceive].notifications
	a := g.supply(1000, 2000, 2000)
	if g.queues[netReceive].notifications != before+1 {
		t.Fatal("the device did not ask for a notification")
	}
	got := g.queues[netReceive].harvest()
	if len(got) != 4 {
		t.Fatalf("came back: %v, want all three frames in four buffers", got)
	}
	for i := range 2 {
		if b := g.mem(a[1+i], NetHeader+1)[NetHeader]; b != byte(1+i) {
			t.Fatalf("buffer %d has frame %d", i, b)
		}
	}
	if i := n.Info(); i.Dropped != 0 || i.Received != 3 {
		t.Fatalf("%+v", i)
	}
	// With none waiting, it does not want to know of each new buffer.
	if before = g.queues[netReceive].notifications; g.supply(100) != nil && g.queues[netReceive].notifications != before {
		t.Fatal("notified with nothing waiting")
	}
}

func TestNetBoundsWhatWaits(t *testing.T) {
	g, n := newNet(t, netFeatures)
	for range waitFrames + 5 {
		n.Receive(packet(60))
	}
	if d := n.Info().Dropped; d != 5 {
		t.Fatalf("%d small frames were dropped, want 5", d)
	}
	g.start(netFeatures, 64)
	const big = 60000
	fit := waitBytes / (waitLength + NetHeader + big)
	for range fit + 2 {
		n.Receive(packet(big))
	}
	if d := n.Info().Dropped; d != 7 {
		t.Fatalf("%d large frames were dropped, want 2", d-5)
	}
	sizes := make([]int, 63)
	for i := range sizes {
		sizes[i] = 62000
	}
	g.supply(sizes...)
	if r := n.Info().Received; r != uint64(fit) {
		t.Fatalf("%d frames were delivered, want %d: those before the reset went with it", r, fit)
	}
}

func TestNetDropsWhatTheDriverDoesNotTake(t *testing.T) {
	g, n := newNet(t, netFeatures&^(featuresNetOffload|featureNetMergeable))
	a := g.supply(1526, 1526)
	drop := func(name string, p []byte) {
		t.Helper()
		before := n.Info().Dropped
		if taken := n.Receive(p); taken != 0 || n.Info().Dropped != before+1 {
			t.Errorf("%s: %d bytes were taken", name, taken)
		}
	}
	p := packet(100)
	p[headerFlags] = flagNeedsCsum
	drop("a frame without its checksum", p)
	p = packet(100)
	p[headerGSO] = gsoTCPv4
	drop("a frame to be segmented", p)
	drop("a frame longer than any buffer", packet(1600))
	drop("no frame", packet(0))
	drop("half a header", make([]byte, 6))
	drop("more than there can be", packet(NetFrameMax))
	p = packet(100)
	p[headerFlags] = 2 // VIRTIO_NET_HDR_F_DATA_VALID
	if n.Receive(p) == 0 {
		t.Error("a frame whose checksum was found valid is dropped")
	}
	if flags := g.mem(a[0], 1)[0]; flags != 0 {
		t.Errorf("its header has the flags %#x, which were not negotiated", flags)
	}
	n.SetLink(false)
	drop("with the link down", packet(100))
	g.write(regStatus, 0)
	drop("after a reset", packet(100))
}

func TestNetDropsWhatItCannotSend(t *testing.T) {
	g, n := newNet(t, netFeatures)
	g.queues[netTransmit].send(buffer{ramBase, NetFrameMax, false}, buffer{ramBase, 1, false})
	if out := g.sent(); len(out) != 0 || n.Info().Dropped != 1 || len(g.queues[netTransmit].harvest()) != 1 {
		t.Fatalf("left: a frame of %d bytes", len(out[0].Data))
	}
	g.queues[netTransmit].send(buffer{ramBase, NetFrameMax, false})
	if out := g.sent(); len(out) != 1 || n.Info().Dropped != 1 {
		t.Fatal("the longest frame that there can be was dropped")
	}
}

// Buffers in very many pieces: what a frame cannot be spread over is dropped, and the
// buffers stay for a smaller one.
func TestNetSpreadsAFrameOverABoundedNumberOfPieces(t *testing.T) {
	g, n := newNet(t, netFeatures)
	a := g.allocate(1 << 16)
	for range 5 {
		var list []buffer
		for i := range 250 {
			list = append(list, buffer{a + uint64(i)*16, 16, true})
		}
		g.queues[netReceive].add(list...)
	}
	if n.Receive(packet(250*16*4+100)) != 0 || n.Info().Phase != PhaseLive || n.Info().Dropped != 1 {
		t.Fatalf("it is %v with %d dropped", n.Info().Phase, n.Info().Dropped)
	}
	if n.Receive(packet(250*16*4-100)) == 0 || len(g.queues[netReceive].harvest()) != 4 {
		t.Fatalf("a frame for four buffers: %d received", n.Info().Received)
	}
}

func TestNetLink(t *testing.T) {
	g, n := newNet(t, netFeatures)
	status := func() uint64 { v, _ := n.Load(regConfig+6, 2); return v }
	if status() != linkUp {
		t.Fatal("the link is down")
	}
	generation := g.read(regConfigGeneration)
	n.SetLink(false)
	if status() != 0 || g.acknowledge() != interruptConfig || g.read(regConfigGeneration) == generation {
		t.Fatal("the driver is not told that the link went down")
	}
	g.queues[netTransmit].send(buffer{g.put(packet(60)), NetHeader + 60, false})
	if out := g.sent(); len(out) != 0 || n.Info().Dropped != 1 {
		t.Fatalf("left without a link: %v", out)
	}
	g.acknowledge()
	n.SetLink(false)
	if g.line {
		t.Fatal("told twice")
	}
	n.SetLink(true)
	if status() != linkUp || g.acknowledge() != interruptConfig {
		t.Fatal("the driver is not told that the link came up")
	}
}

func TestNetConfigurationSpace(t *testing.T) {
	_, n := newNet(t, netFeatures)
	for _, c := range []struct {
		name string
		off  uint64
		size int
		want uint64
	}{{"mac", 0, 4, 2}, {"mac's end", 4, 2, 0x100}, {"max_virtqueue_pairs", 8, 2, 1}, {"mtu", 10, 2, 1500}} {
		if v, _ := n.Load(regConfig+c.off, c.size); v != c.want {
			t.Errorf("%s is %#x, want %#x", c.name, v, c.want)
		}
	}
	for _, cfg := range []NetConfig{{}, {MAC: [6]byte{1}}, {MAC: [6]byte{2}, MTU: 67}} {
		if _, err := NewNet(slot, nil, nil, cfg); err == nil {
			t.Errorf("%+v was taken", cfg)
		}
	}
}

func TestNetBrokenRules(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(g *guest, n *Net)
		want Violation
	}{
		{"a writable buffer to send", func(g *guest, n *Net) {
			g.queues[netTransmit].send(buffer{ramBase, 100, false}, buffer{ramBase, 100, true})
		}, ViolationDirection},
		{"less than a header to send", func(g *guest, n *Net) { g.queues[netTransmit].send(buffer{ramBase, 11, false}) }, ViolationHeader},
		{"a frame outside RAM", func(g *guest, n *Net) { g.queues[netTransmit].send(buffer{0x1000, 100, false}) }, ViolationDataOutside},
		{"a readable buffer to receive", func(g *guest, n *Net) {
			g.queues[netReceive].send(buffer{ramBase, 2000, false})
			n.Receive(packet(100))
		}, ViolationDirection},
		{"less than a header to receive", func(g *guest, n *Net) {
			g.queues[netReceive].send(buffer{ramBase, 11, true})
			n.Receive(packet(100))
		}, ViolationHeader},
		{"a buffer outside RAM", func(g *guest, n *Net) {
			g.queues[netReceive].send(buffer{0x1000, 2000, true})
			n.Receive(packet(100))
		}, ViolationDataOutside},
	} {
		g, n := newNet(t, netFeatures)
		c.do(g, n)
		if i := n.Info(); i.Phase != PhaseNeedsReset || i.Violation != c.want {
			t.Errorf("%s: it is %v for %q", c.name, i.Phase, i.Violation)
		}
	}
}
