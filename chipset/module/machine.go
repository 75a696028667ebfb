package module

import (
	"errors"
	"fmt"

	"ft/chipset/firmware"
	"ft/chipset/rv64"
	"ft/chipset/virtio"
)

// Extensions are what the device tree says of the hart.
var Extensions = []string{"i", "m", "a", "f", "d", "c", "zicntr", "zicsr", "zifencei", "sstc", "svadu"}

// TimebaseHz is the frequency of the guest's clock, the time CSR.
const TimebaseHz = 10_000_000

const nsPerTick = 1_000_000_000 / TimebaseHz

// Slots of the virtio devices. Each is there whether the machine has the device or not, so
// that interfaces keep their names; a slot without a device says so (device ID 0).
const (
	DiskSlot = iota
	NICSlot
	EntropySlot
	slotCount
)

// Virtio is how many slots the board of a machine has.
const Virtio = slotCount

// Config is what a machine is built from.
type Config struct {
	RAM     []byte // at firmware.RAMBase; a multiple of 4 KiB
	Disk    *virtio.BlockConfig
	NIC     *virtio.NetConfig
	Entropy bool

	Compare      rv64.Compare
	OnFirstWrite func(page uint64) // as in rv64.Config
}

// Sink takes what leaves a machine, at the step at which it leaves and in order. What it is
// given is valid during the call alone.
type Sink interface {
	Console(p []byte)
	Request(slot int, r *virtio.Request)
}

// Stop says why Run came back.
type Stop uint8

// Reasons for Run to come back.
const (
	StopBudget Stop = iota // all steps were run
	StopWFI                // the hart waits: for an input, or for the guest time of Due
	StopHeld               // a device's reset waits for the answers to its requests
	StopReset              // the guest asked for a reset; see Reset
	StopBreak              // Break was called
	StopFault              // the hart's engine has crashed (rv64.Hart.Fault)
)

func (s Stop) String() string {
	return [...]string{"budget", "wfi", "held", "reset", "break", "fault"}[s]
}

// Reset is what a guest asked for.
type Reset struct {
	Kind   firmware.ResetType
	Reason firmware.ResetReason
}

// Machine is the inside of a CPU module: a hart, its memory, and everything else that the
// guest can see.
//
// Invariants:
//   - It is a deterministic function of its start state and of the inputs applied at its
//     steps (Apply). It reads no clock and no random source, and starts no goroutine.
//   - No load of the guest leaves it: a device answers with the state that its last input
//     or the guest's own stores gave it.
//   - What leaves it goes through the Sink, in the order of the guest's steps.
//
// It is used by one goroutine at a time.
type Machine struct {
	cfg  Config
	hart *rv64.Hart
	plic *PLIC
	uart *UART
	rtc  *RTC
	sbi  *firmware.SBI
	sink Sink

	slots  [slotCount]virtio.Device
	nic    *virtio.Net // also in its slot
	reset  *Reset
	broken bool // Break was called in this run

	typed  [consoleBuffer]byte // by the guest, not handed on yet
	typedN int
}

const consoleBuffer = 4096

// New makes a machine at reset, its memory as it is. Load puts a program into it.
func New(cfg Config, sink Sink) (*Machine, error) {
	if size := len(cfg.RAM); size == 0 || size%4096 != 0 {
		return nil, fmt.Errorf("a machine with %d bytes of memory: want a multiple of 4 KiB", size)
	}
	m := &Machine{cfg: cfg, sink: sink}
	m.hart = rv64.New(rv64.Config{
		RAM: cfg.RAM, RAMBase: firmware.RAMBase, Bus: (*bus)(m), Ecall: func(*rv64.Hart) { m.sbi.Call() },
		OnFirstWrite: cfg.OnFirstWrite, Compare: cfg.Compare,
	})
	m.plic = NewPLIC(func(context int, level bool) {
		m.hart.SetInterrupt([plicContexts]uint{MachineContext: 11, SupervisorContext: 9}[context], level)
	})
	m.uart = NewUART(m.typeByte, func(level bool) { m.plic.SetLine(firmware.UARTIRQ, level) })
	m.rtc = NewRTC(m.now, func(level bool) { m.plic.SetLine(firmware.RTCIRQ, level) })
	m.sbi = firmware.NewSBI((*supervisor)(m))
	port := (*port)(m)
	var errs [slotCount]error
	if cfg.Disk != nil {
		m.slots[DiskSlot], errs[DiskSlot] = virtio.NewBlock(DiskSlot, m.hart, port, *cfg.Disk)
	}
	if cfg.NIC != nil {
		m.nic, errs[NICSlot] = virtio.NewNet(NICSlot, m.hart, port, *cfg.NIC)
		m.slots[NICSlot] = m.nic
	}
	if cfg.Entropy {
		m.slots[EntropySlot] = virtio.NewEntropy(EntropySlot, m.hart, port)
	}
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	return m, nil
}

