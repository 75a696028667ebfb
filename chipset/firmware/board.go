// Package firmware is what a riscv64 kernel finds when it starts: the supervisor binary
// interface (sbi.go), the flattened device tree (fdt.go, tree.go), itself in memory and its
// initial RAM disk (kernel.go, place.go).
//
// Everything in it is a function of its arguments: no clock, no random source, no map
// order, no I/O. What a file or a guest hands in is untrusted; it is refused with a sentence
// or answered with an error code of the specification, never trusted for a length.
package firmware

import "fmt"

// Where the devices of a machine lie and how they interrupt: as on QEMU's virt machine
// (hw/riscv/virt.c), which kernels and bare-metal programs know.
const (
	RTCBase    = 0x0010_1000
	RTCSize    = 0x1000
	CLINTBase  = 0x0200_0000
	CLINTSize  = 0x1_0000
	PLICBase   = 0x0c00_0000
	PLICSize   = 0x60_0000
	UARTBase   = 0x1000_0000
	UARTSize   = 0x100
	VirtioBase = 0x1000_1000 // slot n at VirtioBase + n*VirtioSize
	VirtioSize = 0x1000
	RAMBase    = 0x8000_0000

	VirtioSlots = 8

	VirtioIRQ = 1 // of slot 0; slot n has VirtioIRQ + n
	UARTIRQ   = 10
	RTCIRQ    = 11

	// PLICSources is the number of interrupt sources, source 0 (which is none) apart.
	PLICSources = 95
	// PLICContexts are M mode and S mode of hart 0.
	PLICContexts = 2

	// UARTClockHz is the input clock of the 16550. Baud rates have no effect.
	UARTClockHz = 3_686_400
)

// RAM is the guest's memory, in guest physical addresses.
type RAM struct {
	Base, Size uint64
}

// End is the first address behind r.
func (r RAM) End() uint64 { return r.Base + r.Size }

// Contains says whether size bytes at addr lie in r; none do so anywhere from its base to its end.
func (r RAM) Contains(addr, size uint64) bool {
	return addr >= r.Base && addr-r.Base <= r.Size && size <= r.Size-(addr-r.Base)
}

// Board is what the device tree says about a machine.
type Board struct {
	Memory     RAM
	TimebaseHz uint32   // of the time CSR
	Extensions []string // of the hart, as riscv,isa-extensions has them: "i", "m", …, "zicsr"
	MMU        string   // "riscv,sv39"; "" for a hart without one
	Virtio     int      // slots, up to VirtioSlots

	// Bare is the board of programs that start in M mode: it has a CLINT and the host-target
	// interface, as Spike has, in place of the clock.
	Bare bool

	Bootargs    string
	InitrdStart uint64
	InitrdEnd   uint64 // equal to InitrdStart where there is none
	RNGSeed     []byte // random bytes, an input of the machine; none are made here
}

// BootargsMax is what Linux for riscv keeps of a command line (COMMAND_LINE_SIZE less the
// terminating zero); what is longer it cuts off without a word.
const BootargsMax = 1023

// rngSeedMax bounds what is copied into the tree; kernels want 32 to 64 bytes.
const rngSeedMax = 512

func (b *Board) validate() error {
	if b.Memory.Size == 0 || b.Memory.Base+b.Memory.Size < b.Memory.Base {
		return fmt.Errorf("device tree: memory of %d bytes at %#x is no range of addresses", b.Memory.Size, b.Memory.Base)
	}
	if b.Virtio < 0 || b.Virtio > VirtioSlots {
		return fmt.Errorf("device tree: %d virtio slots asked for, the board has %d", b.Virtio, VirtioSlots)
	}
	if len(b.Bootargs) > BootargsMax {
		return fmt.Errorf("command line is %d bytes long, the kernel keeps %d and would drop the rest: shorten it", len(b.Bootargs), BootargsMax)
	}
	for i := range len(b.Bootargs) {
		if c := b.Bootargs[i]; c < ' ' && c != '\t' || c == 0x7f {
			return fmt.Errorf("command line has the control character %#02x at byte %d: remove it", c, i)
		}
	}
	if b.InitrdEnd < b.InitrdStart || !b.Memory.Contains(b.InitrdStart, b.InitrdEnd-b.InitrdStart) && b.InitrdEnd != b.InitrdStart {
		return fmt.Errorf("device tree: the initrd at %#x to %#x is not in memory", b.InitrdStart, b.InitrdEnd)
	}
	if len(b.RNGSeed) > rngSeedMax {
		return fmt.Errorf("device tree: a random seed of %d bytes, at most %d are taken", len(b.RNGSeed), rngSeedMax)
	}
	if len(b.Extensions) == 0 || b.TimebaseHz == 0 {
		return fmt.Errorf("device tree: extensions %q at a timebase of %d Hz describe no hart", b.Extensions, b.TimebaseHz)
	}
	return nil
}
