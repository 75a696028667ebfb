package virtio

import "testing"

// Nothing is allocated in the steady state.
func TestNothingIsAllocated(t *testing.T) {
	none := func(name string, f func()) {
		t.Helper()
		if n := testing.AllocsPerRun(200, f); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
	g := newGuest(t)
	mem, sink := ramOnly{g}, &lastRequest{}
	b, _ := NewBlock(slot, mem, sink, BlockConfig{Sectors: 2048})
	g.dev = b
	g.start(blockFeatures, 64)
	header := g.allocate(16)
	data, status := g.allocate(4096), g.allocate(1)
	answer := &Completion{Data: make([]byte, 4096)}
	q := &refill{g: g, r: g.queues[0]}
	q.table(buffer{header, 16, false}, buffer{data, 4096, true}, buffer{status, 1, true})
	none("a block read", func() {
		q.again()
		answer.ID = sink.r.ID
		b.Complete(answer)
	})
	state := make([]byte, 0, 1<<20)
	none("saving a state", func() { state = b.SaveState(state[:0]) })

	n, _ := NewNet(slot, mem, sink, NetConfig{MAC: [6]byte{2}})
	g.dev = n
	g.start(featuresCommon|featureNetMergeable, 64)
	tx := &refill{g: g, r: g.queues[netTransmit]}
	tx.table(buffer{data, 1500, false})
	none("a frame sent", tx.again)
	rx := &refill{g: g, r: g.queues[netReceive]}
	rx.table(buffer{data, 4096, true})
	frame := packet(1500)
	none("a frame received", func() {
		n.Receive(frame) // waits
		rx.again()
	})
	if i := n.Info(); i.Received < 200 || i.Sent < 200 {
		t.Fatalf("%+v", i)
	}
}

// ramOnly and lastRequest are Memory and Port without anything of the test's.
type ramOnly struct{ g *guest }

func (m ramOnly) ReadRAM(addr uint64, p []byte) bool {
	ok := addr >= ramBase && addr-ramBase <= ramSize-uint64(len(p))
	if ok {
		copy(p, m.g.ram[addr-ramBase:])
	}
	return ok
}

func (m ramOnly) WriteRAM(addr uint64, p []byte) bool {
	ok := addr >= ramBase && addr-ramBase <= ramSize-uint64(len(p))
	if ok {
		copy(m.g.ram[addr-ramBase:], p)
	}
	return ok
}

type lastRequest struct {
	r    Request
	line bool
}

func (s *lastRequest) Interrupt(_ int, level bool) { s.line = level }
func (s *lastRequest) Emit(_ int, r *Request)      { s.r = *r }
func (s *lastRequest) Hold(int)                    {}

// refill makes the same chain available again and again, without a driver's books.
type refill struct {
	g *guest
	r *ring
}

func (f *refill) table(list ...buffer) {
	for i, b := range list {
		flags := b.flags()
		if i+1 < len(list) {
			flags |= descNext
		}
		f.g.setDescriptor(f.r.desc, i, b.addr, uint32(b.len), flags, uint16(i+1))
	}
	for i := range f.r.num {
		f.r.setU16(f.r.avail+availHeader+availEntry*uint64(i), 0)
	}
}

func (f *refill) again() {
	f.r.availIdx++
	f.r.setU16(f.r.avail+2, f.r.availIdx)
	f.g.dev.Store(regQueueNotify, 4, uint64(f.r.index))
}

func BenchmarkBlockRead4K(b *testing.B) {
	g := newGuest(b)
	sink := &lastRequest{}
	d, _ := NewBlock(slot, ramOnly{g}, sink, BlockConfig{Sectors: 2048})
	g.dev = d
	g.start(blockFeatures, 64)
	q := &refill{g: g, r: g.queues[0]}
	data := g.allocate(4096)
	q.table(buffer{g.allocate(16), 16, false}, buffer{data, 4096, true}, buffer{g.allocate(1), 1, true})
	answer := &Completion{Data: make([]byte, 4096)}
	for b.Loop() {
		q.again()
		answer.ID = sink.r.ID
		d.Complete(answer)
	}
}

func BenchmarkNetReceive1500(b *testing.B) {
	g := newGuest(b)
	n, _ := NewNet(slot, ramOnly{g}, &lastRequest{}, NetConfig{MAC: [6]byte{2}})
	g.dev = n
	g.start(featuresCommon|featureNetMergeable, 64)
	q := &refill{g: g, r: g.queues[netReceive]}
	q.table(buffer{g.allocate(4096), 4096, true})
	frame := packet(1500)
	for b.Loop() {
		q.again()
		n.Receive(frame)
	}
}
