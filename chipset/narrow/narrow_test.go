package narrow_test

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ft/chipset/backplane"
	"ft/chipset/bare"
	"ft/chipset/duplex/workload"
	"ft/chipset/inside"
	"ft/chipset/lockstep"
	"ft/chipset/narrow"
	"ft/chipset/rv64"
)

const bytes = workload.Size

// evidence is what is left of a module at the beginning of its program, and five quanta to do
// again.
func evidence(t *testing.T, inj *lockstep.Injection) *narrow.Case {
	t.Helper()
	fd, err := unix.MemfdCreate("narrow", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Ftruncate(fd, bytes); err != nil {
		t.Fatal(err)
	}
	ram, err := unix.Mmap(fd, 0, bytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(ram)
	program, err := bare.Read("workload", workload.ELF(4), bytes)
	if err != nil {
		t.Fatal(err)
	}
	layout, state, err := program.Place(ram, rv64.EveryStep)
	if err != nil {
		t.Fatal(err)
	}
	c := &narrow.Case{
		Memory: fd, Bytes: bytes, Injection: inj, Case: lockstep.Case{State: state},
		Build: inside.Machine(backplane.MachineConfig{Kind: backplane.KindBare, Bare: &layout, Compare: rv64.EveryStep}),
	}
	for range 5 {
		c.Log = append(c.Log, lockstep.Command{Verb: lockstep.Run, A: 20_000})
	}
	return c
}

func ptr[T any](v T) *T { return &v }

// The first step at which a module was wrong is found, and what was wrong behind it.
func TestFind(t *testing.T) {
	const step = 33_333
	for _, c := range []struct {
		inj        lockstep.Injection
		from, upto uint64 // the step lies here; upto 0: there is none
		what, word string
	}{
		{lockstep.Injection{Name: "flip-register", Register: ptr(9), Bit: ptr(3)}, step, step, "register x9", ""},
		{lockstep.Injection{Name: "flip-pc", Bit: ptr(5)}, step, step, "", ""},
		{lockstep.Injection{Name: "flip-csr", CSR: "sscratch", Bit: ptr(63)}, step, step, "CSR Sscratch", ""},
		{lockstep.Injection{Name: "stuck", Register: ptr(8), Bit: ptr(1), Seed: 1}, step, step + 28_000, "register x8", ""},
		// Of a store it is the store itself, and not who reads what it left.
		{lockstep.Injection{Name: "lose-store"}, step, step + 8000, "memory at 0x8000", ""},
		{lockstep.Injection{Name: "double-store"}, step, step + 8000, "memory at 0x8000", ""},
		// A flipped bit is found where it is used, also if its page is written before and behind it
		// in one quantum.
		{lockstep.Injection{Name: "flip-memory", Address: ptr(uint64(0x80002ff8)), Bit: ptr(2)}, step, step + 28_000, "register x", "memory at 0x80002ff8"},
		{lockstep.Injection{Name: "flip-memory", Address: ptr(uint64(0x80000120)), Bit: ptr(2)}, step, step + 28_000, "", "memory at 0x80000120"},
		{lockstep.Injection{Name: "flip-memory", Address: ptr(uint64(0x8001f009)), Bit: ptr(2)}, 0, 0, "", "memory at 0x8001f008"},
	} {
		c.inj.Step = step
		r, err := narrow.Find(evidence(t, &c.inj))
		switch {
		case err != nil:
			t.Errorf("%s: %v", c.inj.Name, err)
		case r.Found != (c.upto > 0) || r.Step < c.from || r.Step > c.upto:
			t.Errorf("%s: %+v; want a step from %d to %d", c.inj.Name, r, c.from, c.upto)
		case c.what != "" && (len(r.Differs) == 0 || !strings.HasPrefix(r.Differs[0].What, c.what)):
			t.Errorf("%s: %v; want %s", c.inj.Name, r.Differs, c.what)
		case c.word != "" && r.Word.What != c.word || c.word == "" && r.HasWord:
			t.Errorf("%s: %v %v; want %q", c.inj.Name, r.HasWord, r.Word, c.word)
		}
	}
}

// What has passed and is not put in again is not found.
func TestFindNothing(t *testing.T) {
	if r, err := narrow.Find(evidence(t, nil)); err != nil || r.Found || r.HasWord {
		t.Errorf("%+v, %v", r, err)
	}
}
