package asm

import (
	"encoding/binary"
	"slices"
)

// ELF makes a static executable of the code: one segment that may be read, written and
// executed, zero bytes behind the code up to size, entered at a label. All labels become
// symbols. The base has to be a multiple of 4096.
func (c *Code) ELF(entry string, size uint64) []byte {
	const (
		headers     = 4096 // padded: kernels map files by the page
		sections    = 4    // null, .symtab, .strtab, .text
		symbolBytes = 24
	)
	c.Finish()
	le := binary.LittleEndian
	labels := make([]string, 0, len(c.labels))
	for l := range c.labels {
		labels = append(labels, l)
	}
	slices.Sort(labels)
	symbols, names := make([]byte, symbolBytes), []byte{0}
	for _, l := range labels {
		symbols = le.AppendUint32(symbols, uint32(len(names)))
		symbols = append(symbols, 1<<4, 0, 3, 0) // global, of section 3
		symbols = le.AppendUint64(symbols, c.labels[l])
		symbols = le.AppendUint64(symbols, 0)
		names = append(append(names, l...), 0)
	}
	length := uint64(len(c.Bytes))
	align := func(v uint64) uint64 { return (v + 7) &^ 7 }
	symbolsAt := align(headers + length)
	namesAt := symbolsAt + uint64(len(symbols))
	sectionsAt := align(namesAt + uint64(len(names)))

	f := append([]byte("\x7fELF\x02\x01\x01"), make([]byte, 9)...)
	f = le.AppendUint16(f, 2)   // ET_EXEC
	f = le.AppendUint16(f, 243) // EM_RISCV
	f = le.AppendUint32(f, 1)
	f = le.AppendUint64(f, c.Address(entry))
	f = le.AppendUint64(f, 64)
	f = le.AppendUint64(f, sectionsAt)
	f = le.AppendUint32(f, 5) // RVC, double floats in registers
	for _, v := range []uint16{64, 56, 1, 64, sections, 2} {
		f = le.AppendUint16(f, v)
	}
	f = le.AppendUint32(f, 1) // PT_LOAD
	f = le.AppendUint32(f, 7) // read, write, execute
	for _, v := range []uint64{headers, c.Base, c.Base, length, max(length, size), 4096} {
		f = le.AppendUint64(f, v)
	}
	f = append(f, make([]byte, headers-len(f))...)
	f = append(f, c.Bytes...)
	f = append(f, make([]byte, symbolsAt-uint64(len(f)))...)
	f = append(append(f, symbols...), names...)
	f = append(f, make([]byte, sectionsAt-uint64(len(f)))...)
	section := func(kind, link uint32, addr, offset, size, entry uint64) {
		f = le.AppendUint32(f, 0)
		f = le.AppendUint32(f, kind)
		for _, v := range []uint64{0, addr, offset, size} {
			f = le.AppendUint64(f, v)
		}
		f = le.AppendUint32(f, link)
		f = le.AppendUint32(f, 1)
		f = le.AppendUint64(f, 8)
		f = le.AppendUint64(f, entry)
	}
	section(0, 0, 0, 0, 0, 0)
	section(2, 2, 0, symbolsAt, uint64(len(symbols)), symbolBytes)
	section(3, 0, 0, namesAt, uint64(len(names)), 0)
	section(1, 0, c.Base, headers, length, 0)
	return f
}
