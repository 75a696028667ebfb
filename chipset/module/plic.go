package module

import (
	"math/bits"

	"ft/chipset/firmware"
)

// The platform-level interrupt controller (RISC-V PLIC Specification 1.0.0, with the layout
// of sifive,plic-1.0.0): it turns the levels of the devices' interrupt lines into the
// external interrupts of hart 0's two contexts.
//
// Invariants:
//   - A source is in one of four states: idle, pending, in service (claimed and not
//     completed), or in service with its line still high. Its gateway forwards the level
//     when it is neither pending nor in service; what was forwarded stays pending even if
//     the line falls (chapter 5).
//   - The lines to the hart are a function of the state, driven anew at each change.

const (
	plicSources  = firmware.PLICSources + 1 // source 0 is none
	plicWords    = (plicSources + 31) / 32
	plicContexts = firmware.PLICContexts

	plicPriority   = 0x0
	plicPending    = 0x1000
	plicEnable     = 0x2000
	plicEnableStep = 0x80
	plicContext    = 0x20_0000
	plicContextEnd = plicContext + plicContexts*plicContextStep

	plicContextStep = 0x1000
	// plicPriorityMask: seven priorities and 0, which never interrupts.
	plicPriorityMask = 7
)

// Contexts of the PLIC.
const (
	MachineContext    = 0
	SupervisorContext = 1
)

// PLICState is everything that a PLIC knows. It is comparable.
type PLICState struct {
	Priority  [plicSources]uint8
	Level     [plicWords]uint32 // of the devices' lines
	Pending   [plicWords]uint32
	InService [plicWords]uint32
	Enable    [plicContexts][plicWords]uint32
	Threshold [plicContexts]uint8
}

// PLIC is the controller of one machine.
type PLIC struct {
	state PLICState
	drive func(context int, level bool)
}

// NewPLIC returns a controller after reset. drive is called with the level of a context's
// external interrupt at each access or input that may have changed it.
func NewPLIC(drive func(context int, level bool)) *PLIC { return &PLIC{drive: drive} }

// State returns a copy of everything that p knows.
func (p *PLIC) State() PLICState { return p.state }

// SetState makes p what State returned, and drives the hart's lines accordingly.
func (p *PLIC) SetState(s PLICState) {
	p.state = s
	p.update()
}

// SetLine sets the level of a device's line; source is from 1 to firmware.PLICSources.
func (p *PLIC) SetLine(source int, level bool) {
	if source <= 0 || source >= plicSources {
		return
	}
	word, bit := source/32, uint32(1)<<(source%32)
	if p.state.Level[word]&bit != 0 == level {
		return
	}
	p.state.Level[word] ^= bit
	p.forward(word, bit)
	p.update()
}

// forward is the gateways of the sources in bits.
func (p *PLIC) forward(word int, bits uint32) {
	p.state.Pending[word] |= bits & p.state.Level[word] &^ p.state.InService[word]
}

// best is the source that a context would claim: of those pending and enabled the one of
// the highest priority, and of these the one of the lowest number; 0 for none.
func (p *PLIC) best(context int) (source int, priority uint8) {
	for word := range plicWords {
		for set := p.state.Pending[word] & p.state.Enable[context][word]; set != 0; set &= set - 1 {
			s := word*32 + bits.TrailingZeros32(set)
			if p.state.Priority[s] > priority {
				source, priority = s, p.state.Priority[s]
			}
		}
	}
	return source, priority
}

func (p *PLIC) update() {
	for context := range plicContexts {
		_, priority := p.best(context)
		p.drive(context, priority > p.state.Threshold[context])
	}
}

// claim takes the best source into service, whatever the threshold (chapter 9).
func (p *PLIC) claim(context int) uint32 {
	source, _ := p.best(context)
	if source == 0 {
		return 0
	}
	bit := uint32(1) << (source % 32)
	p.state.Pending[source/32] &^= bit
	p.state.InService[source/32] |= bit
	p.update()
	return uint32(source)
}

// complete ends the service of a source. One that is not enabled for the context is ignored
// without a word (chapter 10).
func (p *PLIC) complete(context int, source uint32) {
	if source == 0 || source >= plicSources {
		return
	}
	word, bit := int(source/32), uint32(1)<<(source%32)
	if p.state.Enable[context][word]&bit == 0 {
		return
	}
	p.state.InService[word] &^= bit
	p.forward(word, bit)
	p.update()
}

// Load reads a register. Registers are words; what lies between them reads 0.
func (p *PLIC) Load(offset uint64, size int) (uint64, bool) {
	if size != 4 || offset%4 != 0 || offset >= firmware.PLICSize {
		return 0, false
	}
	switch {
	case offset < plicPriority+4*plicSources:
		return uint64(p.state.Priority[offset/4]), true
	case offset >= plicPending && offset < plicPending+4*plicWords:
		return uint64(p.state.Pending[(offset-plicPending)/4]), true
	case offset >= plicEnable && offset < plicEnable+plicContexts*plicEnableStep:
		context, word := (offset-plicEnable)/plicEnableStep, (offset-plicEnable)%plicEnableStep/4
		if word < plicWords {
			return uint64(p.state.Enable[context][word]), true
		}
	case offset >= plicContext && offset < plicContextEnd:
		context := int(offset-plicContext) / plicContextStep
		switch offset % plicContextStep {
		case 0:
			return uint64(p.state.Threshold[context]), true
		case 4:
			return uint64(p.claim(context)), true
		}
	}
	return 0, true
}

// Store writes a register.
func (p *PLIC) Store(offset uint64, size int, v uint64) bool {
	if size != 4 || offset%4 != 0 || offset >= firmware.PLICSize {
		return false
	}
	switch {
	case offset < plicPriority+4*plicSources:
		if offset != 0 {
			p.state.Priority[offset/4] = uint8(v & plicPriorityMask)
		}
	case offset >= plicEnable && offset < plicEnable+plicContexts*plicEnableStep:
		context, word := (offset-plicEnable)/plicEnableStep, (offset-plicEnable)%plicEnableStep/4
		if word < plicWords {
			p.state.Enable[context][word] = uint32(v) & plicImplemented(int(word))
		}
	case offset >= plicContext && offset < plicContextEnd:
		context := int(offset-plicContext) / plicContextStep
		switch offset % plicContextStep {
		case 0:
			p.state.Threshold[context] = uint8(v & plicPriorityMask)
		case 4:
			p.complete(context, uint32(v))
		}
	}
	p.update()
	return true
}

// plicImplemented are the bits of a word that stand for sources.
func plicImplemented(word int) uint32 {
	mask := ^uint32(0)
	if rest := plicSources - word*32; rest < 32 {
		mask = 1<<rest - 1
	}
	if word == 0 {
		mask &^= 1
	}
	return mask
}
