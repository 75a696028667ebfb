package cpu

import (
	"bytes"
	"reflect"
	"strings"
	"testing"

	"ft/chipset/lockstep"
	"ft/chipset/module"
	"ft/chipset/virtio"
)

// TestGuestWorks: the guest of these tests does what it is there for.
func TestGuestWorks(t *testing.T) {
	w := newWorld(newExecutor(t, guest()), 1)
	for range 2000 {
		w.quantum()
	}
	var console strings.Builder
	kinds := map[virtio.Op]int{}
	why := map[lockstep.Why]int{}
	for _, records := range w.heard {
		for _, r := range records {
			switch {
			case r.Kind == lockstep.Output && r.Slot == lockstep.ConsoleSlot:
				console.Write(r.Data)
			case r.Kind == lockstep.Output:
				kinds[r.Op]++
			case r.Kind == lockstep.Ran:
				why[r.Why]++
			}
		}
	}
	if !strings.HasPrefix(console.String(), "bcdefghijklmnopabc") || kinds[virtio.Read] < 20 || kinds[virtio.Write] < 20 || kinds[virtio.Flush] < 20 {
		t.Errorf("console %q, requests %v", console.String(), kinds)
	}
	if why[lockstep.Sent] < 20 || why[lockstep.Idle] < 20 || why[lockstep.Budget] < 20 {
		t.Errorf("quanta ended: %v", why)
	}
	state := w.x.machine.Hart().State()
	if state.Scause != 0 {
		t.Errorf("it trapped: cause %d at %#x, %#x", state.Scause, state.Sepc, state.Stval)
	}
	t.Logf("%d steps; quanta ended: %v; requests: %v", w.last.Steps, why, kinds)
}

// TestTwoAreEqual: a module is a function of its stream.
func TestTwoAreEqual(t *testing.T) {
	for seed := range uint64(3) {
		w := newWorld(newExecutor(t, guest()), seed)
		for range 500 {
			w.quantum()
		}
		other := newExecutor(t, guest())
		for i, c := range w.log {
			if got := other.do(c); !reflect.DeepEqual(got, w.heard[i]) {
				t.Fatalf("seed %d, command %d, %v: %s\nand %s", seed, c.Number, c.Verb, describe(w.heard[i]), describe(got))
			}
		}
		if !bytes.Equal(w.x.cfg.RAM, other.cfg.RAM) {
			t.Errorf("seed %d: the memories differ", seed)
		}
	}
}

// again has an executor do a command of the log, and compares the answers.
func (w *world) again(x *told, i int) {
	w.x.t.Helper()
	x.number = w.log[i].Number - 1
	if got := x.do(w.log[i]); !reflect.DeepEqual(got, w.heard[i]) {
		w.x.t.Fatalf("command %d, %v: %s\nand %s", w.log[i].Number, w.log[i].Verb, describe(w.heard[i]), describe(got))
	}
}

// TestCuttingChangesNothing: the same inputs at the same steps, in other quanta.
func TestCuttingChangesNothing(t *testing.T) {
	for seed := range uint64(3) {
		w := newWorld(newExecutor(t, guest(), func(c *Config) { c.EpochPages = 200 }), seed)
		for range 500 {
			w.quantum()
		}
		other := newExecutor(t, guest(), func(c *Config) { c.EpochPages = 200 })
		for i, c := range w.log {
			if c.Verb != lockstep.Run {
				w.again(other, i)
				continue
			}
			var got []lockstep.Record
			end := lockstep.Record{}
			for left := c.A; ; {
				part := min(left, w.r.Uint64N(300))
				before := other.machine.Steps()
				other.number = c.Number - 1
				answers := other.do(lockstep.Command{Verb: lockstep.Run, A: part})
				end = answers[len(answers)-1]
				got = append(got, answers[:len(answers)-1]...)
				if left -= end.Steps - before; left == 0 || end.Why != lockstep.Budget {
					break
				}
			}
			if got = append(got, end); !reflect.DeepEqual(joined(got), joined(w.heard[i])) {
				t.Fatalf("seed %d, command %d: %s\nand %s", seed, c.Number, describe(w.heard[i]), describe(got))
			}
		}
	}
}

