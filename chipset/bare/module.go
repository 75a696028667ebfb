package bare

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"math"

	"ft/chipset/firmware"
	"ft/chipset/module"
	"ft/chipset/rv64"
)

// A program as a CPU module runs it, beside another one in lockstep.
//
// Invariants:
//   - It is a function of its configuration, its memory and its state: where its runs are cut
//     changes neither its steps nor what it prints nor how it ends.
//   - What it prints has left when Run comes back, in the order of its steps, standard output
//     and standard error in one stream.
//   - It takes nothing from outside. Time goes on by steps, and leaps when the hart waits.

// ModuleConfig is what a Module is built from, beside its memory. It can be encoded.
type ModuleConfig struct {
	ToHost   uint64       `json:"tohost"`
	FromHost uint64       `json:"fromhost,omitempty"` // 0: the program wants no answers
	Memory   uint64       `json:"memory"`             // in bytes
	Compare  rv64.Compare `json:"compare"`
}

// Failed is the kind of the reset of a program that asked of the host what it cannot do; the
// reason is the lower half of the command. It is one of those that SBI leaves to
// implementations.
const Failed firmware.ResetType = 0xf000_0000

// Failure is what a program's reset says went wrong; nil if it ended by itself.
func Failure(r module.Reset) error {
	if r.Kind != Failed {
		return nil
	}
	return fmt.Errorf("the lower half of tohost was %#x: %w", uint32(r.Reason), errRecord)
}

// Module is a program's machine for a CPU module. It is used by one goroutine at a time.
type Module struct {
	m      *Machine
	failed bool // the program's last command made no sense; its status is the command's lower half
	broken bool // Break was called
}

// NewModule makes a machine whose memory is what ram holds; LoadState puts it where it shall
// begin. onFirstWrite is the hart's (rv64.Config).
func NewModule(cfg ModuleConfig, ram []byte, sink module.Sink, onFirstWrite func(page uint64)) (*Module, error) {
	memory := firmware.RAM{Base: firmware.RAMBase, Size: cfg.Memory}
	switch {
	case cfg.Memory == 0 || cfg.Memory%4096 != 0 || cfg.Memory != uint64(len(ram)):
		return nil, fmt.Errorf("a program's machine with %d bytes of memory, and %d are there: want the same, a multiple of 4 KiB", cfg.Memory, len(ram))
	case cfg.ToHost%8 != 0 || !memory.Contains(cfg.ToHost, 8):
		return nil, fmt.Errorf("tohost at %#x is no aligned doubleword of %d bytes of memory", cfg.ToHost, cfg.Memory)
	case cfg.FromHost%8 != 0 || cfg.FromHost != 0 && !memory.Contains(cfg.FromHost, 8):
		return nil, fmt.Errorf("fromhost at %#x is no aligned doubleword of %d bytes of memory", cfg.FromHost, cfg.Memory)
	case cfg.Compare > rv64.Off:
		return nil, fmt.Errorf("there is no comparison %d", cfg.Compare)
	}
	m, err := assemble(rv64.Config{RAM: ram, Compare: cfg.Compare, OnFirstWrite: onFirstWrite}, cfg.ToHost, cfg.FromHost)
	if err != nil {
		return nil, err
	}
	out := bufio.NewWriter(console{sink})
	m.htif.console, m.htif.errors = out, out
	return &Module{m: m}, nil
}

// console is a sink's.
type console struct{ module.Sink }

func (c console) Write(p []byte) (int, error) {
	c.Console(p)
	return len(p), nil
}

// discard is the sink of a machine that does not run.
type discard struct{ module.Sink }

// Layout is the configuration of the program's module with so many bytes of memory.
func (p *Program) Layout(memory uint64, compare rv64.Compare) ModuleConfig {
	return ModuleConfig{ToHost: p.toHost, FromHost: p.fromHost, Memory: memory, Compare: compare}
}

// Pages are the pages of memory that Place writes to, in their order.
func (p *Program) Pages() (pages []uint32) {
	for _, s := range p.kernel.Segments {
		if len(s.Data) == 0 {
			continue
		}
		first, last := (s.Addr-firmware.RAMBase)/pageSize, (s.Addr+uint64(len(s.Data))-1-firmware.RAMBase)/pageSize
		for page := uint32(first); page <= uint32(last); page++ {
			if len(pages) == 0 || pages[len(pages)-1] < page {
				pages = append(pages, page)
			}
		}
	}
	return pages
}

// Size is how much memory the program occupies, from the beginning of memory on.
func (p *Program) Size() uint64 { return p.kernel.End() - firmware.RAMBase }

const pageSize = 4096

// Place writes the program into ram, which is zero, and gives the configuration and the
// first state of its module.
func (p *Program) Place(ram []byte, compare rv64.Compare) (ModuleConfig, []byte, error) {
	cfg := p.Layout(uint64(len(ram)), compare)
	m, err := NewModule(cfg, ram, discard{}, nil)
	if err == nil {
		err = m.m.place(p)
	}
	if err != nil {
		return cfg, nil, err
	}
	return cfg, m.SaveState(nil), nil
}

