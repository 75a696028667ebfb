package rv64

import (
	"fmt"
	"testing"
)

func TestAMO(t *testing.T) {
	const m = 0xffff_ffff_8000_0001 // as a word: the smallest number plus one
	for _, c := range []struct {
		name           string
		f5             uint32
		w, d           uint64 // results for word and doubleword
		memory, source uint64
	}{
		{"amoadd", 0, 0x8000_0003, m + 2, m, 2},
		{"amoadd, carry", 0, 0, 0x1_0000_0000, 0xffff_ffff, 1},
		{"amoswap", 1, 2, 2, m, 2},
		{"amoxor", 4, 0x8000_0003, m ^ 2, m, 2},
		{"amoor", 8, 0x8000_0003, m | 2, m, 2},
		{"amoand", 12, 0x8000_0000, m &^ 1, m, ^uint64(1)},
		{"amomin", 16, 0x8000_0001, m, m, 2},
		{"amomax", 20, 2, 2, m, 2},
		{"amominu", 24, 2, 2, m, 2},
		{"amomaxu", 28, 0x8000_0001, m, m, 2},
		{"amomin of what is only negative as a word", 16, 0x8000_0000, 0x7000_0000, 0x8000_0000, 0x7000_0000},
	} {
		for f3 := uint32(2); f3 <= 3; f3++ {
			t.Run(fmt.Sprint(c.name, f3), func(t *testing.T) {
				b := newBoard(t)
				b.load(assemble(ramBase).amo(c.f5, f3, t0, a0, t1))
				b.poke64(pageA, c.memory)
				b.SetReg(a0, pageA)
				b.SetReg(t1, c.source)
				b.run(1)
				old, want := c.memory, c.d
				if f3 == 2 {
					old, want = sext32(uint32(old)), c.memory&^0xffff_ffff|c.w
				}
				b.want("rd", b.Reg(t0), old)
				b.want("memory", b.peek64(pageA), want)
			})
		}
	}
}

// The word beside an AMO is left alone, and rd may be one of its sources.
func TestAMORegisters(t *testing.T) {
	b := newBoard(t)
	b.load(assemble(ramBase).amo(0, 3, a0, a0, a0).amo(1, 2, t1, a1, t1).amo(0, 2, zero, a1, t2))
	b.poke64(pageA, 5)
	b.poke64(pageB, 0x1111_1111_2222_2222)
	b.SetReg(a0, pageA)
	b.SetReg(a1, pageB+4)
	b.SetReg(t1, 7)
	b.SetReg(t2, 1)
	b.run(3)
	b.want("a0", b.Reg(a0), 5)
	b.want("memory", b.peek64(pageA), pageA+5)
	b.want("t1", b.Reg(t1), 0x1111_1111)
	b.want("memory", b.peek64(pageB), 8<<32|0x2222_2222)
	b.want("zero", b.Reg(zero), 0)
}

// When an SC succeeds: what happened between it and the LR.
func TestReservation(t *testing.T) {
	lr := func(f3 uint32) func(*asm) { return func(a *asm) { a.amo(2, f3, t0, a0, zero) } }
	sc := func(f3, addr uint32) func(*asm) { return func(a *asm) { a.amo(3, f3, t0, addr, t1) } }
	code := func(w uint32) func(*asm) { return func(a *asm) { a.word(w) } }
	for _, c := range []struct {
		name    string
		between []func(*asm)
		outside func(b *board)
		last    func(*asm)
		ok      bool
	}{
		{name: "nothing", last: sc(3, a0), ok: true},
		{name: "loads, stores and jumps", between: []func(*asm){
			code(encI(0x03, 3, t2, a0, 0)), code(encS(0x23, 3, a0, t2, 0)), code(encJ(0, 4))}, last: sc(3, a0), ok: true},
		{name: "a fence", between: []func(*asm){code(fencei)}, last: sc(3, a0), ok: true},
		{name: "an AMO", between: []func(*asm){func(a *asm) { a.amo(0, 3, t2, a0, t1) }}, last: sc(3, a0), ok: true},
		{name: "another SC", between: []func(*asm){sc(3, a0)}, last: sc(3, a0)},
		{name: "an SC that failed", between: []func(*asm){sc(3, a1)}, last: sc(3, a0)},
		{name: "an LR elsewhere", between: []func(*asm){func(a *asm) { a.amo(2, 3, t0, a1, zero) }}, last: sc(3, a0)},
		{name: "another address", last: sc(3, a1)},
		{name: "another size", last: sc(2, a0)},
		{name: "another size", between: []func(*asm){lr(2)}, last: sc(3, a0)},
		{name: "a trap", between: []func(*asm){code(ecall)}, last: sc(3, a0)},
		{name: "an xRET", between: []func(*asm){code(mret)}, last: sc(3, a0)},
		{name: "a device's write to the place", outside: func(b *board) { b.poke64(pageA, 1) }, last: sc(3, a0)},
		{name: "a device's write elsewhere", outside: func(b *board) { b.poke64(pageB, 1) }, last: sc(3, a0)},
		{name: "an interrupt", outside: func(b *board) { b.SetInterrupt(11, true) }, last: sc(3, a0)},
		{name: "a run's end", outside: func(*board) {}, last: sc(3, a0), ok: true},
		{name: "a copy", outside: func(b *board) { b.Hart.SetState(b.State()) }, last: sc(3, a0), ok: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBoard(t)
			a := assemble(ramBase)
			lr(3)(a)
			n := uint64(2)
			a.label("behind")
			for _, f := range c.between {
				f(a)
				n++
				a.label("behind")
			}
			c.last(a)
			b.load(a)
			b.SetReg(a0, pageA)
			b.SetReg(a1, pageB)
			b.SetReg(t1, 0x77)
			b.writeCSR(csrMtvec, a.labels["behind"])
			b.writeCSR(csrMepc, a.labels["behind"])
			b.writeCSR(csrMie, mipMEIP)
			b.writeCSR(csrMstatus, mstatusMPP|mstatusMIE)
			if c.outside != nil {
				b.run(1)
				c.outside(b)
				n--
			}
			b.run(n)
			b.want("t0, 0 for success", b.Reg(t0), truth(!c.ok))
			if !c.ok && b.peek64(pageB) == 0x77 {
				t.Errorf("an SC that failed has stored")
			}
			if c.ok {
				b.want("memory", b.peek64(pageA), 0x77)
			}
		})
	}
}
