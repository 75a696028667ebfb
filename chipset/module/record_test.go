package module

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"
)

// recorded is the record of a hostile guest's first steps, and how to have the guest again.
func recorded(t *testing.T) (log []byte, again func() *Machine) {
	t.Helper()
	const seed = 1
	world := &outside{r: rand.New(rand.NewPCG(seed, 3))}
	m := newHostile(t, seed, world)
	var b bytes.Buffer
	rec := NewRecorder(&b, m, []byte("described"))
	for range 40 { // 20,000 steps, or fewer: it may come to wait for what does not come
		for _, in := range world.next(m) {
			rec.Input(m.Steps(), &in)
			if err := m.Apply(&in); err != nil {
				t.Fatal(err)
			}
		}
		m.Run(500)
	}
	if err := rec.Close(m); err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), func() *Machine { return newHostile(t, seed, &outside{}) }
}

func play(log []byte, m *Machine) (End, error) {
	rec, err := OpenRecord(bytes.NewReader(log))
	if err != nil {
		return End{}, err
	}
	return rec.Play(m, 1000)
}

// A record that was cut off anywhere is played as far as it goes; one with a byte that is
// not its own is refused, or shown to be of another run.
func TestRecordThatIsDamaged(t *testing.T) {
	log, again := recorded(t)
	if end, err := play(log, again()); err != nil || !end.Whole {
		t.Fatalf("%+v, %v", end, err)
	}
	r := rand.New(rand.NewPCG(2, 2))
	head := recordHead + len("described") + len(Digest{})
	for range 10 {
		cut := head + r.IntN(len(log)-head)
		if end, err := play(log[:cut], again()); err != nil || end.Whole {
			t.Errorf("cut at %d of %d: %+v, %v", cut, len(log), end, err)
		}
	}
	for range 30 {
		at, bit := r.IntN(len(log)), byte(1)<<r.IntN(8)
		if at >= recordHead && at < recordHead+len("described") {
			continue // says nothing about the run
		}
		bad := bytes.Clone(log)
		bad[at] ^= bit
		if end, err := play(bad, again()); err == nil && end.Whole {
			t.Errorf("bit %#x flipped in byte %d of %d: %+v", bit, at, len(log), end)
		}
	}
}

func TestRecordOfAnotherMachine(t *testing.T) {
	log, _ := recorded(t)
	if _, err := play(log, newHostile(t, 99, &outside{})); err == nil || !strings.Contains(err.Error(), "same kernel") {
		t.Errorf("played on another machine: %v", err)
	}
	if _, err := play([]byte("#!/bin/sh"), nil); err == nil {
		t.Error("a script is a record")
	}
}
