package oracle

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"

	"ft/chipset/rv64/oracle/asm"
)

// A batch is a program with many streams, each of which it runs on several sets of
// registers, its cases. The image, from base on:
//
//	the driver, which sets the registers, runs a stream and saves them, for each case
//	the streams
//	one record a case
//	each stream's memory, which its cases inherit from each other
//	output: for each case the registers at its end, then its log
//
// The memory and the output are what is compared.

const (
	base = 0x8000_0000

	streamMemory = 8192 // the register memory points to its middle
	pageSize     = 4096

	headerRecords = 0 // addresses and lengths that the driver needs, at base
	headerFrom    = 8
	headerLength  = 16
	headerSize    = 24

	recordEntry  = 0  // where the stream is
	recordLog    = 8  // where its log goes
	recordState  = 16 // where its registers go
	recordMemory = 24 // where its memory is
	recordRegs   = 32 // x1…x29, f0…f31, fcsr: those that the driver sets
	recordSize   = recordRegs + 8*(30+32+1)

	stateWords = 32 + 32 + 1 // x0…x31, f0…f31, fcsr
)

// shape says how much is in a batch. Zero fields select everything.
type shape struct {
	seed    uint64
	streams int
	cases   int // of each stream
	items   int // of each stream

	onlyStream int // if not negative
	onlyCases  int // so many cases of it

	// spoil, if there is one, returns the image that the hart gets in place of c's: a
	// mistake of the hart, for a test of the comparison itself.
	spoil func(c *asm.Code) []byte
}

// batchCase is where a case's results lie.
type batchCase struct {
	stream     int
	state, log uint64
	logs       int // doublewords of the log, at most
	memory     uint64
}

type batch struct {
	shape
	code     *asm.Code
	cases    []batchCase
	from, to uint64 // what is compared
	end      uint64 // the ECALL that is the end of it
	park     uint64 // a WFI for the trap that it raises
	random   int    // random instructions run, at most
}

// makeBatch makes the program. A stream depends on the seed and its number alone, and its
// first items do not depend on how many follow.
func makeBatch(sh shape) *batch {
	b := &batch{shape: sh, code: asm.New(base)}
	c := b.code
	b.driver()
	var streams []stream
	var numbers []int
	for n := range sh.streams {
		if sh.onlyStream >= 0 && n != sh.onlyStream {
			continue
		}
		s := stream{Code: c, rng: rand.New(rand.NewPCG(sh.seed, uint64(n))), name: fmt.Sprintf("s%d_", n), times: 1, writes: n%20 == 0}
		c.Label(fmt.Sprint("stream", n))
		for range sh.items {
			s.item()
		}
		c.Jump(scratch, c.Address("finish"))
		streams, numbers = append(streams, s), append(numbers, n)
	}
	cases := sh.cases
	if sh.onlyStream >= 0 {
		cases = sh.onlyCases
	}
	c.Align(8)
	c.Label("records")
	records := uint64(len(streams)*cases*recordSize + 8) // a zero at the end
	b.from = (c.Here() + records + pageSize - 1) &^ (pageSize - 1)
	at := b.from + uint64(len(streams))*streamMemory
	for i, s := range streams {
		// The values come from a generator of their own, so that they are the same when
		// there are fewer items.
		rng := rand.New(rand.NewPCG(sh.seed, uint64(numbers[i])|1<<32))
		own := b.from + uint64(i)*streamMemory
		for range cases {
			cs := batchCase{stream: numbers[i], state: at, log: at + 8*stateWords, logs: s.logs, memory: own}
			at = cs.log + uint64(8*s.logs)
			b.cases = append(b.cases, cs)
			b.random += s.random
			for _, v := range []uint64{c.Address(fmt.Sprint("stream", cs.stream)), cs.log, cs.state, own} {
				c.Word(v)
			}
			for range 30 {
				c.Word(integer(rng))
			}
			for range 32 {
				c.Word(float(rng))
			}
			c.Word(uint64(rng.IntN(5)<<5 | rng.IntN(32)))
		}
	}
	c.Word(0)
	c.Align(pageSize)
	for i := range streams {
		rng := rand.New(rand.NewPCG(sh.seed, uint64(numbers[i])|2<<32))
		for range streamMemory / 8 {
			c.Word(slot(rng))
		}
	}
	b.to = at
	b.header()
	c.Finish()
	return b
}

