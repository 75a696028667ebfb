package backplane

import (
	"fmt"
	"os"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"ft/chipset/lockstep"
)

func TestAModuleAnswers(t *testing.T) {
	r := start(t, Config{Side: 1, CPU: -1})
	const n = 1000
	for i := range uint64(n) {
		r.run(i + 1)
	}
	for i := range uint64(n) {
		if got := r.record(i + 1); got.Kind != lockstep.Ran || got.Steps != (i+1)*10 {
			t.Fatalf("answer %d: %+v", i+1, got)
		}
	}
	if got := r.Passed(); got != n {
		t.Errorf("%d records passed, want %d", got, n)
	}
	for i, b := range r.RAM() {
		if b != 0 {
			t.Fatalf("byte %d of fresh memory is %#x", i, b)
		}
	}
}

// A module is nobody's job, and nobody's Ctrl-C reaches it.
func TestAModuleHasASessionOfItsOwn(t *testing.T) {
	r := start(t, Config{CPU: -1})
	if sid, err := unix.Getsid(r.Pid()); err != nil || sid != r.Pid() {
		t.Errorf("process %d is in session %d, %v", r.Pid(), sid, err)
	}
}

func TestAPinnedModuleHasOneCore(t *testing.T) {
	r := start(t, Config{CPU: 1})
	r.run(1)
	r.record(1)
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", r.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	for _, thread := range threads {
		tid, _ := strconv.Atoi(thread.Name())
		var set unix.CPUSet
		if err := unix.SchedGetaffinity(tid, &set); err != nil || set.Count() != 1 || !set.IsSet(1) {
			t.Errorf("thread %d runs on %d cores, %v", tid, set.Count(), err)
		}
	}
}
