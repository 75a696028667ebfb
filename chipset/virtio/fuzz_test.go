package virtio

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// FuzzDevice is a hostile driver: the bytes are accesses to the registers, writes to the
// memory in which the rings lie, and, from outside, answers and frames, in any order. The
// rules of the package comment are checked behind each.
func FuzzDevice(f *testing.F) {
	for _, seed := range fuzzSeeds() {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, script []byte) { runScript(t, script) })
}

// The memory of the hostile guest is small, so that everything lies over everything.
const (
	fuzzBase = 0x1000
	fuzzSize = 0x4000
	// fuzzAccesses is more than any one access of an honest guest, or of this one, may cost.
	fuzzAccesses = 600_000
)

// hostile is a machine whose guest is the fuzzer.
type hostile struct {
	t        *testing.T
	kind     byte
	ram      [fuzzSize]byte
	dev      Device
	line     bool
	outside  map[uint64]Op // requests by ID
	used     map[uint64]bool
	held     bool
	accesses int
	writes   int
	emitted  int
	began    bool // in this step
	moves    int
}

func (h *hostile) at(addr uint64, n int) []byte {
	h.accesses++
	if addr < fuzzBase || addr-fuzzBase > fuzzSize || uint64(n) > fuzzSize-(addr-fuzzBase) {
		return nil
	}
	return h.ram[addr-fuzzBase:][:n]
}

func (h *hostile) ReadRAM(addr uint64, p []byte) bool {
	m := h.at(addr, len(p))
	copy(p, m)
	return m != nil || len(p) == 0
}

func (h *hostile) WriteRAM(addr uint64, p []byte) bool {
	m := h.at(addr, len(p))
	h.writes++
	copy(m, p)
	return m != nil || len(p) == 0
}

func (h *hostile) Interrupt(_ int, level bool) { h.line = level }
func (h *hostile) Hold(int)                    { h.held = true }

func (h *hostile) Emit(_ int, r *Request) {
	if r.Op != Offloads { // which a reset sends
		h.emitted++
	}
	if answered := r.Op <= Entropy; answered != (r.ID != 0) {
		h.t.Fatalf("%v has the ID %d", r, r.ID)
	}
	if r.ID != 0 {
		if h.used[r.ID] {
			h.t.Fatalf("%v has an ID that there was before", r)
		}
		h.used[r.ID] = true
		h.outside[r.ID] = r.Op
	}
	switch r.Op {
	case Read, Write, Discard, WriteZeroes:
		if r.Length == 0 || r.Length%SectorSize != 0 || r.Sector > fuzzSectors || r.Length/SectorSize > fuzzSectors-r.Sector {
			h.t.Fatalf("%v is not on the disk", r)
		}
		if r.Op == Write && uint64(len(r.Data)) != r.Length || r.Op != Write && r.Data != nil {
			h.t.Fatalf("%v has %d bytes of data", r, len(r.Data))
		}
	case Transmit:
		if len(r.Data) < NetHeader || len(r.Data) > NetFrameMax {
			h.t.Fatalf("%v has %d bytes", r, len(r.Data))
		}
	case Output:
		if len(r.Data) == 0 || len(r.Data) > consoleWriteMax {
			h.t.Fatalf("%v has %d bytes", r, len(r.Data))
		}
	case Entropy:
		if r.Length == 0 || r.Length > EntropyMax {
			h.t.Fatalf("%v", r)
		}
	case Flush, Offloads:
	default:
		h.t.Fatalf("%v is none", r)
	}
}

const fuzzSectors = 1 << 12

func (h *hostile) make() Device {
	switch h.kind % 4 {
	case 0:
		b, err := NewBlock(slot, h, h, BlockConfig{Sectors: fuzzSectors, Serial: "fuzz", Discard: true, WriteZeroes: true})
		if err != nil {
			h.t.Fatal(err)
		}
		return b
	case 1:
		n, err := NewNet(slot, h, h, NetConfig{MAC: [6]byte{2}, MTU: 1500, Offloads: true})
		if err != nil {
			h.t.Fatal(err)
		}
		return n
	case 2:
		return NewConsole(slot, h, h)
	}
	return NewEntropy(slot, h, h)
}