// joined has what the console wrote in one piece where it was cut.
func joined(records []lockstep.Record) (out []lockstep.Record) {
	for _, r := range records {
		if n := len(out); n > 0 && r.Kind == lockstep.Output && r.Slot == lockstep.ConsoleSlot && out[n-1].Kind == lockstep.Output && out[n-1].Slot == lockstep.ConsoleSlot {
			out[n-1].Data = append(bytes.Clone(out[n-1].Data), r.Data...)
			continue
		}
		out = append(out, r)
	}
	return out
}

// TestBackAndAgain: going back gives memory and state as they were at the beginning of the
// oldest epoch kept, and the same commands then give the same answers.
func TestBackAndAgain(t *testing.T) {
	for seed := range uint64(3) {
		x := newExecutor(t, guest())
		w := newWorld(x, seed)
		memory := map[uint64][]byte{0: bytes.Clone(x.cfg.RAM)}
		begins := map[uint64]int{0: 0} // first command of an epoch, in the log
		state := map[uint64]uint64{0: DigestState(x.machine.SaveState(nil))}
		for range 40 {
			for range 1 + w.r.IntN(20) {
				w.quantum()
				if n := len(w.log); w.log[n-1].Verb == lockstep.Epoch {
					memory[w.epoch], begins[w.epoch] = bytes.Clone(x.cfg.RAM), n
					state[w.epoch] = w.heard[n-1][0].State
				}
			}
			first, number, before := w.open[0], x.number, bytes.Clone(x.cfg.RAM)
			r := x.do(lockstep.Command{Verb: lockstep.Back})
			if len(r) != 1 || r[0].Kind != lockstep.Restored || r[0].State != state[first] || r[0].Dirty != 0 {
				t.Fatalf("seed %d, epoch %d: %s, state %#x", seed, first, describe(r), state[first])
			}
			checkRestored(t, r[0].Pages, before, memory[first], x.cfg.RAM)
			for i := begins[first]; i < len(w.log); i++ {
				w.again(x, i)
			}
			if x.number != number || !bytes.Equal(x.cfg.RAM, before) {
				t.Fatalf("seed %d: after the same commands memory differs", seed)
			}
		}
	}
}

func checkRestored(t *testing.T, pages []lockstep.Page, before, want, now []byte) {
	t.Helper()
	if !bytes.Equal(now, want) {
		t.Fatal("memory is not what it was")
	}
	listed := map[uint32]bool{}
	for i, p := range pages {
		listed[p.Index] = true
		if i > 0 && p.Index <= pages[i-1].Index || p.Digest != DigestPage(want[int(p.Index)*pageSize:][:pageSize]) {
			t.Fatalf("page %d, digest %#x", p.Index, p.Digest)
		}
	}
	for i := range len(want) / pageSize {
		if !bytes.Equal(before[i*pageSize:][:pageSize], want[i*pageSize:][:pageSize]) && !listed[uint32(i)] {
			t.Fatalf("page %d was written, and is not among the restored ones", i)
		}
	}
}

// TestEndedNamesWhatWasWritten: each page that differs from the epoch's beginning is in the
// answer with its digest, and the patrol has exactly the others.
func TestEndedNamesWhatWasWritten(t *testing.T) {
	x := newExecutor(t, guest())
	w := newWorld(x, 3)
	before := bytes.Clone(x.cfg.RAM)
	for range 300 {
		w.quantum()
		if w.log[len(w.log)-1].Verb == lockstep.Epoch {
			before = bytes.Clone(x.cfg.RAM)
		}
	}
	pages := x.do(lockstep.Command{Verb: lockstep.Patrol, B: ramSize / pageSize})[0].Pages
	all := x.do(lockstep.Command{Verb: lockstep.Digest, B: ramSize / pageSize})[0].Pages
	dirty := x.do(lockstep.Command{Verb: lockstep.Run})[0].Dirty
	ended := x.do(lockstep.Command{Verb: lockstep.Epoch, A: w.epoch + 1})[0]
	if len(all) != ramSize/pageSize || len(pages)+len(ended.Pages) != len(all) || int(dirty) != len(ended.Pages) || dirty == 0 {
		t.Fatalf("%d pages, %d written, %d said to be, %d not", len(all), len(ended.Pages), dirty, len(pages))
	}
	written := map[uint32]bool{}
	for _, p := range ended.Pages {
		written[p.Index] = true
		if p != all[p.Index] {
			t.Errorf("page %d: %#x and %#x", p.Index, p.Digest, all[p.Index].Digest)
		}
	}
	for _, p := range pages {
		if written[p.Index] || p != all[p.Index] || !bytes.Equal(before[p.Index*pageSize:][:pageSize], x.cfg.RAM[p.Index*pageSize:][:pageSize]) {
			t.Errorf("page %d is said not to be written", p.Index)
		}
	}
}

