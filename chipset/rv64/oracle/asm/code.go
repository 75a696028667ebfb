package asm

import (
	"encoding/binary"
	"fmt"
)

// Code is a program being laid out, from an address on.
type Code struct {
	Base  uint64
	Bytes []byte
	// Texts are the instructions by address, for reports.
	Texts  map[uint64]string
	labels map[string]uint64
	fixups []fixup
}

// fixup is an instruction whose distance waits for a label.
type fixup struct {
	at    uint64
	op    *Op
	args  Args
	label string
	from  uint64 // where the distance is counted from
}

// New starts a program at an address.
func New(base uint64) *Code {
	return &Code{Base: base, Texts: map[uint64]string{}, labels: map[string]uint64{}}
}

// Here is the address of what comes next.
func (c *Code) Here() uint64 { return c.Base + uint64(len(c.Bytes)) }

// Op lays out an instruction.
func (c *Code) Op(name string, a Args) { c.Emit(Named(name), a) }

// Emit lays out an instruction.
func (c *Code) Emit(o *Op, a Args) {
	word, size := o.Encode(a)
	c.Texts[c.Here()] = o.Text(a)
	c.word(word, size)
}

// Raw lays out the instruction of a word, of whatever it is.
func (c *Code) Raw(word uint32, text string) {
	size := 4
	if word&3 != 3 {
		size = 2
	}
	c.Texts[c.Here()] = text
	c.word(word, size)
}

func (c *Code) word(word uint32, size int) {
	c.Bytes = append(c.Bytes, []byte{byte(word), byte(word >> 8), byte(word >> 16), byte(word >> 24)}[:size]...)
}

// Data lays out bytes, and Align pads with zeros up to a multiple of n.
func (c *Code) Data(p []byte) { c.Bytes = append(c.Bytes, p...) }

// Word lays out a doubleword of data.
func (c *Code) Word(v uint64) { c.Bytes = binary.LittleEndian.AppendUint64(c.Bytes, v) }

// Align pads with zeros up to a multiple of n.
func (c *Code) Align(n uint64) {
	for c.Here()%n != 0 {
		c.Bytes = append(c.Bytes, 0)
	}
}

// Label names the present address. A name is used once.
func (c *Code) Label(name string) {
	if _, ok := c.labels[name]; ok {
		panic("asm: two labels " + name)
	}
	c.labels[name] = c.Here()
}

// Address is that of a label that was laid out.
func (c *Code) Address(label string) uint64 {
	at, ok := c.labels[label]
	if !ok {
		panic("asm: there is no label " + label)
	}
	return at
}

// To lays out a branch or jump to a label, which may come later.
func (c *Code) To(name string, a Args, label string) { c.distance(name, a, label, c.Here()) }

// La sets a register to the address of a label, which may come later, up to 2 KiB away.
func (c *Code) La(rd Reg, label string) {
	from := c.Here()
	c.Op("auipc", Args{Rd: rd})
	c.distance("addi", Args{Rd: rd, Rs1: rd}, label, from)
}

func (c *Code) distance(name string, a Args, label string, from uint64) {
	o := Named(name)
	at, known := c.labels[label]
	if known {
		a.Imm = int64(at - from)
	} else {
		c.fixups = append(c.fixups, fixup{c.Here(), o, a, label, from})
	}
	word, size := o.Encode(a)
	c.Texts[c.Here()] = o.Text(a)
	c.word(word, size)
}

// Finish fills in the distances to labels that came later.
func (c *Code) Finish() {
	for _, f := range c.fixups {
		f.args.Imm = int64(c.Address(f.label) - f.from)
		word, size := f.op.Encode(f.args)
		for i := range size {
			c.Bytes[f.at-c.Base+uint64(i)] = byte(word >> (8 * i))
		}
		c.Texts[f.at] = f.op.Text(f.args)
	}
	c.fixups = nil
}

// Li sets a register to a value, in as many instructions as that takes.
func (c *Code) Li(rd Reg, v uint64) {
	low := int64(v<<52) >> 52
	switch rest := v - uint64(low); {
	case rest == 0:
		c.Op("addi", Args{Rd: rd, Imm: low})
	case uint64(int64(int32(v))) == v:
		c.Op("lui", Args{Rd: rd, Imm: int64(int32(rest))})
		c.Op("addiw", Args{Rd: rd, Rs1: rd, Imm: low})
	default:
		c.Li(rd, uint64(int64(rest)>>12))
		c.Op("slli", Args{Rd: rd, Rs1: rd, Imm: 12})
		if low != 0 {
			c.Op("addi", Args{Rd: rd, Rs1: rd, Imm: low})
		}
	}
}

