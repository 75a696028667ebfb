// Package payload is memory for the payloads of requests: aligned as leg I/O wants it, in a
// few sizes, kept for reuse and let go of when it is not used for some time. It lies on the
// Go heap; what the kernel has under way on it is kept alive by the leg that gave it to the
// kernel. The bound is the user's.
package payload

import (
	"sync"
	"unsafe"
)

// Max is the most that one Memory holds.
const Max = 1 << 20

const alignment = 4096

var classBytes = [...]int{4 << 10, 16 << 10, 64 << 10, 256 << 10, Max}

var pools [len(classBytes)]sync.Pool

// Memory is memory for one payload.
type Memory struct {
	Data  []byte
	class int
}

// classFor is the smallest class that holds n bytes.
func classFor(n int) int {
	c := 0
	for classBytes[c] < n {
		c++
	}
	return c
}

// Take gives memory for n bytes, at most Max.
func Take(n int) *Memory {
	c := classFor(n)
	if m, ok := pools[c].Get().(*Memory); ok {
		m.Data = m.Data[:n]
		return m
	}
	return &Memory{Data: Aligned(classBytes[c])[:n], class: c}
}

// Give takes memory back. Nothing may refer to it any more.
func (m *Memory) Give() { pools[m.class].Put(m) }

// Bytes is what the memory takes up.
func (m *Memory) Bytes() int64 { return int64(classBytes[m.class]) }

// Charge is what payloads of n bytes in all take up, in parts of Max.
func Charge(n int64) int64 {
	charge := n / Max * Max
	if rest := n % Max; rest > 0 {
		charge += int64(classBytes[classFor(int(rest))])
	}
	return charge
}

// Aligned is memory that is nobody's.
func Aligned(n int) []byte {
	b := make([]byte, n+alignment)
	skip := int(-uintptr(unsafe.Pointer(unsafe.SliceData(b))) & (alignment - 1))
	return b[skip : skip+n]
}
