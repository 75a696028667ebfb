// Package workload is a bare-metal program that uses all of a hart: integers, divisions,
// floating point, atomics, branches, traps, CSRs, memory. It is what faults are tried on.
//
// Each round makes an array of random numbers, counts it together in several ways, sorts it a
// little, copies it elsewhere, and prints a letter that depends on all that went before. What
// comes out at the end is its signature.
package workload

import (
	"ft/chipset/firmware"
	"ft/chipset/rv64/oracle/asm"
)

// Where things are, from the beginning of memory on.
const (
	hostAt  = 0x1000 // tohost, fromhost
	arrayAt = 0x2000
	words   = 512
	copyAt  = 0x4000 // copyPages pages
	copies  = 16
	size    = copyAt + copies*0x1000

	// Size is the memory that the program needs, in bytes.
	Size = 128 << 10
)

// ELF is the program with so many rounds, of some 30,000 steps each.
func ELF(rounds uint64) []byte {
	c := asm.New(firmware.RAMBase)
	op := c.Op
	at := func(rd asm.Reg, offset uint64) { c.Li(rd, firmware.RAMBase+offset) }
	add := func(rd, a, b asm.Reg) { op("add", asm.Args{Rd: rd, Rs1: a, Rs2: b}) }
	addi := func(rd, a asm.Reg, imm int64) { op("addi", asm.Args{Rd: rd, Rs1: a, Imm: imm}) }
	alu := func(name string, rd, a, b asm.Reg) { op(name, asm.Args{Rd: rd, Rs1: a, Rs2: b}) }
	load := func(rd, base asm.Reg, imm int64) { op("ld", asm.Args{Rd: rd, Rs1: base, Imm: imm}) }
	store := func(v, base asm.Reg, imm int64) { op("sd", asm.Args{Rs2: v, Rs1: base, Imm: imm}) }
	loop := func(n uint64, label string, body func()) {
		c.Li(asm.T6, n)
		c.Label(label)
		body()
		addi(asm.T6, asm.T6, -1)
		c.To("bne", asm.Args{Rs1: asm.T6}, label)
	}
	csr := func(name string, rd, rs asm.Reg, n int64) { op(name, asm.Args{Rd: rd, Rs1: rs, Imm: n}) }
	const mstatus, mtvec, mscratch, mepc, mcause, fcsr = 0x300, 0x305, 0x340, 0x341, 0x342, 0x003

	c.Label("start")
	c.To("jal", asm.Args{Rd: asm.RA}, "begin")

	// The trap's handler counts, and goes on behind the ecall.
	c.Align(4)
	c.Label("trap")
	csr("csrrw", asm.T0, asm.T0, mscratch)
	load(asm.T1, asm.T0, 0)
	addi(asm.T1, asm.T1, 1)
	store(asm.T1, asm.T0, 0)
	csr("csrrs", asm.T2, asm.Zero, mcause)
	add(asm.S1, asm.S1, asm.T2)
	csr("csrrs", asm.T2, asm.Zero, mepc)
	addi(asm.T2, asm.T2, 4)
	csr("csrrw", asm.Zero, asm.T2, mepc)
	csr("csrrw", asm.T0, asm.T0, mscratch)
	op("mret", asm.Args{})

	c.Label("begin")
	c.Li(asm.T0, 3<<13) // FS
	csr("csrrs", asm.Zero, asm.T0, mstatus)
	csr("csrrw", asm.Zero, asm.Zero, fcsr)
	c.La(asm.T0, "trap")
	csr("csrrw", asm.Zero, asm.T0, mtvec)
	at(asm.T0, hostAt+64)
	csr("csrrw", asm.Zero, asm.T0, mscratch)
	c.Li(asm.S0, 0x9e37_79b9_7f4a_7c15) // of the random numbers
	c.Li(asm.S1, 0)                     // what is counted together
	c.Li(asm.S2, rounds)
	c.Li(asm.S3, 0) // round

	c.Label("round")
	at(asm.A0, arrayAt)
	loop(words, "fill", func() {
		for _, s := range []struct {
			shift string
			by    int64
		}{{"slli", 13}, {"srli", 7}, {"slli", 17}} {
			op(s.shift, asm.Args{Rd: asm.T0, Rs1: asm.S0, Imm: s.by})
			alu("xor", asm.S0, asm.S0, asm.T0)
		}
		store(asm.S0, asm.A0, 0)
		addi(asm.A0, asm.A0, 8)
	})
	at(asm.A0, arrayAt)
	loop(words, "count", func() {
		load(asm.T0, asm.A0, 0)
		op("srli", asm.Args{Rd: asm.T1, Rs1: asm.T0, Imm: 40})
		op("ori", asm.Args{Rd: asm.T1, Rs1: asm.T1, Imm: 1})
		alu("mulhu", asm.T2, asm.T0, asm.S1)
		alu("divu", asm.T3, asm.T0, asm.T1)
		alu("remu", asm.T4, asm.S1, asm.T1)
		alu("and", asm.T2, asm.T2, asm.T3)
		alu("or", asm.T4, asm.T4, asm.T2)
		alu("mul", asm.S1, asm.S1, asm.T1)
		add(asm.S1, asm.S1, asm.T4)
		addi(asm.A0, asm.A0, 8)
	})
	for pass := range 2 { // of sorting
		at(asm.A0, arrayAt)
		skip := []string{"skip0", "skip1"}[pass]
		loop(words-1, []string{"sort0", "sort1"}[pass], func() {
			load(asm.T0, asm.A0, 0)
			load(asm.T1, asm.A0, 8)
			c.To("bgeu", asm.Args{Rs1: asm.T1, Rs2: asm.T0}, skip)
			store(asm.T1, asm.A0, 0)
			store(asm.T0, asm.A0, 8)
			c.Label(skip)
			addi(asm.A0, asm.A0, 8)
		})
	}
	at(asm.A0, arrayAt)
	loop(words, "float", func() {
		op("lw", asm.Args{Rd: asm.T0, Rs1: asm.A0, Imm: 4})
		op("fcvt.d.l", asm.Args{Rd: 1, Rs1: asm.T0, Rm: 7})
		op("fmadd.d", asm.Args{Rd: 2, Rs1: 1, Rs2: 1, Rs3: 2, Rm: 7})
		op("fsqrt.d", asm.Args{Rd: 2, Rs1: 2, Rm: 7})
		op("fadd.d", asm.Args{Rd: 3, Rs1: 3, Rs2: 2, Rm: 7})
		addi(asm.A0, asm.A0, 8)
	})
	op("fmv.x.d", asm.Args{Rd: asm.T0, Rs1: 3})
	alu("xor", asm.S1, asm.S1, asm.T0)

	// The array is copied into one of several places, which changes each round.
	op("andi", asm.Args{Rd: asm.T0, Rs1: asm.S3, Imm: copies - 1})
	op("slli", asm.Args{Rd: asm.T0, Rs1: asm.T0, Imm: 12})
	at(asm.A1, copyAt)
	add(asm.A1, asm.A1, asm.T0)
	at(asm.A0, arrayAt)
	loop(words, "copy", func() {
		load(asm.T0, asm.A0, 0)
		load(asm.T1, asm.A1, 0)
		add(asm.S1, asm.S1, asm.T1)
		store(asm.T0, asm.A1, 0)
		addi(asm.A0, asm.A0, 8)
		addi(asm.A1, asm.A1, 8)
	})
	op("ecall", asm.Args{})
	at(asm.T0, hostAt+72)
	op("amoadd.d", asm.Args{Rd: asm.T1, Rs1: asm.T0, Rs2: asm.S1})
	add(asm.S1, asm.S1, asm.T1)

	// A letter is printed.
	send := func() {
		at(asm.T1, hostAt)
		store(asm.T0, asm.T1, 0)
	}
	op("srli", asm.Args{Rd: asm.T2, Rs1: asm.S1, Imm: 60})
	c.Li(asm.T0, 1<<56|1<<48|'a')
	add(asm.T0, asm.T0, asm.T2)
	send()
	addi(asm.S3, asm.S3, 1)
	alu("sltu", asm.T0, asm.S3, asm.S2)
	c.To("beq", asm.Args{Rs1: asm.T0}, "over")
	c.Jump(asm.T0, c.Address("round"))
	c.Label("over")
	at(asm.T1, hostAt)
	store(asm.S1, asm.T1, 16)
	csr("csrrs", asm.T0, asm.Zero, fcsr)
	store(asm.T0, asm.T1, 24)
	c.Li(asm.T0, 1<<56|1<<48|'\n')
	send()
	c.Li(asm.T0, 1)
	send()
	c.Label("end")
	c.To("jal", asm.Args{}, "end")

	c.Align(8)
	for c.Here() < firmware.RAMBase+hostAt {
		c.Word(0)
	}
	for _, label := range []string{"tohost", "fromhost", "begin_signature", "flags"} {
		c.Label(label)
		c.Word(0)
	}
	c.Label("end_signature")
	return c.ELF("start", size)
}
