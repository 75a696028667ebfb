package cpu

import (
	"fmt"
	"iter"
	"math/bits"

	"ft/chipset/lockstep"
)

// What pages held before they were written, epoch by epoch.
//
// Invariants:
//   - The generations kept are consecutive epochs, the oldest first; the last one is the
//     present epoch, and there always is one.
//   - A generation holds each page that was written in its epoch once, as it was at the
//     epoch's beginning.
//   - Each slot of the arena is in one generation or free. The arena grows with what is
//     written, never shrinks, and its slots are used again.

const (
	pageSize = 4096

	// generationsMax bounds the epochs that are kept, the present one among them.
	generationsMax = 4

	chunkPages = 256 // by which the arena grows
)

type saved struct {
	page, slot uint32
}

// generation is an epoch that can be gone back to the beginning of.
type generation struct {
	number uint64
	pages  []saved
	state  []byte // of the machine, at the beginning
}

type undo struct {
	ram         []byte
	generations [generationsMax]generation
	kept        int
	chunks      []*[chunkPages * pageSize]byte
	free        []uint32 // slots
	restored    []uint64 // a bit for each page
}

func (u *undo) init(ram []byte) {
	u.ram = ram
	u.restored = make([]uint64, (len(ram)/pageSize+63)/64)
}

// now is the present epoch.
func (u *undo) now() *generation { return &u.generations[u.kept-1] }

// written is how many pages were written in the present epoch.
func (u *undo) written() int {
	if u.kept == 0 { // the machine is being built
		return 0
	}
	return len(u.now().pages)
}

func (u *undo) overflow() error {
	if n := u.written(); n > lockstep.PagesMax {
		return fmt.Errorf("%d pages were written in epoch %d, and there is room for %d: it had to be ended earlier", n, u.now().number, lockstep.PagesMax)
	}
	return nil
}

// save keeps what a page holds.
func (u *undo) save(page uint64) {
	if u.kept == 0 {
		return
	}
	if len(u.free) == 0 {
		first := uint32(len(u.chunks) * chunkPages)
		u.chunks = append(u.chunks, new([chunkPages * pageSize]byte))
		for i := range uint32(chunkPages) {
			u.free = append(u.free, first+chunkPages-1-i)
		}
	}
	slot := u.free[len(u.free)-1]
	u.free = u.free[:len(u.free)-1]
	copy(u.slot(slot), u.ram[page*pageSize:][:pageSize])
	g := u.now()
	g.pages = append(g.pages, saved{uint32(page), slot})
}

func (u *undo) slot(i uint32) []byte {
	return u.chunks[i/chunkPages][i%chunkPages*pageSize:][:pageSize]
}

// roomFor says whether an epoch may begin.
func (u *undo) roomFor(number uint64) error {
	if now := u.now().number; number <= now {
		return fmt.Errorf("epoch %d cannot follow epoch %d", number, now)
	}
	if u.kept == generationsMax {
		return fmt.Errorf("epoch %d would be the %dth that is kept, from %d on: they have to be committed", number, u.kept+1, u.generations[0].number)
	}
	return nil
}

// begin begins an epoch; there is room.
func (u *undo) begin(number uint64) *generation {
	u.kept++
	g := u.now()
	g.number, g.pages = number, g.pages[:0]
	return g
}

// commit forgets the epochs before one.
func (u *undo) commit(before uint64) error {
	if now := u.now().number; before > now {
		return fmt.Errorf("the present epoch is %d: what came before %d cannot be agreed yet", now, before)
	}
	for u.generations[0].number < before {
		u.drop(0)
	}
	return nil
}

// drop forgets a generation; its buffers are used again.
func (u *undo) drop(i int) {
	g := u.generations[i]
	for _, s := range g.pages {
		u.free = append(u.free, s.slot)
	}
	g.pages = g.pages[:0]
	copy(u.generations[i:], u.generations[i+1:u.kept])
	u.kept--
	u.generations[u.kept] = g
}

// reset forgets all generations.
func (u *undo) reset() {
	for u.kept > 0 {
		u.drop(u.kept - 1)
	}
}

// restore makes memory what it was at the beginning of the oldest epoch kept, which is the
// present one then, with nothing written in it. It returns the pages that it wrote, as bits.
func (u *undo) restore() []uint64 {
	clear(u.restored)
	for i := u.kept - 1; i >= 0; i-- { // the oldest content of a page is written last
		g := &u.generations[i]
		for _, s := range g.pages {
			copy(u.ram[uint64(s.page)*pageSize:], u.slot(s.slot))
			u.restored[s.page/64] |= 1 << (s.page % 64)
		}
		if i > 0 {
			u.drop(i)
			continue
		}
		for _, s := range g.pages {
			u.free = append(u.free, s.slot)
		}
		g.pages = g.pages[:0]
	}
	return u.restored
}

// bitsOf is the numbers of the bits that are set.
func bitsOf(words []uint64) iter.Seq[uint64] {
	return func(yield func(uint64) bool) {
		for i, w := range words {
			for ; w != 0; w &= w - 1 {
				if !yield(uint64(i*64 + bits.TrailingZeros64(w))) {
					return
				}
			}
		}
	}
}
