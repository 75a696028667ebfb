package cpu

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"

	"ft/chipset/firmware"
	"ft/chipset/lockstep"
	"ft/chipset/module"
	"ft/chipset/rv64/oracle/asm"
	"ft/chipset/virtio"
)

// The guest of these tests works, in S mode and through page tables whose A and D bits the
// hart sets, on integers, floating point and memory; in each turn it writes to, reads from and
// flushes its disk with three requests at once, waits for the answers, writes to its console,
// and sleeps for its timer now and then.
const (
	guestRoot   = ramBase + 0x10000
	guestMiddle = ramBase + 0x11000
	guestLeaves = ramBase + 0x12000
	guestDesc   = ramBase + 0x20000
	guestAvail  = ramBase + 0x21000
	guestUsed   = ramBase + 0x22000
	guestHead   = ramBase + 0x23000 // three headers, and behind them three status bytes
	guestWrite  = ramBase + 0x24000
	guestRead   = ramBase + 0x25000
	guestData   = ramBase + 2<<20

	csrSSTATUS, csrSIE, csrSTIMECMP, csrSATP, csrTIME = 0x100, 0x104, 0x14d, 0x180, 0xc01
)

type guestCode struct{ *asm.Code }

func (g guestCode) poke(store string, at, v uint64) {
	g.Li(asm.T0, at)
	g.Li(asm.T1, v)
	g.Op(store, asm.Args{Rs1: asm.T0, Rs2: asm.T1})
}

func (g guestCode) r(name string, rd, rs1, rs2 asm.Reg) {
	g.Op(name, asm.Args{Rd: rd, Rs1: rs1, Rs2: rs2, Rm: 7})
}

func (g guestCode) i(name string, rd, rs1 asm.Reg, imm int64) {
	g.Op(name, asm.Args{Rd: rd, Rs1: rs1, Imm: imm})
}

func (g guestCode) csr(n int64, v uint64) {
	g.Li(asm.T1, v)
	g.Op("csrrw", asm.Args{Rs1: asm.T1, Imm: n})
}

// guest is the program, with its page tables.
var guest = sync.OnceValue(writeGuest)

