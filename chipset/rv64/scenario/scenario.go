// Package scenario makes random programs for a hart, as hostile to what an engine keeps as can
// be: they write to their own code and to the page tables in use, from both sides, with all
// modes, faults, interrupts and devices mixed in. A scenario is a memory, and what is done to
// the hart at which steps; all of it follows from a seed.
//
// Whoever runs it compares: engines with one another (chipset/rv64/unlike), or a hart with one
// that knows nothing from one step to the next (the tests of chipset/rv64, for which this
// package knows nothing of that one).
package scenario

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"slices"
)

// Hart is what a scenario does things to.
type Hart interface {
	Steps() uint64
	Time() uint64
	SetReg(i int, v uint64)
	SetFReg(i int, v uint64)
	SetPC(pc uint64)
	SetInterrupt(bit uint, level bool)
	SetTime(base uint64, num, den uint32)
	SetTimer(at uint64)
	WriteRAM(addr uint64, p []byte) bool
	ClearDirty()
	RequestStop()

	SetMode(priv int)          // the privilege mode
	CSR(n uint32) uint64       // as M mode reads it
	SetCSR(n uint32, v uint64) // as M mode writes it
	Wake()                     // ends a WFI
	Advance(steps uint64)      // runs up to so many steps: fewer where it waits or has to stop
}

// Where things are.
const (
	RAMBase    = 0x8000_0000
	RAMBytes   = pages * pageSize
	DeviceBase = 0x1000_0000 // a device's registers
	DeviceSize = 0x1000

	Steps = 2000 // of a scenario
)

const pageSize = 4096