// TestFullEpoch: no step is run from the page on that is one too many, until the epoch ends.
func TestFullEpoch(t *testing.T) {
	x := newExecutor(t, guest(), func(c *Config) { c.EpochPages = 50 })
	w := newWorld(x, 1)
	for w.last.Why != lockstep.Full {
		w.do(lockstep.Command{Verb: lockstep.Run, A: 1000})
		for len(w.requests) > 0 {
			q := w.requests[0]
			w.requests = w.requests[1:]
			w.answer(&q)
		}
	}
	full := w.last
	if full.Dirty < 50 || full.Dirty > 52 {
		t.Errorf("it is full with %d pages", full.Dirty)
	}
	for range 3 {
		if r := w.do(lockstep.Command{Verb: lockstep.Run, A: 1000})[0]; r.Why != lockstep.Full || r.Steps != full.Steps || r.State != full.State {
			t.Fatalf("%+v", r)
		}
	}
	w.endEpoch()
	if r := w.do(lockstep.Command{Verb: lockstep.Run, A: 1}); r[len(r)-1].Steps != full.Steps+1 {
		t.Error("it does not run on in the next epoch")
	}
}

// TestEmitAndLoad: what is outside leaves again as it was, from the module and from one that
// took over its memory and state; and both go on alike.
func TestEmitAndLoad(t *testing.T) {
	w := newWorld(newExecutor(t, guest()), 9)
	emitted := 0
	for range 100 {
		w.quantum()
		outside := append([]lockstep.Record(nil), w.requests...)
		number := w.x.number
		copied := newExecutor(t, guest())
		copy(copied.cfg.RAM, w.x.cfg.RAM)
		saved := w.x.do(lockstep.Command{Verb: lockstep.Save})[0]
		if r := copied.do(lockstep.Command{Verb: lockstep.Load, A: w.epoch, Data: saved.Data})[0]; r.Kind != lockstep.Loaded || r.State != saved.State || r.Dirty != 0 {
			t.Fatalf("%+v", r)
		}
		for _, x := range []*told{w.x, copied} {
			got := x.do(lockstep.Command{Verb: lockstep.Emit})
			if ran := got[len(got)-1]; ran.Kind != lockstep.Ran || ran.Steps != w.last.Steps || len(got)-1 != len(outside) {
				t.Fatalf("%s; %d are outside", describe(got), len(outside))
			}
			for i, r := range got[:len(got)-1] {
				want := outside[place(outside, r.ID)]
				want.Number = r.Number
				if i > 0 && r.ID <= got[i-1].ID || !reflect.DeepEqual(r, want) {
					t.Fatalf("%+v was %+v", r, want)
				}
				emitted++
			}
		}
		w.x.number = number
	}
	if emitted < 20 {
		t.Errorf("%d were emitted again", emitted)
	}
	// The last copy goes on as the original does.
	copied := newExecutor(t, guest())
	copy(copied.cfg.RAM, w.x.cfg.RAM)
	copied.do(lockstep.Command{Verb: lockstep.Load, A: w.epoch + 1, Data: w.x.do(lockstep.Command{Verb: lockstep.Save})[0].Data})
	w.endEpoch()
	from := len(w.log)
	for range 200 {
		w.quantum()
	}
	for i := from; i < len(w.log); i++ {
		w.again(copied, i)
	}
}

func place(records []lockstep.Record, id uint64) int {
	for i, r := range records {
		if r.ID == id {
			return i
		}
	}
	return -1
}

