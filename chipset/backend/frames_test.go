package backend

import (
	"bytes"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"ft/chipset/virtio"
)

func TestFrameQueue(t *testing.T) {
	q := newFrameQueue(4, 100)
	put := func(n int, seed byte) bool { return q.put(bytes.Repeat([]byte{seed}, n)) }
	take := func(n int, seed byte) {
		t.Helper()
		f, ok := q.next()
		if !ok || !bytes.Equal(f, bytes.Repeat([]byte{seed}, n)) {
			t.Fatalf("%d bytes of %v came out (%v), want %d of %d", len(f), f[:min(1, len(f))], ok, n, seed)
		}
		q.drop()
	}
	if put(101, 1) {
		t.Fatal("more than there can be")
	}
	if !put(40, 1) || !put(40, 2) || put(40, 3) {
		t.Fatal("two of 40 fit into 100, and not three")
	}
	take(40, 1)
	if !put(30, 3) || put(20, 4) || !put(10, 4) { // around the end
		t.Fatal("what is free at the start is 40 bytes")
	}
	take(40, 2)
	take(30, 3)
	take(10, 4)
	for i := range byte(4) {
		if !put(1, i) {
			t.Fatal("no room")
		}
	}
	if put(1, 9) {
		t.Fatal("five of four")
	}
	for i := range byte(4) {
		take(1, i)
	}
	if !put(100, 7) {
		t.Fatal("the whole of it")
	}
	take(100, 7)
	q.close()
	if _, ok := q.next(); ok || put(1, 1) {
		t.Fatal("a closed queue goes on")
	}
}

func TestTransmitAllocatesNothing(t *testing.T) {
	cable(t)
	n, _ := open(t, NetworkConfig{Link: "lower", Name: "ft-guest"})
	f := append(make([]byte, virtio.NetHeader), frame(peerMAC, guestMAC, strings.Repeat("x", 1400))...)
	sent := uint64(0)
	// So many that the interface's keeper, who looks now and then, does not count.
	if got := testing.AllocsPerRun(5000, func() {
		n.Transmit(f)
		for sent++; n.stats.sent.Load() < sent; { // wait for the writer, so that its allocations count too
			runtime.Gosched()
		}
	}); got != 0 {
		t.Fatalf("%v allocations a frame", got)
	}
}

func BenchmarkTransmit1500(b *testing.B) {
	a := netlink.NewLinkAttrs()
	a.Name = "lower"
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: a, PeerName: "peer"}); err != nil {
		b.Fatal(err)
	}
	for _, name := range []string{"lower", "peer"} {
		l, _ := netlink.LinkByName(name)
		defer netlink.LinkDel(l)
		if err := netlink.LinkSetUp(l); err != nil {
			b.Fatal(err)
		}
	}
	n, err := OpenNetwork(NetworkConfig{Link: "lower", Name: "ft-guest", MAC: guestMAC, Frame: func([]byte) {}})
	if err != nil {
		b.Fatal(err)
	}
	defer n.Close()
	f := append(make([]byte, virtio.NetHeader), frame(peerMAC, guestMAC, strings.Repeat("x", 1486))...)
	b.SetBytes(int64(len(f)))
	for b.Loop() {
		for n.out.full() {
			runtime.Gosched()
		}
		n.Transmit(f)
	}
	b.ReportMetric(float64(n.Stats().DroppedNoRoom), "dropped")
}

func (q *frameQueue) full() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.count == len(q.spans)
}