// Run runs up to steps steps. It returns the steps run, fewer only when it did not stop for
// StopBudget. StopReset is the program's end; StopWFI is for ever, since no timer is set that
// would end it.
func (m *Module) Run(steps uint64) (ran uint64, why module.Stop) {
	first := m.Steps()
	m.broken = false
	why = m.run(first + min(steps, math.MaxUint64-first))
	_ = m.m.htif.flush() // a sink has no errors
	return m.Steps() - first, why
}

func (m *Module) run(end uint64) module.Stop {
	for {
		switch {
		case m.m.hart.Fault() != nil:
			return module.StopFault
		case m.m.htif.ended:
			return module.StopReset
		case m.broken:
			return module.StopBreak
		case m.Steps() == end:
			return module.StopBudget
		}
		idle, err := m.m.advance(end)
		if err != nil {
			m.fail()
		}
		if idle && !m.m.htif.ended && !m.broken && !m.m.clint.leap() {
			return module.StopWFI
		}
	}
}

// fail ends a program that asked of the host what it cannot do.
func (m *Module) fail() {
	f := &m.m.htif
	f.ended, f.status, m.failed = true, f.refused&math.MaxUint32, true
}

// Break makes Run come back with StopBreak behind the present step. It is for the Sink and
// for onFirstWrite; outside of Run it does nothing.
func (m *Module) Break() {
	m.broken = true
	m.m.hart.RequestStop()
}

// Apply takes the inputs that every machine gets: the time, which is the program's own.
func (m *Module) Apply(in *module.Input) error {
	if in.Kind != module.InputTime {
		return fmt.Errorf("%w: a bare-metal program has no %v", module.ErrInput, in.Kind)
	}
	return nil
}

// Emit has nothing to do: nothing that leaves a program is answered.
func (m *Module) Emit() {}

// Steps, Time and Fingerprint are the hart's.
func (m *Module) Steps() uint64       { return m.m.hart.Steps() }
func (m *Module) Time() uint64        { return m.m.hart.Time() }
func (m *Module) Fingerprint() uint64 { return m.m.hart.Fingerprint() }

// Hart is for reading and for drills.
func (m *Module) Hart() *rv64.Hart { return m.m.hart }

// Due is never: a hart that waits for a timer does so within Run.
func (m *Module) Due() (ticks uint64, ok bool) { return 0, false }

// ConsoleRoom is 0: nothing can be typed.
func (m *Module) ConsoleRoom() int { return 0 }

// Reset is how the program ended, once Run has returned StopReset: by itself (Shutdown, with
// its status, the largest one for all above it, as the reason), or Failed.
func (m *Module) Reset() module.Reset {
	reason := firmware.ResetReason(min(m.m.htif.status, math.MaxUint32))
	if m.failed {
		return module.Reset{Kind: Failed, Reason: reason}
	}
	return module.Reset{Kind: firmware.Shutdown, Reason: reason}
}

// A module's state, memory apart, little-endian and canonical: version, hart (the CLINT's
// registers are the hart's own), PLIC, UART, host-target interface.
const moduleStateVersion = 1

type htifState struct {
	Stored         bool
	Ended, Failed  bool
	ServeAt        uint64
	Answer, Status uint64
}

// SaveState appends the state to dst.
func (m *Module) SaveState(dst []byte) []byte {
	hart, f := m.m.hart.State(), &m.m.htif
	dst = binary.LittleEndian.AppendUint32(dst, moduleStateVersion)
	for _, part := range []any{
		hart.Words(), m.m.plic.State(), m.m.uart.State(),
		htifState{Stored: f.stored, Ended: f.ended, Failed: m.failed, ServeAt: f.serveAt, Answer: f.answer, Status: f.status},
	} {
		dst, _ = binary.Append(dst, binary.LittleEndian, part) // all of fixed size: it never fails
	}
	return dst
}

// LoadState makes m what SaveState described of a machine of the same ModuleConfig, whose
// memory has been copied to m's before. After an error m is as it was.
func (m *Module) LoadState(b []byte) error {
	r := bytes.NewReader(b)
	var version uint32
	var hart rv64.State
	var plic module.PLICState
	var uart module.UARTState
	var host htifState
	for _, part := range []any{&version, hart.Words(), &plic, &uart, &host} {
		if err := binary.Read(r, binary.LittleEndian, part); err != nil {
			return fmt.Errorf("the state of a program's machine ends too early: %w", err)
		}
	}
	switch {
	case version != moduleStateVersion:
		return fmt.Errorf("a state of a program's machine of version %d, version %d is known", version, moduleStateVersion)
	case r.Len() > 0:
		return fmt.Errorf("%d bytes lie behind the state of a program's machine", r.Len())
	}
	m.m.hart.SetState(hart)
	m.m.clint.software, m.m.clint.compare = hart.MipLines>>machineSoftware&1 != 0, hart.Mtimecmp
	m.m.uart.SetState(uart)
	m.m.plic.SetState(plic) // last: what the UART drove is in it
	f := &m.m.htif
	f.stored, f.ended, f.serveAt, f.answer, f.status = host.Stored, host.Ended, host.ServeAt, host.Answer, host.Status
	f.half, f.err = false, nil
	m.failed, m.broken = host.Failed, false
	return nil
}
