package virtio

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

// reload makes a new device from the state of the present one and puts it in its place.
// What it knows must be the same, and the line is driven anew.
func (g *guest) reload(fresh func() Device) {
	g.t.Helper()
	saved := g.dev.SaveState(nil)
	line := g.line
	d := fresh()
	g.line = !line
	if err := d.LoadState(saved); err != nil {
		g.t.Fatalf("%v", err)
	}
	if again := d.SaveState(nil); !bytes.Equal(saved, again) {
		g.t.Fatalf("a state of %d bytes was loaded, one of %d is there", len(saved), len(again))
	}
	if g.line != line {
		g.t.Fatalf("the line is %v after loading, it was %v", g.line, line)
	}
	g.dev = d
}

// pieces cuts n bytes into up to most buffers.
func pieces(t *rapid.T, g *guest, n, most int, writable bool) (list []buffer) {
	for n > 0 {
		size := n
		if len(list)+1 < most {
			size = rapid.IntRange(1, n).Draw(t, "piece")
		}
		list = append(list, buffer{g.allocate(size), size, writable})
		n -= size
	}
	return list
}

func (g *guest) collect(list []buffer) (all []byte) {
	for _, b := range list {
		all = append(all, g.mem(b.addr, b.len)...)
	}
	return all
}

func (g *guest) spread(list []buffer, p []byte) {
	for _, b := range list {
		p = p[copy(g.mem(b.addr, b.len), p):]
	}
}

// diskGuest is a driver of a block device, and the disk behind it.
type diskGuest struct {
	*guest
	t       *rapid.T
	fresh   func() Device
	disk    []byte
	asked   map[uint16]*asked // by head: what the driver waits for
	outside []Request         // left and not answered
	idle    bool              // the driver has taken everything and acknowledged: it sleeps
}

type asked struct {
	write  bool
	data   []buffer
	status uint64
	answer *Completion // when it was answered
}

const diskSectors = 64

// ask makes one request available.
func (d *diskGuest) ask() {
	q := d.queues[0]
	if !q.room(8) {
		return
	}
	kind := rapid.SampledFrom([]uint32{blockIn, blockOut, blockFlush}).Draw(d.t, "kind")
	sectors := rapid.IntRange(1, 8).Draw(d.t, "sectors")
	sector := rapid.IntRange(0, diskSectors-sectors).Draw(d.t, "sector")
	var h [blockHeader]byte
	binary.LittleEndian.PutUint32(h[0:], kind)
	binary.LittleEndian.PutUint64(h[8:], uint64(sector))
	header := pieces(d.t, d.guest, len(h), 2, false)
	d.spread(header, h[:])
	a := &asked{write: kind == blockOut, status: d.put([]byte{0xff})}
	if kind != blockFlush {
		a.data = pieces(d.t, d.guest, sectors*SectorSize, 4, kind == blockIn)
	}
	if a.write {
		p := make([]byte, sectors*SectorSize)
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(d.t, "data"), 0))
		for i := range p {
			p[i] = byte(rng.Uint32())
		}
		d.spread(a.data, p)
	}
	head := q.add(append(append(header, a.data...), buffer{a.status, 1, true})...)
	d.asked[head] = a
}

// serve answers one of the requests that are outside, any of them.
func (d *diskGuest) serve() {
	d.outside = append(d.outside, d.sent()...)
	if len(d.outside) == 0 {
		return
	}
	i := rapid.IntRange(0, len(d.outside)-1).Draw(d.t, "which")
	r := d.outside[i]
	d.outside = append(d.outside[:i], d.outside[i+1:]...)
	c := &Completion{ID: r.ID}
	at := d.disk[r.Sector*SectorSize:]
	switch r.Op {
	case Read:
		c.Data = bytes.Clone(at[:r.Length])
	case Write:
		copy(at, r.Data)
	}
	if rapid.IntRange(0, 9).Draw(d.t, "error") == 0 {
		c.Status = IOError
	}
	wasIdle := d.idle
	d.dev.Complete(c)
	d.outside = append(d.outside, d.sent()...)
	// A driver that sleeps is woken.
	if wasIdle && !d.line {
		d.t.Fatalf("an answer to a driver that had taken everything made no interrupt")
	}
	d.idle = false
	d.settle(r, c)
}

// settle notes the answer for when the driver sees it: the request that left is known by
// its chain, which is the only one whose status has been written.
func (d *diskGuest) settle(r Request, c *Completion) {
	for _, a := range d.asked {
		if a.answer == nil && d.mem(a.status, 1)[0] != 0xff {
			a.answer = c
			if got := Status(d.mem(a.status, 1)[0]); got != c.Status {
				d.t.Fatalf("%v: status %d, want %d", r, got, c.Status)
			}
			if r.Op == Read && c.Status == OK && !bytes.Equal(d.collect(a.data), c.Data) {
				d.t.Fatalf("%v: the data are not those of the answer", r)
			}
			return
		}
	}
	d.t.Fatalf("%v: its answer is nowhere", r)
}

