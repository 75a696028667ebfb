package rv64

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"ft/chipset/rv64/fp"
)

// opFP encodes an instruction of the opcode OP-FP.
func opFP(f5, double, rm, rd, rs1, rs2 uint32) uint32 {
	return encR(0x53, rm, f5<<2|double, rd, rs1, rs2)
}

// fused encodes fmadd (0), fmsub (1), fnmsub (2) and fnmadd (3).
func fused(which, double, rm, rd, rs1, rs2, rs3 uint32) uint32 {
	return encR(0x43|which<<2, rm, rs3<<2|double, rd, rs1, rs2)
}

func d(v float64) uint64 { return math.Float64bits(v) }
func s(v float32) uint64 { return box(math.Float32bits(v)) }

func floatBoard(t *testing.T, code ...uint32) *board {
	b := newBoard(t)
	b.load(assemble(ramBase).word(code...))
	b.writeCSR(csrMtvec, handler)
	b.writeCSR(csrMstatus, 1<<13) // FS: initial
	return b
}

// Every operation once, with operands that tell it from the others; arithmetic itself is
// package fp's to test.
func TestFloatOperations(t *testing.T) {
	const rne, dyn = 0, 7
	f1, f2, f3 := 2.5, -4.0, 8.0
	big := uint64(0xffff_ffff_8000_0001)
	for _, c := range []struct {
		name  string
		code  func(double uint32) uint32
		want  func(double bool) uint64
		to    uint32 // rd, or an integer register's
		flags uint64
	}{
		{"fadd", func(f uint32) uint32 { return opFP(0, f, dyn, 4, 1, 2) }, num(-1.5), 0, 0},
		{"fsub", func(f uint32) uint32 { return opFP(1, f, rne, 4, 1, 2) }, num(6.5), 0, 0},
		{"fmul", func(f uint32) uint32 { return opFP(2, f, rne, 4, 1, 2) }, num(-10), 0, 0},
		{"fdiv", func(f uint32) uint32 { return opFP(3, f, rne, 4, 1, 2) }, num(-0.625), 0, 0},
		{"fsqrt", func(f uint32) uint32 { return opFP(0x0b, f, rne, 4, 2, 0) }, nan, 0, uint64(fp.NV)},
		{"fmadd", func(f uint32) uint32 { return fused(0, f, rne, 4, 1, 2, 3) }, num(-2), 0, 0},
		{"fmsub", func(f uint32) uint32 { return fused(1, f, rne, 4, 1, 2, 3) }, num(-18), 0, 0},
		{"fnmsub", func(f uint32) uint32 { return fused(2, f, rne, 4, 1, 2, 3) }, num(18), 0, 0},
		{"fnmadd", func(f uint32) uint32 { return fused(3, f, dyn, 4, 1, 2, 3) }, num(2), 0, 0},
		{"fsgnj", func(f uint32) uint32 { return opFP(4, f, 0, 4, 1, 2) }, num(-2.5), 0, 0},
		{"fsgnjn", func(f uint32) uint32 { return opFP(4, f, 1, 4, 1, 2) }, num(2.5), 0, 0},
		{"fsgnjx", func(f uint32) uint32 { return opFP(4, f, 2, 4, 2, 2) }, num(4), 0, 0},
		{"fmin", func(f uint32) uint32 { return opFP(5, f, 0, 4, 1, 2) }, num(-4), 0, 0},
		{"fmax", func(f uint32) uint32 { return opFP(5, f, 1, 4, 1, 2) }, num(2.5), 0, 0},
		{"fle", func(f uint32) uint32 { return opFP(0x14, f, 0, t0, 2, 2) }, integer(1), t0, 0},
		{"flt", func(f uint32) uint32 { return opFP(0x14, f, 1, t0, 2, 1) }, integer(1), t0, 0},
		{"feq", func(f uint32) uint32 { return opFP(0x14, f, 2, t0, 2, 1) }, integer(0), t0, 0},
		{"fclass", func(f uint32) uint32 { return opFP(0x1c, f, 1, t0, 2, 0) }, integer(2), t0, 0},
		{"fmv.x", func(f uint32) uint32 { return opFP(0x1c, f, 0, t0, 2, 0) }, func(double bool) uint64 {
			if double {
				return d(f2)
			}
			return sext32(math.Float32bits(float32(f2)))
		}, t0, 0},
		{"fmv from x", func(f uint32) uint32 { return opFP(0x1e, f, 0, 4, a0, 0) }, func(double bool) uint64 {
			if double {
				return big
			}
			return box(uint32(big))
		}, 0, 0},
		{"fcvt.w", func(f uint32) uint32 { return opFP(0x18, f, 1, t0, 1, 0) }, integer(2), t0, uint64(fp.NX)},
		{"fcvt.wu", func(f uint32) uint32 { return opFP(0x18, f, 1, t0, 2, 1) }, integer(0), t0, uint64(fp.NV)},
		{"fcvt.l", func(f uint32) uint32 { return opFP(0x18, f, 3, t0, 1, 2) }, integer(3), t0, uint64(fp.NX)},
		{"fcvt.lu", func(f uint32) uint32 { return opFP(0x18, f, 1, t0, 3, 3) }, integer(8), t0, 0},
		{"fcvt from w", func(f uint32) uint32 { return opFP(0x1a, f, 1, 4, a1, 0) }, num(-7), 0, 0},
		{"fcvt from wu", func(f uint32) uint32 { return opFP(0x1a, f, 1, 4, a2, 1) }, num(7), 0, 0},
		{"fcvt from l", func(f uint32) uint32 { return opFP(0x1a, f, 1, 4, a1, 2) }, num(-7), 0, 0},
		{"fcvt from lu", func(f uint32) uint32 { return opFP(0x1a, f, 1, 4, a2, 3) }, num(1<<32 + 7), 0, 1},
		{"fcvt.s.d, fcvt.d.s", func(f uint32) uint32 { return opFP(8, f, rne, 4, 1+4*(1-f)*2, f^1) }, num(2.5), 0, 0},
	} {
		for double := range uint32(2) {
			t.Run(fmt.Sprint(c.name, double), func(t *testing.T) {
				b := floatBoard(t, c.code(double))
				convert := func(v float64) uint64 {
					if double == 1 {
						return d(v)
					}
					return s(float32(v))
				}
				b.SetFReg(1, convert(f1))
				b.SetFReg(2, convert(f2))
				b.SetFReg(3, convert(f3))
				if c.name == "fcvt.s.d, fcvt.d.s" { // from the other format
					b.SetFReg(1, s(2.5))
					b.SetFReg(9, d(2.5))
				}
				b.SetReg(a0, big)
				b.SetReg(a1, ^uint64(6))
				b.SetReg(a2, 1<<32|7)
				b.run(1)
				got := b.FReg(4)
				if c.to != 0 {
					got = b.Reg(int(c.to))
				}
				b.want("the result", got, c.want(double == 1))
				flags := c.flags
				if c.name == "fcvt from lu" && double == 1 {
					flags = 0
				}
				b.want("fflags", b.Hart.csr.fflags, flags)
				fs := uint64(3)
				if c.to != 0 && flags == 0 {
					fs = 1
				}
				b.want("FS", b.Hart.csr.mstatus>>13&3, fs)
			})
		}
	}
}

