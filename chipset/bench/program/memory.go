package main

// Work that waits for memory, or for the translation of its addresses.

const (
	lineWords = 8       // of a cache line, in words of eight bytes
	chaseLen  = 1 << 18 // lines: 16 MiB in 4096 pages, far more than any TLB has
	streamLen = 1 << 20 // words of each of three arrays: 8 MiB
)

// chase follows a chain of 2^18 loads a round through all of 16 MiB, in an order
// without any pattern; each load has the address of the next.
func chase(rounds int) uint64 {
	lines := make([]uint64, chaseLen*lineWords)
	// Sattolo's shuffle makes one cycle of all lines.
	order := make([]uint32, chaseLen)
	for i := range order {
		order[i] = uint32(i)
	}
	r := random(1)
	for i := chaseLen - 1; i > 0; i-- {
		j := r.next() % uint64(i)
		order[i], order[j] = order[j], order[i]
	}
	for i, next := range order {
		lines[i*lineWords] = uint64(next) * lineWords
	}
	sum, at := foldStart, uint64(0)
	for range rounds {
		for range 1 << 18 {
			at = lines[at]
		}
		sum = fold(sum, at)
	}
	return sum
}

// stream reads two arrays and writes a third, from end to end (the triad of McCalpin's
// STREAM, on integers).
func stream(rounds int) uint64 {
	a, b, c := make([]uint64, streamLen), make([]uint64, streamLen), make([]uint64, streamLen)
	for i := range b {
		b[i], c[i] = uint64(i), uint64(i)*0x9e3779b97f4a7c15
	}
	sum := foldStart
	for round := range rounds {
		triad(a, b, c, uint64(round)|1)
		sum = fold(sum, a[uint64(round)*0x10001%streamLen])
		a, b, c = b, c, a
	}
	return sum
}

func triad(a, b, c []uint64, factor uint64) {
	for i := range a {
		a[i] = b[i] + factor*c[i]
	}
}

// random is a xorshift generator (Marsaglia, 2003).
type random uint64

func (r *random) next() uint64 {
	x := uint64(*r)
	x ^= x << 13
	x ^= x >> 7
	x ^= x << 17
	*r = random(x)
	return x
}
