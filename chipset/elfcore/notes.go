package elfcore

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"

	"ft/chipset/rv64"
)

// Types of notes (include/uapi/linux/elf.h). A type is the business of the note's name, which
// not all programs look at: the hart's is no type that anybody else has.
const (
	ntPrstatus   = 1
	ntFpregset   = 2
	ntPrpsinfo   = 3
	ntVMCoreInfo = 0
	ntHart       = 0x4654
)

// thread is the hart's number among a core's threads: 0 is none.
const thread = 1

// timeval is struct __kernel_old_timeval.
type timeval struct{ Sec, Usec int64 }

// prstatus is struct elf_prstatus for riscv64; 376 bytes.
type prstatus struct {
	Signo, Code, Errno           int32 // pr_info
	Cursig                       int16
	_                            int16
	Sigpend, Sighold             uint64
	Pid, Ppid, Pgrp, Sid         int32
	Utime, Stime, Cutime, Cstime timeval
	Reg                          [32]uint64 // struct user_regs_struct: pc, x1…x31
	Fpvalid                      int32
	_                            int32
}

// prpsinfo is struct elf_prpsinfo for riscv64; 136 bytes.
type prpsinfo struct {
	State, Sname, Zomb, Nice byte
	_                        int32
	Flag                     uint64
	UID, GID                 uint32
	Pid, Ppid, Pgrp, Sid     int32
	Fname                    [16]byte
	Psargs                   [80]byte
}

// fpregset is struct __riscv_d_ext_state; 264 bytes.
type fpregset struct {
	F    [32]uint64
	Fcsr uint32
	_    uint32
}

// notes are the contents of PT_NOTE. gdb takes what follows a NT_PRSTATUS for that thread's.
func notes(c *Config, info *kernelInfo) []byte {
	h := &c.Hart
	status := prstatus{Pid: thread, Fpvalid: 1}
	status.Reg = h.X
	status.Reg[0] = h.PC
	process := prpsinfo{Sname: 'R', Pid: thread}
	copy(process.Fname[:len(process.Fname)-1], c.Name)
	copy(process.Psargs[:len(process.Psargs)-1], c.Name+": "+c.Why)
	float := fpregset{F: h.F, Fcsr: uint32(h.Frm&7<<5 | h.Fflags&0x1f)}

	b := note(nil, "CORE", ntPrstatus, fixed(status))
	b = note(b, "CORE", ntPrpsinfo, fixed(process))
	b = note(b, "CORE", ntFpregset, fixed(float))
	if info != nil {
		b = note(b, infoName, ntVMCoreInfo, info.text)
	}
	return note(b, "FT", ntHart, hartText(h))
}

// fixed encodes what is of fixed size.
func fixed(v any) []byte {
	b, err := binary.Append(nil, binary.LittleEndian, v)
	if err != nil {
		panic(err) // the types are those above
	}
	return b
}

// note appends an ELF note: sizes, type, and name and contents to multiples of four bytes.
func note(b []byte, name string, kind uint32, contents []byte) []byte {
	for _, v := range []uint32{uint32(len(name) + 1), uint32(len(contents)), kind} {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	b = append(append(b, name...), 0)
	b = append(b, make([]byte, -len(b)&3)...)
	b = append(b, contents...)
	return append(b, make([]byte, -len(b)&3)...)
}

// hartText is the whole hart, a word a line: name=value. The names are those of rv64.State.
func hartText(h *rv64.State) []byte {
	var b bytes.Buffer
	for i, v := range h.Words() {
		fmt.Fprintf(&b, "%s=%#x\n", rv64.WordName(i), v)
	}
	return b.Bytes()
}

// flags of the ELF header: what the hart's programs are compiled for (RISC-V ELF psABI),
// from which gdb knows how wide the registers are.
const (
	flagRVC         = 0x1
	flagFloatDouble = 0x4
)

// head is everything before memory, which begins at the next page of the file.
func head(c *Config, info *kernelInfo) []byte {
	contents := notes(c, info)
	segments := layout(c, info)
	const header, program = 64, 56
	at := uint64(header + program*(1+len(segments)))
	memory := (at + uint64(len(contents)) + pageBytes - 1) &^ (pageBytes - 1)

	h := elf.Header64{
		Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_CORE), Machine: uint16(elf.EM_RISCV), Version: uint32(elf.EV_CURRENT),
		Phoff: header, Flags: flagRVC | flagFloatDouble, Ehsize: header, Phentsize: program, Phnum: uint16(1 + len(segments)),
	}
	b := fixed(h)
	b = append(b, fixed(elf.Prog64{Type: uint32(elf.PT_NOTE), Off: at, Filesz: uint64(len(contents)), Align: 4})...)
	for _, s := range segments {
		b = append(b, fixed(elf.Prog64{
			Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_W | elf.PF_X),
			Off: memory + s.physical - c.Base, Vaddr: s.virtual, Paddr: s.physical, Filesz: s.size, Memsz: s.size, Align: pageBytes,
		})...)
	}
	b = append(b, contents...)
	return append(b, make([]byte, memory-uint64(len(b)))...)
}
