package rv64

import (
	"fmt"
	"unsafe"
)

// The seam for a translator: another way to run the blocks that block.go keeps.
//
// The interpreter's structures stay what decides: which blocks there are, when they go, which
// way leads from one to the next (links, the jump cache, find), and where runs end. A block
// has an entry, where its machine code begins; entries of blocks without any lead to code
// that comes back here. Machine code runs from block to block on its own as long as
//   - the steps that are left are enough for the next block as a whole,
//   - the next block is found by a link or in the jump cache, and has machine code,
//   - every operation is one that it does itself.
//
// Else it comes back, with the hart's registers in the hart, and says why (frame.exit). A
// single operation that it does not do is then executed as the interpreter's slow path would,
// and unless that left the block, machine code goes on behind it. Everything else goes by
// runTranslated, which finds blocks as interpret does, and has those that are rarely run, are
// too long for the steps that are left or have hooks interpreted.
//
// So whatever ends a regime, drops blocks or disturbs needs to know nothing of machine code:
// it happens while none runs, and leaves the block (stLeave) or is found by what the code
// reads each time (the TLBs, the jump cache, the regime's number).
//
// Floating point: machine code leaves exceptions in the host's MXCSR, and they are added to
// fflags whenever it comes back; all that looks at fflags happens then. It rounds to nearest,
// for which nearFP or the operation itself has to ask, with FS dirty already.

// Backend is a translator.
type Backend interface {
	// Translate returns the entry of machine code for a block, 0 if there is none to be.
	// It may call DropMachineCode.
	Translate(b *CodeBlock) (entry uintptr)
	// Once is Translate for a block that is run once, now.
	Once(b *CodeBlock) (entry uintptr)
	// IsOnce says whether a host's pc lies in such a block's code.
	IsOnce(pc uintptr) bool
	// Enter runs machine code from an entry on until it comes back.
	Enter(entry uintptr)
	// Locate is the operation of a block whose machine code the host's pc lies in.
	Locate(b *CodeBlock, entry, pc uintptr) (op int)
	// Link makes the way out of a block that the code reported lead to an entry.
	Link(site uint32, entry uintptr)
	// Resume is the entry behind an operation, by what the code reported.
	Resume(site uint32) uintptr
	// Dropped is called when no block has machine code any more.
	Dropped()
	// Cold is the entry of blocks without machine code.
	Cold() uintptr
}

// CodeBlock is a block to translate. It is valid during the call.
type CodeBlock struct {
	Index uint32 // for what the code reports
	Start uint16 // in its page
	Ops   []CodeOp
	End   CodeOp // what the block goes on with behind them, if it does: OpEnd
}

// CodeOp is a decoded instruction.
type CodeOp struct {
	Code         Code
	Rd, Rs1, Rs2 uint8
	Aux          uint8
	Links        bool   // it may lead to a block of its page
	Imm          int32  // of what is relative to the pc: relative to the block's start
	Off          uint16 // from the block's start
	Behind       uint16 // the same of what lies behind it
	Weight       uint64 // of its data in the block's sum (fingerprint.go)
	Site, Page   uint64 // the prefix through it
	raw          uint32
}

// frame is what machine code and this package tell each other. Only between runs, and while
// no machine code runs, does it mean anything else than the hart's fields do.
type frame struct {
	left     uint64 // steps until the code has to come back
	exit     uint64 // why it came back: below
	site     uint64 // where in the code, for Link and Resume
	pc       uint64 // with ExitPC
	mxcsr    uint32 // when it came back
	nearFP   bool   // dirtyFP, and frm is to nearest
	pageBase uint64 // virtual address of the page that is executed
	pageTerm uint64 // the fingerprint's
}

// Why machine code came back: the kind, the block's index and the operation's.
const (
	ExitPC    = iota << 28 // for the block at frame.pc
	ExitBlock              // before a block: there are not steps enough
	ExitLink               // out of a block at an operation, whose way may be linked
	ExitSlow               // at an operation that it does not do
	ExitCrash              // at a signal, which is the rest; frame.site is the host's pc

	exitKind    = 7 << 28
	exitOpBits  = 7
	exitOpMask  = 1<<exitOpBits - 1
	exitIndex   = 1<<28 - 1
	onceIndex   = exitIndex >> exitOpBits // of a block that is run once
	entryMax    = 1 << 20                 // steps until code comes back, so that the collector is not kept waiting
	heatDefault = 12
)

// ExitAt is the number that code gives for why it comes back.
func ExitAt(kind, block uint32, op int) uint32 { return kind | block<<exitOpBits | uint32(op) }

