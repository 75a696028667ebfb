package firmware

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// What a machine starts: a raw riscv64 Image (Linux, Documentation/arch/riscv/
// boot-image-header.rst), an ELF64 executable, or either of them compressed by gzip, alone
// or as an EFI zboot image. The file is untrusted: every offset and length in it is checked
// against what is there, and the memory it asks for against the memory that the guest has.

// Format is what a kernel was before it was taken apart.
type Format uint8

const (
	RawImage Format = iota + 1
	ELF
)

func (f Format) String() string {
	switch f {
	case RawImage:
		return "riscv64 Image"
	case ELF:
		return "riscv64 ELF"
	}
	return "unknown"
}

// Segment is a part of memory to be filled: Data, then zeros up to Size bytes.
type Segment struct {
	Addr uint64 // guest physical
	Data []byte
	Size uint64
}

// Kernel is a program ready to be placed in memory. Its segments lie in the memory it was
// read for, in ascending order, and do not overlap.
type Kernel struct {
	Format   Format
	Entry    uint64 // guest physical
	Segments []Segment

	symbols symbolTable
}

// End is the first address behind everything that the kernel occupies.
func (k *Kernel) End() uint64 {
	last := k.Segments[len(k.Segments)-1]
	return last.Addr + last.Size
}

// Symbol finds a symbol of an ELF by name: its guest physical address, and whether it is
// there.
func (k *Kernel) Symbol(name string) (addr uint64, ok bool) { return k.symbols.find(name) }

// ReadKernel takes a file apart for a guest with memory ram. name is for the errors.
func ReadKernel(name string, file []byte, ram RAM) (*Kernel, error) {
	k, err := readKernel(file, ram)
	if err != nil {
		return nil, fmt.Errorf("kernel %s: %w", name, err)
	}
	return k, nil
}

func readKernel(file []byte, ram RAM) (*Kernel, error) {
	if len(file) == 0 {
		return nil, errors.New("the file is empty; give a riscv64 Image or ELF, as is or compressed by gzip")
	}
	// A zboot image holds a compressed one: two layers are enough for anything sensible.
	for layer := 0; ; layer++ {
		packed, err := compressed(file)
		if err != nil {
			return nil, err
		}
		if packed == nil {
			break
		}
		if layer == 1 {
			return nil, errors.New("compressed twice; unpack it once with gunzip")
		}
		if file, err = gunzip(packed, ram.Size); err != nil {
			return nil, err
		}
	}
	switch {
	case bytes.HasPrefix(file, []byte(elfMagic)):
		return readELF(file, ram)
	case isImage(file):
		return readImage(file, ram)
	}
	return nil, fmt.Errorf("%s; give a riscv64 Image or ELF, as is or compressed by gzip", foreign(file))
}

// compressed finds what is compressed by gzip in file: all of it, the payload of a zboot
// image (Linux, drivers/firmware/efi/libstub/zboot-header.S), or nothing.
func compressed(file []byte) ([]byte, error) {
	if bytes.HasPrefix(file, []byte("\x1f\x8b")) {
		return file, nil
	}
	if len(file) < 64 || string(file[:2]) != "MZ" || string(file[4:8]) != "zimg" {
		return nil, nil
	}
	offset, size := binary.LittleEndian.Uint32(file[8:]), binary.LittleEndian.Uint32(file[12:])
	method, _, _ := bytes.Cut(file[24:56], []byte{0})
	if string(method) != "gzip" {
		return nil, fmt.Errorf("an EFI zboot image compressed by %q, of which only gzip is read; unpack it, or use the distribution's plain Image", method)
	}
	if uint64(offset)+uint64(size) > uint64(len(file)) {
		return nil, fmt.Errorf("an EFI zboot image of %d bytes whose payload is said to be %d bytes at %d: the file is truncated, fetch it again", len(file), size, offset)
	}
	return file[offset:][:size], nil
}

// gunzip unpacks at most what fits in the guest's memory, so that a few bytes cannot ask
// for all of the host's.
func gunzip(packed []byte, limit uint64) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("compressed by gzip, but its header does not read: %w", err)
	}
	// Kernels are followed by padding or a length, which are no further members.
	z.Multistream(false)
	var out bytes.Buffer
	n, err := io.Copy(&out, io.LimitReader(z, int64(min(limit, 1<<62))+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("compressed by gzip, but damaged or truncated after %d bytes: %w; fetch it again", n, err)
	case uint64(n) > limit:
		return nil, fmt.Errorf("unpacks to more than the guest's memory of %s; give the machine more memory", amount(limit))
	}
	return out.Bytes(), nil
}

// foreign names what a file is that is not for this machine.
func foreign(file []byte) string {
	at := func(offset int, magic string) bool {
		return len(file) >= offset+len(magic) && string(file[offset:offset+len(magic)]) == magic
	}
	switch {
	case at(0x38, "ARM\x64"):
		return "an arm64 kernel Image; this machine is riscv64"
	case at(0x202, "HdrS"):
		return "an x86 bzImage; this machine is riscv64"
	case at(0, "\x28\xb5\x2f\xfd"):
		return "compressed by zstd, which is not read: unpack it with unzstd"
	case at(0, "\xfd7zXZ\x00"):
		return "compressed by xz, which is not read: unpack it with unxz"
	case at(0, "\x02\x21\x4c\x18") || at(0, "\x04\x22\x4d\x18"):
		return "compressed by lz4, which is not read: unpack it with unlz4"
	case at(0, "BZh"):
		return "compressed by bzip2, which is not read: unpack it with bunzip2"
	case at(0, "\xd0\x0d\xfe\xed"):
		return "a device tree, not a kernel"
	case at(0, "!<arch>\n"):
		return "an archive (a Debian package?), not a kernel"
	case at(0, "070701"):
		return "an initrd (cpio), not a kernel"
	case len(file) < imageHeaderBytes:
		return fmt.Sprintf("%d bytes are less than a kernel's header: the file is truncated", len(file))
	case at(0, "MZ"):
		return "an EFI program without the riscv64 Image header"
	}
	return "neither an ELF nor a riscv64 Image (no magic at byte 56)"
}

// amount prints bytes for a person.
func amount(n uint64) string {
	switch {
	case n >= 1<<20 && n%(1<<20) == 0:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 10<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%d bytes", n)
}
