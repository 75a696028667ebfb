//go:build linux

package translate

import (
	"encoding/binary"
	"unsafe"

	"ft/chipset/rv64"
)

// Registers of the host in machine code. rax, rcx and rdx are free in each operation.
const (
	rBase = rbx // into the hart; a shift by it is one by 32
	rRAM  = rbp
	rSum  = rsi // of the block's data, as h.sum
	rFold = rdi // the fingerprint, as h.fp
	rLeft = r15 // steps until the code has to come back, behind the block that runs
)

// hosts are the guest's registers that have one of the host's: sp and a0 to a5.
var hosts = func() (h [256]reg) {
	for i := range h {
		h[i] = noReg
	}
	h[2], h[10], h[11], h[12], h[13], h[14], h[15] = r8, r9, r10, r11, r12, r13, r14
	return h
}()

// emitter makes the machine code of blocks.
type emitter struct {
	assembler
	l     rv64.Layout
	level rv64.Compare
	bias  int32 // of rBase in the hart

	// What every block refers to.
	upAt, downAt, pagesAt, constAt    int
	startAt, exitAt, coldAt, lookupAt int

	// The block.
	b      *rv64.CodeBlock
	steps  int
	fixed  uint64 // what operations that write constants have added so far
	summed bool   // something was added to rSum
	dirty  bool   // FS is dirty here
	op     int    // the operation at work
	far    assembler
	stubs  []stub
	taken  []exit
	begins [rv64.MaxBlock]int // where each operation's code begins
	broken string             // a rule to break
}

// stub is what is behind a block's code: how it comes back.
type stub struct {
	label
	kind  uint32
	op    int
	field int // of the jump that leads here, for Link; or where to resume
	gone  int // the jump out of it
}

// exit is a branch that is taken out of a block.
type exit struct {
	label
	op       int
	constant uint64
	summed   bool
}

func (e *emitter) init(h *rv64.Hart, broken string) {
	e.l, e.level, e.broken = h.Layout(), h.Level(), broken
	at := uintptr(unsafe.Pointer(h))
	// The registers up to x27, and the five words before them, have short displacements.
	e.bias = e.l.X + 96
	e.bias += int32((32 - (at + uintptr(e.bias))) & 63)
	e.stubs, e.taken = make([]stub, 0, 4*rv64.MaxBlock), make([]exit, 0, 8)
	e.code = make([]byte, 0, 1<<16)
}

// hart is a field of the hart's.
func (e *emitter) hart(off int32) mem { return at(rBase, off-e.bias) }

// x is a guest's register in the hart.
func (e *emitter) x(i uint8) mem { return e.hart(e.l.X + 8*int32(i)) }

// commonCode writes what every block refers to to the region's start, and returns its size.
func (e *emitter) commonCode(region []byte) int {
	e.origin, e.code = 0, e.code[:0]
	words := func(n int, f func(i int) uint64) (at int) {
		at = e.here()
		for i := range n {
			e.code = binary.LittleEndian.AppendUint64(e.code, f(i))
		}
		return at
	}
	pages := uint64(0)
	e.upAt = words(rv64.MaxBlock+1, func(i int) uint64 { up, _ := rv64.FoldPowers(i); return up })
	e.downAt = words(rv64.MaxBlock+1, func(i int) uint64 { _, down := rv64.FoldPowers(i); return down })
	e.pagesAt = words(rv64.MaxBlock+1, func(i int) uint64 {
		now := pages
		pages = pages*rv64Fold() + 1
		return now
	})
	e.constAt = words(int(constCount), func(i int) uint64 { return constants[i] })
	e.commonRoutines()
	return copy(region, e.align())
}

func rv64Fold() uint64 { k, _ := rv64.FoldPowers(1); return k }

// Constants in the region.
const (
	cFoldAddr = iota
	cFoldSecond
	cFoldThird
	cFoldPage
	cInf64  // of an encoding shifted left by one
	cBoxed  // the upper half of a register with a single-precision number
	cSign64 //
	cStatusXL
	cStatusRead
	cTwo31 // 2³¹ and 2⁶² in double precision
	cTwo62
	cControl // MXCSR: to nearest, all exceptions masked, none noted
	constCount
)

