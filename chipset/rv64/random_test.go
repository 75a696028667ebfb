package rv64

import (
	"bytes"
	"encoding/binary"
	"flag"
	"math/rand/v2"
	"testing"
)

// Random programs, as hostile to caches as can be: they write to their own code and to
// the page tables in use, from both sides, with all modes, faults, interrupts and devices
// mixed in. The reference is a hart that knows nothing from one step to the next.

var (
	randomSeeds = flag.Int("seeds", 40, "how many random programs to run")
	randomSeed0 = flag.Uint64("seed0", 1, "the first one's seed")
)

const (
	scenarioPages = 64
	scenarioSteps = 2000

	pageHandlers = 0
	pageRootA    = 1 // leads to 4 KiB pages
	pageMidA     = 2
	pageLeafA    = 3
	pageRootB    = 4 // a superpage, and pageLeafB
	pageMidB     = 5
	pageLeafB    = 6
	pageCode0    = 8
	pageData0    = 24
	pageDevice   = 63 // virtually
)

// scenario is a memory, and what is done to the hart at which steps.
type scenario struct {
	ram    []byte
	events map[uint64][]func(b *board)
}

// maker makes one.
type maker struct {
	*rand.Rand
	s *scenario
	// The few pages that matter: what is not come back to finds no cache stale.
	hotData, hotCode []int
	hotPCs           []uint64
}

func makeScenario(seed uint64) *scenario {
	m := &maker{Rand: rand.New(rand.NewPCG(seed, 0)), s: &scenario{
		ram: make([]byte, scenarioPages*pageSize), events: map[uint64][]func(b *board){},
	}}
	for range 3 {
		m.hotData = append(m.hotData, pageData0+m.IntN(scenarioPages-1-pageData0))
	}
	for range 2 {
		page := pageCode0 + m.IntN(pageData0-pageCode0-1)
		m.hotCode = append(m.hotCode, page, page+1)
		m.hotPCs = append(m.hotPCs,
			ramBase+uint64(page)*pageSize+2*m.Uint64N(pageSize/2),
			ramBase+uint64(page+1)*pageSize-2*m.Uint64N(40))
	}
	for page := pageCode0; page < pageData0; page++ {
		m.fillCode(page)
	}
	for page := pageData0; page < scenarioPages; page++ {
		for i := range uint64(pageSize / 8) {
			m.put64(uint64(page)*pageSize+8*i, m.Uint64())
		}
	}
	m.handlers()
	m.pageTables()
	for at := uint64(0); at < scenarioSteps; at += 1 + m.Uint64N(120) {
		m.s.events[at] = append(m.s.events[at], m.shake())
	}
	for range 60 {
		at := m.Uint64N(scenarioSteps)
		m.s.events[at] = append(m.s.events[at], m.input())
	}
	return m.s
}

func (m *maker) put64(off, v uint64) { binary.LittleEndian.PutUint64(m.s.ram[off:], v) }

func (m *maker) chance(percent int) bool { return m.IntN(100) < percent }

// handlers skip what trapped, go elsewhere when it cannot be executed, and end the
// interrupts.
func (m *maker) handlers() {
	for i, mode := range []struct{ epc, cause, ie, ret uint32 }{
		{csrMepc, csrMcause, csrMie, mret}, {csrSepc, csrScause, csrSie, sret},
	} {
		a := assemble(ramBase + uint64(i)*0x400)
		a.csrr(t6, mode.cause).branch(f3BGE, t6, zero, "exception").csrw(mode.ie, zero).word(mode.ret)
		a.label("exception").addi(t6, t6, -causeIllegal-1).branch(f3BLT, t6, zero, "lost")
		a.addi(t6, t6, causeIllegal+1-causeFetchPage).branch(f3BEQ, t6, zero, "lost")
		a.csrr(t5, mode.epc).addi(t5, t5, 4).csrw(mode.epc, t5).word(mode.ret)
		// Into the code pages, where gp says whether the low or the high addresses are in use.
		a.label("lost").csrr(t5, mode.epc).word(encI(0x13, 1, t5, t5, 2)).addi(t5, t5, 36).li(t6, 0xfffe)
		a.word(encR(0x33, 7, 0, t5, t5, t6)).li(t6, 2<<20).word(encR(0x33, 7, 0, gp, gp, t6))
		a.li(t6, ramBase+pageCode0*pageSize).add(t6, t6, gp).add(t5, t5, t6).csrw(mode.epc, t5).word(mode.ret)
		copy(m.s.ram[i*0x400:], a.bytes())
	}
}

