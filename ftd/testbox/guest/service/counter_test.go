package main

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

func counterIn(t *testing.T, dir string) *counter {
	t.Helper()
	c, err := openCounter(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.close() })
	return c
}

func TestCounterGoesOn(t *testing.T) {
	dir := t.TempDir()
	for want := uint64(1); want <= 5; want++ {
		c := counterIn(t, dir) // another process each time
		if n, err := c.next(); err != nil || n != want {
			t.Fatalf("counted %d, %v; want %d", n, err, want)
		}
	}
}

func TestCounterGivesEachNumberOnce(t *testing.T) {
	const callers, calls = 20, 50
	c := counterIn(t, t.TempDir())
	got := make([][]uint64, callers)
	var all sync.WaitGroup
	for i := range callers {
		all.Go(func() {
			for range calls {
				n, err := c.next()
				if err != nil {
					t.Error(err)
					return
				}
				got[i] = append(got[i], n)
			}
			if !slices.IsSorted(got[i]) {
				t.Errorf("a caller was given a smaller number than before: %v", got[i])
			}
		})
	}
	all.Wait()
	numbers := slices.Sorted(slices.Values(slices.Concat(got...)))
	for i, n := range numbers {
		if n != uint64(i+1) {
			t.Fatalf("number %d is %d", i+1, n)
		}
	}
	if len(numbers) != callers*calls || c.value() != callers*calls {
		t.Errorf("%d numbers given, value %d", len(numbers), c.value())
	}
}

// TestCounterNeverGoesBack, whatever a write that a crash has cut off left in its sector.
func TestCounterNeverGoesBack(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	dir := t.TempDir()
	path := filepath.Join(dir, counterName)
	var acknowledged uint64
	for range 200 {
		c := counterIn(t, dir)
		for range r.IntN(4) {
			n, err := c.next()
			if err != nil || n <= acknowledged {
				t.Fatalf("counted %d after %d, %v (seed %d)", n, acknowledged, err, seed)
			}
			acknowledged = n
		}
		// The next write, torn: some of its bytes, or others, in the slot that is next.
		torn := make([]byte, slotUsed)
		for i := range torn {
			torn[i] = byte(r.Uint32())
		}
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(torn[:r.IntN(len(torn))], c.slot*slotBytes); err != nil {
			t.Fatal(err)
		}
		f.Close()
		c.close()
	}
}

func TestCounterThatFailedStaysFailed(t *testing.T) {
	c := counterIn(t, t.TempDir())
	if _, err := c.next(); err != nil {
		t.Fatal(err)
	}
	c.file.Close()
	for range 2 {
		if n, err := c.next(); err == nil {
			t.Errorf("counted %d without a file", n)
		}
	}
	if c.value() != 1 {
		t.Errorf("value %d, want what was stable", c.value())
	}
}

func TestDamagedCounterIsRefused(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, counterName), []byte(strings.Repeat("x", 2*slotBytes)), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := openCounter(dir); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("a counter of rubbish: %v", err)
	}
}
