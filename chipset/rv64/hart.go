// Package rv64 is the hart of a CPU module: RV64IMAFDC with Zicsr, Zifencei, Zicntr and
// Sstc, in M, S and U mode, with Sv39 (and Sv48 when configured).
//
// The hart is a deterministic function of its start state and of what is done to it
// between and during its steps (SetInterrupt, SetTime, WriteRAM, what the Bus and the
// Ecall handler answer). It reads no clock, no random source, starts no goroutine and
// does no I/O. A step is one instruction that retires or traps.
//
// Invariants, on which lockstep and other engines rely:
//   - Run stops exactly at the step that was asked for; neither the state nor the
//     fingerprint depends on how runs are cut.
//   - Caches are architecturally invisible. A store of the hart, its own update of an A
//     or D bit, or WriteRAM takes effect at that very step on translations (tlb.go) and
//     decoded instructions (block.go) that came from the bytes written. So SFENCE.VMA and
//     FENCE.I have nothing to do.
//   - A page that holds decoded code or page-table entries in use, or that is clean
//     (ram.go), is in no write TLB: stores to it take the slow path.
//   - Interrupts are taken before the first step at which they are pending and enabled;
//     the timer (Sstc) is pending from the very step at which time reaches stimecmp.
//   - Nothing is allocated while running.
//
// Where the specification leaves a choice, it is made once, for every engine:
//   - A and D bits are updated by the hart, both at once for a store, in the entry's own
//     eight bytes (Svadu; menvcfg.ADUE reads as one).
//   - Misaligned loads and stores to RAM work, across pages too, and write nothing when
//     any part faults; to devices they are access faults. Misaligned atomics trap as
//     address-misaligned.
//   - A reservation covers exactly the address and size that LR read, physically. It
//     ends by any SC, trap, xRET, interrupt or WriteRAM; stores of the hart keep it.
//   - xtval holds the faulting address, or the illegal instruction's bits; a breakpoint's
//     is its pc.
//   - WFI waits, in S mode only when TW is clear and never in U mode (illegal
//     instruction), until an interrupt is pending in mip & mie, whatever mstatus says.
//   - satp.ASID, the hpm counters and all triggers are hard-wired to zero; PMP has 16
//     entries, down to four bytes.
//   - Instructions are fetched from RAM only.
//
// Data flows down: run.go takes interrupts and bounds the steps, interp.go executes
// blocks, which block.go decodes and keeps; memory.go is the slow path of loads and
// stores, above tlb.go (translations kept), walk.go (page tables) and ram.go (writes).
package rv64

import (
	"fmt"
	"unsafe"
)

// Bus is everything outside RAM. The hart calls it at the step of the access; it must be
// deterministic, and may call SetInterrupt, RequestStop, Halt, ReadRAM and WriteRAM.
type Bus interface {
	// Load reads size (1, 2, 4 or 8) bytes at the physical address addr, which is a
	// multiple of size. !ok is an access fault.
	Load(addr uint64, size int) (v uint64, ok bool)
	// Store writes the low size bytes of v. !ok is an access fault.
	Store(addr uint64, size int, v uint64) (ok bool)
}

// Config is what a hart is built from.
type Config struct {
	RAM     []byte // a multiple of 4 KiB, page-aligned if it is a mapping
	RAMBase uint64 // physical address of RAM[0], a multiple of 4 KiB
	Bus     Bus    // nil: every access outside RAM is an access fault
	ID      uint64 // mhartid

	// Ecall answers an ECALL from S mode (SBI): it reads and sets registers, after which
	// the step retires and execution goes on behind the ECALL, or at the pc that it set
	// by SetPC. nil: the ECALL traps.
	Ecall func(h *Hart)

	// OnFirstWrite is called before the first write to a page of RAM since ClearDirty,
	// with the page's index in RAM.
	OnFirstWrite func(page uint64)

	Compare Compare // what the fingerprint folds
	Sv48    bool    // satp accepts Sv48 beside Sv39
}

// Stop says why Run came back.
type Stop uint8

const (
	StopBudget    Stop = iota // all steps were run
	StopWFI                   // the hart waits for an interrupt
	StopRequested             // RequestStop was called
	StopHalted                // Halt was called; the hart runs no more
	StopFault                 // a translator's code crashed (Hart.Fault); the state is not to be trusted
)

func (s Stop) String() string {
	return [...]string{"budget", "wfi", "requested", "halted", "fault"}[s]
}

// Engine is what runs a hart's steps: the interpreter here, or a translator to machine
// code. Engines give the same states and fingerprints at the same steps.
type Engine interface {
	// Run runs up to steps steps. It returns the steps run, fewer only when it did not
	// stop for StopBudget.
	Run(steps uint64) (ran uint64, why Stop)
	Steps() uint64
	Fingerprint() uint64
	State() State
	SetState(State)
}

var _ Engine = (*Hart)(nil)

