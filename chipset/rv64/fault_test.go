package rv64

import "testing"

// TestLookingFindsWhatTheHartDoes: Fetch and StoreAt say what the hart then does, in random
// scenarios, wherever a step retires.
func TestLookingFindsWhatTheHartDoes(t *testing.T) {
	b := newScenarioBoard(t, Off)
	fetched, stored := 0, 0
	for seed := range uint64(20) {
		s := makeScenario(seed)
		s.reset(b)
		for range scenarioSteps {
			s.do(b)
			b.Run(0) // nothing is left to stop for
			b.stop, b.waiting = false, false
			b.updateTimer()
			if b.csr.pending()&b.csr.mie != 0 {
				b.takeInterrupt()
			}
			pc, retired := b.PC(), b.Retired()
			insn, size, ok := b.Fetch(pc)
			store, value := uint64(0), uint64(0)
			isStore := ok && insn&0x707f == 0x3023 // sd
			if isStore {
				base := b.Reg(int(insn >> 15 & 31))
				value = b.Reg(int(insn >> 20 & 31))
				va := base + uint64(int64(int32(insn)>>25<<5|int32(insn>>7&31)))
				if isStore = va%8 == 0; isStore {
					store, isStore = b.StoreAt(va)
				}
			}
			b.Run(1)
			if b.Retired() == retired {
				continue
			}
			if !ok {
				t.Fatalf("seed %d: an instruction retired at %#x where none was found", seed, pc)
			}
			if fetched++; insn&0x7f == 0x33 && b.PC() != pc+size {
				t.Fatalf("seed %d: %#x at %#x has %d bytes, and %#x comes next", seed, insn, pc, size, b.PC())
			}
			if isStore {
				if stored++; b.ram64(store) != value {
					t.Fatalf("seed %d: %#x was not stored at %#x", seed, value, store)
				}
			}
		}
	}
	if fetched < 5000 || stored < 20 {
		t.Errorf("%d instructions, %d stores", fetched, stored)
	}
}

// TestCorruptIsSeenAtOnce: decoded code, a page-table entry in use and data change with the
// next step, and no page counts as written.
func TestCorruptIsSeenAtOnce(t *testing.T) {
	b := newBoard(t)
	p := b.paging(3)
	p.put(ramBase, ramBase, leafRWX, 0)
	p.put(ramBase+0x1000, ramBase+0x8000, leafRWX|pteA|pteD, 0)
	a := assemble(ramBase)
	a.li(s0, ramBase+0x1000)
	a.label("loop").load(f3LD, t0, s0, 0).addi(t1, t1, 1).jal(zero, "loop")
	b.load(a)
	b.EnterSupervisor(ramBase, 0, 0)
	p.enable()
	b.poke64(ramBase+0x8000, 5)
	b.poke64(ramBase+0x9000, 6)
	b.runTo(a, "loop").run(30)
	b.runTo(a, "loop")
	b.ClearDirty()
	b.want("t0", b.Reg(int(t0)), 5)

	b.Corrupt(0x8000, []byte{7})
	b.run(3)
	b.want("t0 after a flip of data", b.Reg(int(t0)), 7)

	_, pte, ok := b.translate(b.data, ramBase+0x1000, wantLoad)
	if !ok {
		t.Fatal("the page is not mapped")
	}
	at := pte - ramBase
	b.Corrupt(at+1, []byte{uint8(b.ram64(at)>>8) ^ 4}) // the lowest bit of the page's number
	b.run(3)
	b.want("t0 after a flip in a page-table entry", b.Reg(int(t0)), 6)

	was := b.Reg(int(t1))
	add := a.labels["loop"] + 4 - ramBase
	b.Corrupt(add+2, []byte{uint8(b.ram64(add)>>16) ^ 0x20}) // addi t1, t1, 3
	b.run(3)
	b.want("t1 after a flip in code", b.Reg(int(t1)), was+3)
	for i, w := range b.Dirty() {
		if w != 0 {
			t.Errorf("pages %#x from %d on count as written", w, 64*i)
		}
	}
}
