package backplane

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestAStoppedModuleIsFoundSoon(t *testing.T) {
	r := start(t, Config{Side: 1, CPU: -1})
	best := time.Hour
	for i := range 5 { // the fastest counts: the others waited for a core
		if i > 0 {
			r = start(t, Config{Side: 1, CPU: -1})
		}
		r.run(1)
		r.record(1)
		r.signal(unix.SIGSTOP)
		began := time.Now()
		r.run(2)
		r.gone(Stopped, fmt.Sprintf("cpu1: process %d is stopped (state T)", r.Pid()))
		best = min(best, time.Since(began))
	}
	t.Logf("found in %v", best)
	if best > 2*tick+50*time.Millisecond {
		t.Errorf("found in %v at best", best)
	}
}

// A record that the chipset was not woken for, and then never is, comes all the same.
func TestAModuleStoppedBehindAQuietRecord(t *testing.T) {
	r := start(t, Config{CPU: -1})
	r.fault("slow")
	for i := range uint64(2000) { // a minute's work: it is stopped long before it has done it
		r.run(i)
	}
	for r.port.Progress().Records == 0 {
		runtime.Gosched()
	}
	r.signal(unix.SIGSTOP)
	r.gone(Stopped, "is stopped")
	for r.port.Progress().Unread {
		time.Sleep(time.Millisecond)
	}
}

func TestAModuleThatComputesForNothingIsLate(t *testing.T) {
	r := start(t, Config{Side: 1, CPU: -1})
	r.run(1)
	r.record(1)
	r.fault("burn")
	r.gone(Late, fmt.Sprintf("cpu1: process %d has used 1", r.Pid()))
}

func TestAModuleThatSleepsOverACommandIsHung(t *testing.T) {
	r := start(t, Config{Side: 1, CPU: -1, Limits: Limits{Hung: time.Second}})
	r.run(1)
	r.record(1)
	r.fault("sleep")
	r.gone(Hung, fmt.Sprintf("cpu1: process %d has slept over a command for 1", r.Pid()))
}

// A module that owes nothing is asleep, and may be.
func TestAnIdleModuleIsNoHungOne(t *testing.T) {
	r := start(t, Config{CPU: -1, Limits: Limits{Hung: time.Second}})
	r.run(1)
	r.record(1)
	select {
	case <-r.inbox.Wake():
		if got := r.inbox.Take(nil); len(got) > 0 {
			t.Fatalf("%+v", got[0].Gone)
		}
	case <-time.After(2500 * time.Millisecond):
	}
	r.run(2)
	r.record(2)
}

// A module that gets a sixtieth of a core is as good as any, however long it takes.
func TestAModuleThatWaitsForACoreIsNotLate(t *testing.T) {
	const core = 0
	r := start(t, Config{CPU: core})
	r.run(1)
	r.record(1)
	r.fault("slow") // 30 ms of a processor for each run; a late one has used 100
	if err := unix.Setpriority(unix.PRIO_PROCESS, r.port.Progress().Thread, 19); err != nil {
		t.Fatal(err)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go hog(core, stop, stopped)
	began := time.Now()
	var took time.Duration
	for i := uint64(2); i < 20 && took < 600*time.Millisecond; i++ {
		r.run(i)
		r.record(i)
		took = time.Since(began)
	}
	close(stop)
	<-stopped
	if took < 300*time.Millisecond {
		t.Skipf("it had its core all the same: %v", took)
	}
	t.Logf("starved for %v", took)
}

// hog uses a core up.
func hog(core int, stop, stopped chan struct{}) {
	defer close(stopped)
	runtime.LockOSThread() // and never unlocked: the thread goes with the goroutine
	var set unix.CPUSet
	set.Set(core)
	_ = unix.SchedSetaffinity(0, &set)
	_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), -5)
	for n := 0; ; n++ {
		if n%1_000_000 == 0 {
			select {
			case <-stop:
				return
			default:
			}
		}
	}
}

// look is what the watcher sees at one tick.
type look struct {
	state byte
	cpu   int // ms so far
	slow  bool
	gap   int // ms since the look before; 0: a tick
}

func TestVigil(t *testing.T) {
	times := func(n int, l func(i int) look) (looks []look) {
		for i := range n {
			looks = append(looks, l(i))
		}
		return looks
	}
	for _, tc := range []struct {
		name  string
		looks []look
		want  Why
		at    int // the look that says so
	}{
		{"stopped at the first look", []look{{state: 'T'}}, Stopped, 0},
		{"traced", []look{{state: 'R'}, {state: 't'}}, Stopped, 1},
		{"100 ms of its own time are not late, 101 are", []look{{state: 'R', cpu: 500}, {state: 'R', cpu: 600}, {state: 'R', cpu: 601}}, Late, 2},
		{"late though it sleeps in between", []look{{state: 'R'}, {state: 'S', cpu: 50}, {state: 'S', cpu: 101}}, Late, 2},
		{"a long command takes long", []look{{state: 'R'}, {state: 'R', cpu: 9999, slow: true}}, 0, 0},
		{"a long command, answered between two reads", []look{{state: 'R', slow: true}, {state: 'R', cpu: 2000}}, 0, 0},
		{"too long", []look{{state: 'R', slow: true}, {state: 'R', cpu: 10_001, slow: true}}, Late, 1},
		{"an hour without a core, seen at one look", []look{{state: 'R'}, {state: 'R', gap: 3_600_000}, {state: 'R'}}, 0, 0},
		{"an hour asleep while the chipset was stopped", []look{{state: 'S'}, {state: 'S', gap: 3_600_000}, {state: 'S'}}, 0, 0},
		{"asleep for a second", times(200, func(int) look { return look{state: 'S'} }), Hung, 112},
		{"asleep on a disk", times(200, func(int) look { return look{state: 'D'} }), Hung, 112},
		{"awake now and then", times(2000, func(i int) look { return look{state: "SSSR"[i%4]} }), 0, 0},
		{"no core for 30 s", times(4000, func(int) look { return look{state: 'R'} }), Hung, 3334},
		{"a core now and then", times(4000, func(i int) look { return look{state: 'R', cpu: i / 100 * 2} }), 0, 0},
		{"no state to be had", times(200, func(int) look { return look{} }), 0, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v := vigil{limits: Limits{}.withDefaults()}
			for i, l := range tc.looks {
				gap := tick
				if l.gap > 0 {
					gap = time.Duration(l.gap) * time.Millisecond
				}
				why, text := v.look(sample{state: l.state, cpu: time.Duration(l.cpu) * time.Millisecond, slow: l.slow}, gap)
				if why != 0 {
					if why != tc.want || i != tc.at {
						t.Errorf("look %d: %s", i, text)
					}
					return
				}
			}
			if tc.want != 0 {
				t.Errorf("not found to be %v", tc.want)
			}
		})
	}
}
