package oracle

import (
	"fmt"
	"math/rand/v2"

	"ft/chipset/rv64/oracle/asm"
)

// Registers that streams leave alone, or use for one purpose. All others are random.
const (
	constants = asm.SP // points to memory, for the compressed loads and stores of their own
	caseReg   = asm.GP // the record of the case that runs
	counter   = asm.TP // of a loop
	memory    = asm.S0 // points into the stream's memory, to a page boundary
	scratch   = asm.T5
	logReg    = asm.T6 // where the next result goes
)

const (
	csrFflags = 1
	csrFrm    = 2
	csrFcsr   = 3
)

// How far from memory loads and stores reach. What is only loaded keeps its values, so that
// floating-point operands do not all become NaN in time.
const (
	loadReach  = 2048
	storeReach = 1024
)

// stream makes one stream's instructions.
type stream struct {
	*asm.Code
	rng    *rand.Rand
	name   string // a prefix of its labels
	labels int
	logs   int // doublewords that it logs at most
	times  int // how often what is being made is run at most
	nested bool
	writes bool // its own instructions, now and then; QEMU takes a millisecond each time
	random int  // random instructions that it runs at most
}

// item makes a few instructions that belong together.
type item struct {
	weight int
	make   func(s *stream)
}

// items are filled in at the start: some make others.
var (
	items      []item
	itemWeight int
)

func init() {
	items = []item{
		{20, (*stream).integer}, {14, (*stream).immediate}, {14, (*stream).compressed}, {2, (*stream).stackPointer},
		{10, (*stream).loadStore}, {8, (*stream).loadStoreComputed}, {6, (*stream).loadStoreCompressed},
		{6, (*stream).atomic}, {2, (*stream).reserved},
		{30, (*stream).float}, {6, (*stream).floatLoadStore}, {5, (*stream).floatCSR},
		{5, (*stream).branch}, {3, (*stream).jump}, {3, (*stream).jumpRegister}, {2, (*stream).loop},
		{1, (*stream).nothing}, {2, (*stream).rewrite},
	}
	for _, it := range items {
		itemWeight += it.weight
	}
}

// item makes a random one.
func (s *stream) item() {
	n := s.rng.IntN(itemWeight)
	for _, it := range items {
		if n -= it.weight; n < 0 {
			it.make(s)
			return
		}
	}
}

// target is a register that a random instruction may write, x0 now and then.
func (s *stream) target() asm.Reg {
	for {
		switch r := asm.Reg(s.rng.IntN(32)); r {
		case constants, caseReg, counter, memory, scratch, logReg:
		case asm.Zero:
			if s.rng.IntN(4) == 0 {
				return r
			}
		default:
			return r
		}
	}
}

// written is a target that is not x0; small, one of x9 to x15.
func (s *stream) written() asm.Reg {
	for {
		if r := s.target(); r != asm.Zero {
			return r
		}
	}
}

func (s *stream) small() asm.Reg { return asm.Reg(9 + s.rng.IntN(7)) }

// source is any register.
func (s *stream) source() asm.Reg { return asm.Reg(s.rng.IntN(32)) }

func (s *stream) pick(names ...string) string { return names[s.rng.IntN(len(names))] }

func (s *stream) between(low, high, step int64) int64 {
	return low + s.rng.Int64N((high-low)/step+1)*step
}

func (s *stream) label() string {
	s.labels++
	return fmt.Sprint(s.name, s.labels)
}

// op lays out a random instruction.
func (s *stream) op(name string, a asm.Args) {
	s.Op(name, a)
	s.random += s.times
}

// logX logs an integer register.
func (s *stream) logX(r asm.Reg) {
	s.Op("sd", asm.Args{Rs2: r, Rs1: logReg})
	s.Op("addi", asm.Args{Rd: logReg, Rs1: logReg, Imm: 8})
	s.logs += s.times
}

// logFlags logs fcsr.
func (s *stream) logFlags() {
	s.Op("csrrs", asm.Args{Rd: scratch, Imm: csrFcsr})
	s.logX(scratch)
}

