package elfcore

import "encoding/binary"

// segment is a range of memory as a debugger shall see it.
type segment struct {
	virtual, physical, size uint64
}

// layout says where memory is shown. Without a kernel that tells, at its physical addresses:
// where a program without paging has it.
//
// With Linux there come first the kernel's image where it is linked to, so that its symbols
// are found, then all of memory in its linear map (as in crash_prepare_elf64_headers).
// Memory below the linear map, of kernels that leave some to the firmware, stays at its
// physical addresses.
func layout(c *Config, info *kernelInfo) []segment {
	all := segment{c.Base, c.Base, c.Size}
	if info == nil {
		return []segment{all}
	}
	var list []segment
	if image, ok := info.image(c); ok {
		list = append(list, image)
	}
	start, ok := info.linear(c)
	if !ok {
		return append(list, all)
	}
	if low := start.physical - c.Base; low > 0 {
		list = append(list, segment{c.Base, c.Base, low})
	}
	return append(list, start)
}

// kernelHalf is where a kernel's addresses begin.
const kernelHalf = 1 << 63

// linear is the kernel's linear map: memory from phys_ram_base on at PAGE_OFFSET.
func (k *kernelInfo) linear(c *Config) (segment, bool) {
	offset, ok1 := k.number("PAGE_OFFSET")
	first, ok2 := k.number("phys_ram_base")
	if !ok1 || !ok2 || offset < kernelHalf || offset%pageBytes != 0 || first%pageBytes != 0 || first >= c.Base+c.Size {
		return segment{}, false
	}
	s := segment{virtual: offset, physical: first, size: c.Base + c.Size - first}
	if first < c.Base {
		s = segment{virtual: offset + c.Base - first, physical: c.Base, size: c.Size}
	}
	return s, s.virtual >= offset && s.virtual+s.size > s.virtual
}

// image is the kernel's image where it is linked to. It ends where its header says, or with
// memory or the address space.
func (k *kernelInfo) image(c *Config) (segment, bool) {
	link, ok1 := k.number("KERNEL_LINK_ADDR")
	distance, ok2 := k.number("va_kernel_pa_offset")
	moved, _ := k.hex("KERNELOFFSET") // where the addresses are random
	link += moved
	s := segment{virtual: link, physical: link - distance}
	if !ok1 || !ok2 || link < kernelHalf || link%pageBytes != 0 || s.physical%pageBytes != 0 || s.physical-c.Base >= c.Size {
		return segment{}, false
	}
	s.size = min(c.Base+c.Size-s.physical, -link)
	// arch/riscv/include/asm/image.h: image_size at 16, magic2 at 56.
	var header [64]byte
	if h := c.physical(s.physical, header[:]); len(h) == len(header) && string(h[56:60]) == "RSC\x05" {
		if size := (binary.LittleEndian.Uint64(h[16:]) + pageBytes - 1) &^ (pageBytes - 1); size > 0 {
			s.size = min(s.size, size)
		}
	}
	return s, true
}
