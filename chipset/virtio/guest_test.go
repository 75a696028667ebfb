package virtio

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// A guest for the tests: RAM, an interrupt line, a driver for virtio-mmio and split rings
// that is written from the specification's driver side, and a note of all outputs.

const (
	ramBase = 0x8000_0000
	ramSize = 8 << 20
)

// tb is testing.TB, and rapid.T as well.
type tb interface {
	Helper()
	Fatalf(format string, args ...any)
}

// guest is a machine with one device in slot 3.
type guest struct {
	t    tb
	ram  []byte
	dev  Device
	line bool
	held int // calls of Hold

	out    []Request // copies of what left
	heap   uint64    // next free address
	queues [queuesMax]*ring
}

func newGuest(t tb) *guest {
	return &guest{t: t, ram: make([]byte, ramSize), heap: ramBase}
}

const slot = 3

func (g *guest) in(addr uint64, n int) ([]byte, bool) {
	if addr < ramBase || addr-ramBase > ramSize || uint64(n) > ramSize-(addr-ramBase) {
		return nil, false
	}
	return g.ram[addr-ramBase:][:n], true
}

func (g *guest) ReadRAM(addr uint64, p []byte) bool {
	m, ok := g.in(addr, len(p))
	copy(p, m)
	return ok
}

func (g *guest) WriteRAM(addr uint64, p []byte) bool {
	m, ok := g.in(addr, len(p))
	copy(m, p)
	return ok
}

func (g *guest) Interrupt(s int, level bool) {
	if s != slot {
		g.t.Fatalf("the device of slot %d drives the line of slot %d", slot, s)
	}
	g.line = level
}

func (g *guest) Emit(s int, r *Request) {
	c := *r
	c.Data = slices.Clone(r.Data)
	g.out = append(g.out, c)
}

func (g *guest) Hold(int) { g.held++ }

// sent takes what left since the last call.
func (g *guest) sent() []Request {
	out := g.out
	g.out = nil
	return out
}

func (g *guest) read(off uint64) uint32 {
	g.t.Helper()
	v, ok := g.dev.Load(off, 4)
	if !ok {
		g.t.Fatalf("load of register %#x: access fault", off)
	}
	return uint32(v)
}

func (g *guest) write(off uint64, v uint32) {
	g.t.Helper()
	if !g.dev.Store(off, 4, uint64(v)) {
		g.t.Fatalf("store of %#x to register %#x: access fault", v, off)
	}
}

// allocate returns the address of n bytes.
func (g *guest) allocate(n int) uint64 {
	a := (g.heap + 15) &^ 15
	g.heap = a + uint64(n)
	if g.heap > ramBase+ramSize {
		g.t.Fatalf("the guest's memory is used up")
	}
	return a
}

// mem is n bytes of RAM at addr.
func (g *guest) mem(addr uint64, n int) []byte {
	g.t.Helper()
	m, ok := g.in(addr, n)
	if !ok {
		g.t.Fatalf("%#x is not in RAM", addr)
	}
	return m
}

// put allocates p.
func (g *guest) put(p []byte) uint64 {
	a := g.allocate(len(p))
	copy(g.mem(a, len(p)), p)
	return a
}

// offered is the device's features.
func (g *guest) offered() uint64 {
	g.write(regDeviceFeaturesSel, 1)
	f := uint64(g.read(regDeviceFeatures)) << 32
	g.write(regDeviceFeaturesSel, 0)
	return f | uint64(g.read(regDeviceFeatures))
}

// start is 3.1.1: reset, features as far as they are offered, queues of size entries,
// DRIVER_OK.
func (g *guest) start(features uint64, size uint32) {
	g.t.Helper()
	features &= g.offered()
	g.negotiate(features)
	if g.read(regStatus)&statusFeaturesOK == 0 {
		g.t.Fatalf("the device refused the features %#x of %#x", features, g.offered())
	}
	for i := range g.queues {
		g.queues[i] = nil
		g.write(regQueueSel, uint32(i))
		if g.read(regQueueNumMax) != 0 {
			g.queues[i] = g.newRing(i, size, features)
		}
	}
	g.write(regStatus, statusAcknowledge|statusDriver|statusFeaturesOK|statusDriverOK)
}

func (g *guest) negotiate(features uint64) {
	g.write(regStatus, 0)
	g.write(regStatus, statusAcknowledge)
	g.write(regStatus, statusAcknowledge|statusDriver)
	g.write(regDriverFeaturesSel, 0)
	g.write(regDriverFeatures, uint32(features))
	g.write(regDriverFeaturesSel, 1)
	g.write(regDriverFeatures, uint32(features>>32))
	g.write(regStatus, statusAcknowledge|statusDriver|statusFeaturesOK)
}

// ring is the driver's side of a split virtqueue.
type ring struct {
	g             *guest
	index         int
	num           uint32
	desc          uint64
	avail         uint64
	used          uint64
	eventIdx      bool
	indirect      bool // chains go into indirect tables
	free          []uint16
	chains        map[uint16][]uint16 // descriptors by head
	availIdx      uint16
	usedIdx       uint16
	notifications int
}

func (g *guest) newRing(index int, num uint32, features uint64) *ring {
	r := &ring{
		g: g, index: index, num: num, eventIdx: features&featureEventIdx != 0,
		indirect: features&featureIndirect != 0, chains: map[uint16][]uint16{},
	}
	r.desc = g.allocate(int(num) * descriptorSize)
	r.avail = g.allocate(int(num)*availEntry + 6)
	r.used = g.allocate(int(num)*usedEntry + 6)
	for i := range num {
		r.free = append(r.free, uint16(num-1-i))
	}
	g.write(regQueueSel, uint32(index))
	g.write(regQueueNum, num)
	for _, a := range []struct {
		reg  uint64
		addr uint64
	}{{regQueueDescLow, r.desc}, {regQueueDriverLow, r.avail}, {regQueueDeviceLow, r.used}} {
		clear(g.mem(a.addr, 16))
		g.write(a.reg, uint32(a.addr))
		g.write(a.reg+4, uint32(a.addr>>32))
	}
	g.write(regQueueReady, 1)
	if g.read(regQueueReady) != 1 {
		g.t.Fatalf("queue %d did not start", index)
	}
	return r
}