var constants = [constCount]uint64{
	cFoldAddr: rv64.FoldAddr, cFoldSecond: rv64.FoldSecond, cFoldThird: rv64.FoldThird, cFoldPage: rv64.FoldPage,
	cInf64: 0x7ff << 53, cBoxed: 0xffff_ffff << 32, cSign64: 1 << 63, cStatusXL: rv64.StatusXL, cStatusRead: rv64.StatusRead, cTwo31: 0x41e0_0000_0000_0000, cTwo62: 0x43d0_0000_0000_0000, cControl: 0x1f80,
}

func (e *emitter) const64(i int) mem { return inRegion(int32(e.constAt + 8*i)) }
func (e *emitter) up(i int) mem      { return inRegion(int32(e.upAt + 8*i)) }
func (e *emitter) down(i int) mem    { return inRegion(int32(e.downAt + 8*i)) }

// align fills up to where a block may begin.
func (e *emitter) align() []byte {
	for len(e.code)%64 != 0 {
		e.byte(0xcc)
	}
	return e.code
}

func (e *emitter) commonRoutines() {
	e.align()
	// Load the registers and go to rdx.
	e.startAt = e.here()
	e.rm(iMOV, rRAM, e.hart(e.l.RAM))
	e.rm(iMOV, rSum, e.hart(e.l.Sum))
	e.rm(iMOV, rFold, e.hart(e.l.FP))
	e.rm(iMOV, rLeft, e.hart(e.l.Left))
	e.m1(iLDMXCSR, e.const64(cControl))
	for i, r := range hosts {
		if r != noReg {
			e.rm(iMOV, r, e.x(uint8(i)))
		}
	}
	e.r1(iJMPTo, rdx)

	// To the block at the pc in rdx, when it has no code.
	e.align()
	e.coldAt = e.here()
	e.rm(iMOVTo, rdx, e.hart(e.l.PC))
	e.constant(rax, uint64(rv64.ExitAt(rv64.ExitPC, 0, 0)))

	// Store the registers and come back, with why in rax and where in rdx.
	e.exitAt = e.here()
	e.rm(iMOVTo, rax, e.hart(e.l.Exit))
	e.rm(iMOVTo, rdx, e.hart(e.l.Site))
	e.rm(iMOVTo, rSum, e.hart(e.l.Sum))
	e.rm(iMOVTo, rFold, e.hart(e.l.FP))
	e.rm(iMOVTo, rLeft, e.hart(e.l.Left))
	for i, r := range hosts {
		if r != noReg {
			e.rm(iMOVTo, r, e.x(uint8(i)))
		}
	}
	e.m1(iSTMXCSR, e.hart(e.l.MXCSR))
	e.ret()

	// Look for the block at the pc in rdx, by the jump cache (rv64.jumpIndex).
	e.align()
	e.lookupAt = e.here()
	e.rr(iMOV, rax, rdx)
	e.rr(iMOV, rcx, rdx)
	e.ri(iSHRI, rax, 1)
	e.ri(iSHRI, rcx, 13)
	e.rr(iXORL, rax, rcx)
	e.ri(iANDLI, rax, e.l.JumpEntries-1)
	e.rm(iLEAL, rax, atIndex(rax, rax, 2, 0)) // entries have 24 bytes
	entry := func(field int32) mem {
		return atIndex(rBase, rax, 8, e.l.Jumps-e.bias+field)
	}
	var newPage, gone label
	cold := label{bound: true, at: e.coldAt}
	e.rm(iCMP, rdx, entry(e.l.JumpPC))
	e.jcc(ccNE, &cold)
	e.rm(iMOV, rcx, entry(e.l.JumpRegime))
	e.rm(iCMP, rcx, e.hart(e.l.Regime))
	e.jcc(ccNE, &cold)
	e.rm(iMOV, rax, entry(e.l.JumpBlock))
	e.rr(iMOV, rcx, rdx)
	e.ri(iANDI, rcx, -4096)
	e.rm(iCMP, rcx, e.hart(e.l.PageBase))
	e.jcc(ccNE, &newPage)
	e.bind(&gone)
	e.m1(iJMPTo, at(rax, e.l.BlockEntry))
	// The page's term (rv64.pageTerm).
	e.bind(&newPage)
	e.rm(iMOVTo, rcx, e.hart(e.l.PageBase))
	e.ri(iSHRI, rcx, 12)
	e.ri(iADDI, rcx, 1)
	e.rm(iIMUL, rcx, e.const64(cFoldPage))
	e.rm(iMOVTo, rcx, e.hart(e.l.PageTerm))
	e.ri(iSHRI, rcx, 32)
	e.rm(iXORTo, rcx, e.hart(e.l.PageTerm))
	e.jmp(&gone)
}

