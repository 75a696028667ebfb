package sim

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"unsafe"
)

// A sector that a client wrote holds its value and its own number, over and over, so
// that a misplaced, torn or scribbled sector is known for what it is.

const (
	stampSize  = 16
	stampMagic = 0x66742e73 // "s.tf"
)

// fill makes buf what a write of v at sector first stores.
func fill(buf []byte, v value, first int64) {
	for o := 0; o < len(buf); o += sectorSize {
		s := buf[o : o+sectorSize]
		binary.LittleEndian.PutUint32(s, v)
		binary.LittleEndian.PutUint32(s[4:], stampMagic)
		binary.LittleEndian.PutUint64(s[8:], uint64(first)+uint64(o/sectorSize))
		for n := stampSize; n < sectorSize; n *= 2 {
			copy(s[n:], s[:n])
		}
	}
}

// valueOf is the value that sector i holds.
func valueOf(s []byte, i int64) (value, error) {
	v := binary.LittleEndian.Uint32(s)
	magic := binary.LittleEndian.Uint32(s[4:])
	at := binary.LittleEndian.Uint64(s[8:])
	if !bytes.Equal(s[stampSize:sectorSize], s[:sectorSize-stampSize]) {
		return 0, fmt.Errorf("holds a mixture within one sector (it begins with % x)", s[:stampSize])
	}
	switch {
	case v == 0 && magic == 0 && at == 0:
		return 0, nil
	case magic != stampMagic || v == 0:
		return 0, fmt.Errorf("holds what no client wrote (% x)", s[:stampSize])
	case at != uint64(i):
		return 0, fmt.Errorf("holds w%d of sector %d", v, at)
	}
	return v, nil
}

// buffers hands out memory aligned to 4096 and keeps it for the next seed. What lies in it
// is garbage (scribble): put makes it so.
type buffers struct {
	free [len(bufferSizes)][][]byte
	// out has what was handed out and not put back. What an engine that is no more had may
	// still be used by its I/O: it comes back with the end of the seed.
	out map[*byte][]byte
}

// Classes of buffers: small requests are most of them.
var bufferSizes = [...]int{16 << 10, 128 << 10, 1 << 20, 2 << 20}

func (p *buffers) get(n int) []byte {
	for c, size := range bufferSizes {
		if n > size {
			continue
		}
		var b []byte
		if k := len(p.free[c]); k > 0 {
			b = p.free[c][k-1]
			p.free[c] = p.free[c][:k-1]
		} else {
			b = aligned(size)
			scribble(b)
		}
		if p.out == nil {
			p.out = map[*byte][]byte{}
		}
		p.out[unsafe.SliceData(b)] = b
		return b[:n]
	}
	panic(fmt.Sprintf("sim: a buffer of %d bytes", n))
}

// put takes memory back; from now on it is garbage.
func (p *buffers) put(b []byte) {
	scribble(b)
	key := unsafe.SliceData(b)
	whole, ok := p.out[key]
	if !ok {
		panic("sim: a buffer that is not ours")
	}
	delete(p.out, key)
	p.keep(whole)
}

func (p *buffers) keep(whole []byte) {
	for c, size := range bufferSizes {
		if len(whole) == size {
			p.free[c] = append(p.free[c], whole)
		}
	}
}

// reset takes everything back.
func (p *buffers) reset() {
	for _, b := range p.out {
		scribble(b)
		p.keep(b)
	}
	clear(p.out)
}

func aligned(n int) []byte {
	b := make([]byte, n+pageSize)
	o := int(-address(b) & (pageSize - 1))
	return b[o : o+n : o+n]
}

func address(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }

// overlap says whether two pieces of memory have bytes in common.
func overlap(a, b []byte) bool {
	if len(a) == 0 || len(b) == 0 {
		return false
	}
	x, y := address(a), address(b)
	return x < y+uintptr(len(b)) && y < x+uintptr(len(a))
}
