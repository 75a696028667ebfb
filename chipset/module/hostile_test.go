package module

import (
	"bytes"
	"encoding/binary"
	"flag"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"ft/chipset/firmware"
	"ft/chipset/virtio"
)

// A hostile guest: a program of random accesses to devices, their rings, CSRs and page
// tables, made anew from each seed, which goes on behind every trap. It knows enough of
// virtio to get deep (it starts devices as a driver does) before it breaks the rules.

var (
	hostileSeed  = flag.Uint64("hostile.seed", 0, "seed of the first hostile guest; 0 takes the time")
	hostileCount = flag.Int("hostile.count", 40, "hostile guests")
)

const (
	hostileRAM   = 4 << 20
	hostileSteps = 60_000
	hostileCode  = firmware.RAMBase + 0x1000
	hostileTrap  = firmware.RAMBase + 0x100
	hostilePool  = firmware.RAMBase + 0x80000 // constants
	poolWindow   = 255                        // of them in reach of a load
	hostileRoot  = firmware.RAMBase + 0x90000 // page table
	hostileRings = firmware.RAMBase + 0xa0000 // 16 KiB a queue
	hostileStore = firmware.RAMBase + 0x200000
)

// Encodings that the program is made of (unprivileged specification, chapter 2).
func encI(op, f3, rd, rs1 uint32, imm int32) uint32 {
	return op | rd<<7 | f3<<12 | rs1<<15 | uint32(imm)<<20
}
func encStore(f3, rs1, rs2 uint32) uint32 { return 0x23 | f3<<12 | rs1<<15 | rs2<<20 }

const (
	regT0, regT1, regS0 = 5, 6, 8

	insnSRET   = 0x1020_0073
	insnWFI    = 0x1050_0073
	insnECALL  = 0x0000_0073
	insnFenceI = 0x0000_100f
	insnSFence = 0x1200_0073

	csrSSTATUS, csrSIE, csrSTVEC, csrSEPC, csrSTIMECMP, csrSATP = 0x100, 0x104, 0x105, 0x141, 0x14d, 0x180
)

// hostile writes a guest.
type hostile struct {
	r    *rand.Rand
	code []uint32
	pool []uint64
	// window is where in the pool s0 points to: what lies behind it is in reach.
	window int
	made   [slotCount][2]uint16 // chains offered since a slot's start
}

func (g *hostile) emit(w ...uint32) { g.code = append(g.code, w...) }

// constant puts v into a register, from the window of the pool that s0 is at.
func (g *hostile) constant(reg uint32, v uint64) {
	if len(g.pool)-g.window == poolWindow {
		g.window += poolWindow
		g.emit(encI(0x13, 0, regS0, regS0, 4*poolWindow), encI(0x13, 0, regS0, regS0, 4*poolWindow))
	}
	i := slices.Index(g.pool[g.window:], v)
	if i < 0 {
		i = len(g.pool) - g.window
		g.pool = append(g.pool, v)
	}
	g.emit(encI(0x03, 3, reg, regS0, int32(i*8)))
}

// store writes v to an address, size 1<<f3 bytes.
func (g *hostile) store(f3 uint32, at, v uint64) {
	g.constant(regT0, at)
	g.constant(regT1, v)
	g.emit(encStore(f3, regT0, regT1))
}

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

// slotAt is a register of a virtio slot, one that exists as a rule.
func (g *hostile) slotAt(slot int, off uint64) uint64 {
	return firmware.VirtioBase + uint64(slot)*firmware.VirtioSize + off
}

var queues = [slotCount]int{DiskSlot: 1, NICSlot: 2, EntropySlot: 1}

func (g *hostile) ring(slot, queue int) uint64 {
	return hostileRings + uint64(slot*2+queue)*0x4000
}