// script is what is left of the fuzzer's bytes; behind their end they are zero.
type script struct{ b []byte }

func (s *script) byte() byte {
	if len(s.b) == 0 {
		return 0
	}
	v := s.b[0]
	s.b = s.b[1:]
	return v
}

func (s *script) u16() uint16 { return uint16(s.byte()) | uint16(s.byte())<<8 }
func (s *script) u32() uint32 { return uint32(s.u16()) | uint32(s.u16())<<16 }

// Where a driver that begins well has its rings: queue q at fuzzRings + q * 0x1000, with
// sixteen entries each.
const (
	fuzzRings  = fuzzBase + 0x1000
	fuzzAvail  = 0x200
	fuzzUsed   = 0x400
	fuzzTable  = 0x600 // an indirect table
	fuzzBuffer = 0x800
)

// begin brings the device to life as a driver does, with the features that the fuzzer likes.
func (h *hostile) begin(features uint64) {
	h.began = true
	h.dev.Store(regDeviceFeaturesSel, 4, 0)
	low, _ := h.dev.Load(regDeviceFeatures, 4)
	features = features&low | featureVersion1
	for _, w := range [][2]uint64{
		{regStatus, 0}, {regStatus, 3}, {regDriverFeaturesSel, 0}, {regDriverFeatures, features & 0xffff_ffff},
		{regDriverFeaturesSel, 1}, {regDriverFeatures, features >> 32}, {regStatus, 11},
	} {
		h.dev.Store(w[0], 4, w[1])
	}
	for q := range uint64(queuesMax) {
		for _, w := range [][2]uint64{
			{regQueueSel, q}, {regQueueNum, 16}, {regQueueDescLow, fuzzRings + q*0x1000}, {regQueueDriverLow, fuzzRings + q*0x1000 + fuzzAvail},
			{regQueueDeviceLow, fuzzRings + q*0x1000 + fuzzUsed}, {regQueueReady, 1},
		} {
			h.dev.Store(w[0], 4, w[1])
		}
	}
	h.dev.Store(regStatus, 4, 15)
}

// poke writes the guest's memory where it hurts.
func (h *hostile) poke(s *script) {
	where := s.byte()
	ring := uint64(fuzzRings-fuzzBase) + uint64(where&1)*0x1000
	switch where >> 1 % 6 {
	case 0, 1: // a descriptor, in the table or an indirect one
		at := ring
		if where>>1%6 == 1 {
			at += fuzzTable
		}
		d := h.ram[at+uint64(s.byte()%16)*descriptorSize:][:descriptorSize]
		binary.LittleEndian.PutUint64(d[0:], fuzzBase+uint64(s.u16()))
		binary.LittleEndian.PutUint32(d[8:], uint32(s.u16()))
		binary.LittleEndian.PutUint16(d[12:], uint16(s.byte()%8))
		binary.LittleEndian.PutUint16(d[14:], uint16(s.byte()))
	case 2: // heads made available
		for range s.byte()%16 + 1 {
			idx := h.ram[ring+fuzzAvail+2:]
			n := binary.LittleEndian.Uint16(idx)
			binary.LittleEndian.PutUint16(h.ram[ring+fuzzAvail+4+uint64(n%16)*2:], uint16(s.byte()%20))
			binary.LittleEndian.PutUint16(idx, n+1)
		}
	case 3: // a block request's header
		p := h.ram[ring+fuzzBuffer:]
		binary.LittleEndian.PutUint32(p[0:], uint32(s.byte()%16))
		binary.LittleEndian.PutUint64(p[8:], uint64(s.u16()))
	case 4: // anything, in words of 16 bits
		at := s.u16() % (fuzzSize - 2)
		binary.LittleEndian.PutUint16(h.ram[at:], s.u16())
	case 5: // large values
		at := s.u16() % (fuzzSize - 8)
		binary.LittleEndian.PutUint64(h.ram[at:], ^uint64(0)<<(s.byte()%64))
	}
}