// Load fills memory, which must be zero where no segment lies, and sets the hart where a
// kernel starts.
func (m *Machine) Load(boot *firmware.Boot) error {
	for _, s := range boot.Segments {
		if !m.hart.WriteRAM(s.Addr, s.Data) {
			return fmt.Errorf("%d bytes at %#x are not in the machine's memory", len(s.Data), s.Addr)
		}
	}
	m.hart.EnterSupervisor(boot.Entry, 0, boot.Tree)
	return nil
}

// Run runs up to steps steps. It returns the steps run, fewer only when it did not stop for
// StopBudget.
func (m *Machine) Run(steps uint64) (ran uint64, why Stop) {
	m.broken = false
	for {
		if why, stopped := m.standing(); stopped {
			return ran, why
		}
		part := min(steps-ran, m.untilAlarm())
		n, stop := m.hart.Run(part)
		ran += n
		m.flushConsole()
		if n == part && part > 0 {
			m.rtc.Check()
		}
		switch {
		case stop == rv64.StopFault:
			return ran, StopFault
		case m.broken:
			return ran, StopBreak
		case stop == rv64.StopWFI:
			return ran, StopWFI
		case ran == steps:
			why, stopped := m.standing()
			if !stopped {
				why = StopBudget
			}
			return ran, why
		}
	}
}

// Break makes Run return with StopBreak behind the present step. It is for the Sink and for
// OnFirstWrite; outside of Run it does nothing.
func (m *Machine) Break() {
	m.broken = true
	m.hart.RequestStop()
}

// Emit hands to the Sink again every request that is outside: each device's in the order in
// which they left.
func (m *Machine) Emit() {
	for _, d := range m.slots {
		if d != nil {
			d.Emit()
		}
	}
}

// standing says whether the machine may not run on for now, or at all.
func (m *Machine) standing() (why Stop, stopped bool) {
	if m.reset != nil {
		return StopReset, true
	}
	for _, d := range m.slots {
		if d != nil && d.Held() {
			return StopHeld, true
		}
	}
	return 0, false
}

// untilAlarm is how many steps there are, at least one, until the clock's alarm is due.
func (m *Machine) untilAlarm() uint64 {
	due, armed := m.rtc.Due()
	if !armed {
		return ^uint64(0)
	}
	return max(m.hart.StepsUntil((due+nsPerTick-1)/nsPerTick), 1)
}

// Due is the guest time, in ticks, from which on a waiting hart has something to do though
// no input came: its timer or the clock's alarm.
func (m *Machine) Due() (ticks uint64, ok bool) {
	ticks, ok = m.hart.Timer()
	if alarm, armed := m.rtc.Due(); armed {
		if alarm = (alarm + nsPerTick - 1) / nsPerTick; !ok || alarm < ticks {
			ticks, ok = alarm, true
		}
	}
	return ticks, ok
}

// Steps, Time and Fingerprint are the hart's.
func (m *Machine) Steps() uint64       { return m.hart.Steps() }
func (m *Machine) Time() uint64        { return m.hart.Time() }
func (m *Machine) Fingerprint() uint64 { return m.hart.Fingerprint() }

// Hart is for reading: what it is in, and what dumps and tests want to know.
func (m *Machine) Hart() *rv64.Hart { return m.hart }

// Reset is what the guest asked for, once Run has returned StopReset.
func (m *Machine) Reset() Reset { return *m.reset }

// ConsoleRoom is how many typed bytes the machine takes for sure.
func (m *Machine) ConsoleRoom() int { return m.uart.Room() }

// now is guest time in nanoseconds.
func (m *Machine) now() uint64 { return m.hart.Time() * nsPerTick }

func (m *Machine) typeByte(b byte) {
	m.typed[m.typedN] = b
	if m.typedN++; m.typedN == len(m.typed) {
		m.flushConsole()
	}
}