func (s *stream) logF(r asm.Reg) {
	s.Op("fsd", asm.Args{Rs2: r, Rs1: logReg})
	s.Op("addi", asm.Args{Rd: logReg, Rs1: logReg, Imm: 8})
	s.logs += s.times
}

func ofFormat(table []asm.Op, formats ...asm.Format) (names []string) {
	for _, o := range table {
		for _, f := range formats {
			if o.Format == f && o.Name != "jalr" {
				names = append(names, o.Name)
			}
		}
	}
	return names
}

var (
	registerOps   = ofFormat(asm.Full, asm.R)
	immediateOps  = ofFormat(asm.Full, asm.I)
	shiftOps      = ofFormat(asm.Full, asm.Shift)
	shiftWOps     = ofFormat(asm.Full, asm.ShiftW)
	loadOps       = ofFormat(asm.Full, asm.Load)
	storeOps      = ofFormat(asm.Full, asm.Store)
	branchOps     = ofFormat(asm.Full, asm.Branch)
	amoOps        = ofFormat(asm.Atomics, asm.AMO)
	floatOps      = ofFormat(asm.Floats, asm.F2, asm.F2R, asm.F3, asm.F4, asm.XToF, asm.MvFX)
	floatToInt    = ofFormat(asm.Floats, asm.FCmp, asm.FClass, asm.FToX, asm.MvXF)
	floatLoadOps  = ofFormat(asm.Floats, asm.FLoad)
	floatStoreOps = ofFormat(asm.Floats, asm.FStore)
)

func (s *stream) integer() {
	rd := s.target()
	s.op(s.pick(registerOps...), asm.Args{Rd: rd, Rs1: s.source(), Rs2: s.source()})
	s.logX(rd)
}

func (s *stream) immediate() {
	a := asm.Args{Rd: s.target(), Rs1: s.source()}
	switch s.rng.IntN(6) {
	case 0:
		a.Imm = s.between(-1<<31, 1<<31-4096, 4096)
		s.op(s.pick("lui", "auipc"), a)
	case 1:
		a.Imm = s.between(0, 63, 1)
		s.op(s.pick(shiftOps...), a)
	case 2:
		a.Imm = s.between(0, 31, 1)
		s.op(s.pick(shiftWOps...), a)
	default:
		a.Imm = s.between(-2048, 2047, 1)
		s.op(s.pick(immediateOps...), a)
	}
	s.logX(a.Rd)
}

func (s *stream) compressed() {
	a := asm.Args{Rd: s.small(), Rs2: asm.Reg(8 + s.rng.IntN(8))}
	switch s.rng.IntN(7) {
	case 0:
		s.op(s.pick("c.sub", "c.xor", "c.or", "c.and", "c.subw", "c.addw"), a)
	case 1:
		a.Imm = s.between(0, 63, 1)
		s.op(s.pick("c.srli", "c.srai"), a)
	case 2:
		a.Imm = s.between(-32, 31, 1)
		s.op("c.andi", a)
	case 3:
		a.Rd, a.Rs2 = s.target(), asm.Reg(1+s.rng.IntN(31)) // x0: hints
		s.op(s.pick("c.mv", "c.add"), a)
	case 4:
		a.Rd, a.Imm = s.target(), s.between(0, 63, 1)
		s.op("c.slli", a)
	case 5:
		a.Imm = s.between(4, 1020, 4)
		s.op("c.addi4spn", a)
	case 6:
		a.Rd, a.Imm = s.target(), s.between(-32, 31, 1)
		name := s.pick("c.addi", "c.li", "c.addiw", "c.lui")
		if name == "c.addiw" && a.Rd == 0 || name == "c.lui" && a.Imm == 0 { // reserved
			name = "c.li"
		}
		s.op(name, a)
	}
	s.logX(a.Rd)
}

// stackPointer moves sp and moves it back.
func (s *stream) stackPointer() {
	imm := s.between(16, 496, 16)
	s.op("c.addi16sp", asm.Args{Imm: imm})
	s.logX(asm.SP)
	s.op("c.addi16sp", asm.Args{Imm: -imm})
	s.logX(asm.SP)
}

