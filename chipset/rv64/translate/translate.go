// Package translate is the second engine of the CPU module: it translates the blocks of a
// hart to machine code of the host, with the same states and fingerprints at the same steps
// as the interpreter (package rv64), which is the reference.
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