// block is the code of a block that will lie at an offset of the region, and what it comes back
// by, which will end at another.
func (e *emitter) block(b *rv64.CodeBlock, origin, farEnd int) (code, far []byte) {
	e.origin, e.code = origin, e.code[:0]
	e.b, e.steps = b, len(b.Ops)
	e.fixed, e.summed, e.dirty = 0, false, false
	e.stubs, e.taken = e.stubs[:0], e.taken[:0]

	e.ri(iSUBI, rLeft, int32(e.steps))
	e.jcc(ccB, e.stub(rv64.ExitBlock, 0, 0))
	e.rr(iXORL, rSum, rSum)
	ended := false
	for i := range b.Ops {
		e.op, e.begins[i] = i, e.here()
		ended = e.operation(&b.Ops[i])
		if v, ok := b.Ops[i].Constant(); ok {
			e.fixed += rv64.Mix(v) * b.Ops[i].Weight
		}
	}
	if !ended {
		e.op = e.steps
		e.leave(e.steps, &b.End, e.fixed, e.summed)
		e.goTo(e.steps, &b.End)
	}
	for i := range e.taken {
		x := &e.taken[i]
		e.bind(&x.label)
		e.leave(x.op+1, &b.Ops[x.op], x.constant, x.summed)
		e.goTo(x.op, &b.Ops[x.op])
	}
	return e.code, e.comeBack(farEnd)
}

// comeBack is the code of the stubs. It is seldom run, so it is kept away from what is.
func (e *emitter) comeBack(end int) []byte {
	f := &e.far
	f.code, f.origin = f.code[:0], 0
	for i := range e.stubs {
		s := &e.stubs[i]
		s.at = f.here()
		if s.kind == rv64.ExitBlock {
			f.ri(iADDI, rLeft, int32(e.steps))
		}
		f.constant(rax, uint64(rv64.ExitAt(s.kind, e.b.Index, s.op)))
		f.constant(rdx, uint64(s.field))
		s.gone = f.jmp(&label{bound: true})
	}
	f.origin = end - len(f.code)
	for i := range e.stubs {
		s := &e.stubs[i]
		for _, from := range s.from {
			e.relink(from, f.origin+s.at)
		}
		f.relink(f.origin+s.gone, e.exitAt)
	}
	return f.code
}

// stub returns the label of a new stub.
func (e *emitter) stub(kind uint32, op, field int) *label {
	e.stubs = append(e.stubs, stub{kind: kind, op: op, field: field})
	return &e.stubs[len(e.stubs)-1].label
}

// toSlow is where the operation at work is left to the interpreter's slow path. resume has to
// be called behind it.
func (e *emitter) toSlow() *label {
	if n := len(e.stubs); n > 0 && e.stubs[n-1].kind == rv64.ExitSlow && e.stubs[n-1].op == e.op {
		return &e.stubs[n-1].label
	}
	return e.stub(rv64.ExitSlow, e.op, 0)
}

// resume is behind the operation.
func (e *emitter) resume() {
	if n := len(e.stubs); n > 0 && e.stubs[n-1].kind == rv64.ExitSlow && e.stubs[n-1].op == e.op {
		e.stubs[n-1].field = e.here()
		e.summed = e.summed || e.b.Ops[e.op].Weight != 0
	}
}

