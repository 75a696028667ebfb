package firmware

import (
	"fmt"
	"strings"
)

// The tree of a machine: as QEMU writes it for its virt machine with one hart, with the
// bindings that Linux has for it (Documentation/devicetree/bindings).

// phandles, by which nodes refer to each other.
const (
	cpuHandle  = 1
	intcHandle = 2
	plicHandle = 3
)

// Causes of the hart's interrupts (privileged specification, mcause).
const (
	causeMachineSoftware    = 3
	causeMachineTimer       = 7
	causeSupervisorExternal = 9
	causeMachineExternal    = 11
)

// DeviceTree is the blob that a kernel is started with. The same board gives the same bytes,
// and the length does not depend on where the initrd lies.
func (b *Board) DeviceTree() ([]byte, error) {
	if err := b.validate(); err != nil {
		return nil, err
	}
	root := &node{}
	root.cells("#address-cells", 2)
	root.cells("#size-cells", 2)
	root.strings("compatible", "riscv-virtio")
	root.strings("model", "ft,virt")
	b.chosen(root.child("chosen"))
	b.memory(root.child("memory@%x", b.Memory.Base))
	b.cpus(root.child("cpus"))
	b.soc(root.child("soc"))
	if b.Bare {
		root.child("htif").strings("compatible", "ucb,htif0")
	}
	return flatten(root), nil
}

func (b *Board) chosen(n *node) {
	n.strings("bootargs", b.Bootargs)
	n.strings("stdout-path", fmt.Sprintf("/soc/serial@%x", uint64(UARTBase)))
	if len(b.RNGSeed) > 0 {
		n.bytes("rng-seed", b.RNGSeed)
	}
	if b.InitrdEnd > b.InitrdStart {
		n.wide("linux,initrd-start", b.InitrdStart)
		n.wide("linux,initrd-end", b.InitrdEnd)
	}
}

func (b *Board) memory(n *node) {
	n.strings("device_type", "memory")
	n.wide("reg", b.Memory.Base, b.Memory.Size)
}

func (b *Board) cpus(n *node) {
	n.cells("#address-cells", 1)
	n.cells("#size-cells", 0)
	n.cells("timebase-frequency", b.TimebaseHz)
	cpu := n.child("cpu@0")
	cpu.strings("device_type", "cpu")
	cpu.cells("reg", 0)
	cpu.strings("status", "okay")
	cpu.strings("compatible", "riscv")
	cpu.strings("riscv,isa", isaString(b.Extensions))
	cpu.strings("riscv,isa-base", "rv64i")
	cpu.strings("riscv,isa-extensions", b.Extensions...)
	if b.MMU != "" {
		cpu.strings("mmu-type", b.MMU)
	}
	cpu.cells("phandle", cpuHandle)
	intc := cpu.child("interrupt-controller")
	intc.cells("#interrupt-cells", 1)
	intc.flag("interrupt-controller")
	intc.strings("compatible", "riscv,cpu-intc")
	intc.cells("phandle", intcHandle)
}

// isaString is the older way to tell the same: single letters together, then the
// extensions of several letters, each after an underscore.
func isaString(extensions []string) string {
	var letters, names strings.Builder
	for _, e := range extensions {
		if len(e) == 1 {
			letters.WriteString(e)
		} else {
			names.WriteString("_" + e)
		}
	}
	return "rv64" + letters.String() + names.String()
}

func (b *Board) soc(n *node) {
	n.cells("#address-cells", 2)
	n.cells("#size-cells", 2)
	n.strings("compatible", "simple-bus")
	n.flag("ranges")

	plic := n.child("plic@%x", uint64(PLICBase))
	plic.strings("compatible", "sifive,plic-1.0.0", "riscv,plic0")
	plic.wide("reg", PLICBase, PLICSize)
	plic.cells("#interrupt-cells", 1)
	plic.cells("#address-cells", 0)
	plic.flag("interrupt-controller")
	plic.cells("interrupts-extended", intcHandle, causeMachineExternal, intcHandle, causeSupervisorExternal)
	plic.cells("riscv,ndev", PLICSources)
	plic.cells("phandle", plicHandle)

	uart := n.device("serial", "ns16550a", UARTBase, UARTSize, UARTIRQ)
	uart.cells("clock-frequency", UARTClockHz)
	if b.Bare {
		clint := n.child("clint@%x", uint64(CLINTBase))
		clint.strings("compatible", "sifive,clint0", "riscv,clint0")
		clint.wide("reg", CLINTBase, CLINTSize)
		clint.cells("interrupts-extended", intcHandle, causeMachineSoftware, intcHandle, causeMachineTimer)
	} else {
		n.device("rtc", "google,goldfish-rtc", RTCBase, RTCSize, RTCIRQ)
	}
	for i := range b.Virtio {
		slot := n.device("virtio_mmio", "virtio,mmio", VirtioBase+uint64(i)*VirtioSize, VirtioSize, VirtioIRQ+uint32(i))
		slot.flag("dma-coherent")
	}
}

func (n *node) device(name, compatible string, base, size uint64, irq uint32) *node {
	d := n.child("%s@%x", name, base)
	d.strings("compatible", compatible)
	d.wide("reg", base, size)
	d.cells("interrupts", irq)
	d.cells("interrupt-parent", plicHandle)
	return d
}