func num(v float64) func(double bool) uint64 {
	return func(double bool) uint64 {
		if double {
			return d(v)
		}
		return s(float32(v))
	}
}

func nan(double bool) uint64 {
	if double {
		return fp.NaN64
	}
	return box(fp.NaN32)
}

func integer(v uint64) func(double bool) uint64 { return func(bool) uint64 { return v } }

// A single-precision operand that is not boxed is a NaN, but for what only moves bits.
func TestBoxing(t *testing.T) {
	b := floatBoard(t,
		opFP(0, 0, 0, 4, 1, 1),     // fadd.s
		opFP(4, 0, 0, 5, 1, 1),     // fsgnj.s
		opFP(0x1c, 0, 0, t0, 1, 0), // fmv.x.w
		encS(0x27, 2, a0, 1, 0),    // fsw
		encI(0x07, 2, 6, a0, 0),    // flw
		encI(0x07, 3, 7, a0, 8),    // fld
		encS(0x27, 3, a0, 1, 16))   // fsd
	v := uint64(0x1234_5678_3f80_0000)
	b.SetFReg(1, v)
	b.SetReg(a0, pageA)
	b.poke64(pageA+8, v)
	b.run(7)
	b.want("fadd.s", b.FReg(4), box(fp.NaN32))
	b.want("fsgnj.s", b.FReg(5), box(fp.NaN32))
	b.want("fmv.x.w", b.Reg(t0), 0x3f80_0000)
	b.want("fsw", b.peek64(pageA), 0x3f80_0000)
	b.want("flw", b.FReg(6), s(1))
	b.want("fld", b.FReg(7), v)
	b.want("fsd", b.peek64(pageA+16), v)
}