func writeGuest() []byte {
	g := guestCode{asm.New(ramBase)}
	reg := func(off, v uint64) { g.poke("sw", firmware.VirtioBase+module.DiskSlot*firmware.VirtioSize+off, v) }
	g.csr(csrSSTATUS, 3<<13) // floating point is on
	g.csr(csrSATP, 8<<60|guestRoot>>12)
	for _, v := range []uint64{0, 1, 3} {
		reg(0x70, v)
	}
	reg(0x24, 0)
	reg(0x20, 1<<9) // VIRTIO_BLK_F_FLUSH
	reg(0x24, 1)
	reg(0x20, 1)
	reg(0x70, 11)
	reg(0x38, 8)
	reg(0x80, guestDesc)
	reg(0x90, guestAvail)
	reg(0xa0, guestUsed)
	reg(0x44, 1)
	reg(0x70, 15)
	for i, d := range []struct{ at, length, flags, next uint64 }{
		{guestHead, 16, 1, 1}, {guestWrite, 512, 1, 2}, {guestHead + 48, 1, 2, 0},
		{guestHead + 16, 16, 1, 4}, {guestRead, 512, 3, 5}, {guestHead + 49, 1, 2, 0},
		{guestHead + 32, 16, 1, 7}, {guestHead + 50, 1, 2, 0},
	} {
		g.poke("sd", guestDesc+uint64(i)*16, d.at)
		g.poke("sd", guestDesc+uint64(i)*16+8, d.length|d.flags<<32|d.next<<48)
	}
	g.poke("sd", guestHead, 1)      // out
	g.poke("sd", guestHead+16+8, 7) // in, sector 7
	g.poke("sd", guestHead+32, 4)   // flush
	g.poke("sw", firmware.PLICBase+4*firmware.VirtioIRQ, 1)
	g.poke("sw", firmware.PLICBase+0x2080, 1<<firmware.VirtioIRQ)
	for i, v := range []uint64{0x3ff0_0000_1000_0000, 0x3ff0_0000_0000_0001, 0x4000_0000_0000_0000} {
		g.Li(asm.T1, v)
		g.Op("fmv.d.x", asm.Args{Rd: asm.Reg(i), Rs1: asm.T1})
	}
	g.Li(asm.S0, 0)
	g.Li(asm.S2, guestData)
	g.Li(asm.S3, 6364136223846793005)
	g.Li(asm.S4, 0xffff8)

	g.Label("turn")
	g.i("addi", asm.S0, asm.S0, 1)
	g.Li(asm.T3, 300)
	g.Label("work")
	g.r("mul", asm.T4, asm.T4, asm.S3)
	g.r("add", asm.T4, asm.T4, asm.S0)
	g.i("srli", asm.T5, asm.T4, 40)
	g.r("and", asm.T5, asm.T5, asm.S4)
	g.r("add", asm.T5, asm.T5, asm.S2)
	g.Op("sd", asm.Args{Rs1: asm.T5, Rs2: asm.T4})
	g.i("lw", asm.T6, asm.T5, 4)
	g.Op("sh", asm.Args{Rs1: asm.T5, Rs2: asm.T6, Imm: 16})
	g.r("divu", asm.T6, asm.T4, asm.T5)
	g.r("xor", asm.A3, asm.A3, asm.T6)
	g.Op("amoadd.d", asm.Args{Rd: asm.A4, Rs1: asm.T5, Rs2: asm.A3})
	g.r("fmul.d", 3, 0, 1)
	g.r("fadd.d", 0, 3, 4)
	g.Op("fsd", asm.Args{Rs1: asm.T5, Rs2: 0, Imm: 24})
	g.i("andi", asm.A5, asm.T4, 1)
	g.To("beq", asm.Args{Rs1: asm.A5}, "even")
	g.r("sub", asm.A6, asm.A6, asm.T4)
	g.Label("even")
	g.i("addi", asm.T3, asm.T3, -1)
	g.To("bne", asm.Args{Rs1: asm.T3}, "work")

	// The requests.
	g.Li(asm.T0, guestWrite)
	g.Op("sd", asm.Args{Rs1: asm.T0, Rs2: asm.T4})
	g.Li(asm.T0, guestHead)
	g.i("andi", asm.T1, asm.S0, 0x3ff)
	g.Op("sd", asm.Args{Rs1: asm.T0, Rs2: asm.T1, Imm: 8})
	g.Li(asm.T0, guestAvail)
	g.Li(asm.A0, 3)
	g.r("mul", asm.A0, asm.S0, asm.A0) // requests in all
	for i := range int64(3) {
		g.i("addi", asm.T1, asm.A0, i-3)
		g.i("andi", asm.T1, asm.T1, 7)
		g.i("slli", asm.T1, asm.T1, 1)
		g.r("add", asm.T1, asm.T1, asm.T0)
		g.Li(asm.T2, uint64(3*i))
		g.Op("sh", asm.Args{Rs1: asm.T1, Rs2: asm.T2, Imm: 4})
	}
	g.Op("sh", asm.Args{Rs1: asm.T0, Rs2: asm.A0, Imm: 2})
	g.csr(csrSIE, 1<<9)
	reg(0x50, 0)
	g.Label("wait")
	g.Op("wfi", asm.Args{})
	g.Li(asm.T0, firmware.PLICBase+0x20_1004)
	g.i("lw", asm.T1, asm.T0, 0)
	g.Op("sw", asm.Args{Rs1: asm.T0, Rs2: asm.T1})
	reg(0x64, 3)
	g.Li(asm.T0, guestUsed)
	g.i("lhu", asm.T1, asm.T0, 2)
	g.i("slli", asm.T2, asm.A0, 48)
	g.i("srli", asm.T2, asm.T2, 48)
	g.To("bne", asm.Args{Rs1: asm.T1, Rs2: asm.T2}, "wait")

	// The console; and at times, a sleep.
	g.Li(asm.T0, firmware.UARTBase)
	g.i("andi", asm.T1, asm.S0, 15)
	g.i("addi", asm.T1, asm.T1, 'a')
	g.Op("sb", asm.Args{Rs1: asm.T0, Rs2: asm.T1})
	g.i("andi", asm.T1, asm.S0, 3)
	g.To("bne", asm.Args{Rs1: asm.T1}, "turn")
	g.Op("csrrs", asm.Args{Rd: asm.T1, Imm: csrTIME})
	g.i("addi", asm.T1, asm.T1, 500)
	g.Op("csrrw", asm.Args{Rs1: asm.T1, Imm: csrSTIMECMP})
	g.csr(csrSIE, 1<<5)
	g.Op("wfi", asm.Args{})
	g.csr(csrSTIMECMP, ^uint64(0))
	g.To("jal", asm.Args{}, "turn")
	g.Finish()

	image := append(g.Bytes, make([]byte, 0x20000-len(g.Bytes))...)
	put := func(at, v uint64) { binary.LittleEndian.PutUint64(image[at-ramBase:], v) }
	put(guestRoot, 0xc7)                      // devices
	put(guestRoot+2*8, guestMiddle>>12<<10|1) // RAM
	put(guestMiddle, guestLeaves>>12<<10|1)   // its first 2 MiB, by pages
	put(guestMiddle+8, guestData>>12<<10|0x0f)
	for i := range uint64(512) {
		put(guestLeaves+8*i, (ramBase>>12+i)<<10|0x0f)
	}
	return image
}