// pageTables map virtual to physical addresses in RAM mostly one to one, so that
// pointers make sense with and without translation.
func (m *maker) pageTables() {
	ppn := func(page int) uint64 { return (ramBase/pageSize + uint64(page)) << ptePPNShift }
	put := func(page int, index, e uint64) { m.put64(uint64(page)*pageSize+8*index, e) }
	const index2, index1 = ramBase >> 30, 0
	put(pageRootA, index2, ppn(pageMidA)|pteV)
	put(pageMidA, index1, ppn(pageLeafA)|pteV)
	put(pageRootB, index2, ppn(pageMidB)|pteV)
	put(pageMidB, index1, ppn(0)|pteV|pteR|pteW|pteX|m.Uint64()&(pteA|pteD))
	put(pageMidB, index1+1, ppn(pageLeafB)|pteV)
	for _, leaf := range []int{pageLeafA, pageLeafB} {
		user := uint64(0)
		if leaf == pageLeafB {
			user = pteU
		}
		for i := range scenarioPages {
			page := i
			if m.chance(10) {
				page = m.IntN(scenarioPages)
			}
			e := m.pageFlags(ppn(page))
			if m.chance(90) {
				e = e&^pteU | user
			}
			put(leaf, uint64(i), e)
		}
		put(leaf, pageHandlers, ppn(pageHandlers)|pteV|pteR|pteX)
		put(leaf, pageDevice, m.pageFlags(deviceBase/pageSize<<ptePPNShift))
	}
}

// pageFlags makes a page-table entry of a physical page.
func (m *maker) pageFlags(e uint64) uint64 {
	e |= pteV | pteR | pteW | pteX
	for _, f := range []struct {
		flag    uint64
		percent int
	}{{pteV, 3}, {pteR, 3}, {pteW, 10}, {pteX, 5}} {
		if m.chance(f.percent) {
			e &^= f.flag
		}
	}
	for _, flag := range []uint64{pteU, pteA, pteD} {
		if m.chance(50) {
			e |= flag
		}
	}
	if m.chance(1) {
		e |= 1 << 60
	}
	return e
}

// hot is a page that matters.
func (m *maker) hot() int {
	if m.chance(40) {
		return m.hotCode[m.IntN(len(m.hotCode))]
	}
	return m.hotData[m.IntN(len(m.hotData))]
}

// address is a place where something interesting is, often at a page's end.
func (m *maker) address() uint64 {
	at := func(page int, off uint64) uint64 { return ramBase + uint64(page)*pageSize + off }
	switch m.IntN(16) {
	case 0, 1, 2: // what maps a page that matters
		return at([]int{pageLeafA, pageLeafB}[m.IntN(2)], 8*uint64(m.hot()))
	case 3: // or all
		return at(pageRootA+m.IntN(pageLeafB-pageRootA+1), 8*[]uint64{0, 1, ramBase >> 30}[m.IntN(3)])
	case 4, 5:
		return m.hotPCs[m.IntN(len(m.hotPCs))] + 4*m.Uint64N(20)
	case 6:
		return deviceBase + 8*m.Uint64N(8)
	case 7:
		return at(pageDevice, 8*m.Uint64N(8))
	case 8:
		return at(m.IntN(scenarioPages), m.Uint64N(pageSize))
	case 9, 10:
		return at(m.hotData[m.IntN(len(m.hotData))]+1, -m.Uint64N(10))
	}
	a := at(m.hot(), 8*m.Uint64N(pageSize/8))
	if m.chance(20) {
		a += 2 << 20 // by the other page tables' second half
	}
	return a
}

func (m *maker) codeAddress() uint64 {
	if m.chance(80) {
		return m.hotPCs[m.IntN(len(m.hotPCs))] + 4*m.Uint64N(2)
	}
	return ramBase + uint64(pageCode0+m.IntN(pageData0-pageCode0))*pageSize + 2*m.Uint64N(pageSize/2)
}