// Rounding modes: the instruction's, or frm's, of which some are reserved.
func TestRounding(t *testing.T) {
	third := func(rm uint32) uint32 { return opFP(3, 1, rm, 4, 1, 2) }
	down, up := d(1.0/3), math.Float64bits(1.0/3)+1
	for _, c := range []struct {
		rm, frm uint32
		want    uint64 // 0: an illegal instruction
	}{
		{0, 3, down}, {1, 3, down}, {2, 3, down}, {3, 0, up}, {4, 3, down},
		{5, 0, 0}, {6, 0, 0},
		{7, 0, down}, {7, 1, down}, {7, 2, down}, {7, 3, up}, {7, 4, down}, {7, 5, 0}, {7, 6, 0}, {7, 7, 0},
	} {
		b := floatBoard(t, third(c.rm))
		b.writeCSR(csrFrm, uint64(c.frm))
		b.SetFReg(1, d(1))
		b.SetFReg(2, d(3))
		b.run(1)
		if c.want == 0 {
			b.want("pc", b.PC(), handler)
			b.want("mtval", b.Hart.csr.mtval, uint64(third(c.rm)))
			continue
		}
		b.want(fmt.Sprint("1/3 with ", c.rm, c.frm), b.FReg(4), c.want)
	}
}

// A conversion that is exact is refused all the same when it asks frm, which is reserved.
func TestExactWithReservedRounding(t *testing.T) {
	convert := opFP(0x1a, 1, 7, 4, t0, 0) // fcvt.d.w
	b := floatBoard(t, convert)
	b.writeCSR(csrFrm, 5)
	b.run(1)
	b.want("pc", b.PC(), handler)
	b.want("mtval", b.Hart.csr.mtval, uint64(convert))
}

// With FS off everything of F and D is illegal, and nothing is changed.
func TestFloatOff(t *testing.T) {
	for _, code := range []uint32{
		opFP(0, 1, 0, 4, 1, 1), opFP(0x14, 0, 2, t0, 1, 1), fused(0, 1, 0, 4, 1, 1, 1), opFP(0x1c, 0, 0, t0, 1, 0),
		encI(0x07, 3, 4, a0, 0), encI(0x07, 2, 4, a0, 0), encS(0x27, 3, a0, 1, 0), encS(0x27, 2, a0, 1, 0),
		encI(0x73, sysCSRRS, t0, zero, csrFcsr), 0x2108, // c.fld fa0, 0(a0)
	} {
		b := floatBoard(t, code)
		b.writeCSR(csrMstatus, 0)
		b.SetReg(a0, 0x10) // no memory there: an access would be another trap
		b.run(1)
		b.want(fmt.Sprintf("the cause of %#x", code), b.Hart.csr.mcause, causeIllegal)
		b.want("mtval", b.Hart.csr.mtval, uint64(code))
	}
}

