package cpu

import (
	"testing"

	"ft/chipset/lockstep"
)

// TestItsOwnStateChangesNothing: a module that is adopted takes over the state that it gave, in
// place of an epoch's end, and goes on as one that is not.
func TestItsOwnStateChangesNothing(t *testing.T) {
	w := newWorld(newExecutor(t, guest()), 4)
	adopted := newExecutor(t, guest())
	for next, round := 0, 0; round < 20; round++ {
		for range 20 {
			w.quantum()
		}
		for ; next < len(w.log); next++ {
			w.again(adopted, next)
		}
		saved := adopted.do(lockstep.Command{Verb: lockstep.Save})[0]
		w.endEpoch()
		next = len(w.log)
		if r := adopted.do(lockstep.Command{Verb: lockstep.Load, A: w.epoch, Data: saved.Data})[0]; r.Kind != lockstep.Loaded || r.State != saved.State || r.Dirty != 0 {
			t.Fatalf("%+v", r)
		}
	}
}
