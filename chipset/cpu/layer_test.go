package cpu

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"ft/chipset/lockstep"
)

func inject(t testing.TB, inj lockstep.Injection) lockstep.Command {
	t.Helper()
	b, err := json.Marshal(inj)
	if err != nil {
		t.Fatal(err)
	}
	return lockstep.Command{Verb: lockstep.Fault, Data: b}
}

// recorded is a run of the guest without faults.
func recorded(t testing.TB, seed uint64) *world {
	w := newWorld(newExecutor(t, guest()), seed)
	for range 300 {
		w.quantum()
	}
	return w
}

// play has an executor run the log up to a step, in runs of up to quantum steps, and returns
// what it told of its fault. What it does behind the fault is its own: it may end early.
func (w *world) play(x *told, to, quantum uint64) (told []lockstep.Record) {
	take := func(c lockstep.Command) bool {
		x.records = nil
		err := x.Do(&c)
		for _, r := range x.records {
			if r.Kind == lockstep.Injected {
				told = append(told, r)
			}
		}
		return err == nil
	}
	for _, c := range w.log {
		if c.Verb != lockstep.Run {
			if !take(c) {
				return told
			}
			continue
		}
		for left := c.A; ; {
			before := x.machine.Steps()
			part := min(left, quantum, to-before)
			if !take(lockstep.Command{Verb: lockstep.Run, A: part}) || x.machine.Steps() == to {
				return told
			}
			left -= x.machine.Steps() - before
			if left == 0 || x.rec.Why != lockstep.Budget {
				break
			}
		}
	}
	return told
}

func number(n int) *int { return &n }

func address(a uint64) *uint64 { return &a }

// drills are faults of all names.
func drills() (all []lockstep.Injection) {
	for seed := range uint64(3) {
		for _, name := range Faults() {
			if name != slow && name != BadCode { // that is for translators: chipset/engine
				all = append(all, lockstep.Injection{Name: name, Seed: seed, Step: 20_000 + 7919*seed})
			}
		}
	}
	for _, class := range classes {
		all = append(all, lockstep.Injection{Name: wrongResult, Class: class, Step: 30_000, Bit: number(2)})
	}
	return append(all,
		lockstep.Injection{Name: flipRegister, Register: number(33), Bit: number(51), Step: 12_345},
		lockstep.Injection{Name: stuck, Register: number(29), Bit: number(9), Seed: 1, Step: 12_345},
		lockstep.Injection{Name: stuck, Register: number(32), Bit: number(3), Seed: 1, Step: 12_345},
		lockstep.Injection{Name: flipCSR, CSR: "stvec", Bit: number(4), Step: 12_345},
		lockstep.Injection{Name: flipCSR, CSR: "Satp", Bit: number(3), Step: 12_345},
		lockstep.Injection{Name: flipMemory, Address: address(ramBase + 0x480), Bit: number(4), Step: 12_345}, // code
		lockstep.Injection{Name: flipMemory, Address: address(guestLeaves + 8*0x20), Bit: number(1), Step: 12_345},
		lockstep.Injection{Name: loseStore, Step: 0},
		lockstep.Injection{Name: doubleStore, Step: 0},
	)
}

// TestFaultsAreExact: the module is the same up to the step that is told, and another one from
// there on; however its runs are cut.
func TestFaultsAreExact(t *testing.T) {
	w := recorded(t, 4)
	for _, inj := range drills() {
		name := fmt.Sprintf("%+v", inj)
		run := func(to, quantum uint64, faulty bool) (*told, []lockstep.Record) {
			x := newExecutor(t, guest())
			if faulty {
				x.do(inject(t, inj))
			}
			return x, w.play(x, to, quantum)
		}
		_, first := run(100_000, 1000, true)
		if len(first) == 0 && inj.Name == stuck && inj.Register == nil {
			continue // at what the bit is anyway
		}
		if len(first) != 1 || first[0].Steps < inj.Step {
			t.Fatalf("%s: it told %d times", name, len(first))
		}
		at := first[0].Steps
		t.Logf("%s of seed %d: step %d: %s", inj.Name, inj.Seed, at, first[0].Data)
		cut, second := run(at+10, 7, true)
		first[0].Number, second[0].Number = 0, 0
		if len(second) != 1 || !reflect.DeepEqual(first, second) {
			t.Errorf("%s: cut in another way it tells %s", name, second[0].Data)
		}
		whole, _ := run(at+10, 1<<40, true)
		if !alike(whole, cut) {
			t.Errorf("%s: cut in another way it goes another way", name)
		}
		if at > 0 {
			x, told := run(at-1, 1000, true)
			if y, _ := run(at-1, 1000, false); !alike(x, y) || len(told) > 0 {
				t.Errorf("%s: something differs before step %d", name, at)
			}
		}
		x, _ := run(at, 1000, true)
		x.do(lockstep.Command{Verb: lockstep.Run}) // what happens between two steps happens now
		if y, _ := run(at, 1000, false); alike(x, y) {
			t.Errorf("%s: nothing differs at step %d", name, at)
		}
	}
}