// TestBadCommands: they end the module, with a sentence.
func TestBadCommands(t *testing.T) {
	for _, c := range []struct {
		what string
		do   []lockstep.Command
		want string
	}{
		{"an epoch that has been", []lockstep.Command{{Verb: lockstep.Epoch, A: 5}, {Verb: lockstep.Epoch, A: 5}}, "epoch 5 cannot follow epoch 5"},
		{"too many epochs", []lockstep.Command{{Verb: lockstep.Epoch, A: 1}, {Verb: lockstep.Epoch, A: 2}, {Verb: lockstep.Epoch, A: 3}, {Verb: lockstep.Epoch, A: 4}}, "would be the 5th that is kept, from 0 on"},
		{"a commit of the future", []lockstep.Command{{Verb: lockstep.Commit, A: 1}}, "cannot be agreed yet"},
		{"no input", []lockstep.Command{{Verb: lockstep.Apply, Data: []byte("x")}}, "encoded input"},
		{"an input for nobody", []lockstep.Command{encoded(0x77)}, "kind 119"},
		{"pages outside", []lockstep.Command{{Verb: lockstep.Patrol, A: 1 << 40, B: 1}}, "there are 1024"},
		{"too many pages", []lockstep.Command{{Verb: lockstep.Digest, B: 1 << 40}}, "go into an answer"},
		{"no state", []lockstep.Command{{Verb: lockstep.Load, Data: []byte("x")}}, "the state of a machine ends too early"},
		{"no fault", []lockstep.Command{{Verb: lockstep.Fault, Data: []byte(`{"name":"rust"}`)}}, `no fault "rust"`},
		{"no verb", []lockstep.Command{{Verb: 99}}, "nothing that a CPU module does"},
		{"the end", []lockstep.Command{{Verb: lockstep.End}}, ErrEnd.Error()},
	} {
		x := newExecutor(t, guest())
		var err error
		for i := range c.do {
			if err != nil {
				t.Errorf("%s: command %d: %v", c.what, i, err)
			}
			err = x.Do(&c.do[i])
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.what, err)
		}
	}
}

func encoded(kind module.InputKind) lockstep.Command {
	return lockstep.EncodeInput(&module.Input{Kind: kind})
}

// TestQuantumAllocatesNothing in steady state.
func TestQuantumAllocatesNothing(t *testing.T) {
	x := newExecutor(t, guest(), func(c *Config) { c.Send = func(*lockstep.Record) {} })
	c := lockstep.Command{Verb: lockstep.Run, A: 20}
	input := lockstep.EncodeInput(&module.Input{Kind: module.InputTime, Status: module.AtLeast, Num: 1, Den: 10})
	for range 50 {
		_ = x.Do(&c)
	}
	if n := testing.AllocsPerRun(100, func() {
		if x.Do(&input) != nil || x.Do(&c) != nil {
			t.Error("a quantum failed")
		}
	}); n > 0 {
		t.Errorf("%v allocations a quantum", n)
	}
}

// TestBackOverManyPages: several epochs in which more pages were written than go into an
// answer are gone back over all the same.
func TestBackOverManyPages(t *testing.T) {
	const size = 96 << 20
	x := newExecutor(t, benchGuest(90<<20), func(c *Config) { c.RAM = make([]byte, size) })
	before := bytes.Clone(x.cfg.RAM)
	for epoch := range uint64(generationsMax) {
		if epoch > 0 {
			x.do(lockstep.Command{Verb: lockstep.Epoch, A: epoch})
		}
		if r := x.do(lockstep.Command{Verb: lockstep.Run, A: 1 << 30})[0]; r.Why != lockstep.Full {
			t.Fatalf("%+v", r)
		}
	}
	r := x.do(lockstep.Command{Verb: lockstep.Back})[0]
	if len(r.Pages) != lockstep.PagesMax || !bytes.Equal(x.cfg.RAM, before) || r.Steps != 0 {
		t.Errorf("%d pages, step %d", len(r.Pages), r.Steps)
	}
	if len(x.undo.free) != len(x.undo.chunks)*chunkPages {
		t.Errorf("%d of %d saved pages are free", len(x.undo.free), len(x.undo.chunks)*chunkPages)
	}
}