// What makes FS dirty: a register or fcsr written, a flag raised.
func TestFloatDirty(t *testing.T) {
	for _, c := range []struct {
		name  string
		code  uint32
		dirty bool
	}{
		{"fadd.d", opFP(0, 1, 0, 4, 1, 1), true},
		{"fmv.d.x", opFP(0x1e, 1, 0, 4, a0, 0), true},
		{"fld", encI(0x07, 3, 4, a0, 0), true},
		{"flw", encI(0x07, 2, 4, a0, 0), true},
		{"fsd", encS(0x27, 3, a0, 1, 0), false},
		{"feq.d", opFP(0x14, 1, 2, t0, 1, 1), false},
		{"flt.d with a NaN", opFP(0x14, 1, 1, t0, 2, 1), true},
		{"fmv.x.d", opFP(0x1c, 1, 0, t0, 1, 0), false},
		{"reading fcsr", encI(0x73, sysCSRRS, t0, zero, csrFcsr), false},
		{"writing fcsr", encI(0x73, sysCSRRW, zero, zero, csrFcsr), true},
		{"writing frm", encI(0x73, sysCSRRWI, zero, 0, csrFrm), true},
		{"a load that traps", encI(0x07, 3, 4, zero, 0), false},
	} {
		b := floatBoard(t, c.code)
		b.SetReg(a0, pageA)
		b.SetFReg(2, fp.NaN64)
		b.run(1)
		b.want("FS after "+c.name, b.Hart.csr.mstatus>>13&3, 1+2*truth(c.dirty))
	}
}

// Flags add up until they are cleared.
func TestFlagsAccrue(t *testing.T) {
	b := floatBoard(t, opFP(3, 1, 0, 4, 1, 2), opFP(3, 1, 0, 4, 1, 0), opFP(0, 1, 0, 4, 1, 1))
	b.SetFReg(1, d(1))
	b.SetFReg(2, d(3))
	b.run(3)
	b.want("fflags", b.Hart.csr.fflags, uint64(fp.NX|fp.DZ))
}

// With NX set and rounding to nearest, the host's arithmetic is used where it shows that
// nothing else happened: results and flags are those of package fp all the same.
func TestPlainFloat(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	// Numbers of all kinds, many on the borders of overflow, underflow and NaNs.
	operand := func(double uint32) uint64 {
		v := r.Uint64()
		exponents := []uint64{0, 1, 2, 3, 0x3fe, 0x3ff, 0x400, 0x7fc, 0x7fd, 0x7fe, 0x7ff, v >> 52 & 0x7ff}
		fraction := []uint64{0, 1, 1<<52 - 1, 1 << 51, v & (1<<52 - 1)}[r.IntN(5)]
		v = v&sign64 | exponents[r.IntN(len(exponents))]<<52 | fraction
		if double == 1 {
			return v
		}
		if r.IntN(10) == 0 {
			return v // not boxed
		}
		return box(uint32(v>>63<<31 | v>>52&0xff<<23 | v&(1<<23-1)))
	}
	var codes []uint32
	for double := range uint32(2) {
		for _, rm := range []uint32{0, 7} {
			for f5 := range uint32(4) {
				codes = append(codes, opFP(f5, double, rm, 4, 1, 2))
				codes = append(codes, fused(f5, double, rm, 4, 1, 2, 3))
			}
			codes = append(codes, opFP(0x0b, double, rm, 4, 1, 0))
		}
		for rm := range uint32(3) {
			codes = append(codes, opFP(0x04, double, rm, 4, 1, 2), opFP(0x14, double, rm, t0, 1, 2))
		}
		codes = append(codes, opFP(0x1a, double, 0, 4, a0, 0), opFP(0x1e, double, 0, 4, a0, 0))
	}
	b := floatBoard(t)
	run := func(code uint32, flags uint64, f [4]uint64) State {
		b.load(assemble(ramBase).word(code))
		b.writeCSR(csrFcsr, flags)
		b.SetReg(t0, 0)
		b.SetReg(a0, f[1])
		for i, v := range f {
			b.SetFReg(i, v)
		}
		b.SetFReg(4, 0)
		b.run(1)
		return b.State()
	}
	for range 20000 {
		code := codes[r.IntN(len(codes))]
		double := code >> 25 & 1
		f := [4]uint64{1: operand(double), 2: operand(double), 3: operand(double)}
		plain, exact := run(code, uint64(fp.NX), f), run(code, 0, f)
		if plain.F != exact.F || plain.X != exact.X || plain.Fflags != exact.Fflags|uint64(fp.NX) {
			t.Fatalf("%#x of %x: f4 %#x, t0 %d, flags %#x; exactly f4 %#x, t0 %d, flags %#x", code, f,
				plain.F[4], plain.X[t0], plain.Fflags, exact.F[4], exact.X[t0], exact.Fflags)
		}
	}
}
