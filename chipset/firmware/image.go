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