func (s *stream) loadStore() {
	if s.rng.IntN(3) > 0 {
		rd := s.target()
		s.op(s.pick(loadOps...), asm.Args{Rd: rd, Rs1: memory, Imm: s.between(-loadReach, loadReach-1, 1)})
		s.logX(rd)
		return
	}
	s.op(s.pick(storeOps...), asm.Args{Rs2: s.source(), Rs1: memory, Imm: s.between(-storeReach, storeReach-1, 1)})
}

// address makes an address in what may be stored to, a multiple of align, that depends on
// a random register.
func (s *stream) address(align int64) asm.Reg {
	r := s.written()
	s.Op("andi", asm.Args{Rd: r, Rs1: s.source(), Imm: 0x1ff &^ (align - 1)})
	s.Op("add", asm.Args{Rd: r, Rs1: r, Rs2: memory})
	return r
}

func (s *stream) loadStoreComputed() {
	at := s.address(1)
	if s.rng.IntN(2) == 0 {
		rd := s.target()
		s.op(s.pick(loadOps...), asm.Args{Rd: rd, Rs1: at, Imm: s.between(-512, 511, 1)})
		s.logX(rd)
		return
	}
	s.op(s.pick(storeOps...), asm.Args{Rs2: s.source(), Rs1: at, Imm: s.between(-512, 511, 1)})
}

func (s *stream) loadStoreCompressed() {
	a := asm.Args{Rd: s.small(), Rs1: memory, Rs2: asm.Reg(8 + s.rng.IntN(8)), Imm: s.between(0, 124, 8)}
	name := s.pick("c.lw", "c.ld", "c.sw", "c.sd", "c.fld", "c.fsd", "c.lwsp", "c.ldsp", "c.swsp", "c.sdsp", "c.fldsp", "c.fsdsp")
	switch name {
	case "c.lw", "c.ld":
		s.op(name, a)
		s.logX(a.Rd)
	case "c.fld":
		s.op(name, a)
		s.logF(a.Rd)
	case "c.lwsp", "c.ldsp":
		a.Rd = s.written()
		s.op(name, a)
		s.logX(a.Rd)
	case "c.fldsp":
		a.Rd = s.source()
		s.op(name, a)
		s.logF(a.Rd)
	case "c.swsp", "c.sdsp", "c.fsdsp":
		a.Rs2 = s.source()
		s.op(name, a)
	default:
		s.op(name, a)
	}
}

func (s *stream) atomic() {
	name := s.pick(amoOps...)
	at := s.address(int64(asm.Named(name).Size))
	rd := s.target()
	s.op(name, asm.Args{Rd: rd, Rs1: at, Rs2: s.source()})
	s.logX(rd)
}

// reserved is LR and SC to the same place, with something between them that QEMU, which
// compares values, and the hart, which keeps the reservation, agree on.
func (s *stream) reserved() {
	width := s.pick("w", "d")
	s.Op("andi", asm.Args{Rd: scratch, Rs1: s.source(), Imm: 0x1f8})
	s.Op("add", asm.Args{Rd: scratch, Rs1: scratch, Rs2: memory})
	rd := s.target()
	s.op("lr."+width, asm.Args{Rd: rd, Rs1: scratch})
	value := s.target()
	s.op(s.pick(registerOps...), asm.Args{Rd: value, Rs1: rd, Rs2: s.source()})
	ok := s.target()
	s.op("sc."+width, asm.Args{Rd: ok, Rs1: scratch, Rs2: value})
	s.logX(ok)
	if s.rng.IntN(2) == 0 { // there is no reservation any more
		s.op("sc."+width, asm.Args{Rd: ok, Rs1: scratch, Rs2: s.source()})
		s.logX(ok)
	}
	s.logX(rd)
}

// some makes a few items without branches in them.
func (s *stream) some(most int) {
	outer := s.nested
	s.nested = true
	for range 1 + s.rng.IntN(most) {
		s.item()
	}
	s.nested = outer
}