// Layout is where machine code finds what it shares with this package: offsets in a Hart, in
// an entry of the jump cache, and in a block.
type Layout struct {
	X, R, W, RAM, FP, Sum, Regime, Jumps, DirtyFP        int32
	Left, PageBase, PageTerm, Exit, Site, PC, MXCSR      int32
	NearFP, Frm, ReservationAddr, ReservationSize        int32
	Priv, Mstatus, Mip, Lines, Timers, Mie               int32
	Sscratch, Sepc, Scause, Stval                        int32
	JumpPC, JumpRegime, JumpBlock, JumpSize, JumpEntries int32
	BlockEntry                                           int32
	TLBEntries                                           int32
	RAMBase                                              uint64
}

// Layout is that of h.
func (h *Hart) Layout() Layout {
	off := func(p unsafe.Pointer) int32 { return int32(uintptr(p) - uintptr(unsafe.Pointer(h))) }
	f := &h.frame
	return Layout{
		X: off(unsafe.Pointer(&h.x)), R: off(unsafe.Pointer(&h.r)), W: off(unsafe.Pointer(&h.w)),
		RAM: off(unsafe.Pointer(&h.ram)), FP: off(unsafe.Pointer(&h.fp)), Sum: off(unsafe.Pointer(&h.sum)),
		Regime: off(unsafe.Pointer(&h.regime)), Jumps: off(unsafe.Pointer(&h.jumps)),
		DirtyFP: off(unsafe.Pointer(&h.dirtyFP)),
		Left:    off(unsafe.Pointer(&f.left)), PageBase: off(unsafe.Pointer(&f.pageBase)), PageTerm: off(unsafe.Pointer(&f.pageTerm)),
		Exit: off(unsafe.Pointer(&f.exit)), Site: off(unsafe.Pointer(&f.site)), PC: off(unsafe.Pointer(&f.pc)),
		MXCSR: off(unsafe.Pointer(&f.mxcsr)), NearFP: off(unsafe.Pointer(&f.nearFP)),
		ReservationAddr: off(unsafe.Pointer(&h.reservation.addr)), ReservationSize: off(unsafe.Pointer(&h.reservation.size)),
		Priv: off(unsafe.Pointer(&h.priv)), Mstatus: off(unsafe.Pointer(&h.csr.mstatus)),
		Frm: off(unsafe.Pointer(&h.csr.frm)),
		Mip: off(unsafe.Pointer(&h.csr.mip)), Lines: off(unsafe.Pointer(&h.csr.lines)),
		Timers: off(unsafe.Pointer(&h.csr.timers)), Mie: off(unsafe.Pointer(&h.csr.mie)),
		Sscratch: off(unsafe.Pointer(&h.csr.sscratch)), Sepc: off(unsafe.Pointer(&h.csr.sepc)),
		Scause: off(unsafe.Pointer(&h.csr.scause)), Stval: off(unsafe.Pointer(&h.csr.stval)),
		JumpPC: int32(unsafe.Offsetof(jumpEntry{}.pc)), JumpRegime: int32(unsafe.Offsetof(jumpEntry{}.regime)),
		JumpBlock: int32(unsafe.Offsetof(jumpEntry{}.block)), JumpSize: int32(unsafe.Sizeof(jumpEntry{})), JumpEntries: jumpSize,
		BlockEntry: int32(unsafe.Offsetof(block{}.entry)),
		TLBEntries: tlbSize,
		RAMBase:    h.cfg.RAMBase,
	}
}

// PlainCSR is where a register lies that modes from S on may access, and that accesses do
// nothing else with; what is written is masked.
func (l *Layout) PlainCSR(n uint32) (off, mask int32, ok bool) {
	switch n {
	case csrSscratch:
		return l.Sscratch, -1, true
	case csrSepc:
		return l.Sepc, -2, true
	case csrScause:
		return l.Scause, -1, true
	case csrStval:
		return l.Stval, -1, true
	}
	return 0, 0, false
}

// What sstatus is read from (csrs.readStatus).
const (
	CSRFrm     = csrFrm
	CSRSstatus = csrSstatus
	StatusFS   = mstatusFS
	StatusXL   = mstatusXL
	StatusRead = sstatusReadable
)

// Fold constants of the fingerprint, for machine code.
const (
	FoldAddr   = foldAddr
	FoldSecond = foldSecond
	FoldThird  = foldThird
	FoldPage   = foldPage
)

