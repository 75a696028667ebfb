package rv64

import (
	"encoding/binary"
	"fmt"
	"testing"
)

// A small assembler, so that what a test runs stands in the test.

const ramBase = 0x8000_0000

// Registers by their ABI names.
const (
	zero, ra, sp, gp, tp       = 0, 1, 2, 3, 4
	t0, t1, t2                 = 5, 6, 7
	s0, s1                     = 8, 9
	a0, a1, a2, a3, a4, a5     = 10, 11, 12, 13, 14, 15
	a6, a7                     = 16, 17
	s2, s3, s4, s5, s6, s7     = 18, 19, 20, 21, 22, 23
	s8, s9, s10, s11           = 24, 25, 26, 27
	t3, t4, t5, t6             = 28, 29, 30, 31
	ft0, ft1, ft2, ft3, ft4    = 0, 1, 2, 3, 4
	nop, ecall, ebreak         = 0x0000_0013, 0x0000_0073, 0x0010_0073
	sret, mret, wfi, fencei    = 0x1020_0073, 0x3020_0073, 0x1050_0073, 0x0000_100f
	sfence                     = 0x1200_0073
	f3SB, f3SH, f3SW, f3SD     = 0, 1, 2, 3
	f3LB, f3LH, f3LW, f3LD     = 0, 1, 2, 3
	f3LBU, f3LHU, f3LWU        = 4, 5, 6
	f3BEQ, f3BNE, f3BLT, f3BGE = 0, 1, 4, 5
)

// asm assembles from an address on. Labels may be used before they are set.
type asm struct {
	at     uint64
	code   []byte
	labels map[string]uint64
	fixups []func()
}

func assemble(at uint64) *asm { return &asm{at: at, labels: map[string]uint64{}} }

func (a *asm) pc() uint64 { return a.at + uint64(len(a.code)) }

func (a *asm) label(name string) *asm {
	a.labels[name] = a.pc()
	return a
}

func (a *asm) word(ws ...uint32) *asm {
	for _, w := range ws {
		a.code = binary.LittleEndian.AppendUint32(a.code, w)
	}
	return a
}

func (a *asm) half(hs ...uint16) *asm {
	for _, h := range hs {
		a.code = binary.LittleEndian.AppendUint16(a.code, h)
	}
	return a
}

// pad fills with nops up to an address.
func (a *asm) pad(to uint64) *asm {
	for a.pc() < to {
		if to-a.pc() == 2 {
			a.half(0x0001)
		} else {
			a.word(nop)
		}
	}
	return a
}

// patch writes a word that depends on a label once all are known.
func (a *asm) patch(name string, encode func(offset int32) uint32) *asm {
	at := len(a.code)
	pc := a.pc()
	a.fixups = append(a.fixups, func() {
		target, ok := a.labels[name]
		if !ok {
			panic(fmt.Sprintf("no label %q", name))
		}
		binary.LittleEndian.PutUint32(a.code[at:], encode(int32(target-pc)))
	})
	return a.word(0)
}

func (a *asm) bytes() []byte {
	for _, f := range a.fixups {
		f()
	}
	a.fixups = nil
	return a.code
}

func (a *asm) branch(f3, rs1, rs2 uint32, to string) *asm {
	return a.patch(to, func(off int32) uint32 { return encB(f3, rs1, rs2, off) })
}
func (a *asm) jal(rd uint32, to string) *asm {
	return a.patch(to, func(off int32) uint32 { return encJ(rd, off) })
}
func (a *asm) addi(rd, rs1 uint32, imm int32) *asm { return a.word(encI(0x13, 0, rd, rs1, imm)) }
func (a *asm) add(rd, rs1, rs2 uint32) *asm        { return a.word(encR(0x33, 0, 0, rd, rs1, rs2)) }
func (a *asm) load(f3, rd, rs1 uint32, imm int32) *asm {
	return a.word(encI(0x03, f3, rd, rs1, imm))
}
func (a *asm) store(f3, rs2, rs1 uint32, imm int32) *asm {
	return a.word(encS(0x23, f3, rs1, rs2, imm))
}
func (a *asm) jalr(rd, rs1 uint32, imm int32) *asm { return a.word(encI(0x67, 0, rd, rs1, imm)) }
func (a *asm) csrw(csr, rs1 uint32) *asm           { return a.csr(sysCSRRW, zero, rs1, csr) }
func (a *asm) csrr(rd, csr uint32) *asm            { return a.csr(sysCSRRS, rd, zero, csr) }
func (a *asm) csrs(csr, rs1 uint32) *asm           { return a.csr(sysCSRRS, zero, rs1, csr) }
func (a *asm) csrc(csr, rs1 uint32) *asm           { return a.csr(sysCSRRC, zero, rs1, csr) }
func (a *asm) csr(f3, rd, rs1, csr uint32) *asm {
	return a.word(encI(0x73, f3, rd, rs1, int32(csr)))
}