// branch goes forward over a few items, or not.
func (s *stream) branch() {
	if s.nested {
		s.integer()
		return
	}
	over := s.label()
	if s.rng.IntN(3) == 0 {
		s.To(s.pick("c.beqz", "c.bnez"), asm.Args{Rs1: asm.Reg(8 + s.rng.IntN(8))}, over)
	} else {
		s.To(s.pick(branchOps...), asm.Args{Rs1: s.source(), Rs2: s.source()}, over)
	}
	s.random += s.times
	s.some(2)
	s.Label(over)
}

// jump goes over what would trap.
func (s *stream) jump() {
	over, rd := s.label(), s.target()
	if s.rng.IntN(3) == 0 {
		rd = asm.Zero
		s.To("c.j", asm.Args{}, over)
	} else {
		s.To("jal", asm.Args{Rd: rd}, over)
	}
	s.random += s.times
	s.fill()
	s.Label(over)
	s.logX(rd)
}

// fill is a few instructions that are never run.
func (s *stream) fill() (bytes int64) {
	for range s.rng.IntN(5) {
		s.Op("c.ebreak", asm.Args{})
		bytes += 2
	}
	return bytes
}

// jumpRegister jumps forward by a register.
func (s *stream) jumpRegister() {
	r, rd := s.written(), s.target()
	fill := s.rng.Int64N(5) * 2
	odd := s.rng.Int64N(2) // is ignored
	s.Op("auipc", asm.Args{Rd: r})
	switch s.rng.IntN(3) {
	case 0:
		s.Op("addi", asm.Args{Rd: r, Rs1: r, Imm: 10 + fill + odd})
		s.op("c.jr", asm.Args{Rs1: r})
		rd = asm.Zero
	case 1:
		s.Op("addi", asm.Args{Rd: r, Rs1: r, Imm: 10 + fill + odd})
		s.op("c.jalr", asm.Args{Rs1: r})
		rd = asm.RA
	case 2:
		s.op("jalr", asm.Args{Rd: rd, Rs1: r, Imm: 8 + fill + odd})
	}
	for range fill / 2 {
		s.Op("c.ebreak", asm.Args{})
	}
	s.logX(rd)
}

// loop runs a few items some times.
func (s *stream) loop() {
	if s.nested {
		s.immediate()
		return
	}
	n := 2 + s.rng.IntN(3)
	again := s.label()
	s.Op("c.li", asm.Args{Rd: counter, Imm: int64(n)})
	s.Label(again)
	s.times *= n
	s.some(4)
	s.times /= n
	s.Op("addi", asm.Args{Rd: counter, Rs1: counter, Imm: -1})
	s.To("bne", asm.Args{Rs1: counter}, again)
}

// nothing is what has no effect here: fences and hints.
func (s *stream) nothing() {
	switch s.rng.IntN(4) {
	case 0:
		s.op("fence", asm.Args{Imm: s.between(0, 255, 1)})
	case 1:
		s.op("fence.i", asm.Args{})
	case 2:
		s.Raw(0x8330_000f, "fence.tso")
	case 3:
		s.Raw(0x0100_000f, "pause")
	}
}

// rewrite stores an instruction whose immediate depends on a register, and runs it.
func (s *stream) rewrite() {
	if !s.writes {
		s.compressed()
		return
	}
	rd, other := s.written(), s.source()
	if other == scratch {
		other = asm.Zero
	}
	word, _ := asm.Named(s.pick("addi", "xori", "ori", "andi", "slti", "addiw")).Encode(asm.Args{Rd: rd, Rs1: other})
	at := s.written()
	s.Op("slli", asm.Args{Rd: scratch, Rs1: s.source(), Imm: 20})
	s.Li(at, uint64(int64(int32(word))))
	s.Op("or", asm.Args{Rd: scratch, Rs1: scratch, Rs2: at})
	here := s.Here()
	s.Op("auipc", asm.Args{Rd: at})
	s.op("sw", asm.Args{Rs2: scratch, Rs1: at, Imm: 12})
	s.Op("fence.i", asm.Args{})
	if s.Here() != here+12 {
		panic("the instruction that is stored does not lie where it should")
	}
	s.Raw(word, "(rewritten) "+fmt.Sprintf("%#08x", word))
	s.random += s.times
	s.logX(rd)
}