func (m *Machine) flushConsole() {
	if m.typedN > 0 {
		n := m.typedN
		m.typedN = 0
		m.sink.Console(m.typed[:n])
	}
}

// bus is what lies outside RAM.
type bus Machine

// Load answers a load of the hart at the address of a device.
func (b *bus) Load(addr uint64, size int) (uint64, bool) {
	switch {
	case addr >= firmware.PLICBase && addr < firmware.PLICBase+firmware.PLICSize:
		return b.plic.Load(addr-firmware.PLICBase, size)
	case addr >= firmware.UARTBase && addr < firmware.UARTBase+firmware.UARTSize:
		return b.uart.Load(addr-firmware.UARTBase, size)
	case addr >= firmware.VirtioBase && addr < firmware.VirtioBase+slotCount*firmware.VirtioSize:
		slot := (addr - firmware.VirtioBase) / firmware.VirtioSize
		if d := b.slots[slot]; d != nil {
			return d.Load(addr%firmware.VirtioSize, size)
		}
		return virtio.LoadEmpty(addr%firmware.VirtioSize, size)
	case addr >= firmware.RTCBase && addr < firmware.RTCBase+firmware.RTCSize:
		return b.rtc.Load(addr-firmware.RTCBase, size)
	}
	return 0, false
}

// Store takes a store of the hart to the address of a device.
func (b *bus) Store(addr uint64, size int, v uint64) bool {
	switch {
	case addr >= firmware.PLICBase && addr < firmware.PLICBase+firmware.PLICSize:
		return b.plic.Store(addr-firmware.PLICBase, size, v)
	case addr >= firmware.UARTBase && addr < firmware.UARTBase+firmware.UARTSize:
		return b.uart.Store(addr-firmware.UARTBase, size, v)
	case addr >= firmware.VirtioBase && addr < firmware.VirtioBase+slotCount*firmware.VirtioSize:
		slot := (addr - firmware.VirtioBase) / firmware.VirtioSize
		if d := b.slots[slot]; d != nil {
			return d.Store(addr%firmware.VirtioSize, size, v)
		}
		return true // as the specification has it for a device that is not there
	case addr >= firmware.RTCBase && addr < firmware.RTCBase+firmware.RTCSize:
		if !b.rtc.Store(addr-firmware.RTCBase, size, v) {
			return false
		}
		b.hart.RequestStop() // the alarm may be due before the run that was begun ends
		return true
	}
	return false
}

// port is what devices do to the machine.
type port Machine

// Interrupt sets the level of a slot's line.
func (p *port) Interrupt(slot int, level bool) { p.plic.SetLine(firmware.VirtioIRQ+slot, level) }

// Emit hands a request out, behind what was typed before it.
func (p *port) Emit(slot int, r *virtio.Request) {
	(*Machine)(p).flushConsole()
	p.sink.Request(slot, r)
}

// Hold stops the machine after the present step; standing sees why.
func (p *port) Hold(int) { p.hart.RequestStop() }

// supervisor is the machine as its firmware sees it.
type supervisor Machine

func (s *supervisor) Reg(i int) uint64                   { return s.hart.Reg(i) }
func (s *supervisor) SetReg(i int, v uint64)             { s.hart.SetReg(i, v) }
func (s *supervisor) ReadRAM(addr uint64, p []byte) bool { return s.hart.ReadRAM(addr, p) }

// WriteRAM writes as a device does.
func (s *supervisor) WriteRAM(addr uint64, p []byte) bool { return s.hart.WriteRAM(addr, p) }

// SetTimer sets the compare value of the supervisor's timer.
func (s *supervisor) SetTimer(at uint64) { s.hart.SetTimer(at) }

// SetSoftwareInterrupt sets SSIP.
func (s *supervisor) SetSoftwareInterrupt(high bool) { s.hart.SetInterrupt(1, high) }

// ConsoleWrite sends bytes as the UART does.
func (s *supervisor) ConsoleWrite(p []byte) {
	for _, b := range p {
		(*Machine)(s).typeByte(b)
	}
}

// ConsoleRead takes what was typed.
func (s *supervisor) ConsoleRead(p []byte) int { return s.uart.Read(p) }

// Reset ends the run after the present step.
func (s *supervisor) Reset(kind firmware.ResetType, reason firmware.ResetReason) {
	s.reset = &Reset{kind, reason}
	s.hart.RequestStop()
}
