package rv64

import (
	"testing"
	"time"
)

// Steps a second of what a guest does: in S and U mode, through the TLB (4 KiB pages), with
// every step in the fingerprint. As the Makefile links it:
//
//	go test -ldflags=-funcalign=64 -bench Speed -run '^$' ./chipset/rv64
//
// A run is timed in quanta, and best is of the quickest ones alone: on a machine with other
// work it is the steadier figure.

const quantum = 50_000

func BenchmarkSpeed(b *testing.B) {
	for _, c := range []struct {
		name    string
		program func(b *board) *asm
	}{
		{"integer", integerProgram},
		{"branchy", branchyProgram},
		{"memory", memoryProgram},
		{"float", floatProgram},
		{"calls", callsProgram},
	} {
		for _, name := range []string{"interpret", "translate"} {
			b.Run(c.name+"/"+name, func(b *testing.B) { speed(b, name, c.program) })
		}
	}
}

func speed(b *testing.B, engine string, program func(b *board) *asm) {
	m := newBoard(b, func(cfg *Config) { cfg.RAM = make([]byte, 32<<20) })
	giveEngine(b, m.Hart, engine, 0)
	p := m.paging(3)
	for a := uint64(ramBase); a < ramBase+24<<20; a += pageSize {
		p.put(a, a, leafRWX, 0)
	}
	a := program(m)
	m.load(a)
	m.EnterSupervisor(ramBase, 0, 0)
	p.enable()
	m.writeCSR(csrMstatus, mstatusFS)
	m.SetTime(0, 1, 50)
	m.run(20 * quantum)
	best := time.Hour
	b.ResetTimer()
	for left := uint64(b.N); left > 0; {
		n := min(left, quantum)
		begun := time.Now()
		m.run(n)
		if took := time.Since(begun); n == quantum {
			best = min(best, took)
		}
		left -= n
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds()/1e6, "Msteps/s")
	b.ReportMetric(quantum/best.Seconds()/1e6, "best-Msteps/s")
	b.ReportMetric(0, "ns/op")
	if m.Hart.csr.scause > causeEcallU {
		b.Fatalf("the program trapped: cause %d, stval %#x", m.Hart.csr.scause, m.Hart.csr.stval)
	}
}

const benchData = ramBase + 1<<20

// integerProgram is a hash over a buffer, with a multiplication, shifts, loads and stores
// of all sizes, and a call in each turn.
func integerProgram(*board) *asm {
	a := assemble(ramBase)
	a.li(s0, benchData).label("outer").addi(s1, s0, 0).li(s2, benchData+8192)
	a.label("loop").load(f3LD, t0, s1, 0).load(f3LW, t1, s1, 8).load(f3LBU, t2, s1, 13)
	a.add(t0, t0, t1).word(encI(0x13, 1, t3, t0, 13), encI(0x13, 5, t4, t0, 7), encR(0x33, 4, 0, t0, t3, t4))
	a.word(encR(0x33, 0, 1, t0, t0, s0), encI(0x1b, 0, t1, t0, 77), encI(0x13, 7, t2, t2, 63))
	a.jal(ra, "mix").store(f3SD, t0, s1, 0).store(f3SH, t1, s1, 10)
	a.addi(s1, s1, 16).branch(f3BNE, s1, s2, "loop").jal(zero, "outer")
	a.label("mix").word(encR(0x33, 5, 0, t5, t0, t2), encR(0x33, 6, 0, t1, t1, t5)).add(t0, t0, t5)
	a.branch(f3BLT, t1, zero, "less").addi(t1, t1, 1).label("less").jalr(zero, ra, 0)
	return a
}

// branchyProgram takes one of two ways by each bit of a random number.
func branchyProgram(*board) *asm {
	a := assemble(ramBase)
	a.li(s0, 0x2545_f491_4f6c_dd1d).li(t0, 1)
	a.label("next").word(encI(0x13, 5, t1, t0, 12), encR(0x33, 4, 0, t0, t0, t1))
	a.word(encI(0x13, 1, t1, t0, 25), encR(0x33, 4, 0, t0, t0, t1), encI(0x13, 5, t1, t0, 27))
	a.word(encR(0x33, 4, 0, t0, t0, t1), encR(0x33, 0, 1, t1, t0, s0)).addi(t2, zero, 32)
	a.label("bit").word(encI(0x13, 7, t3, t1, 1)).branch(f3BEQ, t3, zero, "even").addi(t4, t4, 3).jal(zero, "on")
	a.label("even").addi(t5, t5, 1).label("on").word(encI(0x13, 5, t1, t1, 1))
	a.addi(t2, t2, -1).branch(f3BNE, t2, zero, "bit").jal(zero, "next")
	return a
}

