package bare

import (
	"encoding/binary"
	"math"

	"ft/chipset/firmware"
	"ft/chipset/rv64"
)

// What is around the hart, at Spike's addresses (riscv/platform.h).
const (
	romBase = 0x1000

	// Interrupts by their bit in mip.
	machineSoftware    = 3
	supervisorExternal = 9
	machineExternal    = 11

	// stepsPerTick steps take one tick of the 10 MHz clock: Spike's INSNS_PER_RTC_TICK.
	stepsPerTick = 100
)

// bus is the machine as its hart sees it.
type bus Machine

// Load reads from a device.
func (b *bus) Load(addr uint64, size int) (uint64, bool) {
	switch {
	case addr-romBase < uint64(len(b.rom)):
		// size divides addr, and 8 the ROM's length: all of it is there.
		var v [8]byte
		copy(v[:size], b.rom[addr-romBase:])
		return binary.LittleEndian.Uint64(v[:]), true
	case addr-firmware.CLINTBase < firmware.CLINTSize:
		return b.clint.load(addr-firmware.CLINTBase, size), true
	case addr-firmware.PLICBase < firmware.PLICSize:
		return b.plic.Load(addr-firmware.PLICBase, size)
	case addr-firmware.UARTBase < firmware.UARTSize:
		return b.uart.Load(addr-firmware.UARTBase, size)
	}
	return 0, false
}

// Store writes to a device.
func (b *bus) Store(addr uint64, size int, v uint64) bool {
	switch {
	case addr-firmware.CLINTBase < firmware.CLINTSize:
		b.clint.store(addr-firmware.CLINTBase, size, v)
		return true
	case addr-firmware.PLICBase < firmware.PLICSize:
		return b.plic.Store(addr-firmware.PLICBase, size, v)
	case addr-firmware.UARTBase < firmware.UARTSize:
		return b.uart.Store(addr-firmware.UARTBase, size, v)
	}
	return false
}

// Registers of the core-local interruptor (SiFive FU540 manual, chapter 9), for one hart.
// The rest reads zero.
const (
	clintMSIP     = 0x0000
	clintMTimeCmp = 0x4000
	clintMTime    = 0xbff8
)

// clint is mtime, which is the hart's own time, and M mode's software and timer interrupts.
// What is stored in it holds from the next step on.
type clint struct {
	hart     *rv64.Hart
	software bool
	compare  uint64 // mtimecmp
}

func (c *clint) init(hart *rv64.Hart) {
	// mtimecmp has no reset value; this one raises nothing in a program that never set it.
	c.hart, c.compare = hart, math.MaxUint64
	hart.SetTime(0, 1, stepsPerTick)
}

// leap advances the clock to the next timer that the hart waits for. False if there is none.
func (c *clint) leap() bool {
	at, armed := c.hart.Timer()
	if armed {
		c.hart.SetTime(at, 1, stepsPerTick)
	}
	return armed
}

// register is the doubleword at an offset, and how far up in it the offset is, in bits.
func (c *clint) register(offset uint64) (v, shift uint64) {
	switch offset &^ 7 {
	case clintMSIP:
		if c.software {
			v = 1
		}
	case clintMTimeCmp:
		v = c.compare
	case clintMTime:
		v = c.hart.Time()
	}
	return v, offset % 8 * 8
}

func (c *clint) load(offset uint64, size int) uint64 {
	v, shift := c.register(offset)
	return v >> shift & (math.MaxUint64 >> (64 - 8*size))
}

func (c *clint) store(offset uint64, size int, v uint64) {
	old, shift := c.register(offset)
	mask := uint64(math.MaxUint64) >> (64 - 8*size) << shift
	v = old&^mask | v<<shift&mask
	switch offset &^ 7 {
	case clintMSIP:
		c.software = v&1 != 0
		c.hart.SetInterrupt(machineSoftware, c.software)
	case clintMTimeCmp:
		c.compare = v
		c.hart.SetMachineTimer(v)
	case clintMTime:
		c.hart.SetTime(v, 1, stepsPerTick)
	}
}
