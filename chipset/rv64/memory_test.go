package rv64

import (
	"encoding/binary"
	"testing"
)

// Loads and stores of every size at every alignment, within a page and across two whose
// physical pages do not lie side by side, with and without what the TLB holds.
func TestMisaligned(t *testing.T) {
	b := newBoard(t)
	p := b.paging(3)
	p.put(vaA, pageB, leafAll, 0)
	p.put(vaB, pageA, leafAll, 0)
	var want [2 * pageSize]byte // as the virtual addresses see it
	for i := range want {
		want[i] = byte(i*7 + i>>8)
	}
	b.WriteRAM(pageB, want[:pageSize])
	b.WriteRAM(pageA, want[pageSize:])
	p.on(ramBase)
	for _, off := range []uint64{0x100, pageSize - 8} {
		for i := range uint64(9) {
			for _, c := range []struct {
				f3   uint32
				size uint64
			}{{f3LB, 1}, {f3LBU, 1}, {f3LH, 2}, {f3LHU, 2}, {f3LW, 4}, {f3LWU, 4}, {f3LD, 8}} {
				b.load(assemble(ramBase).load(c.f3, t0, a0, 0))
				b.SetReg(a0, vaA+off+i)
				b.run(1)
				var word [8]byte
				copy(word[:c.size], want[off+i:])
				v := binary.LittleEndian.Uint64(word[:])
				if c.f3 < f3LBU {
					shift := 64 - 8*c.size
					v = uint64(int64(v<<shift) >> shift)
				}
				b.want("a load", b.Reg(t0), v)
			}
			for f3 := range uint32(4) {
				size := uint64(1) << f3
				v := uint64(0x1122_3344_5566_7788) * (i + 3)
				b.load(assemble(ramBase).store(f3, t1, a0, 0))
				b.SetReg(a0, vaA+off+i)
				b.SetReg(t1, v)
				b.run(1)
				var word [8]byte
				binary.LittleEndian.PutUint64(word[:], v)
				copy(want[off+i:], word[:size])
				var got [2 * pageSize]byte
				b.ReadRAM(pageB, got[:pageSize])
				b.ReadRAM(pageA, got[pageSize:])
				if got != want {
					t.Fatalf("memory differs after a store of %d bytes at %#x", size, off+i)
				}
			}
		}
	}
}

// A store across two pages of which one faults writes nothing, and says where.
func TestStoreAcrossPagesFaults(t *testing.T) {
	for _, c := range []struct {
		name          string
		first, second uint64 // flags
		cause, tval   uint64
	}{
		{"the first", leafAll &^ pteW, leafAll, causeStorePage, vaB - 4},
		{"the second", leafAll, leafAll &^ pteW, causeStorePage, vaB},
		{"both", 0, 0, causeStorePage, vaB - 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBoard(t)
			p := b.paging(3)
			p.put(vaA, pageA, c.first, 0)
			p.put(vaB, pageB, c.second, 0)
			b.load(assemble(ramBase).store(f3SD, t1, a0, 0))
			p.on(ramBase)
			b.SetReg(a0, vaB-4)
			b.SetReg(t1, ^uint64(0))
			b.ClearDirty()
			b.run(1)
			b.trapped(c.cause, c.tval, ramBase)
			b.want("the first page", b.peek64(pageA+pageSize-8), 0)
			b.want("the second page", b.peek64(pageB), 0)
			b.want("dirty pages", b.Dirty()[0], 0)
		})
	}
}

// One that has a device in it is an access fault, at the address of that part.
func TestAccessIntoDevice(t *testing.T) {
	b := newBoard(t)
	p := b.paging(3)
	p.put(vaA, pageA, leafAll, 0)
	p.put(vaB, deviceBase, leafAll, 0)
	b.load(assemble(ramBase).load(f3LD, t0, a0, 0))
	p.on(ramBase)
	b.SetReg(a0, vaB-4)
	b.run(1)
	b.trapped(causeLoadAccess, vaB, ramBase)
}