// start brings a device up as its driver would (virtio 1.2, section 3.1.1).
func (g *hostile) start(slot int) {
	reg := func(off, v uint64) { g.store(2, g.slotAt(slot, off), v) }
	reg(0x70, 0)
	reg(0x70, 1)
	reg(0x70, 3)
	reg(0x24, 0)
	reg(0x20, pick[uint64](g.r, 0, 1<<28|1<<29, 1<<9|1<<13|1<<14, 0xffff_ffff))
	reg(0x24, 1)
	reg(0x20, 1)
	reg(0x70, 11)
	for queue := range queues[slot] {
		base := g.ring(slot, queue)
		reg(0x30, uint64(queue))
		reg(0x38, pick[uint64](g.r, 8, 16, 256, 8, 16, 256, 8, 16, 256, 8, 16, pick[uint64](g.r, 3, 0)))
		for i, off := range []uint64{0x80, 0x90, 0xa0} {
			at := base + uint64(i)*0x1000
			if g.r.IntN(100) == 0 {
				at = g.r.Uint64()
			}
			reg(off, at&0xffff_ffff)
			reg(off+4, at>>32)
		}
		reg(0x44, 1)
	}
	reg(0x70, 15)
	g.made[slot] = [2]uint16{}
	for queue := range 2 {
		g.store(1, g.ring(slot, queue)+0x1002, 0)
	}
}

// offer puts a chain of descriptors into a ring, as a rule one that makes sense, and rings
// the bell.
func (g *hostile) offer(slot int) {
	queue := g.r.IntN(queues[slot])
	base := g.ring(slot, queue)
	head := hostileStore + g.r.Uint64N(1<<20)&^7
	n := uint64(1 + g.r.IntN(4))
	if slot == DiskSlot {
		n++
	}
	writable := uint64(g.r.IntN(2)) // what lies between first and last
	for i := range n {
		at, length, flags := hostileStore+g.r.Uint64N(1<<20), 512*(1+g.r.Uint64N(8)), writable<<1
		switch {
		case slot == DiskSlot && i == 0: // virtio_blk_req
			at, length, flags = head, 16, 0
		case slot == DiskSlot && i == n-1: // status
			length, flags = 1, 2
		case slot == NICSlot:
			flags = uint64(1-queue) << 1
		case slot == EntropySlot:
			flags = 2
		}
		if i < n-1 {
			flags |= 1
		}
		next := i + 1
		switch g.r.IntN(60) {
		case 0:
			at = pick(g.r, firmware.RAMBase+hostileRAM-8, g.r.Uint64(), base, 0)
		case 1:
			length = pick[uint64](g.r, 0, 1, 65536, 0xffff_ffff)
		case 2:
			flags = pick[uint64](g.r, 0, 1, 2, 3, 4, 5, 0xffff)
		case 3:
			next = pick(g.r, i, 0, 300, 0xffff)
		}
		g.store(3, base+i*16, at)
		g.store(3, base+i*16+8, length|flags<<32|next<<48)
	}
	g.store(3, head, pick[uint64](g.r, 0, 1, 0, 1, 0, 1, 4, 8, 11, 13, 99))
	g.store(3, head+8, pick(g.r, 0, 1, g.r.Uint64N(2000), g.r.Uint64N(2000), pick[uint64](g.r, 2047, 2048, 1<<63)))
	avail := base + 0x1000
	made := &g.made[slot][queue]
	g.store(1, avail+4+uint64(*made%8)*2, pick[uint64](g.r, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 300))
	if *made++; g.r.IntN(100) == 0 {
		*made = uint16(g.r.Uint32())
	}
	g.store(1, avail+2, uint64(*made))
	g.store(2, g.slotAt(slot, 0x50), uint64(queue))
}

