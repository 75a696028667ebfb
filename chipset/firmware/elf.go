package firmware

import (
	"bytes"
	"cmp"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// ELF64 executables for riscv64. The parts that matter (header, program headers, the symbol
// table) are read here and not by debug/elf, of which only the constants are used: it is not
// made for hostile files, and a refusal should name what is wrong in the words of a user.
const (
	elfMagic        = "\x7fELF"
	elfHeaderBytes  = 64
	elfProgramBytes = 56
	elfSectionBytes = 64
	elfSymbolBytes  = 24
	elfSegmentsMax  = 64
)

// elfHeader is the part of Elf64_Ehdr that is used.
type elfHeader struct {
	kind                elf.Type
	entry, phoff, shoff uint64
	phentsize, phnum    uint16
	shentsize, shnum    uint16
}

// ReadELF takes an executable apart for a guest with memory ram; name is for the errors. It
// is ReadKernel for programs that are nothing but ELF.
func ReadELF(name string, file []byte, ram RAM) (*Kernel, error) {
	if !bytes.HasPrefix(file, []byte(elfMagic)) {
		return nil, fmt.Errorf("%s is no ELF; give a static riscv64 executable", name)
	}
	k, err := readELF(file, ram)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return k, nil
}

func readELF(file []byte, ram RAM) (*Kernel, error) {
	h, err := readELFHeader(file)
	if err != nil {
		return nil, err
	}
	loads, err := h.loads(file)
	if err != nil {
		return nil, err
	}
	entry := h.entry
	for _, l := range loads {
		if h.entry-l.vaddr < l.memsz { // the entry is a virtual address
			entry = l.paddr + (h.entry - l.vaddr)
			break
		}
	}
	// Linux's vmlinux, linked for the upper half of addresses, says 0 for the physical ones
	// and runs anywhere: it lies where its Image would. Everything else lies where it says.
	var shift uint64
	if loads[0].vaddr>>63 != 0 && loads[0].paddr < imageAlignment && ram.Base >= imageAlignment {
		shift = ram.Base + imageAlignment
	}
	k := &Kernel{Format: ELF, Entry: entry + shift}
	for i, l := range loads {
		s := Segment{Addr: l.paddr + shift, Data: l.data, Size: l.memsz}
		if s.Addr < shift || !ram.Contains(s.Addr, s.Size) {
			return nil, fmt.Errorf("an ELF with a segment of %s at %#x, but the guest's memory is %s at %#x; give the machine more memory or link the program for it",
				amount(s.Size), s.Addr, amount(ram.Size), ram.Base)
		}
		if i > 0 && s.Addr < k.End() {
			return nil, fmt.Errorf("an ELF whose segments overlap at %#x: the file is damaged", s.Addr)
		}
		k.Segments = append(k.Segments, s)
	}
	if !slices.ContainsFunc(k.Segments, func(s Segment) bool { return k.Entry-s.Addr < s.Size }) {
		return nil, fmt.Errorf("an ELF whose entry point %#x is in none of its segments: the file is damaged", h.entry)
	}
	k.symbols = h.symbols(file)
	k.symbols.loads, k.symbols.shift = loads, shift
	return k, nil
}

func readELFHeader(file []byte) (elfHeader, error) {
	var h elfHeader
	if len(file) < elfHeaderBytes {
		return h, fmt.Errorf("an ELF of %d bytes: the file is truncated, fetch it again", len(file))
	}
	le := binary.LittleEndian
	machine := elf.Machine(le.Uint16(file[18:]))
	if elf.Data(file[elf.EI_DATA]) == elf.ELFDATA2MSB {
		machine = elf.Machine(binary.BigEndian.Uint16(file[18:]))
	}
	switch {
	case machine != elf.EM_RISCV:
		return h, fmt.Errorf("an ELF for %s; this machine is riscv64", machineName(machine))
	case elf.Class(file[elf.EI_CLASS]) != elf.ELFCLASS64:
		return h, errors.New("an ELF for riscv32; this machine is riscv64")
	case elf.Data(file[elf.EI_DATA]) != elf.ELFDATA2LSB:
		return h, errors.New("an ELF for a big-endian machine; this one is little-endian")
	}
	h = elfHeader{
		kind:  elf.Type(le.Uint16(file[16:])),
		entry: le.Uint64(file[24:]), phoff: le.Uint64(file[32:]), shoff: le.Uint64(file[40:]),
		phentsize: le.Uint16(file[54:]), phnum: le.Uint16(file[56:]),
		shentsize: le.Uint16(file[58:]), shnum: le.Uint16(file[60:]),
	}
	switch h.kind {
	case elf.ET_EXEC, elf.ET_DYN:
	case elf.ET_REL:
		return h, errors.New("an ELF object file; link it first")
	default:
		return h, fmt.Errorf("an ELF of type %v, not an executable", h.kind)
	}
	return h, nil
}

// machineName is a machine as its users call it.
func machineName(m elf.Machine) string {
	switch m {
	case elf.EM_X86_64:
		return "x86-64"
	case elf.EM_386:
		return "i386"
	case elf.EM_AARCH64:
		return "arm64"
	case elf.EM_ARM:
		return "arm"
	}
	return m.String()
}

// load is a PT_LOAD segment that takes up memory; data is within the file.
type load struct {
	vaddr, paddr, memsz uint64
	data                []byte
}

// loads reads the program headers, in ascending order of physical addresses.
func (h *elfHeader) loads(file []byte) ([]load, error) {
	table, ok := slice(file, h.phoff, uint64(h.phnum)*elfProgramBytes)
	if !ok || h.phnum > 0 && h.phentsize != elfProgramBytes {
		return nil, fmt.Errorf("an ELF with %d program headers of %d bytes at byte %d of %d: the file is truncated or damaged, fetch it again",
			h.phnum, h.phentsize, h.phoff, len(file))
	}
	var loads []load
	for ; len(table) > 0; table = table[elfProgramBytes:] {
		le := binary.LittleEndian
		l := load{vaddr: le.Uint64(table[16:]), paddr: le.Uint64(table[24:]), memsz: le.Uint64(table[40:])}
		if elf.ProgType(le.Uint32(table)) != elf.PT_LOAD || l.memsz == 0 {
			continue
		}
		offset, filesz := le.Uint64(table[8:]), le.Uint64(table[32:])
		if l.data, ok = slice(file, offset, filesz); !ok {
			return nil, fmt.Errorf("an ELF with a segment of %d bytes at byte %d, of a file of %d: the file is truncated, fetch it again", filesz, offset, len(file))
		}
		if filesz > l.memsz || l.paddr+l.memsz < l.paddr {
			return nil, fmt.Errorf("an ELF with a segment of %d bytes in %d bytes of memory at %#x: the file is damaged", filesz, l.memsz, l.paddr)
		}
		loads = append(loads, l)
	}
	switch {
	case len(loads) == 0:
		return nil, errors.New("an ELF with nothing to load")
	case len(loads) > elfSegmentsMax:
		return nil, fmt.Errorf("an ELF with %d segments to load, more than the %d that any kernel has", len(loads), elfSegmentsMax)
	}
	slices.SortStableFunc(loads, func(a, b load) int { return cmp.Compare(a.paddr, b.paddr) })
	return loads, nil
}

// slice is size bytes of file at offset, if they are there.
func slice(file []byte, offset, size uint64) ([]byte, bool) {
	if offset > uint64(len(file)) || size > uint64(len(file))-offset {
		return nil, false
	}
	return file[offset : offset+size : offset+size], true
}

// symbolTable is the ELF's own, looked through when something is asked for: a kernel has
// hundreds of thousands, of which a machine wants a handful.
type symbolTable struct {
	entries, names []byte
	loads          []load
	shift          uint64
}

// symbols finds the symbol table. A program without one, or with a damaged one, still runs:
// it has no symbols.
func (h *elfHeader) symbols(file []byte) symbolTable {
	sections, ok := slice(file, h.shoff, uint64(h.shnum)*elfSectionBytes)
	if !ok || h.shentsize != elfSectionBytes {
		return symbolTable{}
	}
	content := func(i uint32) ([]byte, bool) {
		if uint64(i) >= uint64(h.shnum) {
			return nil, false
		}
		s := sections[i*elfSectionBytes:]
		return slice(file, binary.LittleEndian.Uint64(s[24:]), binary.LittleEndian.Uint64(s[32:]))
	}
	for i := range uint32(h.shnum) {
		s := sections[i*elfSectionBytes:]
		if elf.SectionType(binary.LittleEndian.Uint32(s[4:])) != elf.SHT_SYMTAB {
			continue
		}
		entries, ok1 := content(i)
		names, ok2 := content(binary.LittleEndian.Uint32(s[40:]))
		if ok1 && ok2 {
			return symbolTable{entries: entries, names: names}
		}
	}
	return symbolTable{}
}

func (t *symbolTable) find(name string) (addr uint64, ok bool) {
	for e := t.entries; len(e) >= elfSymbolBytes; e = e[elfSymbolBytes:] {
		le := binary.LittleEndian
		at := uint64(le.Uint32(e))
		if elf.SectionIndex(le.Uint16(e[6:])) == elf.SHN_UNDEF || at >= uint64(len(t.names)) {
			continue
		}
		if n := t.names[at:]; len(n) <= len(name) || n[len(name)] != 0 || !bytes.HasPrefix(n, []byte(name)) {
			continue
		}
		value := le.Uint64(e[8:])
		for _, l := range t.loads {
			if value-l.vaddr <= l.memsz { // an end symbol lies just behind its segment
				return value - l.vaddr + l.paddr + t.shift, true
			}
		}
		return value, true
	}
	return 0, false
}