// What the bus is asked, and what becomes of its answers.
func TestBus(t *testing.T) {
	b := newBoard(t)
	a := assemble(ramBase)
	a.load(f3LBU, t0, a0, 1).load(f3LH, t1, a0, 2).load(f3LW, t2, a0, 4).load(f3LD, t3, a0, 8)
	a.store(f3SB, a1, a0, 1).store(f3SH, a1, a0, 2).store(f3SW, a1, a0, 4).store(f3SD, a1, a0, 8)
	a.load(f3LWU, zero, a0, 16)
	b.load(a)
	b.SetReg(a0, deviceBase)
	b.SetReg(a1, 0x8877_6655_4433_2211)
	b.onLoad = func(addr uint64, size int) uint64 {
		b.want("the pc", b.PC(), ramBase+4*b.Steps())
		return ^uint64(0) - addr%16
	}
	b.run(9)
	b.want("lbu", b.Reg(t0), 0xfe)
	b.want("lh", b.Reg(t1), 0xffff_ffff_ffff_fffd)
	b.want("lw", b.Reg(t2), 0xffff_ffff_ffff_fffb)
	b.want("ld", b.Reg(t3), 0xffff_ffff_ffff_fff7)
	for i, want := range []busAccess{
		{deviceBase + 1, 1, 0x11}, {deviceBase + 2, 2, 0x2211}, {deviceBase + 4, 4, 0x4433_2211},
		{deviceBase + 8, 8, 0x8877_6655_4433_2211},
	} {
		if got := b.stores[i]; got != want {
			t.Errorf("store %d is %x, want %x", i, got, want)
		}
	}
	if n := len(b.loads); n != 5 {
		t.Errorf("%d loads, want 5: one whose destination is x0 is one too", n)
	}
}

// A device may write to memory, raise interrupts and stop the hart: at the very step.
func TestBusActs(t *testing.T) {
	b := newBoard(t)
	a := assemble(ramBase)
	a.load(f3LD, t0, a1, 0).store(f3SW, zero, a0, 0).load(f3LD, t1, a1, 0).addi(t2, zero, 1)
	b.load(assemble(ramBase+0x100).addi(t3, zero, 1))
	b.load(a)
	b.SetReg(a0, deviceBase)
	b.SetReg(a1, pageA)
	b.writeCSR(csrMtvec, ramBase+0x100)
	b.writeCSR(csrMie, mipMEIP)
	b.writeCSR(csrMstatus, mstatusMIE)
	b.onStore = func(uint64, int, uint64) {
		b.poke64(pageA, 0xabcd)
		b.RequestStop()
	}
	if ran, why := b.Run(10); ran != 2 || why != StopRequested {
		t.Fatalf("ran %d: %v", ran, why)
	}
	b.run(1)
	b.want("the load behind", b.Reg(t1), 0xabcd)
	b.onStore = func(uint64, int, uint64) { b.SetInterrupt(11, true) }
	b.SetPC(ramBase + 4)
	b.run(2)
	b.want("the handler ran", b.Reg(t3), 1)
	b.want("mepc", b.Hart.csr.mepc, ramBase+8)
}

// Dirty says which pages were written, exactly, and the first write to each is told
// before it happens.
func TestDirty(t *testing.T) {
	var first []uint64
	var seen []uint64
	var b *board
	b = newBoard(t, func(cfg *Config) {
		cfg.OnFirstWrite = func(page uint64) {
			first = append(first, page)
			seen = append(seen, b.peek64(ramBase+page*pageSize))
		}
	})
	a := assemble(ramBase)
	a.store(f3SD, t0, a0, 0).store(f3SD, t0, a0, 8).load(f3LD, t1, a1, 0)
	a.amo(amoADDD>>1, 3, t1, a1, t0).amo(amoLRD>>1, 3, t1, a2, 0).amo(amoSCD>>1, 3, t1, a1, t0)
	a.store(f3SD, t0, a3, -4)
	b.load(a)
	b.SetReg(a0, pageA)
	b.SetReg(a1, pageB)
	b.SetReg(a2, pageB+0x1000)
	b.SetReg(a3, pageB+0x3000)
	b.SetReg(t0, 1)
	page := func(a uint64) uint64 { return (a - ramBase) / pageSize }
	bit := func(a uint64) uint64 { return 1 << page(a) }
	for range 3 {
		b.ClearDirty()
		first = first[:0]
		b.SetPC(ramBase)
		b.run(3)
		b.want("dirty after a store", b.Dirty()[0], bit(pageA))
		b.run(3)
		b.want("dirty after an AMO, and an SC that failed", b.Dirty()[0], bit(pageA)|bit(pageB))
		b.run(1)
		b.want("dirty after a store across pages", b.Dirty()[0], bit(pageA)|bit(pageB)|3<<page(pageB+0x2000))
		if len(first) != 4 {
			t.Errorf("first writes to %d, want 4", first)
		}
	}
	b.want("memory before the first write", seen[len(seen)-5*3+3], 0)
}