// act is one thing that the guest does.
func (g *hostile) act() {
	r := g.r
	switch r.IntN(12) {
	case 0, 1, 2:
		g.offer(r.IntN(slotCount))
	case 3:
		g.start(r.IntN(slotCount))
	case 4: // a register of a device, or beside it
		at := pick(r, g.slotAt(r.IntN(firmware.VirtioSlots), uint64(r.IntN(0x220))), firmware.UARTBase+uint64(r.IntN(9)),
			firmware.PLICBase+pick[uint64](r, 4, 40, 0x1000, 0x2080, 0x20_1000, 0x20_1004, uint64(r.IntN(0x60_0010))),
			firmware.RTCBase+uint64(r.IntN(0x30)), r.Uint64(), uint64(r.IntN(1<<31)))
		g.constant(regT0, at)
		if r.IntN(2) == 0 {
			g.constant(regT1, pick[uint64](r, 0, 1, 0xff, r.Uint64()))
			g.emit(encStore(uint32(r.IntN(4)), regT0, regT1))
		} else {
			g.emit(encI(0x03, uint32(r.IntN(7)), regT1, regT0, 0))
		}
	case 5: // a CSR
		g.constant(regT1, pick(r, 0, ^uint64(0), r.Uint64(), 1<<uint(r.IntN(64))))
		csr := int32(pick(r, 0x100, 0x104, 0x106, 0x140, 0x141, 0x142, 0x143, 0x144, 0x14d, 0x300, 0x304, 0x3a0, 0xc00, 0xc01, 0x001, 0x003, r.IntN(4096)))
		if csr == csrSATP || csr == csrSTVEC {
			return // after these nothing would go on
		}
		g.emit(encI(0x73, 1+uint32(r.IntN(3)), uint32(pick(r, 0, regT0)), regT1, csr))
	case 6: // page tables
		g.store(3, hostileRoot+uint64(r.IntN(512))*8, pick(r, 0, r.Uint64(), (hostileStore>>12+uint64(r.IntN(64)))<<10|uint64(r.IntN(256))))
		g.store(3, hostileRoot+2*8, firmware.RAMBase>>12<<10|0xcf) // this very code stays mapped …
		g.store(3, hostileRoot, 0xcf)                              // … and the devices
		g.store(3, hostileStore+uint64(r.IntN(1<<15))*8, r.Uint64()&0x3f_ffff_ffff_ffff)
	case 7:
		g.constant(regT1, pick[uint64](r, 0, 8<<60|hostileRoot>>12))
		g.emit(encI(0x73, 1, 0, regT1, csrSATP), insnSFence)
	case 8: // any address, mapped or not
		g.constant(regT0, pick(r, uint64(r.IntN(1<<30)), r.Uint64(), uint64(r.IntN(512))<<30, hostileStore+uint64(r.IntN(1<<20))))
		g.emit(pick(r, encI(0x03, uint32(r.IntN(8)), regT1, regT0, 0), encStore(uint32(r.IntN(5)), regT0, regT1),
			0x2f|regT1<<7|uint32(2+r.IntN(2))<<12|regT0<<15|regT1<<20|uint32(pick(r, 2, 3, 1, 0, 4, 8))<<27))
	case 9:
		g.emit(pick[uint32](r, insnWFI, insnFenceI, insnSFence))
	case 10: // the firmware
		g.constant(17, pick[uint64](r, 0x10, 0x5449_4d45, 0x73_5049, 0x5246_4e43, 0x4853_4d, 0x4442_434e, 0, 1, 2, r.Uint64()))
		g.constant(16, uint64(r.IntN(4)))
		g.constant(10, pick(r, 0, 1, r.Uint64(), hostileStore))
		g.constant(11, pick(r, 0, ^uint64(0), hostileStore))
		g.emit(insnECALL)
	case 11: // a computation, or something that is none
		w := r.Uint32()
		rd := uint32(pick(r, 5, 6, 7, 28, 29, 30, 31))
		op := pick[uint32](r, 0x13, 0x1b, 0x33, 0x3b, 0x53, 0x43, 0x07, 0x27, 0x0b)
		g.emit(w&^0xfff | rd<<7 | op)
	}
}

// load puts the program into a machine.
func (g *hostile) load(m *Machine) error {
	// At the start, and each time around: the pool, and where traps go.
	head := func(reg uint32, at uint64) { // at is RAMBase and something
		g.emit(0x37 | reg<<7 | uint32(at)&^0xfff) // lui: sign-extended
		g.emit(encI(0x13, 1, reg, reg, 32), encI(0x13, 5, reg, reg, 32))
		if low := int32(at & 0xfff); low != 0 {
			g.emit(encI(0x13, 0, reg, reg, low))
		}
	}
	head(regS0, hostilePool)
	head(regT0, hostileTrap)
	g.emit(encI(0x73, 1, 0, regT0, csrSTVEC))
	g.emit(encI(0x73, 1, 0, 0, csrSTIMECMP), encI(0x13, 0, regT0, 0, 1<<5), encI(0x73, 1, 0, regT0, csrSIE)) // nothing waits for long
	for slot := range slotCount {
		g.start(slot)
	}
	for len(g.code) < 20_000 && len(g.pool) < 8000 {
		g.act()
	}
	back := -int32(len(g.code) * 4)
	g.emit(jump(back))
	trap := []uint32{
		encI(0x73, 2, regT0, 0, csrSEPC), encI(0x13, 0, regT0, regT0, 4), encI(0x73, 1, 0, regT0, csrSEPC),
		encI(0x13, 0, regT0, 0, 1<<5), encI(0x73, 3, 0, regT0, csrSSTATUS), // SPIE: no interrupts behind it
		encI(0x73, 1, 0, regT0, csrSIE), insnSRET,
	}
	pool := make([]byte, 0, 8*len(g.pool))
	for _, v := range g.pool {
		pool = binary.LittleEndian.AppendUint64(pool, v)
	}
	root := binary.LittleEndian.AppendUint64(make([]byte, 16), firmware.RAMBase>>12<<10|0xcf)
	root[0] = 0xcf // the devices
	return m.Load(&firmware.Boot{Entry: hostileCode, Segments: []firmware.Segment{
		{Addr: hostileTrap, Data: words(trap)}, {Addr: hostileCode, Data: words(g.code)},
		{Addr: hostilePool, Data: pool}, {Addr: hostileRoot, Data: root},
	}})
}