// memoryProgram follows a chain through 16 MiB, to another page at each step, which is more
// than the TLB holds.
func memoryProgram(b *board) *asm {
	const slots = 16 << 20 / 64
	for i, at := 0, uint64(0); i < slots; i++ {
		next := (at*1664525 + 1013904223) % slots
		b.poke64(benchData+at*64, benchData+next*64)
		at = next
	}
	a := assemble(ramBase)
	a.li(s0, benchData).label("loop").load(f3LD, s0, s0, 0).add(t0, t0, s0).addi(t1, t1, 1).jal(zero, "loop")
	return a
}

// floatProgram is a step of an orbit: sums, products, fused ones, a root and a quotient.
func floatProgram(b *board) *asm {
	for i, v := range []uint64{0x3ff0_0000_0000_0000, 0, 0, 0x3ff0_0000_0000_0000, 0x3f50_624d_d2f1_a9fc} {
		b.poke64(benchData+8*uint64(i), v) // 1, 0; 0, 1; 0.001
	}
	fld := func(rd uint32, off int32) uint32 { return encI(0x07, 3, rd, s0, off) }
	fsd := func(rs uint32, off int32) uint32 { return encS(0x27, 3, s0, rs, off) }
	const add, sub, mul, div, root = 0, 1, 2, 3, 0x0b
	op := func(f5, rd, rs1, rs2 uint32) uint32 { return encR(0x53, 7, f5<<2|1, rd, rs1, rs2) }
	a := assemble(ramBase)
	a.li(s0, benchData).label("loop").word(fld(0, 0), fld(1, 8), fld(2, 16), fld(3, 24), fld(4, 32))
	a.word(op(mul, 5, 0, 0), op(mul, 6, 1, 1), op(add, 5, 5, 6), op(root, 6, 5, 0), op(mul, 5, 5, 6), op(div, 5, 4, 5))
	a.word(op(mul, 6, 0, 5), op(mul, 7, 1, 5), op(sub, 2, 2, 6), op(sub, 3, 3, 7))
	a.word(encR(0x43, 7, 0<<2|1, 0, 2, 4), encR(0x43, 7, 1<<2|1, 1, 3, 4)) // fmadd.d
	a.word(fsd(0, 0), fsd(1, 8), fsd(2, 16), fsd(3, 24)).jal(zero, "loop")
	return a
}

// callsProgram makes a system call in each turn: a handler that saves and restores
// registers and copies a word from the user's memory, as kernels do.
func callsProgram(b *board) *asm {
	user := uint64(ramBase + 16<<12)
	p := paging{b: b, root: b.banksRoot(), levels: 3}
	p.put(user, user, leafRWX|pteU, 0)
	p.put(user+pageSize, user+pageSize, leafRWX|pteU, 0)
	u := assemble(user)
	u.label("loop").addi(a0, a0, 1).addi(a7, zero, 64).word(ecall).add(t0, t0, a0).jal(zero, "loop")
	b.load(u)
	a := assemble(ramBase)
	a.li(t0, benchData).csrw(csrSscratch, t0).li(t0, ramBase+0x100).csrw(csrStvec, t0)
	a.li(t0, user).csrw(csrSepc, t0).li(a1, user+pageSize).word(sret).pad(ramBase + 0x100)
	saved := []uint32{ra, gp, tp, t1, t2, s0, s1, a0, a1, a2, a3, a4, a5, a6, a7}
	a.csr(sysCSRRW, sp, sp, csrSscratch).store(f3SD, t0, sp, 0)
	for i, r := range saved {
		a.store(f3SD, r, sp, 8*int32(i)+8)
	}
	a.csrr(t0, csrScause).csrr(t1, csrSepc).addi(t1, t1, 4).csrw(csrSepc, t1)
	a.li(t2, mstatusSUM).csrs(csrSstatus, t2).load(f3LD, s0, a1, 0).store(f3SD, a0, a1, 0).csrc(csrSstatus, t2)
	for i, r := range saved {
		a.load(f3LD, r, sp, 8*int32(i)+8)
	}
	a.load(f3LD, t0, sp, 0).csr(sysCSRRW, sp, sp, csrSscratch).word(sret)
	return a
}

// banksRoot is the root of the page tables that paging made first: the last page of RAM.
func (b *board) banksRoot() uint64 { return ramBase + b.ramSize - pageSize }