// buffer is a segment of a chain.
type buffer struct {
	addr     uint64
	len      int
	writable bool
}

func (r *ring) u16(addr uint64) uint16 { return binary.LittleEndian.Uint16(r.g.mem(addr, 2)) }
func (r *ring) setU16(addr uint64, v uint16) {
	binary.LittleEndian.PutUint16(r.g.mem(addr, 2), v)
}

// setDescriptor writes entry i of a table.
func (g *guest) setDescriptor(table uint64, i int, addr uint64, length uint32, flags, next uint16) {
	d := g.mem(table+uint64(i)*descriptorSize, descriptorSize)
	binary.LittleEndian.PutUint64(d[0:], addr)
	binary.LittleEndian.PutUint32(d[8:], length)
	binary.LittleEndian.PutUint16(d[12:], flags)
	binary.LittleEndian.PutUint16(d[14:], next)
}

func (b buffer) flags() uint16 {
	if b.writable {
		return descWrite
	}
	return 0
}

// add makes a chain available, without a notification. It returns its head.
func (r *ring) add(buffers ...buffer) uint16 {
	r.g.t.Helper()
	if r.indirect && len(buffers) > 1 {
		table := r.g.allocate(len(buffers) * descriptorSize)
		r.writeTable(table, buffers)
		return r.publish(func(ids []uint16) {
			r.g.setDescriptor(r.desc, int(ids[0]), table, uint32(len(buffers)*descriptorSize), descIndirect, 0)
		}, 1)
	}
	return r.publish(func(ids []uint16) {
		for i, b := range buffers {
			flags, next := b.flags(), uint16(0)
			if i+1 < len(buffers) {
				flags, next = flags|descNext, ids[i+1]
			}
			r.g.setDescriptor(r.desc, int(ids[i]), b.addr, uint32(b.len), flags, next)
		}
	}, len(buffers))
}

func (r *ring) writeTable(table uint64, buffers []buffer) {
	for i, b := range buffers {
		flags := b.flags()
		if i+1 < len(buffers) {
			flags |= descNext
		}
		r.g.setDescriptor(table, i, b.addr, uint32(b.len), flags, uint16(i+1))
	}
}

// publish takes n descriptors, has them written, and makes the chain available.
func (r *ring) publish(write func(ids []uint16), n int) uint16 {
	r.g.t.Helper()
	if n > len(r.free) {
		r.g.t.Fatalf("queue %d: %d descriptors wanted, %d are free", r.index, n, len(r.free))
	}
	ids := slices.Clone(r.free[len(r.free)-n:])
	slices.Reverse(ids)
	r.free = r.free[:len(r.free)-n]
	write(ids)
	r.chains[ids[0]] = ids
	r.setU16(r.avail+availHeader+availEntry*uint64(uint32(r.availIdx)%r.num), ids[0])
	r.availIdx++
	r.setU16(r.avail+2, r.availIdx)
	return ids[0]
}

// room says whether a chain of n buffers can be added.
func (r *ring) room(n int) bool {
	if r.indirect && n > 1 {
		n = 1
	}
	return n <= len(r.free)
}

// kick notifies if the device wants to know of what was added since before.
func (r *ring) kick(before uint16) {
	if r.eventIdx {
		event := r.u16(r.used + usedHeader + usedEntry*uint64(r.num))
		if r.availIdx-event-1 >= r.availIdx-before {
			return
		}
	}
	r.notifications++
	r.g.write(regQueueNotify, uint32(r.index))
}

// send adds a chain and notifies.
func (r *ring) send(buffers ...buffer) uint16 {
	r.g.t.Helper()
	before := r.availIdx
	head := r.add(buffers...)
	r.kick(before)
	return head
}

// returned is a chain that came back.
type returned struct {
	head    uint16
	written uint32
}

// harvest takes what came back, and asks for an interrupt for the next.
func (r *ring) harvest() (got []returned) {
	r.g.t.Helper()
	for r.usedIdx != r.u16(r.used+2) {
		e := r.g.mem(r.used+usedHeader+usedEntry*uint64(uint32(r.usedIdx)%r.num), usedEntry)
		u := returned{uint16(binary.LittleEndian.Uint32(e)), binary.LittleEndian.Uint32(e[4:])}
		ids, ok := r.chains[u.head]
		if !ok {
			r.g.t.Fatalf("queue %d: chain %d came back, which was not available", r.index, u.head)
		}
		delete(r.chains, u.head)
		r.free = append(r.free, ids...)
		r.usedIdx++
		got = append(got, u)
	}
	if r.eventIdx {
		r.setU16(r.avail+availHeader+availEntry*uint64(r.num), r.usedIdx)
	}
	return got
}

// acknowledge is the interrupt handler's reading of why.
func (g *guest) acknowledge() uint32 {
	v := g.read(regInterruptStatus)
	g.write(regInterruptACK, v)
	return v
}

func (r Request) String() string {
	s := fmt.Sprintf("%v sector=%d length=%d", r.Op, r.Sector, r.Length)
	if r.Unmap {
		s += " unmap"
	}
	if r.Stable {
		s += " stable"
	}
	return s
}