// shake sets registers, mode and pc, so that the program does not come to rest in a
// corner.
func (m *maker) shake() func(b *board) {
	var x, f [32]uint64
	for i := range x {
		x[i], f[i] = m.Uint64(), m.Uint64()
		if m.chance(50) {
			f[i] |= boxed
		}
		if m.chance(30) {
			x[i] = m.pteValue()
		}
		if i >= s2 && i <= s11 || i == sp || i == s0 || i == s1 {
			x[i] = m.address()
		}
	}
	x[ra], x[s10], x[s11] = m.codeAddress(), m.codeAddress(), m.codeAddress()
	x[gp] = 0
	x[s9] = ramBase + pageLeafA*pageSize + 8*uint64(m.hotCode[m.IntN(len(m.hotCode))])
	x[t3] = uint64(m.instruction()) | uint64(m.instruction())<<32
	pc := m.codeAddress()
	priv, satp := Machine, uint64(0)
	switch m.IntN(8) {
	case 0:
	case 1:
		priv = User
	case 2, 3, 4:
		priv, satp = Supervisor, satpSv39<<60|ramBase/pageSize+pageRootA
	case 5:
		priv, satp = Supervisor, satpSv39<<60|ramBase/pageSize+pageRootB
	default:
		priv, satp = User, satpSv39<<60|ramBase/pageSize+pageRootB
		for _, i := range []int{ra, gp, sp, s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11} {
			x[i] |= 2 << 20
		}
		pc |= 2 << 20
	}
	status, deleg, mie := m.Uint64()|mstatusFS, m.Uint64(), m.Uint64()&m.Uint64()
	if m.chance(70) {
		status &^= mstatusMPRV
	}
	if m.chance(80) {
		status &^= mstatusTSR | mstatusTVM | mstatusTW
	}
	counters, menvcfg := m.Uint64(), m.Uint64()
	return func(b *board) {
		for i := range x {
			b.SetReg(i, x[i])
			b.SetFReg(i, f[i])
		}
		b.writeCSR(csrMstatus, status)
		b.writeCSR(csrMie, mie)
		b.writeCSR(csrMedeleg, deleg)
		b.writeCSR(csrMideleg, deleg>>32)
		b.writeCSR(csrMcounteren, counters)
		b.writeCSR(csrMenvcfg, menvcfg)
		b.writeCSR(csrMtvec, ramBase)
		b.writeCSR(csrStvec, ramBase+0x400)
		b.writeCSR(csrSatp, satp)
		if all := uint64(pmpNAPOT<<3 | pmpR | pmpW | pmpX); b.readPMPConfig(0) != all || b.csr.pmpaddr[0] != pmpaddrMask {
			b.writeCSR(csrPmpaddr0, pmpaddrMask) // which empties caches
			b.writeCSR(csrPmpcfg0, all)
		}
		b.SetPriv(priv)
		b.SetPC(pc)
		b.waiting = false
	}
}

// pteValue is something that may be stored to a page table.
func (m *maker) pteValue() uint64 {
	page := m.hot()
	if m.chance(30) {
		page = m.IntN(scenarioPages)
	}
	return m.pageFlags((ramBase/pageSize + uint64(page)) << ptePPNShift)
}

// input is what comes from outside.
func (m *maker) input() func(b *board) {
	switch m.IntN(6) {
	case 0:
		bit, level := 1+2*m.UintN(6), m.chance(50)
		return func(b *board) { b.SetInterrupt(bit, level) }
	case 1:
		base, num, den := m.Uint64N(1000), m.Uint32N(5), 1+m.Uint32N(7)
		return func(b *board) { b.SetTime(b.Time()+base, num, den) }
	case 2:
		ahead := m.Uint64N(200)
		return func(b *board) { b.SetTimer(b.Time() + ahead) }
	case 3:
		addr, v := (m.address()&^(2<<20))&^7, m.pteValue()
		return func(b *board) { b.WriteRAM(addr, binary.LittleEndian.AppendUint64(nil, v)) }
	case 4:
		i, v, cfg := m.IntN(3), m.address()>>2|0x1ff, m.Uint64()&^0x80_8080
		return func(b *board) {
			b.writeCSR(csrPmpaddr0+uint32(i), v)
			b.writeCSR(csrPmpcfg0, pmpNAPOT<<27|7<<24|cfg&0x1f1f1f)
			b.writeCSR(csrPmpaddr0+3, pmpaddrMask)
		}
	default:
		return func(b *board) { b.ClearDirty() }
	}
}

