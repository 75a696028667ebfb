package bare

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"ft/chipset/cpu"
	"ft/chipset/lockstep"
	"ft/chipset/module"
)

// TestAProgramRunsInACPUModule: quanta, epochs that end, are repeated or end early for the
// pages written, and the program does what it does by itself.
func TestAProgramRunsInACPUModule(t *testing.T) {
	r, out, state := whole(t)
	ram := make([]byte, testMemory)
	cfg, first, err := r.program.Place(ram, 0)
	if err != nil {
		t.Fatal(err)
	}
	var said, saved bytes.Buffer
	var last lockstep.Record
	executor, err := cpu.New(cpu.Config{
		RAM: ram,
		Build: func(ram []byte, sink module.Sink, onFirstWrite func(page uint64)) (cpu.Machine, error) {
			return NewModule(cfg, ram, sink, onFirstWrite)
		},
		Send: func(r *lockstep.Record) {
			switch last = *r; r.Kind {
			case lockstep.Output:
				said.Write(r.Data)
			case lockstep.Saved:
				saved.Write(r.Data)
			}
		},
		EpochPages: 1, // each first write ends an epoch
	})
	if err != nil {
		t.Fatal(err)
	}
	do := func(verb lockstep.Verb, a uint64, data []byte) {
		t.Helper()
		if err := executor.Do(&lockstep.Command{Verb: verb, A: a, Data: data}); err != nil {
			t.Fatal(err)
		}
	}
	do(lockstep.Load, 1, first)
	rng := rand.New(rand.NewPCG(9, 10))
	epoch, begun := uint64(1), 0 // of what is said, when the epoch began
	for last.Kind != lockstep.Ran || last.Why != lockstep.Reset {
		switch do(lockstep.Run, rng.Uint64N(40), nil); {
		case last.Why == lockstep.Idle:
			t.Fatalf("it waits at step %d", last.Steps)
		case rng.IntN(10) == 0:
			do(lockstep.Back, 0, nil)
			said.Truncate(begun)
		case last.Why == lockstep.Full || rng.IntN(10) == 0:
			epoch++
			do(lockstep.Epoch, epoch, nil)
			do(lockstep.Commit, epoch, nil)
			begun = said.Len()
		}
	}
	if last.Steps != r.Steps() || last.Fingerprint != r.Fingerprint() || last.Reason != 42 || last.Due != lockstep.Never {
		t.Errorf("it ended with %+v; by itself at step %d with %#x", last, r.Steps(), r.Fingerprint())
	}
	do(lockstep.Save, 0, nil)
	if said.String() != out || !bytes.Equal(saved.Bytes(), state) || !bytes.Equal(ram, r.ram) {
		t.Errorf("it says %q, want %q, or is another machine", said.String(), out)
	}
	if epoch < 5 {
		t.Errorf("%d epochs", epoch)
	}
}