// outsideID picks a request that is outside, or one that is not.
func (h *hostile) outsideID(s *script) uint64 {
	n := int(s.byte())
	if len(h.outside) == 0 || n == 255 {
		return uint64(s.u16())
	}
	var least uint64 // the n-th by ID, whatever the map's order
	for range n%len(h.outside) + 1 {
		next := ^uint64(0)
		for id := range h.outside {
			if id > least && id < next {
				next = id
			}
		}
		least = next
	}
	return least
}

func (h *hostile) answer(s *script) {
	c := &Completion{ID: h.outsideID(s), Status: Status(s.byte() % 5)}
	c.Data = make([]byte, int(s.byte())*SectorSize/4)
	delete(h.outside, c.ID)
	h.dev.Complete(c)
}

// registers are those that a driver writes, and some that it should not.
var registers = []uint64{
	regStatus, regQueueNotify, regQueueReady, regQueueSel, regQueueNum, regInterruptACK, regQueueDescLow, regQueueDescHigh,
	regQueueDriverLow, regQueueDriverHigh, regQueueDeviceLow, regQueueDeviceHigh, regDriverFeatures, regDriverFeaturesSel,
	regDeviceFeaturesSel, regMagic, regConfig, regConfig + 4, 0x3c, 0xffc,
}

func (h *hostile) step(s *script) {
	switch op := s.byte(); op % 12 {
	case 0, 1:
		h.dev.Store(regQueueNotify, 4, uint64(op>>4&1))
	case 2, 3, 4, 5:
		h.poke(s)
	case 6:
		h.answer(s)
	case 7:
		h.dev.Receive(make([]byte, int(s.u16())))
	case 8:
		if n, ok := h.dev.(*Net); ok {
			n.SetLink(op>>4&1 == 0)
		}
	case 9:
		h.dev.Store(registers[int(s.byte())%len(registers)], 4, uint64(s.u32()))
	case 10:
		size := 1 << (s.byte() % 4)
		h.dev.Load(uint64(s.u16())%SlotSize&^uint64(size-1), size)
	case 11:
		switch op >> 4 % 3 {
		case 0:
			h.move()
		case 1:
			h.begin(uint64(s.u32()))
		case 2:
			h.dev.Store(regStatus, 4, 0)
		}
	}
}

// movesMax bounds the devices that one script makes: they are large.
const movesMax = 8

// move continues in another process.
func (h *hostile) move() {
	if h.moves++; h.moves > movesMax {
		return
	}
	saved := h.dev.SaveState(nil)
	line := h.line
	d := h.make()
	if err := d.LoadState(saved); err != nil {
		h.t.Fatal(err)
	}
	if !bytes.Equal(saved, d.SaveState(nil)) || h.line != line {
		h.t.Fatal("the state that was loaded is not the one that was saved")
	}
	h.dev = d
}

func runScript(t *testing.T, b []byte) {
	s := &script{b}
	h := &hostile{t: t, kind: s.byte(), outside: map[uint64]Op{}, used: map[uint64]bool{}}
	h.dev = h.make()
	if features := s.u32(); features != 0 {
		h.begin(uint64(features))
	}
	h.check(PhaseLive)
	for len(s.b) > 0 {
		before := h.dev.Info().Phase
		h.accesses, h.writes, h.emitted, h.held, h.began = 0, 0, 0, false, false
		h.step(s)
		h.check(before)
	}
}

