// Package translate is the second engine of the CPU module: it translates the blocks of a
// hart to machine code of the host, with the same states and fingerprints at the same steps
// as the interpreter (package rv64), which is the reference.
//
// # What runs
//
// rv64 keeps blocks of decoded instructions and decides which there are, when they go and
// which way leads to the next (rv64/block.go); rv64/seam.go is where this package is put in.
// A block that was come to often is translated as a whole, operation by operation, and then
// runs until an operation is one that the code does not do (a TLB miss, a trap, a rare
// instruction), the steps that are left are not enough for the next block, or the next block
// has no code. For such an operation the interpreter's slow path does that one step, and the
// code goes on behind it. Nothing is ever done twice, and nothing in two ways: what the code
// does itself is what interp.go does in a fast case, with the same conditions.
//
// Invariants:
//   - Whenever machine code has come back, the hart holds all of its state. So State,
//     SetState, drills that change registers between runs, and interrupts need to know
//     nothing of it.
//   - Code depends on a block's bytes and its place in the page, never on where the page is
//     mapped: what needs the pc computes it from frame.pageBase, so processes share it.
//   - A jump from block to block without a look at the jump cache exists only where the
//     interpreter would follow a link: within a page, never to an instruction across pages.
//   - Code only reads and writes RAM through entries of the hart's TLBs. Pages with code, page
//     tables in use, doorbells and clean pages are in no write TLB.
//   - The number of steps of a block is taken off before it runs, in r15; a way out before
//     its end gives the rest back. No block begins that has more steps than are left.
//   - No mapping is writable and executable. Code is written through one mapping of a memfd
//     and runs in another; when that is full, all of it goes at once, while none runs.
//
// # The fingerprint
//
// rsi sums mix(data)·K⁻ⁱ by the position i in the block, and where the block is left, n steps
// on, rdi becomes rdi·Kⁿ + rsi·Kⁿ⁻¹ + what was known beforehand (rv64/fingerprint.go). mix is
// a shift by 32 and an XOR; the shift's count is the low bits of rbx, which points into the
// hart at an address that is 32 mod 64 (shrx takes them mod 64). Operations that write
// constants are summed when they are translated.
//
// # The Go runtime
//
// Machine code is called by enter (enter_amd64.s), a Go function with a frame, so that the
// stack was checked, and never changes rsp: at any instruction of it, the stack looks as it
// does at the start of a function that enter has called.
//   - Signals. The runtime takes g from thread-local storage (sigtramp) and handles signals on
//     a stack of its own, so r14 and the stack do not matter to it. For a preemption
//     (SIGURG) it looks for the function at the program counter, finds none, and lets the code
//     go on; for a profile's sample (SIGPROF) it finds none and counts external code.
//   - Collections. While machine code runs its goroutine cannot be stopped, so it comes back
//     after a million steps at the latest, a millisecond or so, to Go code that can. Nobody
//     looks at its stack meanwhile. It writes no pointers of Go's.
//   - Registers. Before enter returns, r14 is g and x15 zero again; bp is in its frame. MXCSR
//     is at its default but for the exceptions noted, which Go does not look at.
//   - Crashes. SIGSEGV, SIGBUS, SIGILL, SIGFPE and SIGTRAP are handled by crashHandler, which
//     lets Go's handler have all of them but those in machine code: there, it makes the code
//     come back, and Run ends with StopFault. A jump to outside the code is not recognised:
//     it ends the process, as it would any Go program.
package translate

import (
	"fmt"

	"ft/chipset/rv64"
)

// Options bound and tune a translator. The zero value is good.
type Options struct {
	// CodeBytes is how much machine code is kept, at most; when it is full all of it is
	// dropped. 0 is 32 MiB.
	CodeBytes int
	// Threshold is how many times a block is interpreted before it is translated. 0 is the
	// default; 1 translates at once, for tests.
	Threshold int
	// Code is the memory for machine code; nil: the translator's own, of CodeBytes.
	Code *Code
	// Cuts is for those who compare engines step by step: where a run ends inside a block, that
	// part of it is translated, too, instead of interpreted. So what a step does never depends
	// on where runs are cut, even if it is wrong.
	Cuts bool
	// BreakRule names a rule that is made deliberately wrong, for drills. Only binaries
	// built with the tag ftdrill know any.
	BreakRule string
}

// Stats is what a translator has done since it was attached.
type Stats struct {
	Blocks       uint64 `json:"blocks"`       // translated and not dropped
	CodeBytes    uint64 `json:"code_bytes"`   // of machine code in use
	Translations uint64 `json:"translations"` // blocks, also those since dropped
	Ops          uint64 `json:"ops"`          // instructions of those blocks
	Flushes      uint64 `json:"flushes"`      // times that all code was dropped because it was full
	TranslateNS  uint64 `json:"translate_ns"` // spent translating
	NativeSteps  uint64 `json:"native_steps"` // steps in machine code
	Entries      uint64 `json:"entries"`      // calls of machine code
}

const codeBytesDefault = 32 << 20

// Supported is nil where this host can translate, else it says what is missing.
func Supported() error { return supported() }

// Attach makes h run machine code where it can, until Close. It is called between runs. The
// hart's memory must stay mapped where it is.
func Attach(h *rv64.Hart, o Options) (*Translator, error) {
	if err := Supported(); err != nil {
		return nil, fmt.Errorf("translate RISC-V code to machine code: %w", err)
	}
	return attach(h, o)
}
