// Package bare runs bare-metal RV64 programs on a hart alone, as Spike does: an ELF in
// physical memory, started in M mode, that talks to the host through tohost and fromhost.
// It is what tests of the hart, the official suites among them, are run with.
//
// A program runs by itself (Machine), or as what a CPU module in lockstep runs (Module).
//
// Around the hart there are (board.go) memory from 0x80000000 on, a CLINT, a PLIC, a 16550
// and a device tree in a ROM, all where Spike has them; and the host-target interface
// (htif.go).
//
// Invariants:
//   - A run is a function of the program, the memory's size and the bound on steps: no
//     clock, no random source, no input. Time advances by steps, and leaps to the next
//     timer when the hart waits.
//   - The run ends behind the very step that asked for it.
//   - What the program hands to the host (addresses, lengths, file descriptors) is untrusted
//     and reaches nothing but its own memory and two writers.
package bare

import (
	"bufio"
	"errors"
	"fmt"
	"io"

	"ft/chipset/engine"
	"ft/chipset/firmware"
	"ft/chipset/module"
	"ft/chipset/rv64"
)

// Config is what a machine is built from.
type Config struct {
	RAM     []byte // at firmware.RAMBase, zero; a multiple of 4 KiB, page-aligned
	Engine  engine.Kind
	Compare rv64.Compare
	Console io.Writer // what the program prints
	Errors  io.Writer // what it writes to file descriptor 2
}

// Machine is a program on its board.
type Machine struct {
	hart   *rv64.Hart
	engine *engine.Engine // nil: the hart is given its own by somebody else
	clint  clint
	plic   *module.PLIC
	uart   *module.UART
	rom    []byte // the device tree
	htif   htif
}

// Program is an executable that was read for memory of a certain size.
type Program struct {
	name   string
	kernel *firmware.Kernel

	toHost, fromHost uint64
}

// Read takes an ELF apart for a machine with so many bytes of memory. name is for the
// errors, which are sentences for a user.
func Read(name string, file []byte, memory uint64) (*Program, error) {
	k, err := firmware.ReadELF(name, file, firmware.RAM{Base: firmware.RAMBase, Size: memory})
	if err != nil {
		return nil, err
	}
	p := &Program{name: name, kernel: k}
	for _, s := range []struct {
		name string
		addr *uint64
	}{{"tohost", &p.toHost}, {"fromhost", &p.fromHost}} {
		addr, ok := k.Symbol(s.name)
		if !ok && s.name == "fromhost" {
			continue // a program that wants no answers
		}
		if !ok {
			return nil, fmt.Errorf("%s has no symbol %s, so it has no way to say that it is done; link it for Spike (HTIF), and do not strip it", name, s.name)
		}
		if ram := (firmware.RAM{Base: firmware.RAMBase, Size: memory}); !ram.Contains(addr, 8) || addr%8 != 0 {
			return nil, fmt.Errorf("%s has %s at %#x, which is no aligned doubleword in its memory", name, s.name, addr)
		}
		*s.addr = addr
	}
	return p, nil
}

// New makes a machine with the program in its memory, before its first step.
func New(cfg Config, p *Program) (*Machine, error) {
	m, err := assemble(rv64.Config{RAM: cfg.RAM, Compare: cfg.Compare}, p.toHost, p.fromHost)
	if err != nil {
		return nil, err
	}
	m.htif.console, m.htif.errors, m.htif.lines = bufio.NewWriter(cfg.Console), bufio.NewWriter(cfg.Errors), true
	if err := m.place(p); err != nil {
		return nil, err
	}
	m.engine, err = engine.Attach(cfg.Engine, m.hart)
	return m, err
}

// Close gives back what the machine's engine holds. It runs no more.
func (m *Machine) Close() error { return m.engine.Close() }

// Engine is what runs it.
func (m *Machine) Engine() *engine.Engine { return m.engine }

// assemble makes a machine whose memory is what cfg.RAM holds, and which prints nowhere yet.
// The rest of the hart's configuration is the board's.
func assemble(cfg rv64.Config, toHost, fromHost uint64) (*Machine, error) {
	board := firmware.Board{
		Memory:     firmware.RAM{Base: firmware.RAMBase, Size: uint64(len(cfg.RAM))},
		TimebaseHz: module.TimebaseHz,
		Extensions: module.Extensions,
		MMU:        "riscv,sv48",
		Bare:       true,
	}
	tree, err := board.DeviceTree()
	if err != nil {
		return nil, err
	}
	m := &Machine{rom: append(tree, make([]byte, -len(tree)&7)...)}
	cfg.RAMBase, cfg.Bus, cfg.Sv48 = firmware.RAMBase, (*bus)(m), true
	m.hart = rv64.New(cfg)
	m.clint.init(m.hart)
	m.htif.init(m.hart, toHost, fromHost)
	m.plic = module.NewPLIC(func(context int, level bool) {
		m.hart.SetInterrupt([firmware.PLICContexts]uint{machineExternal, supervisorExternal}[context], level)
	})
	m.uart = module.NewUART(m.htif.putByte, func(level bool) { m.plic.SetLine(firmware.UARTIRQ, level) })
	return m, nil
}

// place writes a program into memory, which is zero, and sets the hart to its start.
func (m *Machine) place(p *Program) error {
	for _, s := range p.kernel.Segments {
		if !m.hart.WriteRAM(s.Addr, s.Data) {
			return fmt.Errorf("%s has a segment outside the machine's memory at %#x", p.name, s.Addr)
		}
	}
	m.hart.SetPC(p.kernel.Entry)
	m.hart.SetReg(10, 0) // a0: the hart's number
	m.hart.SetReg(11, romBase)
	return nil
}

// Ending says why a run is over.
type Ending uint8

const (
	Exited     Ending = iota // the program wrote tohost
	OutOfSteps               // it ran as many steps as it was given
	Stuck                    // it waits for an interrupt that nothing will raise
)

// Result is the end of a run.
type Result struct {
	Ending Ending
	Status uint64 // with Exited: what tohost held, shifted right by one; 0 is success
}

// Steps is how many steps the hart has run.
func (m *Machine) Steps() uint64 { return m.hart.Steps() }

// Fingerprint is the hart's.
func (m *Machine) Fingerprint() uint64 { return m.hart.Fingerprint() }

// Run runs the program until it ends, or has run max steps since its start. The errors are
// a console that takes no more, and a program that asks of the host what it cannot do.
func (m *Machine) Run(max uint64) (Result, error) {
	result, err := m.run(max)
	return result, errors.Join(err, m.htif.flush())
}

func (m *Machine) run(max uint64) (Result, error) {
	for {
		idle, err := m.advance(max)
		last := m.hart.Steps() >= max
		if err == nil && last {
			err = m.htif.settle()
		}
		switch {
		case err != nil:
			return Result{}, err
		case m.htif.ended:
			return Result{Exited, m.htif.status}, nil
		case last:
			return Result{Ending: OutOfSteps}, nil
		case idle && !m.clint.leap():
			return Result{Ending: Stuck}, nil
		}
	}
}

// advance runs the hart up to the step end, or until there is something to look at, and
// serves the program's command if one is due. idle says that the hart waits (WFI).
func (m *Machine) advance(end uint64) (idle bool, err error) {
	_, why := m.hart.Run(min(end-m.hart.Steps(), m.htif.until()))
	if why == rv64.StopFault {
		return false, m.hart.Fault()
	}
	idle = why == rv64.StopWFI
	if m.htif.due(idle) {
		err = m.htif.serve()
	}
	return idle, err
}