// leave folds the n steps of the block through o, which is left behind it.
func (e *emitter) leave(n int, o *rv64.CodeOp, constant uint64, summed bool) {
	e.rm(iIMUL, rFold, e.up(n))
	if e.level != rv64.Off {
		if summed {
			if n > 1 {
				e.rm(iIMUL, rSum, e.up(n-1))
			}
			e.rr(iADD, rFold, rSum)
		}
		switch {
		case o.Page == 0:
		case e.level == rv64.EveryStep:
			e.rm(iMOV, rax, e.hart(e.l.PageTerm))
			e.rm(iIMUL, rax, inRegion(int32(e.pagesAt+8*n)))
			e.rr(iADD, rFold, rax)
		default:
			e.constant(rax, o.Page)
			e.rm(iIMUL, rax, e.hart(e.l.PageTerm))
			e.rr(iADD, rFold, rax)
		}
		up, _ := rv64.FoldPowers(n - 1)
		if c := o.Site + constant*up; c != 0 {
			e.constant(rax, c)
			e.rr(iADD, rFold, rax)
		}
	}
	if n < e.steps {
		e.ri(iADDI, rLeft, int32(e.steps-n))
	}
}

// goTo goes on where o leads, which is op i of the block.
func (e *emitter) goTo(i int, o *rv64.CodeOp) {
	// At a page's last two bytes may be an instruction across pages, to which nothing links.
	if to := int64(e.b.Start) + int64(o.Imm); o.Links && to != 4094 {
		s := e.stub(rv64.ExitLink, i, 0)
		e.stubs[len(e.stubs)-1].field = e.jmp(s)
		return
	}
	e.pcOf(rdx, int64(e.b.Start)+int64(o.Imm))
	e.lookup()
}

// pcOf makes r the pc so many bytes from the page's start.
func (e *emitter) pcOf(r reg, off int64) {
	e.rm(iMOV, r, e.hart(e.l.PageBase))
	e.addConstant(r, off)
}

func (e *emitter) addConstant(r reg, v int64) {
	switch {
	case v == 0:
	case v == int64(int32(v)):
		e.ri(iADDI, r, int32(v))
	default:
		e.constant(rcx, uint64(v))
		e.rr(iADD, r, rcx)
	}
}

// lookup goes on at the pc in rdx.
func (e *emitter) lookup() { e.jmpAt(e.lookupAt) }

// host is the register that has a guest's.
func host(i uint8) (reg, bool) { return hosts[i], hosts[i] != noReg }

// load makes r the value of a guest's register.
func (e *emitter) load(r reg, i uint8) {
	h, ok := host(i)
	switch {
	case !ok:
		e.rm(iMOV, r, e.x(i))
	case h != r:
		e.rr(iMOV, r, h)
	}
}

// value is a register that has the value of a guest's: its own, or tmp.
func (e *emitter) value(i uint8, tmp reg) reg {
	if h, ok := host(i); ok {
		return h
	}
	e.rm(iMOV, tmp, e.x(i))
	return tmp
}

// with is an instruction whose last operand is a guest's register.
func (e *emitter) with(i inst, r reg, guest uint8) {
	if h, ok := host(guest); ok {
		e.rr(i, r, h)
	} else {
		e.rm(i, r, e.x(guest))
	}
}

// dst is where the result of o is made: the register of rd, or rax.
func (e *emitter) dst(o *rv64.CodeOp) reg {
	if h, ok := host(o.Rd); ok {
		return h
	}
	return rax
}

// put makes v, the result of o, the value of rd, and adds it to the sum. small says that it
// has 32 bits.
func (e *emitter) put(o *rv64.CodeOp, v reg, small bool) {
	if h, ok := host(o.Rd); !ok {
		e.rm(iMOVTo, v, e.x(o.Rd))
	} else if h != v {
		e.rr(iMOV, h, v)
	}
	e.fold(o, v, small)
}

// fold adds the data v of o, which is not in rcx and stays, to the sum.
func (e *emitter) fold(o *rv64.CodeOp, v reg, small bool) {
	if o.Weight == 0 {
		return
	}
	e.summed = true
	switch {
	case small && e.op == 0:
		e.rr(iADD, rSum, v)
		return
	case small:
		e.rm(iMOV, rcx, e.down(e.op))
		e.rr(iIMUL, rcx, v)
	default:
		e.rrr(iSHRX, rcx, rBase, v)
		e.rr(iXOR, rcx, v)
		if e.op > 0 {
			e.rm(iIMUL, rcx, e.down(e.op))
		}
	}
	e.rr(iADD, rSum, rcx)
}