func alike(x, y *told) bool {
	return bytes.Equal(x.machine.SaveState(nil), y.machine.SaveState(nil)) && bytes.Equal(x.cfg.RAM, y.cfg.RAM)
}

// TestFaultsAndTheWayBack: what happens once does not come again by going back, and what
// lasts does; both come again when they are asked for again, and are gone when cleared.
func TestFaultsAndTheWayBack(t *testing.T) {
	for _, inj := range drills() {
		if inj.Name == flipMemory && inj.Address == nil {
			continue // it may hit a page that nobody writes, which stays as it is
		}
		x := newExecutor(t, guest())
		epoch := uint64(0)
		begin := func() {
			epoch++
			x.do(lockstep.Command{Verb: lockstep.Epoch, A: epoch})
			x.do(lockstep.Command{Verb: lockstep.Commit, A: epoch})
		}
		again := func() []lockstep.Record {
			x.records = nil
			var all []lockstep.Record
			for range 4 { // inputs do not matter here: the guest works from its start on
				if err := x.Do(&lockstep.Command{Verb: lockstep.Run, A: 1000}); err != nil {
					t.Fatal(err)
				}
			}
			all = append(all, x.records...)
			x.do(lockstep.Command{Verb: lockstep.Back})
			return all
		}
		x.do(lockstep.Command{Verb: lockstep.Run, A: 1000})
		begin()
		clean := again()
		inj.Step = 1500
		command := inject(t, inj)
		for range 2 {
			x.do(command)
			faulty := again()
			told := 0
			for _, r := range faulty {
				if r.Kind == lockstep.Injected {
					told++
				}
			}
			if told != 1 && inj.Name != wrongResult && inj.Name != stuck { // of what the guest does not do there
				t.Errorf("%+v: told %d times", inj, told)
			}
			inMemory := inj.Name == flipMemory // the page may not have been written in this epoch
			if repeated := again(); Persistent(inj.Name) && told == 1 && reflect.DeepEqual(repeated, clean) {
				t.Errorf("%+v: it is gone after going back", inj)
			} else if !Persistent(inj.Name) && !inMemory && !reflect.DeepEqual(repeated, clean) {
				t.Errorf("%+v: it came again: %s\nand %s", inj, describe(repeated), describe(clean))
			}
			if inMemory {
				x.cfg.RAM[*inj.Address-ramBase] ^= 1 << *inj.Bit
				x.do(lockstep.Command{Verb: lockstep.Back}) // nothing derived from it stays
			}
			x.do(lockstep.Command{Verb: lockstep.Fault})
			if repeated := again(); !reflect.DeepEqual(repeated, clean) {
				t.Errorf("%+v: it is not gone though it was cleared", inj)
			}
		}
	}
}

// TestFlippedMemoryIsNotSeenAsWritten: the epoch's end does not name the page; the patrol
// finds it.
func TestFlippedMemoryIsNotSeenAsWritten(t *testing.T) {
	at := uint64(ramBase + 3<<20 + 0x123) // the guest does not go there
	page := uint32((at - ramBase) / pageSize)
	x := newExecutor(t, guest())
	x.do(lockstep.Command{Verb: lockstep.Epoch, A: 1})
	before := x.do(lockstep.Command{Verb: lockstep.Patrol, A: uint64(page), B: 1})[0].Pages
	x.do(inject(t, lockstep.Injection{Name: flipMemory, Address: &at, Bit: number(5)}))
	r := x.do(lockstep.Command{Verb: lockstep.Run, A: 1})
	if want := fmt.Sprintf("memory %#x bit 5: 0x0 -> 0x20", at); r[0].Kind != lockstep.Injected || string(r[0].Data) != want {
		t.Errorf("%v %s", r[0].Kind, r[0].Data)
	}
	after := x.do(lockstep.Command{Verb: lockstep.Patrol, A: uint64(page), B: 1})[0].Pages
	if len(after) != 1 || after[0].Digest == before[0].Digest {
		t.Errorf("%v, then %v", before, after)
	}
	for _, p := range x.do(lockstep.Command{Verb: lockstep.Epoch, A: 2})[0].Pages {
		if p.Index == page {
			t.Error("the page counts as written")
		}
	}
}