// FoldPowers are Kⁱ and K⁻ⁱ, up to MaxBlock.
func FoldPowers(i int) (up, down uint64) { return foldPowers.up[i], foldPowers.down[i] }

// Mix is the fingerprint's mix.
func Mix(v uint64) uint64 { return mix(v) }

// Level is what the fingerprint folds.
func (h *Hart) Level() Compare { return h.cfg.Compare }

// SetBackend puts a translator behind the hart, between runs; nil takes it away. A block is
// translated when it has been come to threshold times.
//
// A block that is too long for the steps that are left is interpreted as far as they reach.
// With cuts that part is translated, too, which takes longer, but then no step's result depends
// on where runs are cut, even if the translator is wrong: for those who look for where.
func (h *Hart) SetBackend(m Backend, threshold int, cuts bool) {
	h.cuts = cuts
	h.machine, h.heat = m, uint32(threshold)
	if threshold <= 0 {
		h.heat = heatDefault
	}
	h.cold = 0
	if m != nil {
		h.cold = m.Cold()
		h.codeOps = make([]CodeOp, maxBlock)
	}
	h.dropAllCode()
}

// DropMachineCode takes all blocks' machine code away, and keeps the blocks.
func (h *Hart) DropMachineCode() {
	for i := range h.code.blocks[:h.code.nBlocks] {
		b := &h.code.blocks[i]
		b.entry, b.heat = h.cold, 0
	}
	h.drops++
	h.machine.Dropped()
}

// MachineSteps is how many steps were machine code's, and how many times it was entered.
func (h *Hart) MachineSteps() (steps, entries uint64) { return h.machineSteps, h.machineEntries }

// runTranslated is interpret with a translator.
func (h *Hart) runTranslated() {
	site, linkable := uint32(0), false
	for h.steps < h.limit {
		pc := h.pc
		var b *block
		if e := &h.jumps[jumpIndex(pc)]; e.pc == pc && e.regime == h.regime {
			b = e.block
		} else {
			linkable = false
			if b = h.find(pc); b == nil {
				continue
			}
			if h.steps >= h.limit {
				return
			}
		}
		if b.entry == h.cold && h.warm(b) {
			linkable = false
		}
		if b.entry <= h.cold || h.steps+b.n > h.limit {
			if linkable = false; b.entry <= h.cold || !h.cuts {
				h.interpretBlock()
				continue
			}
			h.frame.pageBase, h.frame.pageTerm = pc&^(pageSize-1), pageTerm(pc)
			if h.enter(h.machine.Once(h.view(h.cut(b, h.limit-h.steps)))); h.fault != nil {
				return
			}
			continue
		}
		if linkable && !b.cross { // a link would pass by the second page's translation
			h.machine.Link(site, b.entry)
		}
		h.frame.pageBase, h.frame.pageTerm = pc&^(pageSize-1), pageTerm(pc)
		if site, linkable = h.enter(b.entry); h.fault != nil {
			return
		}
	}
}

// warm translates a block that is come to often. dropped says that all machine code had to
// make room for it.
func (h *Hart) warm(b *block) (dropped bool) {
	if b.heat++; b.heat < h.heat || b.hooked || b.entry == 0 {
		return false
	}
	drops := h.drops
	v := h.view(b)
	if entry := h.machine.Translate(v); entry != 0 {
		b.entry = entry
	} else {
		b.heat = 0
	}
	return h.drops != drops
}

// view is a block as translators see it, until the next view.
func (h *Hart) view(b *block) *CodeBlock {
	v := &h.codeBlock
	if v.Index = onceIndex; b != &h.code.short {
		v.Index = uint32((uintptr(unsafe.Pointer(b)) - uintptr(unsafe.Pointer(&h.code.blocks[0]))) / unsafe.Sizeof(block{}))
	}
	v.Start = uint16(b.pa % pageSize)
	v.Ops = h.codeOps[:b.n]
	v.End = b.codeOp(b.n)
	for i := range v.Ops {
		v.Ops[i] = b.codeOp(uint64(i))
	}
	return v
}

func (b *block) codeOp(i uint64) CodeOp {
	o := b.site(i)
	return CodeOp{
		Code: o.op.code, Rd: o.rd, Rs1: o.rs1, Rs2: o.rs2, Aux: o.aux, Links: o.links,
		Imm: o.imm, Off: o.off, Behind: o.off + uint16(o.size()), Weight: o.weight, Site: o.sum.site, Page: o.sum.page, raw: o.raw,
	}
}

