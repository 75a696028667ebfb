package backend

import (
	"math/bits"
	"sync"

	"golang.org/x/sys/unix"

	"ft/chipset/virtio"
)

// pool is memory for data of requests: page-aligned, as O_DIRECT wants it, outside Go's
// heap, in sizes of powers of two.
type pool struct {
	mu   sync.Mutex
	free [poolClasses][][]byte
}

const (
	poolShift   = 12 // of the smallest size
	poolClasses = 10 // 4 KiB … 2 MiB
	// poolKeep is how much of a size is kept for later.
	poolKeep = 4 << 20
)

var _ = [1]struct{}{}[virtio.BlockDataMax-1<<(poolShift+poolClasses-1)] // the largest request has the largest size

// take returns n bytes, up to virtio.BlockDataMax; nil if there is no memory. What they
// hold is unknown.
func (p *pool) take(n int) []byte {
	class := max(bits.Len(uint(max(n, 1)-1)), poolShift) - poolShift
	p.mu.Lock()
	if list := p.free[class]; len(list) > 0 {
		b := list[len(list)-1]
		p.free[class] = list[:len(list)-1]
		p.mu.Unlock()
		return b[:n]
	}
	p.mu.Unlock()
	b, err := unix.Mmap(-1, 0, 1<<(poolShift+class), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil
	}
	return b[:n]
}

// give takes back what take returned.
func (p *pool) give(b []byte) {
	b = b[:cap(b)]
	class := bits.Len(uint(cap(b))-1) - poolShift
	p.mu.Lock()
	if len(p.free[class]) < poolKeep>>(poolShift+class) {
		p.free[class] = append(p.free[class], b)
		p.mu.Unlock()
		return
	}
	p.mu.Unlock()
	_ = unix.Munmap(b)
}
