package metadata

import "math/bits"

// Bitmap is a set of small integers below Len, kept with its size.
type Bitmap struct {
	words []uint64
	n     int
	count int
}

// NewBitmap makes an empty set of integers below n.
func NewBitmap(n int) *Bitmap { return &Bitmap{words: make([]uint64, (n+63)/64), n: n} }

// Len is the bound of the members, Count how many there are.
func (b *Bitmap) Len() int { return b.n }

// Count is the number of members.
func (b *Bitmap) Count() int { return b.count }

// Get says whether i is a member.
func (b *Bitmap) Get(i int) bool { return b.words[i>>6]>>(i&63)&1 != 0 }

// Set adds i and says whether that changed anything.
func (b *Bitmap) Set(i int) bool {
	w, m := &b.words[i>>6], uint64(1)<<(i&63)
	if *w&m != 0 {
		return false
	}
	*w |= m
	b.count++
	return true
}

// Clear removes i and says whether that changed anything.
func (b *Bitmap) Clear(i int) bool {
	w, m := &b.words[i>>6], uint64(1)<<(i&63)
	if *w&m == 0 {
		return false
	}
	*w &^= m
	b.count--
	return true
}

// SetRange adds lo up to but not including hi.
func (b *Bitmap) SetRange(lo, hi int) {
	b.eachWord(lo, hi, func(w int, mask uint64) { b.setWord(w, b.words[w]|mask) })
}

// ClearRange removes lo up to but not including hi.
func (b *Bitmap) ClearRange(lo, hi int) {
	b.eachWord(lo, hi, func(w int, mask uint64) { b.setWord(w, b.words[w]&^mask) })
}

// CountRange is the number of members from lo up to but not including hi.
func (b *Bitmap) CountRange(lo, hi int) (n int) {
	b.eachWord(lo, hi, func(w int, mask uint64) { n += bits.OnesCount64(b.words[w] & mask) })
	return n
}

// eachWord visits the words that hold lo up to but not including hi, with a mask of
// those of their bits that are meant.
func (b *Bitmap) eachWord(lo, hi int, visit func(w int, mask uint64)) {
	if lo < 0 || hi > b.n {
		panic("metadata: bitmap range out of bounds")
	}
	for lo < hi {
		w := lo >> 6
		end := min(hi, (w+1)<<6)
		visit(w, ^uint64(0)>>(64-(end-lo))<<(lo&63))
		lo = end
	}
}

func (b *Bitmap) setWord(w int, v uint64) {
	b.count += bits.OnesCount64(v) - bits.OnesCount64(b.words[w])
	b.words[w] = v
}

// NextSet is the first member at or after i, or -1.
func (b *Bitmap) NextSet(i int) int {
	if i >= b.n {
		return -1
	}
	w := i >> 6
	for v := b.words[w] >> (i & 63) << (i & 63); ; v = b.words[w] {
		if v != 0 {
			return w<<6 + bits.TrailingZeros64(v)
		}
		if w++; w == len(b.words) {
			return -1
		}
	}
}

// AnyIn says whether there is a member from lo up to but not including hi.
func (b *Bitmap) AnyIn(lo, hi int) bool {
	i := b.NextSet(lo)
	return i >= 0 && i < hi
}

// Or adds the members of o, which has the same Len.
func (b *Bitmap) Or(o *Bitmap) {
	b.count = 0
	for i := range b.words {
		b.words[i] |= o.words[i]
		b.count += bits.OnesCount64(b.words[i])
	}
}

// Reset empties the set, Fill makes it full.
func (b *Bitmap) Reset() { clear(b.words); b.count = 0 }

// Fill adds every integer below Len.
func (b *Bitmap) Fill() {
	for i := range b.words {
		b.words[i] = ^uint64(0)
	}
	if r := b.n & 63; r != 0 {
		b.words[len(b.words)-1] = 1<<r - 1
	}
	b.count = b.n
}

// Clone is a copy.
func (b *Bitmap) Clone() *Bitmap {
	c := *b
	c.words = append([]uint64(nil), b.words...)
	return &c
}

// Equal says whether both have the same members.
func (b *Bitmap) Equal(o *Bitmap) bool {
	if b.n != o.n || b.count != o.count {
		return false
	}
	for i := range b.words {
		if b.words[i] != o.words[i] {
			return false
		}
	}
	return true
}