func (m *maker) fillCode(page int) {
	off, end := page*pageSize, (page+1)*pageSize
	if m.chance(50) { // so that an instruction lies across the pages
		off += 2
	}
	for off < end {
		if m.chance(20) {
			binary.LittleEndian.PutUint16(m.s.ram[off:], m.compressed())
			off += 2
			continue
		}
		w := m.instruction()
		binary.LittleEndian.PutUint16(m.s.ram[off:], uint16(w))
		binary.LittleEndian.PutUint16(m.s.ram[off+2:], uint16(w>>16))
		off += 4
	}
}

func (m *maker) compressed() uint16 {
	for {
		if c := uint16(m.Uint32()); c&3 != 3 && c != 0 {
			return c
		}
	}
}

var interestingCSRs = []uint32{
	csrFflags, csrFrm, csrFcsr, csrSstatus, csrSie, csrSip, csrSatp, csrStimecmp, csrSscratch, csrScounteren,
	csrMstatus, csrMie, csrMip, csrMscratch, csrMepc, csrSepc, csrMcycle, csrMinstret, csrCycle, csrTime, csrInstret,
	csrSstatus, csrSstatus, csrMcause, csrStval, csrMenvcfg, csrPmpcfg0, csrPmpaddr0 + 1, csrMhartid, 0x7c0,
}

// instruction is a random one that may make sense: s0…s11 and sp are pointers, s10 and s11
// to code.
func (m *maker) instruction() uint32 {
	r := func() uint32 { return m.Uint32N(32) }
	value := func() uint32 { return []uint32{t0, t1, t2, a0, a1, a2, a3, a4, a5, t4, zero}[m.IntN(11)] }
	pointer := func() uint32 { return []uint32{sp, s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11}[m.IntN(13)] }
	offset := func() int32 {
		if m.chance(20) {
			return int32(m.IntN(40) - 20)
		}
		return int32(8 * (m.IntN(40) - 20))
	}
	valid := func(f3 ...uint32) uint32 { // now and then, one that may not be
		if m.chance(4) {
			return m.Uint32N(8)
		}
		return f3[m.IntN(len(f3))]
	}
	switch p := m.IntN(100); {
	case p < 12:
		return encI([]uint32{0x13, 0x1b}[m.IntN(2)], valid(0, 2, 3, 4, 6, 7), value(), r(), int32(m.IntN(1<<12))-1<<11)
	case p < 17:
		return encI([]uint32{0x13, 0x1b}[m.IntN(2)], valid(1, 5, 5), value(), r(), int32(m.IntN(32)|m.IntN(2)<<10))
	case p < 22:
		return encR([]uint32{0x33, 0x3b}[m.IntN(2)], valid(0, 5), []uint32{0, 0x20}[m.IntN(2)], value(), r(), r())
	case p < 27:
		return encR(0x33, m.Uint32N(8), m.Uint32N(2), value(), r(), r())
	case p < 29:
		return encR(0x3b, valid(0, 4, 5, 6, 7), 1, value(), r(), r())
	case p < 31:
		return []uint32{0x17, 0x37}[m.IntN(2)] | value()<<7 | m.Uint32()&^0xfff
	case p < 44:
		return encI(0x03, valid(0, 1, 2, 3, 4, 5, 6), value(), pointer(), offset())
	case p < 58:
		return encS(0x23, valid(0, 1, 2, 3), pointer(), []uint32{r(), t3, value()}[m.IntN(3)], offset())
	case p < 64:
		return encB(valid(0, 1, 4, 5, 6, 7), r(), r(), int32(m.IntN(40)-20)*2)
	case p < 66:
		return encJ([]uint32{zero, ra, value()}[m.IntN(3)], int32(m.IntN(400)-200)*2)
	case p < 71:
		return encI(0x67, 0, []uint32{zero, ra}[m.IntN(2)], []uint32{s10, s11, ra}[m.IntN(3)], int32(m.IntN(40)*2))
	case p < 78:
		f5 := []uint32{0, 1, 2, 3, 2, 3, 4, 8, 12, 16, 20, 24, 28}[m.IntN(13)]
		rs2 := value()
		if f5 == 2 {
			rs2 = 0
		}
		return encR(0x2f, valid(2, 3), f5<<2, value(), pointer(), rs2)
	case p < 81:
		return encI(0x07, valid(2, 3), r(), pointer(), offset())
	case p < 84:
		return encS(0x27, valid(2, 3), pointer(), r(), offset())
	case p < 90:
		f5 := []uint32{0, 1, 2, 3, 4, 5, 8, 0x0b, 0x14, 0x18, 0x1a, 0x1c, 0x1e}[m.IntN(13)]
		f3, rs2 := valid(0, 1, 2, 3, 4, 7), m.Uint32N(4)
		if f5 == 0x0b || f5 == 0x1c || f5 == 0x1e {
			rs2 = 0
		}
		if f5 >= 4 && f5 <= 5 || f5 == 0x14 || f5 >= 0x1c {
			f3 = valid(0, 1)
		}
		return encR(0x53, f3, f5<<2|m.Uint32N(2), r()&^8, r(), rs2)
	case p < 92:
		f3 := valid(0, 1, 2, 3, 4, 7)
		return encR(0x43|m.Uint32N(4)<<2, f3, m.Uint32N(32)<<2|m.Uint32N(2), r()&^8, r(), r())
	case p < 95:
		csr := interestingCSRs[m.IntN(len(interestingCSRs))]
		if m.chance(70) {
			csr = interestingCSRs[m.IntN(10)]
		}
		return encI(0x73, valid(1, 2, 3, 5, 6, 7), value(), r(), int32(csr))
	case p < 98:
		return []uint32{ecall, ebreak, sret, mret, wfi, fencei, sfence, nop}[m.IntN(8)]
	}
	return m.Uint32()
}