const (
	pages = 64

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

// Flavour is what a scenario has most of.
type Flavour int

// Flavours. Each has something of the others.
const (
	Mixed  Flavour = iota
	Float          // floating point, with all rounding modes, values at the ends of ranges, and NaN boxes
	Loops          // code that is come back to: short loops, calls, long stretches without a disturbance
	Memory         // loads, stores and atomics, misaligned and across pages
	flavours
)

func (f Flavour) String() string { return [...]string{"mixed", "float", "loops", "memory"}[f] }

// FlavourOf is that of a seed's scenario.
func FlavourOf(seed uint64) Flavour { return Flavour(seed % uint64(flavours)) }

// weights are how many of a hundred instructions are of a kind, the rest is anything.
type weights struct {
	alu, mul, load, store, branch, loop, jump, call, amo, floatMem, float, fma, csr, system int
}

var weightsOf = [flavours]weights{
	Mixed:  {24, 7, 13, 14, 6, 0, 2, 5, 7, 6, 6, 2, 3, 3},
	Float:  {12, 3, 6, 6, 5, 2, 1, 2, 2, 12, 32, 10, 5, 1},
	Loops:  {38, 8, 12, 10, 9, 6, 3, 6, 2, 2, 2, 0, 1, 0},
	Memory: {14, 2, 28, 24, 5, 2, 1, 3, 12, 6, 0, 0, 1, 1},
}

// Scenario is a memory, and what is done to the hart at which steps.
type Scenario struct {
	Seed    uint64
	Flavour Flavour
	RAM     []byte
	events  map[uint64][]func(Hart)
}

// maker makes one.
type maker struct {
	*rand.Rand
	s *Scenario
	// The few pages that matter: what is not come back to finds no cache stale.
	hotData, hotCode []int
	hotPCs           []uint64
	weights          weights
}

// Make makes the scenario of a seed.
func Make(seed uint64) *Scenario {
	m := &maker{Rand: rand.New(rand.NewPCG(seed, 0)), s: &Scenario{
		Seed: seed, Flavour: FlavourOf(seed), RAM: make([]byte, RAMBytes), events: map[uint64][]func(Hart){},
	}}
	m.weights = weightsOf[m.s.Flavour]
	for range 3 {
		m.hotData = append(m.hotData, pageData0+m.IntN(pages-1-pageData0))
	}
	for range 2 {
		page := pageCode0 + m.IntN(pageData0-pageCode0-1)
		m.hotCode = append(m.hotCode, page, page+1)
		m.hotPCs = append(m.hotPCs,
			RAMBase+uint64(page)*pageSize+2*m.Uint64N(pageSize/2),
			RAMBase+uint64(page+1)*pageSize-2*m.Uint64N(40))
	}
	for _, page := range m.hotCode {
		m.fillCode(page)
	}
	for page := pageCode0; page < pageData0; page++ {
		if !slices.Contains(m.hotCode, page) {
			from := m.hotCode[m.IntN(len(m.hotCode))]
			copy(m.s.RAM[page*pageSize:][:pageSize], m.s.RAM[from*pageSize:])
		}
	}
	for page := pageData0; page < pages; page++ {
		for i := range uint64(pageSize / 8) {
			m.put64(uint64(page)*pageSize+8*i, m.Uint64())
		}
	}
	for _, page := range m.hotData {
		for i := range uint64(pageSize / 8) {
			m.put64(uint64(page)*pageSize+8*i, m.slot())
		}
	}
	m.handlers()
	m.pageTables()
	between, inputs := uint64(120), 60
	if m.s.Flavour == Loops {
		between, inputs = 700, 20
	}
	for at := uint64(0); at < Steps; at += 1 + m.Uint64N(between) {
		m.s.events[at] = append(m.s.events[at], m.shake())
	}
	for range inputs {
		at := m.Uint64N(Steps)
		m.s.events[at] = append(m.s.events[at], m.input())
	}
	return m.s
}

func (m *maker) put64(off, v uint64) { binary.LittleEndian.PutUint64(m.s.RAM[off:], v) }

func (m *maker) chance(percent int) bool { return m.IntN(100) < percent }

// handlers skip what trapped, go elsewhere when it cannot be executed, and end the
// interrupts.
func (m *maker) handlers() {
	for i, mode := range []struct{ epc, cause, ie, ret uint32 }{
		{csrMepc, csrMcause, csrMie, mret}, {csrSepc, csrScause, csrSie, sret},
	} {
		a := &code{labels: map[string]int{}}
		a.csrr(t6, mode.cause).branch(f3BGE, t6, zero, "exception").csrw(mode.ie, zero).word(mode.ret)
		a.label("exception").addi(t6, t6, -causeIllegal-1).branch(f3BLT, t6, zero, "lost")
		a.addi(t6, t6, causeIllegal+1-causeFetchPage).branch(f3BEQ, t6, zero, "lost")
		a.csrr(t5, mode.epc).addi(t5, t5, 4).csrw(mode.epc, t5).word(mode.ret)
		// Into the code pages, where gp says whether the low or the high addresses are in use.
		a.label("lost").csrr(t5, mode.epc).word(encI(0x13, 1, t5, t5, 2)).addi(t5, t5, 36).li(t6, 0xfffe)
		a.word(encR(0x33, 7, 0, t5, t5, t6)).li(t6, 2<<20).word(encR(0x33, 7, 0, gp, gp, t6))
		a.li(t6, RAMBase+pageCode0*pageSize).add(t6, t6, gp).add(t5, t5, t6).csrw(mode.epc, t5).word(mode.ret)
		copy(m.s.RAM[i*0x400:], a.done())
	}
}

// pageTables map virtual to physical addresses in RAM mostly one to one, so that
// pointers make sense with and without translation.
func (m *maker) pageTables() {
	ppn := func(page int) uint64 { return (RAMBase/pageSize + uint64(page)) << ptePPNShift }
	put := func(page int, index, e uint64) { m.put64(uint64(page)*pageSize+8*index, e) }
	const index2, index1 = RAMBase >> 30, 0
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
		for i := range pages {
			page := i
			if m.chance(10) {
				page = m.IntN(pages)
			}
			e := m.pageFlags(ppn(page))
			if m.chance(90) {
				e = e&^pteU | user
			}
			put(leaf, uint64(i), e)
		}
		put(leaf, pageHandlers, ppn(pageHandlers)|pteV|pteR|pteX)
		put(leaf, pageDevice, m.pageFlags(DeviceBase/pageSize<<ptePPNShift))
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
	at := func(page int, off uint64) uint64 { return RAMBase + uint64(page)*pageSize + off }
	switch m.IntN(16) {
	case 0, 1, 2: // what maps a page that matters
		return at([]int{pageLeafA, pageLeafB}[m.IntN(2)], 8*uint64(m.hot()))
	case 3: // or all
		return at(pageRootA+m.IntN(pageLeafB-pageRootA+1), 8*[]uint64{0, 1, RAMBase >> 30}[m.IntN(3)])
	case 4, 5:
		return m.hotPCs[m.IntN(len(m.hotPCs))] + 4*m.Uint64N(20)
	case 6:
		return DeviceBase + 8*m.Uint64N(8)
	case 7:
		return at(pageDevice, 8*m.Uint64N(8))
	case 8:
		return at(m.IntN(pages), m.Uint64N(pageSize))
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
	return RAMBase + uint64(pageCode0+m.IntN(pageData0-pageCode0))*pageSize + 2*m.Uint64N(pageSize/2)
}

// shake sets registers, mode and pc, so that the program does not come to rest in a
// corner.
func (m *maker) shake() func(Hart) {
	var x, f [32]uint64
	for i := range x {
		x[i], f[i] = m.integer(), m.float()
		if m.chance(30) {
			x[i] = m.pteValue()
		}
		if i >= s2 && i <= s11 || i == sp || i == s0 || i == s1 {
			x[i] = m.address()
		}
	}
	x[ra], x[s10], x[s11] = m.codeAddress(), m.codeAddress(), m.codeAddress()
	x[gp] = 0
	x[s9] = RAMBase + pageLeafA*pageSize + 8*uint64(m.hotCode[m.IntN(len(m.hotCode))])
	x[t3] = uint64(m.instruction()) | uint64(m.instruction())<<32
	pc := m.codeAddress()
	priv, satp := machine, uint64(0)
	switch m.IntN(8) {
	case 0:
	case 1:
		priv = user
	case 2, 3, 4:
		priv, satp = supvsr, satpSv39<<60|RAMBase/pageSize+pageRootA
	case 5:
		priv, satp = supvsr, satpSv39<<60|RAMBase/pageSize+pageRootB
	default:
		priv, satp = user, satpSv39<<60|RAMBase/pageSize+pageRootB
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
	return func(b Hart) {
		for i := range x {
			b.SetReg(i, x[i])
			b.SetFReg(i, f[i])
		}
		b.SetCSR(csrMstatus, status)
		b.SetCSR(csrMie, mie)
		b.SetCSR(csrMedeleg, deleg)
		b.SetCSR(csrMideleg, deleg>>32)
		b.SetCSR(csrMcounteren, counters)
		b.SetCSR(csrMenvcfg, menvcfg)
		b.SetCSR(csrMtvec, RAMBase)
		b.SetCSR(csrStvec, RAMBase+0x400)
		b.SetCSR(csrSatp, satp)
		if all := uint64(pmpNAPOT<<3 | pmpRWX); b.CSR(csrPmpcfg0) != all || b.CSR(csrPmpaddr0) != pmpaddrMask {
			b.SetCSR(csrPmpaddr0, pmpaddrMask) // which empties caches
			b.SetCSR(csrPmpcfg0, all)
		}
		b.SetMode(priv)
		b.SetPC(pc)
		b.Wake()
	}
}

// pteValue is something that may be stored to a page table.
func (m *maker) pteValue() uint64 {
	page := m.hot()
	if m.chance(30) {
		page = m.IntN(pages)
	}
	return m.pageFlags((RAMBase/pageSize + uint64(page)) << ptePPNShift)
}

// input is what comes from outside.
func (m *maker) input() func(Hart) {
	switch m.IntN(6) {
	case 0:
		bit, level := 1+2*m.UintN(6), m.chance(50)
		return func(b Hart) { b.SetInterrupt(bit, level) }
	case 1:
		base, num, den := m.Uint64N(1000), m.Uint32N(5), 1+m.Uint32N(7)
		return func(b Hart) { b.SetTime(b.Time()+base, num, den) }
	case 2:
		ahead := m.Uint64N(200)
		return func(b Hart) { b.SetTimer(b.Time() + ahead) }
	case 3:
		addr, v := (m.address()&^(2<<20))&^7, m.pteValue()
		return func(b Hart) { b.WriteRAM(addr, binary.LittleEndian.AppendUint64(nil, v)) }
	case 4:
		i, v, cfg := m.IntN(3), m.address()>>2|0x1ff, m.Uint64()&^0x80_8080
		return func(b Hart) {
			b.SetCSR(csrPmpaddr0+uint32(i), v)
			b.SetCSR(csrPmpcfg0, pmpNAPOT<<27|7<<24|cfg&0x1f1f1f)
			b.SetCSR(csrPmpaddr0+3, pmpaddrMask)
		}
	default:
		return func(b Hart) { b.ClearDirty() }
	}
}

func (m *maker) fillCode(page int) {
	off, end := page*pageSize, (page+1)*pageSize
	if m.chance(50) { // so that an instruction lies across the pages
		off += 2
	}
	for off < end { // what lies beyond the page's end is the next page's to overwrite, or not
		if m.chance(20) {
			binary.LittleEndian.PutUint16(m.s.RAM[off:], m.compressed())
			off += 2
			continue
		}
		words := []uint32{0}
		if m.chance(m.weights.loop) {
			words = m.loop()
		} else {
			words[0] = m.instruction()
		}
		for _, w := range words {
			binary.LittleEndian.PutUint16(m.s.RAM[off:], uint16(w))
			binary.LittleEndian.PutUint16(m.s.RAM[off+2:], uint16(w>>16))
			off += 4
		}
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
	p, w := m.IntN(100), m.weights
	within := func(n int) bool {
		p -= n
		return p < 0
	}
	switch {
	case within(w.alu / 2):
		return encI([]uint32{0x13, 0x1b}[m.IntN(2)], valid(0, 2, 3, 4, 6, 7), value(), r(), int32(m.IntN(1<<12))-1<<11)
	case within(w.alu / 5):
		return encI([]uint32{0x13, 0x1b}[m.IntN(2)], valid(1, 5, 5), value(), r(), int32(m.IntN(32)|m.IntN(2)<<10))
	case within(w.alu - w.alu/2 - w.alu/5 - 2):
		return encR([]uint32{0x33, 0x3b}[m.IntN(2)], valid(0, 5), []uint32{0, 0x20}[m.IntN(2)], value(), r(), r())
	case within(2):
		return []uint32{0x17, 0x37}[m.IntN(2)] | value()<<7 | m.Uint32()&^0xfff
	case within(w.mul):
		if m.chance(30) {
			return encR(0x3b, valid(0, 4, 5, 6, 7), 1, value(), r(), r())
		}
		return encR(0x33, m.Uint32N(8), m.Uint32N(2), value(), r(), r())
	case within(w.load):
		return encI(0x03, valid(0, 1, 2, 3, 4, 5, 6), value(), pointer(), offset())
	case within(w.store):
		return encS(0x23, valid(0, 1, 2, 3), pointer(), []uint32{r(), t3, value()}[m.IntN(3)], offset())
	case within(w.branch):
		return encB(valid(0, 1, 4, 5, 6, 7), r(), r(), int32(m.IntN(40)-20)*2)
	case within(w.jump):
		return encJ([]uint32{zero, ra, value()}[m.IntN(3)], int32(m.IntN(400)-200)*2)
	case within(w.call):
		return encI(0x67, 0, []uint32{zero, ra}[m.IntN(2)], []uint32{s10, s11, ra}[m.IntN(3)], int32(m.IntN(40)*2))
	case within(w.amo):
		f5 := []uint32{0, 1, 2, 3, 2, 3, 4, 8, 12, 16, 20, 24, 28}[m.IntN(13)]
		rs2 := value()
		if f5 == 2 {
			rs2 = 0
		}
		return encR(0x2f, valid(2, 3), f5<<2, value(), pointer(), rs2)
	case within(w.floatMem / 2):
		return encI(0x07, valid(2, 3), r(), pointer(), offset())
	case within(w.floatMem - w.floatMem/2):
		return encS(0x27, valid(2, 3), pointer(), r(), offset())
	case within(w.float):
		f5 := []uint32{0, 1, 2, 3, 4, 5, 8, 0x0b, 0x14, 0x18, 0x1a, 0x1c, 0x1e}[m.IntN(13)]
		f3, rs2 := valid(0, 1, 2, 3, 4, 7, 7, 7), m.Uint32N(4)
		if f5 == 0x0b || f5 == 0x1c || f5 == 0x1e {
			rs2 = 0
		}
		rd := r() &^ 8
		switch {
		case f5 >= 4 && f5 <= 5:
			f3 = valid(0, 1, 2)
		case f5 >= 0x1c:
			f3 = valid(0, 1)
		case f5 == 0x14:
			f3 = valid(0, 1, 2)
		}
		if f5 == 0x14 || f5 == 0x18 || f5 == 0x1c { // to an integer register
			rd = value()
		}
		if f5 <= 5 || f5 == 0x14 {
			rs2 = r()
		}
		return encR(0x53, f3, f5<<2|m.Uint32N(2), rd, r(), rs2)
	case within(w.fma):
		f3 := valid(0, 1, 2, 3, 4, 7, 7, 7)
		return encR(0x43|m.Uint32N(4)<<2, f3, m.Uint32N(32)<<2|m.Uint32N(2), r()&^8, r(), r())
	case within(w.csr):
		csr := interestingCSRs[m.IntN(len(interestingCSRs))]
		if m.chance(70) {
			csr = interestingCSRs[m.IntN(10)]
		}
		if m.s.Flavour == Float && m.chance(70) {
			csr = interestingCSRs[m.IntN(3)]
		}
		return encI(0x73, valid(1, 2, 3, 5, 6, 7), value(), r(), int32(csr))
	case within(w.system):
		return []uint32{ecall, ebreak, sret, mret, wfi, fencei, sfence, nop}[m.IntN(8)]
	}
	return m.Uint32()
}

// loop is the end of a loop that is left behind some rounds.
func (m *maker) loop() []uint32 {
	n := []uint32{t0, t1, t2, a5}[m.IntN(4)]
	return []uint32{
		encI(0x13, 0, n, n, -1), encI(0x13, 7, n, n, []int32{3, 15, 63}[m.IntN(3)]), encB(1, n, zero, -4*int32(m.IntN(12))-4),
	}
}

// integer is a value for an integer register: often where a range ends.
func (m *maker) integer() uint64 {
	edge := uint64(1) << m.IntN(64)
	switch m.IntN(8) {
	case 0:
		return uint64(m.IntN(17)) - 8
	case 1:
		return edge - 1
	case 2:
		return edge
	case 3:
		return -edge
	case 4:
		return uint64(int64(int32(m.Uint32())))
	case 5:
		return m.Uint64() >> m.IntN(64)
	}
	return m.Uint64()
}

// float is a value for a floating-point register: a double, a boxed single, or neither.
func (m *maker) float() uint64 {
	switch m.IntN(8) {
	case 0, 1, 2:
		return m.double()
	case 3:
		return m.integer()
	}
	return boxed | uint64(m.single())
}

// slot is eight bytes of memory: a double, two singles, an integer.
func (m *maker) slot() uint64 {
	switch m.IntN(4) {
	case 0:
		return m.double()
	case 1:
		return uint64(m.single())<<32 | uint64(m.single())
	case 2:
		return m.integer()
	}
	return m.Uint64()
}

var doubles = []uint64{
	0, 1 << 63, // zeros
	0x7ff0_0000_0000_0000, 0xfff0_0000_0000_0000, // infinities
	0x7ff8_0000_0000_0000, 0x7ff0_0000_0000_0001, 0xfff8_dead_beef_0000, 0xfff0_0000_0000_1000, // NaNs, quiet and not
	1, 0x8000_0000_0000_0001, 0x000f_ffff_ffff_ffff, // subnormal
	0x0010_0000_0000_0000, 0x8010_0000_0000_0000, 0x0010_0000_0000_0001, // smallest normal
	0x7fef_ffff_ffff_ffff, 0xffef_ffff_ffff_ffff, // largest
	0x3ff0_0000_0000_0000, 0xbff0_0000_0000_0000, 0x3ff0_0000_0000_0001, 0x3fe0_0000_0000_0000, 0x3ff8_0000_0000_0000,
	0x36a0_0000_0000_0000, 0x380f_ffff_ffff_ffff, 0x47ef_ffff_efff_ffff, 0x47ef_ffff_f000_0000, // where binary32 ends
}

var singles = []uint32{
	0, 1 << 31, 0x7f80_0000, 0xff80_0000, 0x7fc0_0000, 0x7f80_0001, 0xffc1_2345, 0xff80_4000,
	1, 0x8000_0001, 0x007f_ffff, 0x0080_0000, 0x8080_0000, 0x0080_0001, 0x7f7f_ffff, 0xff7f_ffff,
	0x3f80_0000, 0xbf80_0000, 0x3f80_0001, 0x3f7f_ffff, 0x3f00_0000, 0x3fc0_0000,
}

func (m *maker) double() uint64 {
	sign := m.Uint64() & (1 << 63)
	switch m.IntN(6) {
	case 0:
		return doubles[m.IntN(len(doubles))]
	case 1: // around an integer that some conversion cannot represent any more
		return sign | math.Float64bits(math.Ldexp(1, []int{7, 15, 31, 32, 52, 53, 63, 64}[m.IntN(8)])) + m.Uint64N(5) - 2
	case 2: // near 1, so that sums cancel
		return sign | uint64(1023-3+m.IntN(7))<<52 | m.Uint64()>>12
	case 3: // few bits, so that results are exact or tie
		return sign | uint64(1023-30+m.IntN(60))<<52 | m.Uint64()<<(40+m.IntN(12))>>12
	case 4: // subnormal
		return sign | m.Uint64()>>(12+m.IntN(52))
	}
	return m.Uint64()
}

func (m *maker) single() uint32 {
	sign := m.Uint32() & (1 << 31)
	switch m.IntN(6) {
	case 0:
		return singles[m.IntN(len(singles))]
	case 1:
		return sign | math.Float32bits(float32(math.Ldexp(1, []int{7, 15, 23, 24, 31, 32, 63, 64}[m.IntN(8)]))) + m.Uint32N(5) - 2
	case 2:
		return sign | uint32(127-3+m.IntN(7))<<23 | m.Uint32()>>9
	case 3:
		return sign | uint32(127-20+m.IntN(40))<<23 | m.Uint32()<<(15+m.IntN(8))>>9
	case 4:
		return sign | m.Uint32()>>(9+m.IntN(23))
	}
	return m.Uint32()
}

// Load is what the device answers, which depends on the access and the step alone.
func (s *Scenario) Load(h Hart, addr uint64, _ int) uint64 {
	return (addr + h.Steps()) * 0x9e37_79b9_7f4a_7c15
}

// Store is what the device does, as Load: it interrupts, writes to memory, sets the timer.
func (s *Scenario) Store(h Hart, _ uint64, _ int, v uint64) {
	switch v % 5 {
	case 0:
		h.SetInterrupt(uint(v>>8%6*2+1), v>>16&1 != 0)
	case 1:
		h.WriteRAM(RAMBase+v>>8%(RAMBytes-8), binary.LittleEndian.AppendUint64(nil, v))
	case 2:
		h.SetTimer(h.Time() + v>>8%64)
	case 3:
		h.RequestStop()
	}
}

// Do does what comes before the hart's next step.
func (s *Scenario) Do(h Hart) {
	for _, do := range s.events[h.Steps()] {
		do(h)
	}
}

// Until is how many of n steps can be run from a step on before there is something to do.
func (s *Scenario) Until(step, n uint64) uint64 {
	n = min(n, Steps-step)
	for i := uint64(1); i < n; i++ {
		if s.events[step+i] != nil {
			return i
		}
	}
	return n
}

// Drive runs the scenario from the hart's step on, in runs of the lengths that next gives, and
// calls at behind each.
func (s *Scenario) Drive(h Hart, next func() uint64, at func(step uint64)) {
	for h.Steps() < Steps {
		step := h.Steps()
		s.Do(h)
		for end := step + s.Until(step, next()); h.Steps() < end; {
			h.Advance(end - h.Steps())
		}
		at(h.Steps())
	}
}