func words(code []uint32) (b []byte) {
	for _, w := range code {
		b = binary.LittleEndian.AppendUint32(b, w)
	}
	return b
}

// jump is jal x0.
func jump(by int32) uint32 {
	u := uint32(by)
	return 0x6f | u>>12&255<<12 | u>>11&1<<20 | u>>1&1023<<21 | u>>20&1<<31
}

// outside answers a machine's requests at random, and makes inputs of its own.
type outside struct {
	r        *rand.Rand
	requests []Input
	heard    []byte // all that left the machine
}

func (o *outside) Console(p []byte) { o.heard = append(o.heard, p...) }

func (o *outside) Request(slot int, r *virtio.Request) {
	o.heard = append(o.heard, uint8(slot), uint8(r.Op))
	o.heard = binary.LittleEndian.AppendUint64(o.heard, r.ID)
	o.heard = binary.LittleEndian.AppendUint64(o.heard, r.Sector)
	o.heard = binary.LittleEndian.AppendUint64(o.heard, r.Length)
	o.heard = append(o.heard, r.Data...)
	if r.ID == 0 || o.r == nil {
		return
	}
	in := Input{Kind: InputCompletion, Slot: uint8(slot), ID: r.ID}
	if r.Op == virtio.Read || r.Op == virtio.Entropy {
		in.Data = make([]byte, min(r.Length, virtio.BlockDataMax))
		for i := range in.Data {
			in.Data[i] = uint8(o.r.Uint32())
		}
	}
	if o.r.IntN(8) == 0 {
		in.Status, in.Data = uint8(virtio.IOError), nil
	}
	o.requests = append(o.requests, in)
}

// next is what reaches the machine now, if anything.
func (o *outside) next(m *Machine) []Input {
	var in []Input
	for len(o.requests) > 0 && o.r.IntN(3) > 0 {
		i := o.r.IntN(len(o.requests))
		in = append(in, o.requests[i])
		o.requests = slices.Delete(o.requests, i, i+1)
	}
	switch o.r.IntN(6) {
	case 0:
		frame := make([]byte, o.r.IntN(3000))
		in = append(in, Input{Kind: InputFrame, Slot: NICSlot, Data: frame})
	case 1:
		in = append(in, Input{Kind: InputConsole, Data: []byte("typed")[:min(5, m.ConsoleRoom())]})
	case 2:
		in = append(in, Input{Kind: InputCompletion, Slot: uint8(o.r.IntN(slotCount)), ID: o.r.Uint64N(50)}) // of nothing
	case 3:
		in = append(in, Input{Kind: InputLink, Status: uint8(o.r.IntN(2))})
	case 4:
		in = append(in, Input{Kind: InputWall, Base: o.r.Uint64()})
	}
	return append(in, Input{Kind: InputTime, Base: m.Time() + o.r.Uint64N(5000), Num: uint32(o.r.IntN(3)), Den: 1 + uint32(o.r.IntN(50))})
}

func newHostile(t *testing.T, seed uint64, sink Sink) *Machine {
	t.Helper()
	m, err := New(Config{RAM: make([]byte, hostileRAM), Entropy: true,
		Disk: &virtio.BlockConfig{Sectors: 2048, Serial: "hostile", Discard: true, WriteZeroes: true},
		NIC:  &virtio.NetConfig{MAC: [6]byte{2, 0, 0, 0, 0, 1}, Offloads: true}}, sink)
	if err != nil {
		t.Fatal(err)
	}
	g := &hostile{r: rand.New(rand.NewPCG(seed, 1))}
	if err := g.load(m); err != nil {
		t.Fatal(err)
	}
	return m
}

