package bare

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
)

// An assembler for the few RV64IM instructions that the program has (The RISC-V
// Instruction Set Manual, volume I, "RV32/64G Instruction Set Listings"). A value that
// does not fit its instruction is a mistake in the program, and panics.

// reg is a register by its number.
type reg uint32

const (
	zero reg = 0
	ra   reg = 1
	t0   reg = 5
	t1   reg = 6
	t2   reg = 7
	s0   reg = 8
	s1   reg = 9
	a0   reg = 10
	a1   reg = 11
	a6   reg = 16
	a7   reg = 17
	s2   reg = 18
	s3   reg = 19
	s4   reg = 20
)

// Opcodes, bits 6 to 0.
const (
	opLoad   = 0x03
	opImm    = 0x13
	opAUIPC  = 0x17
	opStore  = 0x23
	opReg    = 0x33
	opLUI    = 0x37
	opBranch = 0x63
	opJALR   = 0x67
	opJAL    = 0x6F
	opSystem = 0x73
)

// assembler collects code and data, and where they refer to labels.
type assembler struct {
	image  []byte
	labels map[string]int
	refs   []reference
}

// reference is an instruction at an offset whose immediate is the distance to a label.
type reference struct {
	at     int
	label  string
	encode func(distance int32) uint32
}

func (a *assembler) emit(word uint32) { a.image = binary.LittleEndian.AppendUint32(a.image, word) }

func (a *assembler) bytes(text string) { a.image = append(a.image, text...) }

func (a *assembler) label(name string) {
	if a.labels == nil {
		a.labels = map[string]int{}
	}
	a.labels[name] = len(a.image)
}

func (a *assembler) refer(label string, encode func(int32) uint32) {
	a.refs = append(a.refs, reference{len(a.image), label, encode})
	a.emit(0)
}

// link puts the distances in.
func (a *assembler) link() []byte {
	for _, r := range a.refs {
		to, ok := a.labels[r.label]
		if !ok {
			panic("bare: no label " + r.label)
		}
		binary.LittleEndian.PutUint32(a.image[r.at:], r.encode(int32(to-r.at)))
	}
	return a.image
}

// fits is v in so many bits, two's complement.
func fits(v int32, bits int) uint32 {
	if v < -1<<(bits-1) || v >= 1<<(bits-1) {
		panic(fmt.Sprintf("bare: %d does not fit in %d bits", v, bits))
	}
	return uint32(v)
}

// The six formats of instructions.

func rType(op, f3, f7 uint32, rd, rs1, rs2 reg) uint32 {
	return op | uint32(rd)<<7 | f3<<12 | uint32(rs1)<<15 | uint32(rs2)<<20 | f7<<25
}

func iType(op, f3 uint32, rd, rs1 reg, imm int32) uint32 {
	return op | uint32(rd)<<7 | f3<<12 | uint32(rs1)<<15 | fits(imm, 12)<<20
}

func sType(op, f3 uint32, rs1, rs2 reg, imm int32) uint32 {
	v := fits(imm, 12)
	return op | v&0x1F<<7 | f3<<12 | uint32(rs1)<<15 | uint32(rs2)<<20 | v>>5<<25
}

func bType(f3 uint32, rs1, rs2 reg, imm int32) uint32 {
	v := fits(imm, 13)
	return opBranch | v>>11&1<<7 | v>>1&0xF<<8 | f3<<12 | uint32(rs1)<<15 | uint32(rs2)<<20 | v>>5&0x3F<<25 | v>>12&1<<31
}

func uType(op uint32, rd reg, imm uint32) uint32 { return op | uint32(rd)<<7 | imm&^0xFFF }

func jType(rd reg, imm int32) uint32 {
	v := fits(imm, 21)
	return opJAL | uint32(rd)<<7 | v>>12&0xFF<<12 | v>>11&1<<20 | v>>1&0x3FF<<21 | v>>20&1<<31
}

