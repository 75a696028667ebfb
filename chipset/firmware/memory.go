package firmware

// Limits of a guest's memory.
const (
	// MemoryMin is what Linux needs to unpack a small initrd and start a shell.
	MemoryMin = 64 << 20
	// MemoryMax: well below the 124 GiB of RAM that a kernel can map with Sv39
	// (Documentation/arch/riscv/vm-layout.rst).
	MemoryMax = 64 << 30
	// MemoryAlign is the page size by which kernels map RAM (a second-level leaf of Sv39):
	// what is left over they lose.
	MemoryAlign = 2 << 20
)
