package firmware

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// The raw Image of a riscv64 kernel. Its header, little-endian:
//
//	 0 code0, code1
//	 8 text_offset   of the image from the start of memory
//	16 image_size    in memory, .bss included
//	24 flags         bit 0: big-endian kernel
//	32 version
//	48 magic         "RISCV\0\0\0" (deprecated)
//	56 magic2        "RSC\x05"
//	60 res3          where the PE header is, in an Image that is an EFI program too
const (
	imageHeaderBytes = 64
	imageMagic       = "RSC\x05"
	// imageAlignment is how the kernel must lie: it maps itself by huge pages of Sv39.
	imageAlignment = 2 << 20
)

func isImage(file []byte) bool {
	return len(file) >= imageHeaderBytes && string(file[56:60]) == imageMagic
}

func readImage(file []byte, ram RAM) (*Kernel, error) {
	offset := binary.LittleEndian.Uint64(file[8:])
	size := binary.LittleEndian.Uint64(file[16:])
	flags := binary.LittleEndian.Uint64(file[24:])
	if flags&1 != 0 {
		return nil, errors.New("a riscv64 Image for a big-endian machine; this one is little-endian")
	}
	if offset%imageAlignment != 0 {
		return nil, fmt.Errorf("a riscv64 Image that wants to lie at %#x, not a multiple of %s: its header is damaged", offset, amount(imageAlignment))
	}
	if want := programEnd(file); want > uint64(len(file)) {
		return nil, fmt.Errorf("a riscv64 Image whose sections end at byte %d, of a file of %d: the file is truncated, fetch it again", want, len(file))
	}
	// Kernels before 5.3 leave image_size 0; the file is then all that is known.
	size = max(size, uint64(len(file)))
	if !ram.Contains(ram.Base+offset, size) || ram.Base+offset < ram.Base {
		return nil, fmt.Errorf("a riscv64 Image that needs %s from %s on, but the guest's memory is %s; give the machine more memory", amount(size), amount(offset), amount(ram.Size))
	}
	addr := ram.Base + offset
	return &Kernel{
		Format:   RawImage,
		Entry:    addr,
		Segments: []Segment{{Addr: addr, Data: file, Size: size}},
	}, nil
}

// programEnd is where the sections of an Image that is an EFI program end in its file, as
// its PE header says (Linux, arch/riscv/kernel/efi-header.S); 0 where it says nothing.
// image_size does not tell, for it counts the .bss, of which a file has nothing.
func programEnd(file []byte) (end uint64) {
	const (
		signatureBytes = 4 // "PE\0\0", before the file header
		headerBytes    = signatureBytes + 20
		sectionBytes   = 40
	)
	le := binary.LittleEndian
	header, ok := slice(file, uint64(le.Uint32(file[60:])), headerBytes)
	if !ok || string(file[:2]) != "MZ" || string(header[:signatureBytes]) != "PE\x00\x00" {
		return 0
	}
	sections, optional := uint64(le.Uint16(header[6:])), uint64(le.Uint16(header[20:]))
	table, ok := slice(file, uint64(le.Uint32(file[60:]))+headerBytes+optional, sections*sectionBytes)
	if !ok {
		return 0
	}
	for ; len(table) > 0; table = table[sectionBytes:] {
		if size := le.Uint32(table[16:]); size > 0 {
			end = max(end, uint64(le.Uint32(table[20:]))+uint64(size))
		}
	}
	return end
}