// Hart is one hart and its interpreter. It is used by one goroutine at a time.
type Hart struct {
	// What machine code uses most lies together, where short displacements reach it (seam.go).
	frame frame

	r, w *[tlbSize]tlbEntry // of the data regime

	// Registers: x0…x31, f0…f31 from regF on, and a sink for writes to x0. Indices are
	// bytes, so the array has 256 places.
	x [256]uint64

	dirtyFP bool // mstatus.FS is dirty
	plainFP bool // and more: floatChanged

	ram unsafe.Pointer // of cfg.RAM

	pc       uint64
	steps    uint64 // retired and trapped, up to the block that runs
	limit    uint64 // steps at which blocks end and the outer loop looks around
	deadline uint64 // step at which a timer becomes pending (timer.go)
	fp       uint64
	sum      uint64 // of the running block's data, on the slow path

	jumps  [jumpSize]jumpEntry
	regime uint64 // of the fetch bank

	csr     csrs
	priv    Priv
	waiting bool // in WFI
	halted  bool
	stop    bool   // RequestStop
	inStep  uint64 // steps of the running block before the present one, in callbacks
	leave   bool   // the block has to be left after the present step
	stepPC  uint64 // of the instruction that system.go executes
	jumped  bool   // SetPC was called

	reservation reservation
	trapCause   uint64 // of the trap being taken
	trapValue   uint64

	pmpUsed int  // entries up to the last that is not off
	pmpOpen bool // the first entry lets everything pass
	translations
	code    codeCache
	pages   pageTable
	watches []watch

	// A translator, and what goes with it (seam.go).
	machine        Backend
	heat           uint32  // how often a block is come to until it is translated
	cold           uintptr // entry of blocks without machine code
	cuts           bool    // parts of blocks are translated, too
	hard           uint64  // limit, while it is that of a single block
	codeOps        []CodeOp
	codeBlock      CodeBlock
	drops          uint64 // times that all machine code made room
	machineSteps   uint64
	machineEntries uint64
	fault          error // of machine code

	hookMatch func(insn uint32) bool // fault.go
	hookHit   func()
	hookPass  bool

	ramSize uint64
	cfg     Config
}

// New makes a hart at reset: M mode, pc at the start of RAM, all else zero. A
// configuration that cannot work is a mistake of the program and panics.
func New(cfg Config) *Hart {
	size := uint64(len(cfg.RAM))
	switch one := uint16(1); {
	case size == 0 || size%pageSize != 0:
		panic(fmt.Sprintf("rv64.New: RAM of %d bytes: want a multiple of %d", size, pageSize))
	case cfg.RAMBase%pageSize != 0 || cfg.RAMBase+size > 1<<47:
		panic(fmt.Sprintf("rv64.New: RAM at %#x with %d bytes: want a page boundary, all below 1<<47", cfg.RAMBase, size))
	case *(*byte)(unsafe.Pointer(&one)) != 1:
		panic("rv64.New: this host is big-endian: guest memory is accessed in the host's byte order")
	}
	h := &Hart{
		cfg: cfg, ramSize: size, ram: unsafe.Pointer(unsafe.SliceData(cfg.RAM)),
		priv: Machine, pc: cfg.RAMBase,
	}
	h.pages.init(size)
	h.code.init(size)
	h.csr.reset()
	h.banks.init()
	h.enterRegime()
	h.updateTimer()
	return h
}

// EnterSupervisor puts the hart where firmware leaves it for a kernel: S mode at pc with
// a0 and a1 set, traps and interrupts of S and U mode delegated, all of memory open to
// them (PMP), counters readable, Sstc on.
func (h *Hart) EnterSupervisor(pc, a0, a1 uint64) {
	h.csr.medeleg = medelegMask
	h.csr.mideleg = midelegMask
	h.csr.mcounteren = 0xffff_ffff
	h.csr.scounteren = 7 // cycle, time, instret for U mode, as kernels rely on (OpenSBI, mstatus_init)
	h.csr.menvcfg = menvcfgSTCE
	h.csr.pmpaddr[0] = pmpaddrMask
	h.csr.pmpcfg[0] = pmpNAPOT<<3 | pmpR | pmpW | pmpX
	h.priv = Supervisor
	h.pc = pc &^ 1
	h.x[10], h.x[11] = a0, a1
	h.pmpChanged()
	h.enterRegime()
	h.updateTimer()
}

// Steps is how many steps were retired or trapped. Within a callback it is the number
// before the present step.
func (h *Hart) Steps() uint64 { return h.steps + h.inStep }

// Fingerprint is F over all steps; see fingerprint.go. It is not valid in callbacks.
func (h *Hart) Fingerprint() uint64 { return h.fp }

// Fault says what happened and at which pc of the guest, once Run has returned StopFault.
func (h *Hart) Fault() error { return h.fault }

// Reg reads x0…x31.
func (h *Hart) Reg(i int) uint64 { return h.x[i&31] }

// SetReg writes x1…x31; x0 stays zero.
func (h *Hart) SetReg(i int, v uint64) {
	if i &= 31; i != 0 {
		h.x[i] = v
	}
}

// FReg reads f0…f31 as 64 bits.
func (h *Hart) FReg(i int) uint64 { return h.x[regF+(i&31)] }

// SetFReg writes f0…f31.
func (h *Hart) SetFReg(i int, v uint64) { h.x[regF+(i&31)] = v }

// PC is the address of the next instruction; within a callback, of the present one.
func (h *Hart) PC() uint64 { return h.pc }

// SetPC sets it. Bit 0 is cleared.
func (h *Hart) SetPC(pc uint64) { h.pc, h.jumped = pc&^1, true }

// Priv is the privilege mode.
func (h *Hart) Priv() Priv { return h.priv }

// SetPriv sets the privilege mode.
func (h *Hart) SetPriv(p Priv) {
	h.priv = p
	h.enterRegime()
	h.disturb()
}

// RequestStop makes Run return with StopRequested after the present step, or before the
// first when it is called between runs.
func (h *Hart) RequestStop() {
	h.stop = true
	h.disturb()
}

// Halt ends the hart's running for good, after the present step. SetState revives it.
func (h *Hart) Halt() {
	h.halted = true
	h.disturb()
}

// disturb makes the outer loop look around before the next step.
func (h *Hart) disturb() {
	h.limit = 0
	h.leave = true
}
