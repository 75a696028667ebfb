package virtio

import (
	"bytes"
	"testing"
)

func newConsole(t tb) (*guest, *Console) {
	g := newGuest(t)
	d := NewConsole(slot, g, g)
	g.dev = d
	g.start(featuresCommon, 16)
	return g, d
}

func TestConsoleWrites(t *testing.T) {
	g, _ := newConsole(t)
	g.queues[consoleTransmit].send(buffer{g.put([]byte("hel")), 3, false}, buffer{g.put([]byte("lo")), 2, false})
	if out := g.sent(); len(out) != 1 || out[0].Op != Output || string(out[0].Data) != "hello" {
		t.Fatalf("left: %v", out)
	}
	if got := g.queues[consoleTransmit].harvest(); len(got) != 1 || got[0].written != 0 || !g.line {
		t.Fatalf("came back: %v", got)
	}
}

func TestConsoleBoundsOneWrite(t *testing.T) {
	g, d := newConsole(t)
	g.queues[consoleTransmit].send(buffer{ramBase, 1 << 20, false})
	if out := g.sent(); len(out) != 1 || len(out[0].Data) != consoleWriteMax {
		t.Fatalf("left: %d pieces", len(out))
	}
	if i := d.Info(); i.Dropped != 1<<20-consoleWriteMax {
		t.Fatalf("%d bytes were dropped", i.Dropped)
	}
}

func TestConsoleTyping(t *testing.T) {
	g, d := newConsole(t)
	if n := d.Receive([]byte("root\n")); n != 5 {
		t.Fatalf("%d bytes were taken", n)
	}
	a := g.put([]byte("xxx"))
	b := g.put([]byte("xxx"))
	g.queues[consoleReceive].send(buffer{a, 3, true})
	g.queues[consoleReceive].send(buffer{b, 3, true})
	got := g.queues[consoleReceive].harvest()
	if len(got) != 2 || got[0].written != 3 || got[1].written != 2 || string(g.mem(a, 3)) != "roo" || string(g.mem(b, 2)) != "t\n" {
		t.Fatalf("came back: %v %q %q", got, g.mem(a, 3), g.mem(b, 3))
	}
	long := bytes.Repeat([]byte("y"), 2*consoleWaiting)
	if n := d.Receive(long); n != consoleWaiting || d.Room() != 0 {
		t.Fatalf("%d bytes were taken, there is room for %d more", n, d.Room())
	}
	g.write(regStatus, 0)
	if d.Room() != 0 || d.Receive(long) != 0 {
		t.Fatal("a guest without a driver takes what is typed")
	}
	g.start(featuresCommon, 16)
	g.queues[consoleReceive].send(buffer{a, 3, true})
	if got := g.queues[consoleReceive].harvest(); len(got) != 0 {
		t.Fatalf("what was typed to the driver before came to this one: %v", got)
	}
}

func TestEntropy(t *testing.T) {
	g := newGuest(t)
	d := NewEntropy(slot, g, g)
	g.dev = d
	g.start(featuresCommon, 8)
	q := g.queues[entropyQueue]
	a, b := g.allocate(4000), g.allocate(64)
	q.send(buffer{a, 4000, true})
	q.send(buffer{b, 64, true})
	out := g.sent()
	if len(out) != 1 || out[0].Op != Entropy || out[0].Length != EntropyMax {
		t.Fatalf("left: %v, want one at a time, of at most %d bytes", out, EntropyMax)
	}
	d.Complete(&Completion{ID: out[0].ID, Data: bytes.Repeat([]byte{7}, 100)}) // fewer than asked for
	next := g.sent()
	if len(next) != 1 || next[0].Length != 64 {
		t.Fatalf("left: %v", next)
	}
	d.Complete(&Completion{ID: next[0].ID, Status: IOError, Data: make([]byte, 64)})
	got := q.harvest()
	if len(got) != 2 || got[0].written != 100 || got[1].written != 0 || g.mem(a, 100)[99] != 7 || g.mem(a, 101)[100] != 0 {
		t.Fatalf("came back: %v", got)
	}
	q.send(buffer{a, 10, true})
	id := g.sent()[0].ID
	g.write(regStatus, 0)
	if !d.Held() {
		t.Fatal("a reset does not wait for the random bytes")
	}
	d.Complete(&Completion{ID: id, Data: make([]byte, 10)})
	if d.Held() || d.Info().Phase != PhaseReset {
		t.Fatal("it did not go on")
	}
}
