package bare

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"io"
	"slices"

	"ft/chipset/firmware"
)

// Signature is the memory that a test of a suite leaves behind to be compared: from
// begin_signature to end_signature.
type Signature struct {
	Addr, Size uint64
}

// Signature is where the program's signature lies.
func (p *Program) Signature(memory uint64) (Signature, error) {
	begin, ok1 := p.kernel.Symbol("begin_signature")
	end, ok2 := p.kernel.Symbol("end_signature")
	switch ram := (firmware.RAM{Base: firmware.RAMBase, Size: memory}); {
	case !ok1 || !ok2:
		return Signature{}, fmt.Errorf("%s has no signature: it lacks the symbols begin_signature and end_signature", p.name)
	case end < begin || !ram.Contains(begin, end-begin):
		return Signature{}, fmt.Errorf("%s has its signature from %#x to %#x, which is no part of its memory", p.name, begin, end)
	}
	return Signature{begin, end - begin}, nil
}

// Write writes what memory has there as Spike does (fesvr/htif.cc): lines of granularity
// bytes in hexadecimal, the byte of the highest address first; the last is filled up with
// zeros.
func (s Signature) Write(w io.Writer, ram []byte, granularity uint64) error {
	out := bufio.NewWriter(w)
	line := make([]byte, granularity)
	content := ram[s.Addr-firmware.RAMBase:][:s.Size]
	for at := uint64(0); at < s.Size; at += granularity {
		clear(line)
		copy(line, content[at:])
		slices.Reverse(line)
		out.WriteString(hex.EncodeToString(line))
		out.WriteByte('\n')
	}
	return out.Flush()
}