// check holds the device to the invariants.
func (h *hostile) check(before Phase) {
	i := h.dev.Info()
	status, _ := h.dev.Load(regStatus, 4)
	pending, _ := h.dev.Load(regInterruptStatus, 4)
	switch {
	case h.line != (pending != 0):
		h.t.Fatalf("the line is %v, InterruptStatus %#x", h.line, pending)
	case i.InFlight != len(h.outside):
		h.t.Fatalf("%d requests are outside, the device knows of %d", len(h.outside), i.InFlight)
	case i.InFlight > inFlightMax:
		h.t.Fatalf("%d requests are outside", i.InFlight)
	case h.dev.Held() != (i.Phase == PhaseHeld) || h.dev.Held() && i.InFlight == 0:
		h.t.Fatalf("held %v, %v, %d outside", h.dev.Held(), i.Phase, i.InFlight)
	case h.held && before == PhaseHeld:
		h.t.Fatal("Hold was called while it was held")
	case h.held && !h.dev.Held():
		h.t.Fatal("Hold was called, and it is not held")
	case (i.Violation != ViolationNone) != (status&statusNeedsReset != 0) && !h.dev.Held():
		h.t.Fatalf("status %#x with the violation %q", status, i.Violation)
	case h.dead(before) && (h.writes > 0 || h.emitted > 0):
		h.t.Fatalf("it was %v and is %v; %d writes to memory, %d requests", before, i.Phase, h.writes, h.emitted)
	case h.accesses > fuzzAccesses:
		h.t.Fatalf("%d accesses to memory in one step", h.accesses)
	}
}

// dead says whether the step could not do anything to memory, or send anything.
func (h *hostile) dead(before Phase) bool {
	return !h.began && (before == PhaseReset || before == PhaseFailed || before == PhaseNeedsReset || before == PhaseHeld)
}

// fuzzSeeds are scripts of drivers that do well at first.
func fuzzSeeds() (seeds [][]byte) {
	begin := func(kind byte, features uint32) []byte {
		return binary.LittleEndian.AppendUint32([]byte{kind}, features)
	}
	desc := func(queue, i byte, at, length uint16, flags, next byte) []byte {
		b := []byte{2, queue, i}
		b = binary.LittleEndian.AppendUint16(b, at)
		b = binary.LittleEndian.AppendUint16(b, length)
		return append(b, flags, next)
	}
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	heads := func(queue byte, list ...byte) []byte {
		return append([]byte{2, 4 | queue, byte(len(list) - 1)}, list...)
	}
	header := func(kind byte, sector uint16) []byte {
		return binary.LittleEndian.AppendUint16([]byte{2, 6, kind}, sector)
	}
	notify := func(queue byte) []byte { return []byte{0x30 * queue} } // op%12 is 0, bit 4 the queue
	const all = 0xffff_ffff
	read := join(header(blockIn, 4), desc(0, 0, 0x1800, 16, descNext, 1), desc(0, 1, 0x3000, 512, descNext|descWrite, 2),
		desc(0, 2, 0x3800, 1, descWrite, 0), heads(0, 0), []byte{0})
	answer := []byte{6, 0, 0, 4}
	reset, again := []byte{0x2b}, []byte{0x1b, 0xff, 0xff, 0xff, 0xff}
	move := []byte{0x0b}
	seeds = append(seeds,
		join(begin(0, all), read, answer),
		join(begin(0, all), read, move, answer),
		join(begin(0, all), read, reset, answer, again, read, answer),
		join(begin(0, all&^featureEventIdx), read, read, answer, answer),
		join(begin(0, all), header(blockGetID, 0), desc(0, 0, 0x1800, 16, descNext, 1), desc(0, 1, 0x3000, 21, descWrite, 0), heads(0, 0, 0, 0), []byte{0}),
		join(begin(1, all), desc(1, 0, 0x3000, 100, 0, 0), heads(1, 0, 0), notify(1)),
		join(begin(1, all), desc(0, 0, 0x3000, 1000, descWrite, 0), heads(0, 0, 0, 0), []byte{7, 0, 4, 7, 0, 8}, move),
		join(begin(1, all), []byte{7, 0, 4, 7, 0, 1}, desc(0, 0, 0x3000, 700, descWrite, 0), heads(0, 0, 0, 0), []byte{0}),
		join(begin(2, all), desc(1, 0, 0x3000, 100, 0, 0), heads(1, 0), notify(1), []byte{7, 9, 0}, desc(0, 0, 0x3000, 5, descWrite, 0), heads(0, 0, 0), []byte{0}),
		join(begin(3, all), desc(0, 0, 0x3000, 64, descWrite, 0), heads(0, 0, 0), []byte{0}, answer, move, answer),
	)
	return seeds
}
