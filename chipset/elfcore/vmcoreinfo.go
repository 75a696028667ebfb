package elfcore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
)

// VMCOREINFO: what a Linux kernel says about itself, lines of text that it keeps in a page
// of its own and, as a note for its own dumps, at the start of another
// (kernel/vmcore_info.c: vmcoreinfo_data, vmcoreinfo_note). Nobody tells where; so it is
// searched for in all of memory, at the starts of pages.

const (
	infoName  = "VMCOREINFO"
	infoMax   = 4096 // VMCOREINFO_BYTES
	infoFirst = "OSRELEASE="
	infoHead  = 12 + 12 // of the note: sizes and type, the name
)

// kernelInfo is a kernel's VMCOREINFO.
type kernelInfo struct{ text []byte }

// errFound ends the search.
var errFound = errors.New("found")

// findInfo finds the kernel's VMCOREINFO; nil where there is none.
func findInfo(ctx context.Context, c *Config) (found *kernelInfo, err error) {
	err = pieces(ctx, c, func(from uint64, p []byte) error {
		for ; len(p) > 0; p, from = p[pageBytes:], from+pageBytes {
			if found = c.infoAt(from, p[:pageBytes]); found != nil {
				return errFound
			}
		}
		return nil
	})
	if err != nil && !errors.Is(err, errFound) {
		return nil, fmt.Errorf("search for what the kernel says about itself: %w", err)
	}
	return found, nil
}

// infoAt is the VMCOREINFO at the start of a page, whose offset in memory is at.
func (c *Config) infoAt(at uint64, page []byte) *kernelInfo {
	var text []byte
	switch size := binary.LittleEndian.Uint32(page[4:]); {
	case bytes.HasPrefix(page, []byte(infoFirst)):
		text, _, _ = bytes.Cut(page, []byte{0})
	case binary.LittleEndian.Uint32(page) == uint32(len(infoName)+1) && binary.LittleEndian.Uint32(page[8:]) == ntVMCoreInfo &&
		bytes.HasPrefix(page[12:], []byte(infoName+"\x00")) && size <= infoMax:
		text = c.physical(c.Base+at+infoHead, make([]byte, size))
	default:
		return nil
	}
	k := &kernelInfo{bytes.Clone(text)}
	if !k.plausible() || !k.ofThisKernel(c) {
		return nil
	}
	return k
}

// plausible says whether the text is one that a kernel writes.
func (k *kernelInfo) plausible() bool {
	for _, b := range k.text {
		if b != '\n' && (b < ' ' || b > '~') {
			return false
		}
	}
	return bytes.HasPrefix(k.text, []byte(infoFirst)) && bytes.HasSuffix(k.text, []byte("\n")) &&
		bytes.Contains(k.text, []byte("\nPAGESIZE=4096\n")) && bytes.Contains(k.text, []byte("\nSYMBOL("))
}

// ofThisKernel says whether the kernel's own name lies where the text has it: a copy of a
// text, of a kernel that ran before or in a file that was read, has mostly no such kernel.
func (k *kernelInfo) ofThisKernel(c *Config) bool {
	symbol, ok1 := k.hex("SYMBOL(init_uts_ns)")
	image, ok2 := k.image(c)
	if !ok1 || !ok2 {
		return true // an old kernel does not say where its image lies
	}
	release, _ := k.value("OSRELEASE")
	off := symbol - image.virtual
	return off < image.size && bytes.Contains(c.physical(image.physical+off, make([]byte, utsBytes)), append(bytes.Clone(release), 0))
}

// utsBytes reaches behind the release in struct uts_namespace, which begins with six fields
// of 65 bytes, or with a counter before them.
const utsBytes = 512

// value is what stands behind a name and "=".
func (k *kernelInfo) value(name string) ([]byte, bool) {
	for line := range bytes.Lines(k.text) {
		if v, ok := bytes.CutPrefix(line, []byte(name+"=")); ok {
			return bytes.TrimSuffix(v, []byte("\n")), true
		}
	}
	return nil, false
}

// number is a NUMBER: decimal with a sign, or hexadecimal with 0x before it.
func (k *kernelInfo) number(name string) (uint64, bool) {
	text, _ := k.value("NUMBER(" + name + ")")
	if v, err := strconv.ParseInt(string(text), 10, 64); err == nil {
		return uint64(v), true
	}
	v, err := strconv.ParseUint(string(text), 0, 64)
	return v, err == nil
}

// hex is a value that is hexadecimal without saying so.
func (k *kernelInfo) hex(name string) (uint64, bool) {
	text, _ := k.value(name)
	v, err := strconv.ParseUint(string(text), 16, 64)
	return v, err == nil
}