// Jump goes to an address anywhere; it needs a register.
func (c *Code) Jump(scratch Reg, to uint64) {
	c.Li(scratch, to)
	c.Op("jalr", Args{Rs1: scratch})
}

// Text is the instruction as an assembler reads it, but for distances, which are numbers.
func (o *Op) Text(a Args) string {
	s := func(format string, args ...any) string { return o.Name + " " + fmt.Sprintf(format, args...) }
	mode := [...]string{", rne", ", rtz", ", rdn", ", rup", ", rmm", ", rm=5", ", rm=6", ""}[a.Rm&7]
	switch o.Format {
	case R:
		return s("x%d, x%d, x%d", a.Rd, a.Rs1, a.Rs2)
	case I, Shift, ShiftW:
		return s("x%d, x%d, %d", a.Rd, a.Rs1, a.Imm)
	case Load:
		return s("x%d, %d(x%d)", a.Rd, a.Imm, a.Rs1)
	case Store:
		return s("x%d, %d(x%d)", a.Rs2, a.Imm, a.Rs1)
	case FLoad:
		return s("f%d, %d(x%d)", a.Rd, a.Imm, a.Rs1)
	case FStore:
		return s("f%d, %d(x%d)", a.Rs2, a.Imm, a.Rs1)
	case Branch:
		return s("x%d, x%d, .%+d", a.Rs1, a.Rs2, a.Imm)
	case U, CLUI:
		pages := a.Imm
		if o.Format == U {
			pages >>= 12
		}
		return s("x%d, %#x", a.Rd, pages&0xfffff)
	case CI, CShL, CShR, CAI:
		return s("x%d, %d", a.Rd, a.Imm)
	case CSP4:
		return s("x%d, sp, %d", a.Rd, a.Imm)
	case J:
		return s("x%d, .%+d", a.Rd, a.Imm)
	case CSR:
		return s("x%d, %#x, x%d", a.Rd, a.Imm, a.Rs1)
	case CSRI:
		return s("x%d, %#x, %d", a.Rd, a.Imm, a.Rs1)
	case AMO:
		return s("x%d, x%d, (x%d)", a.Rd, a.Rs2, a.Rs1)
	case Fence:
		sets := func(v int64) (s string) {
			for i, c := range "wroi" {
				if v>>i&1 != 0 {
					s = string(c) + s
				}
			}
			return s
		}
		return s("%s, %s", sets(a.Imm>>4), sets(a.Imm&15))
	case LR:
		return s("x%d, (x%d)", a.Rd, a.Rs1)
	case SFence:
		return s("x%d, x%d", a.Rs1, a.Rs2)
	case F3:
		return s("f%d, f%d, f%d", a.Rd, a.Rs1, a.Rs2)
	case F2:
		return s("f%d, f%d%s", a.Rd, a.Rs1, mode)
	case F2R:
		return s("f%d, f%d, f%d%s", a.Rd, a.Rs1, a.Rs2, mode)
	case F4:
		return s("f%d, f%d, f%d, f%d%s", a.Rd, a.Rs1, a.Rs2, a.Rs3, mode)
	case FCmp:
		return s("x%d, f%d, f%d", a.Rd, a.Rs1, a.Rs2)
	case FClass, MvXF:
		return s("x%d, f%d", a.Rd, a.Rs1)
	case FToX:
		return s("x%d, f%d%s", a.Rd, a.Rs1, mode)
	case XToF:
		return s("f%d, x%d%s", a.Rd, a.Rs1, mode)
	case MvFX:
		return s("f%d, x%d", a.Rd, a.Rs1)
	case CR, CA:
		return s("x%d, x%d", a.Rd, a.Rs2)
	case CJR:
		return s("x%d", a.Rs1)
	case CSP16:
		return s("sp, %d", a.Imm)
	case CLW, CLD:
		return s("x%d, %d(x%d)", a.Rd, a.Imm, a.Rs1)
	case CSW, CSD:
		return s("x%d, %d(x%d)", a.Rs2, a.Imm, a.Rs1)
	case CFLD:
		return s("f%d, %d(x%d)", a.Rd, a.Imm, a.Rs1)
	case CFSD:
		return s("f%d, %d(x%d)", a.Rs2, a.Imm, a.Rs1)
	case CLWSP, CLDSP:
		return s("x%d, %d(sp)", a.Rd, a.Imm)
	case CSWSP, CSDSP:
		return s("x%d, %d(sp)", a.Rs2, a.Imm)
	case CFLDSP:
		return s("f%d, %d(sp)", a.Rd, a.Imm)
	case CFSDSP:
		return s("f%d, %d(sp)", a.Rs2, a.Imm)
	case CB:
		return s("x%d, .%+d", a.Rs1, a.Imm)
	case CJ:
		return s(".%+d", a.Imm)
	}
	return o.Name
}
