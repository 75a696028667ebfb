package nbdserver

import (
	"sync"
	"unsafe"
)

// alignment is what leg I/O wants of memory.
const alignment = 4096

// classBytes are the sizes of memory that payloads lie in.
var classBytes = [...]int{4 << 10, 16 << 10, 64 << 10, 256 << 10, partBytes}

// memory is a piece of one class, on the Go heap: what the kernel has under way on it is
// kept alive by the leg that gave it to the kernel.
type memory struct {
	data  []byte
	class int
}

// pools keep memory for reuse, and let it go when it is not used for some time.
var pools [len(classBytes)]sync.Pool

// classFor is the smallest class that holds n bytes, n at most partBytes.
func classFor(n int) int {
	c := 0
	for classBytes[c] < n {
		c++
	}
	return c
}

func takeMemory(n int) *memory {
	c := classFor(n)
	if m, ok := pools[c].Get().(*memory); ok {
		m.data = m.data[:n]
		return m
	}
	b := alignedBytes(classBytes[c])
	return &memory{data: b[:n], class: c}
}

func (m *memory) give() { pools[m.class].Put(m) }

// chargeOf is what a payload of n bytes costs, in the parts that it is cut into.
func chargeOf(n int64) int64 {
	charge := n / partBytes * partBytes
	if rest := n % partBytes; rest > 0 {
		charge += int64(classBytes[classFor(int(rest))])
	}
	return charge
}

func alignedBytes(n int) []byte {
	b := make([]byte, n+alignment)
	skip := int(-uintptr(unsafe.Pointer(unsafe.SliceData(b))) & (alignment - 1))
	return b[skip : skip+n]
}