// reset makes a board the scenario's start.
func (s *scenario) reset(b *board) {
	copy(b.cfg.RAM, s.ram)
	b.ClearDirty()
	b.Hart.SetState(State{Priv: uint64(Machine), PC: ramBase, Stimecmp: noDeadline, Mtimecmp: noDeadline, TimeDen: 1})
	// What devices do depends on the access and the step alone.
	b.onLoad = func(addr uint64, size int) uint64 { return (addr + b.Steps()) * foldAddr }
	b.onStore = func(addr uint64, size int, v uint64) {
		switch v % 5 {
		case 0:
			b.SetInterrupt(uint(v>>8%6*2+1), v>>16&1 != 0)
		case 1:
			b.WriteRAM(ramBase+v>>8%(scenarioPages*pageSize-8), binary.LittleEndian.AppendUint64(nil, v))
		case 2:
			b.SetTimer(b.Time() + v>>8%64)
		case 3:
			b.RequestStop()
		}
	}
}

// drive runs a scenario, in runs of the lengths that next gives, and calls at behind each.
func (s *scenario) drive(b *board, next func() uint64, at func(step uint64)) {
	for b.Steps() < scenarioSteps {
		step := b.Steps()
		for _, do := range s.events[step] {
			do(b)
		}
		n := min(next(), scenarioSteps-step)
		for i := range n {
			if i > 0 && s.events[step+i] != nil {
				n = i
				break
			}
		}
		for end := step + n; b.Steps() < end; {
			if _, why := b.Run(end - b.Steps()); why == StopWFI {
				b.waiting = false
			}
		}
		b.loads, b.stores = b.loads[:0], b.stores[:0]
		at(b.Steps())
	}
}

// moment is what is compared.
type moment struct {
	state State
	ram   uint64 // a digest
	dirty uint64 // a bit a page: there are 64
}

func momentOf(b *board) moment {
	s := b.State()
	d := uint64(0)
	for i := 0; i < len(b.cfg.RAM); i += 8 {
		d = d*foldK + binary.LittleEndian.Uint64(b.cfg.RAM[i:])
	}
	return moment{s, d, b.Dirty()[0]}
}