// driver lays out the program around the streams. Its end is to write all that is compared
// to standard output, and to exit, by Linux's system calls; for the hart the first of them
// is the end.
func (b *batch) driver() {
	c := b.code
	op := c.Op
	regs := func(name string, from, to asm.Reg, first int64, basis asm.Reg) {
		for r := from; r <= to; r++ {
			op(name, asm.Args{Rd: r, Rs2: r, Rs1: basis, Imm: first + int64(r-from)*8})
		}
	}
	for range headerSize / 8 {
		c.Word(0) // finish fills it in
	}
	c.Label("start")
	c.Li(scratch, base)
	op("ld", asm.Args{Rd: caseReg, Rs1: scratch, Imm: headerRecords})
	c.Label("next")
	op("ld", asm.Args{Rd: scratch, Rs1: caseReg, Imm: recordEntry})
	c.To("beq", asm.Args{Rs1: scratch}, "done")
	op("ld", asm.Args{Rd: scratch, Rs1: caseReg, Imm: recordRegs + 8*62})
	op("csrrw", asm.Args{Imm: csrFcsr, Rs1: scratch})
	regs("fld", 0, 31, recordRegs+8*30, caseReg)
	for r := asm.RA; r < scratch; r++ {
		if r != caseReg {
			op("ld", asm.Args{Rd: r, Rs1: caseReg, Imm: recordRegs + 8*int64(r)})
		}
	}
	op("ld", asm.Args{Rd: memory, Rs1: caseReg, Imm: recordMemory})
	c.Li(scratch, streamMemory/2)
	op("add", asm.Args{Rd: memory, Rs1: memory, Rs2: scratch})
	op("addi", asm.Args{Rd: constants, Rs1: memory, Imm: -storeReach})
	op("ld", asm.Args{Rd: logReg, Rs1: caseReg, Imm: recordLog})
	op("ld", asm.Args{Rd: scratch, Rs1: caseReg, Imm: recordEntry})
	op("jalr", asm.Args{Rs1: scratch})

	c.Label("finish")
	op("ld", asm.Args{Rd: scratch, Rs1: caseReg, Imm: recordState})
	regs("sd", 0, 31, 0, scratch)
	regs("fsd", 0, 31, 8*32, scratch)
	op("csrrs", asm.Args{Rd: asm.RA, Imm: csrFcsr})
	op("sd", asm.Args{Rs2: asm.RA, Rs1: scratch, Imm: 8 * 64})
	op("addi", asm.Args{Rd: caseReg, Rs1: caseReg, Imm: recordSize})
	c.To("jal", asm.Args{}, "next")

	c.Label("done")
	c.Li(scratch, base)
	op("ld", asm.Args{Rd: asm.A1, Rs1: scratch, Imm: headerFrom})
	op("ld", asm.Args{Rd: asm.A2, Rs1: scratch, Imm: headerLength})
	c.Label("write")
	op("addi", asm.Args{Rd: asm.A0, Imm: 1})
	op("addi", asm.Args{Rd: asm.A7, Imm: 64})
	b.end = c.Here()
	op("ecall", asm.Args{})
	c.To("bge", asm.Args{Rs2: asm.A0}, "failed")
	op("add", asm.Args{Rd: asm.A1, Rs1: asm.A1, Rs2: asm.A0})
	op("sub", asm.Args{Rd: asm.A2, Rs1: asm.A2, Rs2: asm.A0})
	c.To("bne", asm.Args{Rs1: asm.A2}, "write")
	c.Label("failed")
	op("sltu", asm.Args{Rd: asm.A0, Rs2: asm.A2}) // 0 if all was written
	op("addi", asm.Args{Rd: asm.A7, Imm: 93})
	op("ecall", asm.Args{})
	b.park = c.Here()
	op("wfi", asm.Args{})
	c.To("jal", asm.Args{}, "failed")
}

// header fills in the header.
func (b *batch) header() {
	le := binary.LittleEndian
	le.PutUint64(b.code.Bytes[headerRecords:], b.code.Address("records"))
	le.PutUint64(b.code.Bytes[headerFrom:], b.from)
	le.PutUint64(b.code.Bytes[headerLength:], b.to-b.from)
}