// world is what is around a module: it answers requests, grants time, and ends epochs, as the
// seed has it. All commands of the stream are kept, with the answers.
type world struct {
	x        *told
	r        *rand.Rand
	disk     map[uint64][]byte
	requests []lockstep.Record
	epoch    uint64
	open     []uint64 // epochs that are not committed
	last     lockstep.Record

	log   []lockstep.Command
	heard [][]lockstep.Record // by command
}

func newWorld(x *told, seed uint64) *world {
	w := &world{x: x, r: rand.New(rand.NewPCG(seed, 7)), disk: map[uint64][]byte{}, open: []uint64{0}}
	w.do(lockstep.Command{Verb: lockstep.Run})
	return w
}

// do sends a command of the stream.
func (w *world) do(c lockstep.Command) []lockstep.Record {
	got := w.x.do(c)
	c.Number = w.x.number
	w.log = append(w.log, c)
	w.heard = append(w.heard, got)
	for _, r := range got {
		switch {
		case r.Kind == lockstep.Output && r.ID != 0:
			w.requests = append(w.requests, r)
		case r.Kind == lockstep.Ran:
			w.last = r
		}
	}
	return got
}

func (w *world) input(in module.Input) { w.do(lockstep.EncodeInput(&in)) }

// answer answers a request.
func (w *world) answer(q *lockstep.Record) {
	in := module.Input{Kind: module.InputCompletion, Slot: q.Slot, ID: q.ID}
	switch q.Op {
	case virtio.Write:
		w.disk[q.Sector] = q.Data
	case virtio.Read:
		in.Data = append(in.Data, w.disk[q.Sector]...)
		in.Data = append(in.Data, make([]byte, int(q.Length)-len(in.Data))...)
	}
	w.input(in)
}

// quantum is what comes from outside, and a quantum.
func (w *world) quantum() {
	r := w.r
	for len(w.requests) > 0 && r.IntN(3) > 0 {
		i := r.IntN(len(w.requests))
		q := w.requests[i]
		w.requests = append(w.requests[:i], w.requests[i+1:]...)
		w.answer(&q)
	}
	if r.IntN(20) == 0 && w.last.Room >= 5 {
		w.input(module.Input{Kind: module.InputConsole, Data: []byte("typed")})
	}
	base := w.last.Time + r.Uint64N(200)
	if w.last.Why == lockstep.Idle && w.last.Due != lockstep.Never && r.IntN(2) == 0 {
		base = max(base, w.last.Due)
	}
	if r.IntN(2) == 0 {
		base -= min(base, r.Uint64N(300)) // granted ahead of knowing where the guest is
	}
	w.input(module.Input{Kind: module.InputTime, Status: module.AtLeast, Base: base, Num: 1, Den: 10 + uint32(r.IntN(10))})
	w.do(lockstep.Command{Verb: lockstep.Run, A: 1 + r.Uint64N(4000)})
	if r.IntN(4) == 0 {
		w.do(lockstep.Command{Verb: lockstep.Patrol, A: r.Uint64N(ramSize / pageSize), B: 16})
	}
	if r.IntN(6) == 0 || w.last.Why == lockstep.Full {
		w.endEpoch()
	}
}

func (w *world) endEpoch() {
	if len(w.open) >= 1+w.r.IntN(generationsMax) {
		w.open = w.open[len(w.open)-1:]
		w.do(lockstep.Command{Verb: lockstep.Commit, A: w.open[0]})
	}
	w.epoch++
	w.open = append(w.open, w.epoch)
	w.do(lockstep.Command{Verb: lockstep.Epoch, A: w.epoch})
}

func describe(records []lockstep.Record) (s string) {
	for _, r := range records {
		s += fmt.Sprintf("%v %v steps %d pc %#x state %#x, %d pages, %d bytes; ", r.Kind, r.Why, r.Steps, r.PC, r.State, len(r.Pages), len(r.Data))
	}
	return s
}