// interpretBlock has the interpreter run what is at h.pc, as one block.
func (h *Hart) interpretBlock() {
	h.hard, h.limit = h.limit, h.steps+1
	h.interpret()
	if h.limit != 0 { // not disturbed
		h.limit = h.hard
	}
	h.hard = 0
}

// enter runs machine code from an entry on, and what it does not do by itself. It returns
// when the next block is to be looked for at h.pc, with the way out of the last one, if it may
// be linked.
func (h *Hart) enter(entry uintptr) (site uint32, linkable bool) {
	f := &h.frame
	left := min(h.limit-h.steps, entryMax)
	f.left, h.sum = left, 0
	for {
		h.machineEntries++
		h.machine.Enter(entry)
		if f.exit&exitKind == ExitCrash {
			h.crashed()
			return 0, false
		}
		if f.mxcsr&0x3d != 0 {
			h.hostFlags()
		}
		ran := left - f.left
		b := h.blockOf(f.exit)
		switch f.exit & exitKind {
		case ExitPC:
			h.steps, h.pc = h.steps+ran, f.pc
		case ExitBlock:
			h.steps, h.pc = h.steps+ran, f.pageBase+b.pa%pageSize
		case ExitLink:
			h.steps += ran
			h.pc = f.pageBase + b.pa%pageSize + uint64(int64(b.site(f.exit&exitOpMask).imm))
			h.machineSteps += ran
			return uint32(f.site), true
		default:
			o := b.site(f.exit & exitOpMask)
			ran -= b.n // its steps are counted where it is entered
			h.steps += ran
			h.machineSteps += ran
			h.pc = f.pageBase + b.pa%pageSize
			folded := b.constants(o)
			h.sum += folded
			fold, st := h.execute(b, o.op)
			if st != stDone {
				h.pc = h.leaveBlock(b, o.op, st, fold)
				return 0, false
			}
			h.sum += fold - folded
			left -= ran
			entry = h.machine.Resume(uint32(f.site))
			continue
		}
		h.machineSteps += ran
		return 0, false
	}
}

// blockOf is the block that code came back from.
func (h *Hart) blockOf(exit uint64) *block {
	if i := exit & exitIndex >> exitOpBits; i != onceIndex {
		return &h.code.blocks[i]
	}
	return &h.code.short
}

// constant is the value of an operation that writes the same each time, which machine code
// does not add to the sum: it is in what it adds at the block's end.
func (o *op) constant() (v uint64, ok bool) {
	if o.code == opLUI || o.code == opADDI && o.rs1 == 0 {
		return uint64(int64(o.imm)), true
	}
	return 0, false
}

// Constant is the value of an operation that writes the same each time. Its data is not to be
// added to the sum, but to what is added when the block is left.
func (o *CodeOp) Constant() (v uint64, ok bool) {
	return (&op{code: o.Code, rs1: o.Rs1, imm: o.Imm}).constant()
}

// constants is what such operations before o add to the sum.
func (b *block) constants(o site) (sum uint64) {
	if !o.fixed {
		return 0
	}
	for i := range o.position() {
		before := b.site(i)
		if v, ok := before.constant(); ok {
			sum += mix(v) * before.weight
		}
	}
	return sum
}

// hostFlags adds the exceptions that the host noted to fflags.
func (h *Hart) hostFlags() {
	m := uint64(h.frame.mxcsr)
	h.csr.fflags |= m>>5&1 | m>>3&2 | m>>1&4 | m<<1&8 | m<<4&16 // PE, UE, OE, ZE, IE
	h.floatChanged()
}

// crashed ends the hart's running: what its registers hold is anybody's guess.
func (h *Hart) crashed() {
	f := &h.frame
	signal, at := f.exit&exitIndex, uintptr(f.site)
	var last *block
	for i := range h.code.blocks[:h.code.nBlocks] {
		if b := &h.code.blocks[i]; b.entry > h.cold && b.entry <= at && (last == nil || b.entry > last.entry) {
			last = b
		}
	}
	if short := &h.code.short; h.machine.IsOnce(at) {
		last, short.entry = short, h.machine.Once(h.view(short))
	}
	if last == nil {
		h.fault = fmt.Errorf("translated code crashed: signal %d at %#x, which is in no block, behind step %d", signal, at, h.steps)
		return
	}
	v := h.view(last)
	o := v.Ops[h.machine.Locate(v, last.entry, at)]
	pc := f.pageBase + last.pa%pageSize + uint64(o.Off)
	h.fault = fmt.Errorf("translated code crashed: signal %d in the code of the instruction %#x at pc %#x, behind step %d",
		signal, o.raw, pc, h.steps)
}