func (a *assembler) lui(rd reg, v uint32)           { a.emit(uType(opLUI, rd, v)) }
func (a *assembler) addi(rd, rs reg, v int32)       { a.emit(iType(opImm, 0, rd, rs, v)) }
func (a *assembler) andi(rd, rs reg, v int32)       { a.emit(iType(opImm, 7, rd, rs, v)) }
func (a *assembler) mv(rd, rs reg)                  { a.addi(rd, rs, 0) }
func (a *assembler) add(rd, x, y reg)               { a.emit(rType(opReg, 0, 0, rd, x, y)) }
func (a *assembler) divu(rd, x, y reg)              { a.emit(rType(opReg, 5, 1, rd, x, y)) }
func (a *assembler) remu(rd, x, y reg)              { a.emit(rType(opReg, 7, 1, rd, x, y)) }
func (a *assembler) lbu(rd, base reg, offset int32) { a.emit(iType(opLoad, 4, rd, base, offset)) }
func (a *assembler) sb(rs, base reg, offset int32)  { a.emit(sType(opStore, 0, base, rs, offset)) }
func (a *assembler) jalr(rd, to reg)                { a.emit(iType(opJALR, 0, rd, to, 0)) }
func (a *assembler) ecall()                         { a.emit(opSystem) }
func (a *assembler) wfi()                           { a.emit(0x10500073) }
func (a *assembler) csrr(rd reg, csr uint32) {
	a.emit(rType(opSystem, 2, csr>>5, rd, zero, reg(csr&0x1F)))
}
func (a *assembler) csrs(csr uint32, rs reg) {
	a.emit(rType(opSystem, 2, csr>>5, zero, rs, reg(csr&0x1F)))
}
func (a *assembler) jal(rd reg, to string)    { a.refer(to, func(d int32) uint32 { return jType(rd, d) }) }
func (a *assembler) beq(x, y reg, to string)  { a.branch(0, x, y, to) }
func (a *assembler) bne(x, y reg, to string)  { a.branch(1, x, y, to) }
func (a *assembler) bltu(x, y reg, to string) { a.branch(6, x, y, to) }
func (a *assembler) branch(f3 uint32, x, y reg, to string) {
	a.refer(to, func(d int32) uint32 { return bType(f3, x, y, d) })
}

// li loads a number of 32 bits, none of whose upper part LUI would extend with ones.
func (a *assembler) li(rd reg, v int32) {
	low := v << 20 >> 20 // what ADDI adds is signed
	if high := v - low; high != 0 {
		a.lui(rd, uint32(high))
		a.addi(rd, rd, low)
		return
	}
	a.addi(rd, zero, low)
}

// la loads the address of a label: AUIPC and ADDI, both relative to the former.
func (a *assembler) la(rd reg, to string) {
	a.refer(to, func(d int32) uint32 { return uType(opAUIPC, rd, uint32(d-d<<20>>20)) })
	a.refer(to, func(d int32) uint32 {
		d += 4 // from the AUIPC on
		return iType(opImm, 0, rd, rd, d<<20>>20)
	})
}

// executable wraps an image into an ELF file with one segment, entered at its start.
func executable(image []byte, at uint64) []byte {
	const headers = 64 + 56 // sizes of elf.Header64 and elf.Prog64
	head := elf.Header64{
		Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_RISCV), Version: uint32(elf.EV_CURRENT),
		Entry: at, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1,
	}
	copy(head.Ident[:], elf.ELFMAG)
	head.Ident[elf.EI_CLASS], head.Ident[elf.EI_DATA], head.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)
	segment := elf.Prog64{
		Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_W | elf.PF_X),
		Off: headers, Vaddr: at, Paddr: at, Filesz: uint64(len(image)), Memsz: uint64(len(image)), Align: 4,
	}
	var out bytes.Buffer
	_ = binary.Write(&out, binary.LittleEndian, head) // to memory: it cannot fail
	_ = binary.Write(&out, binary.LittleEndian, segment)
	out.Write(image)
	return out.Bytes()
}
