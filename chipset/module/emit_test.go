package module

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"ft/chipset/virtio"
)

// emitted keeps what was asked and not answered, by slot and ID.
type emitted struct {
	*outside
	open  map[[2]uint64]virtio.Request
	again []virtio.Request // while Emit is called
	slots []int
}

func (e *emitted) Request(slot int, r *virtio.Request) {
	kept := *r
	kept.Data = make([]byte, len(r.Data)) // a hostile guest goes on writing to it
	if e.again != nil {
		e.again, e.slots = append(e.again, kept), append(e.slots, slot)
		return
	}
	e.outside.Request(slot, r)
	if r.ID != 0 {
		e.open[[2]uint64{uint64(slot), r.ID}] = kept
	}
}

// TestEmitIsWhatIsOutside: whatever a guest has done, what Emit gives is what left and was not
// answered, in its order, and the machine is as before.
func TestEmitIsWhatIsOutside(t *testing.T) {
	kinds := map[virtio.Op]int{}
	for seed := range uint64(10) {
		e := &emitted{outside: &outside{r: rand.New(rand.NewPCG(seed, 4))}, open: map[[2]uint64]virtio.Request{}}
		m := newHostile(t, seed, e)
		for m.Steps() < hostileSteps {
			for _, in := range e.next(m) {
				if err := m.Apply(&in); err != nil {
					t.Fatal(err)
				}
				if in.Kind == InputCompletion {
					delete(e.open, [2]uint64{uint64(in.Slot), in.ID})
				}
			}
			ran, why := m.Run(1 + e.r.Uint64N(3000))
			state := m.SaveState(nil)
			e.again, e.slots = []virtio.Request{}, nil
			m.Emit()
			if !bytes.Equal(state, m.SaveState(nil)) {
				t.Fatalf("seed %d: the machine changed", seed)
			}
			last := [slotCount]uint64{}
			for i, r := range e.again {
				slot := e.slots[i]
				want, ok := e.open[[2]uint64{uint64(slot), r.ID}]
				if !ok || len(r.Data) != len(want.Data) || r.Op != want.Op || r.Sector != want.Sector || r.Length != want.Length || r.Unmap != want.Unmap || r.Stable != want.Stable {
					t.Fatalf("seed %d, slot %d: %+v is emitted, %+v left", seed, slot, r, want)
				}
				if r.ID <= last[slot] {
					t.Fatalf("seed %d, slot %d: request %d behind request %d", seed, slot, r.ID, last[slot])
				}
				last[slot] = r.ID
				kinds[r.Op]++
			}
			if len(e.again) != len(e.open) {
				t.Fatalf("seed %d: %d are emitted, %d are outside", seed, len(e.again), len(e.open))
			}
			e.again = nil
			if why == StopReset || ran == 0 && len(e.requests) == 0 && e.r.IntN(200) == 0 {
				break
			}
		}
	}
	if kinds[virtio.Write] == 0 || kinds[virtio.Read] == 0 || kinds[virtio.Entropy] == 0 {
		t.Errorf("emitted: %v", kinds)
	}
}

// breaker breaks at each request.
type breaker struct {
	*outside
	m    *Machine
	hits int
}

func (b *breaker) Request(slot int, r *virtio.Request) {
	b.outside.Request(slot, r)
	b.hits++
	if b.m != nil {
		b.m.Break()
	}
}

// TestBreakStopsBehindTheStep: a run ends behind the step that a request left at, and what the
// guest does stays the same.
func TestBreakStopsBehindTheStep(t *testing.T) {
	breaks := 0
	for seed := range uint64(10) {
		plain, broken := &outside{}, &breaker{outside: &outside{}}
		m, b := newHostile(t, seed, plain), newHostile(t, seed, broken)
		broken.m = b
		for m.Steps() < hostileSteps {
			ran, why := m.Run(5000)
			for left := ran; left > 0; {
				hits := broken.hits
				n, stop := b.Run(left)
				left -= n
				if (stop == StopBreak) != (broken.hits > hits) {
					t.Fatalf("seed %d, step %d: %v, %d requests left", seed, b.Steps(), stop, broken.hits-hits)
				}
				if stop == StopBreak {
					breaks++
					// One step less, and nothing has left.
					before := &breaker{outside: &outside{}}
					if c := newHostile(t, seed, before); c.runTo(b.Steps()-1, 1<<40) == nil && before.hits != hits {
						t.Fatalf("seed %d: it stopped at step %d, and %d of %d requests had left a step earlier", seed, b.Steps(), before.hits, broken.hits)
					}
				}
			}
			same(t, seed, "with breaks", m, b, plain, broken.outside)
			if t.Failed() || ran == 0 || why == StopReset {
				break
			}
		}
	}
	if breaks == 0 {
		t.Error("nothing ever left")
	}
}

// TestTimeIsAtLeast: a grant that the guest has run past does not turn time back, but slows it.
func TestTimeIsAtLeast(t *testing.T) {
	m := newHostile(t, 1, &outside{})
	for _, in := range []Input{
		{Kind: InputTime, Status: AtLeast, Base: 1000, Num: 1, Den: 1},
		{Kind: InputTime, Status: AtLeast, Base: 400, Num: 7, Den: 1000},
		{Kind: InputTime, Status: AtLeast, Base: 400, Num: 7, Den: 3_000_000_000},
	} {
		before := m.Time()
		if err := m.Apply(&in); err != nil {
			t.Fatal(err)
		}
		if want := max(before, in.Base); m.Time() != want {
			t.Errorf("%+v: it is %d, want %d", in, m.Time(), want)
		}
		m.Run(10)
	}
	if s := m.Hart().State(); s.TimeNum != 3 || s.TimeDen != 3_000_000_000 {
		t.Errorf("the rate is %d/%d", s.TimeNum, s.TimeDen)
	}
	if err := m.Apply(&Input{Kind: InputTime, Base: 400, Num: 1, Den: 1}); err == nil {
		t.Error("time was turned back without being asked to")
	}
	if err := m.Apply(&Input{Kind: InputTime, Status: AtLeast, Base: 400, Num: 1}); err == nil {
		t.Error("a rate without a denominator was taken")
	}
}