func (d *diskGuest) harvest() {
	d.acknowledge()
	for _, u := range d.queues[0].harvest() {
		a := d.asked[u.head]
		if a == nil || a.answer == nil {
			d.t.Fatalf("chain %d came back without an answer", u.head)
		}
		delete(d.asked, u.head)
	}
	d.idle = true
}

// Whatever the layout of its chains and the order of the answers, a driver gets each of its
// requests back once, with the data that belong to it, and sleeps through nothing. Nothing
// of that changes when the device is moved to another process at any point.
func TestPropertyBlock(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := newGuest(t)
		fresh := func() Device {
			b, err := NewBlock(slot, g, g, BlockConfig{Sectors: diskSectors})
			if err != nil {
				t.Fatalf("%v", err)
			}
			return b
		}
		g.dev = fresh()
		features := uint64(featureVersion1 | featureBlockFlush)
		if rapid.Bool().Draw(t, "indirect") {
			features |= featureIndirect
		}
		if rapid.Bool().Draw(t, "event idx") {
			features |= featureEventIdx
		}
		size := uint32(8) << rapid.IntRange(0, 3).Draw(t, "size")
		g.start(features, size)
		d := &diskGuest{guest: g, t: t, fresh: fresh, disk: make([]byte, diskSectors*SectorSize), asked: map[uint16]*asked{}}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 5).Draw(t, "step") {
			case 0, 1, 2:
				before := g.queues[0].availIdx
				for range rapid.IntRange(1, 4).Draw(t, "batch") {
					d.ask()
				}
				g.queues[0].kick(before)
				d.outside = append(d.outside, g.sent()...)
			case 3:
				d.serve()
			case 4:
				d.harvest()
			case 5:
				g.reload(fresh)
			}
		}
		for d.outside = append(d.outside, g.sent()...); len(d.outside) > 0; {
			d.serve()
		}
		d.harvest()
		if len(d.asked) > 0 || g.dev.Info().InFlight > 0 || g.dev.Info().Phase != PhaseLive {
			t.Fatalf("%d requests never came back; the device is %v (%v)", len(d.asked), g.dev.Info().Phase, g.dev.Info().Violation)
		}
	})
}

// Frames arrive whole and in order, whatever buffers the driver gives, and none is lost but
// those that Receive did not take.
func TestPropertyNetReceive(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := newGuest(t)
		fresh := func() Device {
			n, err := NewNet(slot, g, g, NetConfig{MAC: [6]byte{2}})
			if err != nil {
				t.Fatalf("%v", err)
			}
			return n
		}
		g.dev = fresh()
		features := uint64(featureVersion1 | featureNetMergeable)
		if rapid.Bool().Draw(t, "event idx") {
			features |= featureEventIdx
		}
		g.start(features, 64)
		q := g.queues[netReceive]
		given := map[uint16][]buffer{}
		var taken, arrived [][]byte
		harvest := func() {
			g.acknowledge()
			list := q.harvest()
			for len(list) > 0 {
				var f []byte
				n := binary.LittleEndian.Uint16(g.mem(given[list[0].head][0].addr, NetHeader)[headerBuffers:])
				if int(n) == 0 || int(n) > len(list) {
					t.Fatalf("a frame of %d buffers, %d came back", n, len(list))
				}
				for _, u := range list[:n] {
					f = append(f, g.collect(given[u.head])[:u.written]...)
				}
				arrived = append(arrived, f)
				list = list[n:]
			}
		}
		for i := range rapid.IntRange(1, 80).Draw(t, "steps") {
			switch rapid.IntRange(0, 5).Draw(t, "step") {
			case 0, 1:
				p := packet(rapid.IntRange(1, 3000).Draw(t, "frame"))
				p[NetHeader] = byte(i)
				idle := q.usedIdx == q.u16(q.used+2) && !g.line
				if g.dev.Receive(p) == len(p) {
					binary.LittleEndian.PutUint16(p[headerBuffers:], 1)
					taken = append(taken, p)
				}
				if idle && q.usedIdx != q.u16(q.used+2) && !g.line {
					t.Fatalf("a frame arrived without an interrupt")
				}
			case 2, 3:
				before := q.availIdx
				for range rapid.IntRange(1, 4).Draw(t, "buffers") {
					if q.room(3) {
						// Small ones too, but a full ring has room for the longest frame.
						size := rapid.IntRange(200, 2000).Draw(t, "room")
						list := pieces(t, g, size, 3, true)
						if list[0].len < NetHeader { // so that the test finds num_buffers
							list = []buffer{{g.allocate(size), size, true}}
						}
						given[q.add(list...)] = list
					}
				}
				q.kick(before)
			case 4:
				harvest()
			case 5:
				g.reload(fresh)
			}
		}
		harvest()
		for i := range 200 { // enough for what waits
			if g.dev.(*Net).state.WaitCount == 0 {
				break
			}
			if i == 199 {
				t.Fatalf("%d frames wait for ever", g.dev.(*Net).state.WaitCount)
			}
			before := q.availIdx
			for q.room(1) {
				list := []buffer{{g.allocate(2000), 2000, true}}
				given[q.add(list...)] = list
			}
			q.kick(before)
			harvest()
		}
		dropped := 0 // those that fitted into no ring of such small buffers
		for _, p := range taken {
			if len(arrived) > 0 && len(arrived[0]) == len(p) {
				copy(arrived[0][headerBuffers:NetHeader], p[headerBuffers:])
				if bytes.Equal(arrived[0], p) {
					arrived = arrived[1:]
					continue
				}
			}
			dropped++
		}
		if len(arrived) > 0 || uint64(dropped) > g.dev.Info().Dropped || g.dev.Info().Phase != PhaseLive {
			t.Fatalf("%d frames are not those that came, %d were lost, %d are counted; the device is %v (%v)",
				len(arrived), dropped, g.dev.Info().Dropped, g.dev.Info().Phase, g.dev.Info().Violation)
		}
	})
}

