package metadata

import (
	"testing"

	"pgregory.net/rapid"
)

// The bitmap against a set of the plainest kind.
func TestBitmap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 300).Draw(t, "n")
		b, set := NewBitmap(n), make([]bool, n)
		for range rapid.IntRange(1, 40).Draw(t, "ops") {
			i := rapid.IntRange(0, n-1).Draw(t, "i")
			lo := rapid.IntRange(0, n).Draw(t, "lo")
			hi := rapid.IntRange(lo, n).Draw(t, "hi")
			switch rapid.IntRange(0, 7).Draw(t, "op") {
			case 0:
				if b.Set(i) == set[i] {
					t.Fatalf("Set(%d) said wrongly whether that changed anything", i)
				}
				set[i] = true
			case 1:
				if b.Clear(i) != set[i] {
					t.Fatalf("Clear(%d) said wrongly whether that changed anything", i)
				}
				set[i] = false
			case 2:
				b.SetRange(lo, hi)
				for j := lo; j < hi; j++ {
					set[j] = true
				}
			case 3:
				b.ClearRange(lo, hi)
				clear(set[lo:hi])
			case 4:
				o := NewBitmap(n)
				o.SetRange(lo, hi)
				b.Or(o)
				for j := lo; j < hi; j++ {
					set[j] = true
				}
			case 5:
				b.Fill()
				for j := range set {
					set[j] = true
				}
			case 6:
				b.Reset()
				clear(set)
			case 7:
				c := b.Clone()
				if !c.Equal(b) {
					t.Fatal("a clone differs")
				}
				if !c.Set(i) {
					c.Clear(i)
				}
				if c.Equal(b) {
					t.Fatal("a clone shares memory, or Equal is wrong")
				}
			}
			count, in := 0, 0
			next := -1
			for j := n - 1; j >= 0; j-- {
				if b.Get(j) != set[j] {
					t.Fatalf("Get(%d) is %v", j, b.Get(j))
				}
				if set[j] {
					count++
					if j >= lo && j < hi {
						in++
					}
					if j >= i {
						next = j
					}
				}
			}
			if b.Count() != count || b.CountRange(lo, hi) != in || b.AnyIn(lo, hi) != (in > 0) || b.NextSet(i) != next {
				t.Fatalf("count %d want %d; in [%d,%d) %d %v want %d; next after %d %d want %d", b.Count(), count,
					lo, hi, b.CountRange(lo, hi), b.AnyIn(lo, hi), in, i, b.NextSet(i), next)
			}
		}
		if b.NextSet(n) != -1 {
			t.Fatal("a member beyond the end")
		}
	})
}