// amo is an instruction of the A extension; f3 is 2 for words, 3 for doublewords.
func (a *asm) amo(f5, f3, rd, rs1, rs2 uint32) *asm {
	return a.word(encR(0x2f, f3, f5<<2, rd, rs1, rs2))
}

// li loads any constant, in as many instructions as it takes.
func (a *asm) li(rd uint32, v uint64) *asm {
	low := int32(v) << 20 >> 20
	switch rest := v - uint64(int64(low)); {
	case int64(v) == int64(low):
		return a.addi(rd, zero, low)
	case int64(v) == int64(int32(v)) && int64(rest) == int64(int32(rest)):
		a.word(0x37 | rd<<7 | uint32(rest))
		if low != 0 {
			a.word(encI(0x1b, 0, rd, rd, low)) // addiw
		}
		return a
	default:
		a.li(rd, uint64(int64(rest)>>12))
		a.word(encI(0x13, 1, rd, rd, 12)) // slli
		if low != 0 {
			a.addi(rd, rd, low)
		}
		return a
	}
}

// board is a hart with memory and a device, for tests.
type board struct {
	*Hart
	t testing.TB

	loads, stores []busAccess
	onLoad        func(addr uint64, size int) uint64
	onStore       func(addr uint64, size int, v uint64)
}

type busAccess struct {
	addr uint64
	size int
	v    uint64
}

const (
	deviceBase = 0x1000_0000 // 4 KiB of it
	deviceSize = 0x1000
)

func (b *board) Load(addr uint64, size int) (v uint64, ok bool) {
	if addr-deviceBase >= deviceSize {
		return 0, false
	}
	if b.onLoad != nil {
		v = b.onLoad(addr, size)
	}
	b.loads = append(b.loads, busAccess{addr, size, v})
	return v, true
}

func (b *board) Store(addr uint64, size int, v uint64) bool {
	if addr-deviceBase >= deviceSize {
		return false
	}
	b.stores = append(b.stores, busAccess{addr, size, v})
	if b.onStore != nil {
		b.onStore(addr, size, v)
	}
	return true
}

// newBoard has 1 MiB of memory.
func newBoard(t testing.TB, change ...func(*Config)) *board {
	b := &board{t: t}
	cfg := Config{RAM: make([]byte, 1<<20), RAMBase: ramBase, Bus: b}
	for _, f := range change {
		f(&cfg)
	}
	b.Hart = New(cfg)
	giveEngine(t, b.Hart, *engine, 1)
	return b
}

// load puts what was assembled into memory, and the hart at its start.
func (b *board) load(a *asm) *board {
	b.t.Helper()
	code := a.bytes()
	if !b.WriteRAM(a.at, code) {
		b.t.Fatalf("%d bytes at %#x are outside RAM", len(code), a.at)
	}
	b.SetPC(a.at)
	return b
}

// run runs exactly so many steps.
func (b *board) run(steps uint64) *board {
	b.t.Helper()
	if ran, why := b.Run(steps); ran != steps {
		b.t.Fatalf("ran %d of %d steps: %v", ran, steps, why)
	}
	return b
}

// runTo runs until the pc is at a label.
func (b *board) runTo(a *asm, label string) *board {
	b.t.Helper()
	pc, ok := a.labels[label]
	if !ok {
		b.t.Fatalf("no label %q", label)
	}
	for range 10_000 {
		if b.PC() == pc {
			return b
		}
		b.run(1)
	}
	b.t.Fatalf("never came to %s (%#x); pc %#x, mcause %d, mtval %#x, scause %d, stval %#x", label, pc, b.PC(),
		b.Hart.csr.mcause, b.Hart.csr.mtval, b.Hart.csr.scause, b.Hart.csr.stval)
	return b
}

func (b *board) want(what string, got, want uint64) {
	b.t.Helper()
	if got != want {
		b.t.Errorf("%s is %#x, want %#x", what, got, want)
	}
}

func (b *board) poke64(addr, v uint64) {
	b.t.Helper()
	if !b.WriteRAM(addr, binary.LittleEndian.AppendUint64(nil, v)) {
		b.t.Fatalf("%#x is outside RAM", addr)
	}
}

func (b *board) peek64(addr uint64) uint64 {
	b.t.Helper()
	var p [8]byte
	if !b.ReadRAM(addr, p[:]) {
		b.t.Fatalf("%#x is outside RAM", addr)
	}
	return binary.LittleEndian.Uint64(p[:])
}