// No state that is cut off or damaged makes a device that is in two minds, or a panic.
func TestPropertyDamagedStates(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := newGuest(t)
		kind := rapid.SampledFrom([]string{"block", "net", "console", "entropy"}).Draw(t, "kind")
		g.dev = devices(t, g)[kind]
		g.start(^uint64(0), 16)
		switch kind {
		case "block":
			g.request(blockIn, 0, true, make([]byte, 512))
		case "net":
			g.dev.Receive(packet(100))
		case "console":
			g.dev.Receive([]byte("text"))
		case "entropy":
			g.queues[0].send(buffer{ramBase, 16, true})
		}
		saved := g.dev.SaveState(nil)
		damaged := bytes.Clone(saved)
		for range rapid.IntRange(1, 4).Draw(t, "bytes") {
			damaged[rapid.IntRange(0, len(damaged)-1).Draw(t, "at")] = rapid.Byte().Draw(t, "value")
		}
		damaged = damaged[:rapid.IntRange(len(damaged)*9/10, len(damaged)).Draw(t, "length")]
		d := devices(t, g)[kind]
		if err := d.LoadState(damaged); err != nil {
			if i := d.Info(); i.Phase != PhaseReset || i.InFlight != 0 {
				t.Fatalf("after %v it is %v with %d in flight", err, i.Phase, i.InFlight)
			}
			return
		}
		if again := d.SaveState(nil); !bytes.Equal(again, damaged) {
			t.Fatalf("a state was loaded that has another form")
		}
		if d.Held() != (d.Info().Phase == PhaseHeld) || d.Held() && d.Info().InFlight == 0 {
			t.Fatalf("held %v, %v, %d in flight", d.Held(), d.Info().Phase, d.Info().InFlight)
		}
	})
}

// States in two minds: what no device saves is not loaded.
func TestImpossibleStatesAreRefused(t *testing.T) {
	for name, spoil := range map[string]func(s *blockState){
		"held with nothing outside":       func(s *blockState) { s.Drain = drainReset; s.InFlight = inFlight{} },
		"more room than segments":         func(s *blockState) { s.InFlight.Slots[0].Room = 4096 },
		"a segment around the end":        func(s *blockState) { s.InFlight.Slots[0].Segs[0].Addr = ^uint64(0) - 5 },
		"an ID of another slot":           func(s *blockState) { s.InFlight.Slots[0].ID++ },
		"an ID that is still to come":     func(s *blockState) { s.InFlight.Slots[0].ID += inFlightMax },
		"a queue ready that cannot be":    func(s *blockState) { s.Queues[0].Num = 7 },
		"an operation that there is none": func(s *blockState) { s.InFlight.Slots[0].Op = opEnd },
	} {
		g := newBlock(t, BlockConfig{}, blockFeatures)
		g.request(blockIn, 0, true, make([]byte, 512))
		b := g.dev.(*Block)
		if err := devices(t, g)["block"].LoadState(b.SaveState(nil)); err != nil {
			t.Fatal(err)
		}
		spoil(&b.state)
		if err := devices(t, g)["block"].LoadState(b.SaveState(nil)); err == nil {
			t.Errorf("%s: it was loaded", name)
		}
	}
}

func TestStatesOfOthersAreRefused(t *testing.T) {
	g := newGuest(t)
	saved := devices(t, g)["block"].SaveState(nil)
	if err := devices(t, g)["net"].LoadState(saved); err == nil {
		t.Error("a network device was made from the state of a disk")
	} else {
		t.Log(err)
	}
	if err := devices(t, g)["block"].LoadState(append(saved, 0)); err == nil {
		t.Error("a state with a byte more was taken")
	}
}