// TestSlowModule uses its own processor time, from its step on until the fault is cleared.
func TestSlowModule(t *testing.T) {
	used, burnt := time.Duration(0), time.Duration(0)
	x := newExecutor(t, guest(), func(c *Config) {
		c.CPUTime = func() time.Duration { used += time.Millisecond; return used }
		c.Spend = func(d time.Duration) { burnt += d }
	})
	x.do(inject(t, lockstep.Injection{Name: slow, Step: 150}))
	x.do(lockstep.Command{Verb: lockstep.Run, A: 100})
	if burnt != 0 {
		t.Error("it is slow before its step")
	}
	r := x.do(lockstep.Command{Verb: lockstep.Run, A: 100})
	if r[0].Kind != lockstep.Injected || burnt < 19*time.Millisecond {
		t.Errorf("%s; it used %v more", describe(r), burnt)
	}
	burnt = 0
	x.do(lockstep.Command{Verb: lockstep.Fault})
	if x.do(lockstep.Command{Verb: lockstep.Run, A: 100}); burnt != 0 {
		t.Error("it is slow though that was cleared")
	}
}

// TestSpin: processor time is really used.
func TestSpin(t *testing.T) {
	before := processTime()
	spin(3 * time.Millisecond)
	if used := processTime() - before; used < 3*time.Millisecond {
		t.Errorf("%v", used)
	}
}

// TestValidate: what cannot be is refused with what could be.
func TestValidate(t *testing.T) {
	for _, c := range []struct {
		inj  lockstep.Injection
		want string
	}{
		{lockstep.Injection{Name: "rust"}, `there is no fault "rust" for a CPU module: there are bad-code, double-store, flip-csr, `},
		{lockstep.Injection{Name: stuck, Register: number(77)}, "there is no register 77: 1 to 31 are x1 to x31, 32 to 63 f0 to f31"},
		{lockstep.Injection{Name: flipRegister, Register: number(0)}, "there is no register 0: "},
		{lockstep.Injection{Name: flipRegister, Bit: number(64)}, "a register has no bit 64: it has 0 to 63"},
		{lockstep.Injection{Name: flipPC, Bit: number(0)}, "the pc has no bit 0: it has 1 to 63"},
		{lockstep.Injection{Name: flipPC, Register: number(1)}, "flip-pc has nothing to do with a register"},
		{lockstep.Injection{Name: flipCSR, CSR: "Steps"}, `there is no CSR "Steps": there are reservationaddr, mstatus, `},
		{lockstep.Injection{Name: flipCSR, CSR: "Fingerprint"}, `there is no CSR "Fingerprint"`},
		{lockstep.Injection{Name: flipCSR, CSR: "TimeSince"}, `there is no CSR "TimeSince"`},
		{lockstep.Injection{Name: flipCSR, CSR: "frm", Bit: number(3)}, "frm has no bit 3: it has 0 to 2"},
		{lockstep.Injection{Name: flipCSR, CSR: "mie", Bit: number(0)}, "mie has no bit 0: it has 1, 3, 5, 7, 9, 11"},
		{lockstep.Injection{Name: flipMemory, Address: address(0x1000)}, "there is no memory at 0x1000: it is from 0x80000000 to 0x803fffff"},
		{lockstep.Injection{Name: flipMemory, Bit: number(8)}, "a byte of memory has no bit 8"},
		{lockstep.Injection{Name: wrongResult, Class: "vector"}, `there is no class of operations "vector": there are add, `},
	} {
		if err := Validate(c.inj, ramSize); err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%+v: %v", c.inj, err)
		}
	}
	for _, inj := range drills() {
		if err := Validate(inj, ramSize); err != nil {
			t.Errorf("%+v: %v", inj, err)
		}
	}
	for _, csr := range CSRs() {
		for seed := range uint64(20) {
			f, err := settle(lockstep.Injection{Name: flipCSR, CSR: csr, Seed: seed}, ramSize)
			if err != nil {
				t.Fatalf("%s: %v", csr, err)
			}
			if err := Validate(lockstep.Injection{Name: flipCSR, CSR: csr, Bit: number(int(f.bit))}, ramSize); err != nil {
				t.Errorf("%s: a bit was drawn that there is not: %v", csr, err)
			}
		}
	}
}