func newScenarioBoard(t *testing.T, c Compare) *board {
	return newBoard(t, func(cfg *Config) {
		cfg.RAM = make([]byte, scenarioPages*pageSize)
		cfg.Compare = c
	})
}

func (m moment) compare(t *testing.T, seed uint64, what string, other moment) {
	t.Helper()
	if m == other {
		return
	}
	a, b := m.state.Words(), other.state.Words()
	for i := range a {
		if a[i] != b[i] {
			t.Errorf("%s is %#x, want %#x", WordName(i), b[i], a[i])
		}
	}
	if m.ram != other.ram {
		t.Errorf("memory differs")
	}
	if m.dirty != other.dirty {
		t.Errorf("dirty pages are %#x, want %#x", other.dirty, m.dirty)
	}
	t.Fatalf("seed %d: %s differs from the reference, at step %d, pc %#x", seed, what, m.state.Steps, m.state.PC)
}

// TestExactness: however a run is cut, a hart is at every cut where one is that takes
// single steps and forgets all that it derived from memory behind each.
func TestExactness(t *testing.T) {
	reference, cut, copied := newScenarioBoard(t, EveryStep), newScenarioBoard(t, EveryStep), newScenarioBoard(t, EveryStep)
	for seed := *randomSeed0; seed < *randomSeed0+uint64(*randomSeeds); seed++ {
		s := makeScenario(seed)
		r := rand.New(rand.NewPCG(seed, 1))
		trace := make([]State, scenarioSteps+1)
		s.reset(reference)
		var cuts [scenarioSteps + 1]moment
		sampled := func(step uint64) bool { return step%97 == 0 || step == scenarioSteps }
		s.drive(reference, func() uint64 { return 1 }, func(step uint64) {
			trace[step] = reference.State()
			if sampled(step) {
				cuts[step] = momentOf(reference)
			}
			reference.Hart.SetState(trace[step])
		})
		for _, longest := range []uint64{1, 7, 300, 5000} {
			s.reset(cut)
			s.drive(cut, func() uint64 { return 1 + r.Uint64N(longest) }, func(step uint64) {
				want := moment{state: trace[step]}
				got := moment{state: cut.State()}
				if sampled(step) {
					want, got = cuts[step], momentOf(cut)
				}
				want.compare(t, seed, "a hart", got)
			})
		}
		// One that is stopped before some instructions, and looked at without a trace.
		hits := 0
		s.reset(cut)
		cut.SetHook(func(insn uint32) bool { return mix(uint64(insn)*foldK)>>7%3 == seed%3 }, func() {
			hits++
			cut.RequestStop()
			cut.Pass()
		})
		s.drive(cut, func() uint64 { return 1 + r.Uint64N(300) }, func(step uint64) {
			cut.Fetch(cut.PC())
			cut.StoreAt(cut.Reg(r.IntN(32)))
			moment{state: trace[step]}.compare(t, seed, "a hart with hooks", moment{state: cut.State()})
		})
		cuts[scenarioSteps].compare(t, seed, "a hart with hooks", momentOf(cut))
		cut.SetHook(nil, nil)
		if hits == 0 {
			t.Errorf("seed %d: no hook was hit", seed)
		}
		// And one that is copied, memory and state, to another hart now and then.
		from, to := cut, copied
		s.reset(from)
		at := r.Uint64N(scenarioSteps)
		s.drive(from, func() uint64 { return max(at-from.Steps(), 1) }, func(step uint64) {
			if step != at {
				return
			}
			s.reset(to)
			copy(to.cfg.RAM, from.cfg.RAM)
			copy(to.Dirty(), from.Dirty())
			to.Hart.SetState(from.State())
			from.steps = scenarioSteps // leave it
		})
		s.drive(to, func() uint64 { return scenarioSteps }, func(uint64) {})
		cuts[scenarioSteps].compare(t, seed, "a copied hart", momentOf(to))
		if !bytes.Equal(to.cfg.RAM, reference.cfg.RAM) {
			t.Fatalf("seed %d: memory differs", seed)
		}
	}
}