// TestHostileGuests: whatever a guest does, its machine goes on; what it did can be had
// again from the record of its inputs, in other quanta, with the same end, the same outputs
// and the same memory; and a copy made half-way ends the same.
func TestHostileGuests(t *testing.T) {
	seed := *hostileSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	kinds := map[virtio.Op]int{}
	for i := range uint64(*hostileCount) {
		playHostile(t, seed+i, kinds)
		if t.Failed() {
			t.Fatalf("reproduced by -hostile.seed %d -hostile.count 1", seed+i)
		}
	}
	t.Logf("requests that left the machines: %v", kinds)
	if *hostileCount >= 20 && (kinds[virtio.Write] == 0 || kinds[virtio.Read] == 0 || kinds[virtio.Transmit] == 0) {
		t.Error("no guest got as far as the devices")
	}
}

func playHostile(t *testing.T, seed uint64, kinds map[virtio.Op]int) {
	r := rand.New(rand.NewPCG(seed, 2))
	world := &outside{r: r}
	m := newHostile(t, seed, counting{world, kinds})
	var log bytes.Buffer
	rec := NewRecorder(&log, m, []byte("a hostile guest"))
	var copied *Machine
	var mirror *outside
	copyAt := uint64(r.IntN(hostileSteps))
	for m.Steps() < hostileSteps {
		for _, in := range world.next(m) {
			rec.Input(m.Steps(), &in)
			if err := m.Apply(&in); err != nil {
				t.Fatalf("seed %d, step %d: %v", seed, m.Steps(), err)
			}
			if copied != nil {
				if err := copied.Apply(&in); err != nil {
					t.Fatalf("seed %d, step %d, the copy: %v", seed, m.Steps(), err)
				}
			}
		}
		ran, why := m.Run(1 + r.Uint64N(3000))
		if copied != nil {
			if err := copied.runTo(m.Steps(), 1+r.Uint64N(500)); err != nil {
				t.Fatalf("seed %d: the copy: %v", seed, err)
			}
		}
		if why == StopReset {
			break
		}
		if copied == nil && m.Steps() >= copyAt {
			mirror = &outside{heard: slices.Clone(world.heard)}
			copied = newHostile(t, seed, mirror)
			copy(copied.cfg.RAM, m.cfg.RAM)
			if err := copied.LoadState(m.SaveState(nil)); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
		if ran == 0 && len(world.requests) == 0 && m.Steps() > 0 && r.IntN(200) == 0 {
			break // it waits for what does not come
		}
	}
	if err := rec.Close(m); err != nil {
		t.Fatal(err)
	}
	replayed := &outside{}
	again := newHostile(t, seed, replayed)
	record, err := OpenRecord(&log)
	if err != nil {
		t.Fatal(err)
	}
	if end, err := record.Play(again, 1+r.Uint64N(5000)); err != nil || !end.Whole {
		t.Fatalf("seed %d: %+v, %v", seed, end, err)
	}
	same(t, seed, "replayed", m, again, world, replayed)
	if copied != nil {
		same(t, seed, "copied", m, copied, world, mirror)
	}
}

func same(t *testing.T, seed uint64, how string, a, b *Machine, heardA, heardB *outside) {
	t.Helper()
	if a.Fingerprint() != b.Fingerprint() {
		t.Errorf("seed %d, %s: fingerprint %#x, %#x", seed, how, a.Fingerprint(), b.Fingerprint())
	}
	if a.MemoryDigest() != b.MemoryDigest() {
		t.Errorf("seed %d, %s: the memories differ", seed, how)
	}
	if !bytes.Equal(a.SaveState(nil), b.SaveState(nil)) {
		t.Errorf("seed %d, %s: the states differ", seed, how)
	}
	if !bytes.Equal(heardA.heard, heardB.heard) {
		t.Errorf("seed %d, %s: other things have left the machine", seed, how)
	}
}

// counting counts requests by kind.
type counting struct {
	*outside
	kinds map[virtio.Op]int
}

func (c counting) Request(slot int, r *virtio.Request) {
	c.kinds[r.Op]++
	c.outside.Request(slot, r)
}
