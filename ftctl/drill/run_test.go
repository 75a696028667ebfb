package drill

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// fakeLoad answers every millisecond. It can fail.
type fakeLoad struct {
	meter
	fails atomic.Bool
	ended atomic.Bool
	hangs bool
}

func (*fakeLoad) Name() string   { return "disk0" }
func (*fakeLoad) Device() string { return "disk0" }
func (*fakeLoad) What() string   { return "something" }

func (l *fakeLoad) Run(ctx context.Context) {
	for ctx.Err() == nil {
		l.begin(0, time.Now())
		time.Sleep(time.Millisecond)
		l.end(0, time.Now(), 1)
		if l.fails.CompareAndSwap(true, false) {
			l.failed(context.DeadlineExceeded)
			l.lost(3, "three are lost")
		}
	}
	if l.hangs {
		time.Sleep(time.Hour)
	}
	l.ended.Store(true)
}

// drilled runs a drill on a fake box, in its own time.
func drilled(t *testing.T, b *fakeBox, o Options, during func(*Runner, *fakeLoad, context.CancelFunc)) (r *Report) {
	t.Helper()
	o.Supervised = true
	l := &fakeLoad{}
	d := &Runner{Box: b, Plan: planOf(t, b.status, o), For: time.Minute, Loads: []Load{l}, Limit: 10 * time.Second}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if during != nil {
		during(d, l, cancel)
	}
	return d.Run(ctx)
}

func TestDrillOfASoundBox(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFakeBox(t)
		r := drilled(t, b, Options{Seed: 5}, nil)
		if !r.OK || r.Faults < 20 || r.Errors+r.Lost != 0 || r.State != "duplex" {
			t.Errorf("the report is\n%s", r.Table())
		}
		for _, k := range r.Kinds {
			if k.Noticed != nil && (k.Noticed.Worst < 7 || k.Noticed.Worst > 20) {
				t.Errorf("%s: noticed after %v ms, it was 7", k.Kind, k.Noticed.Worst)
			}
			if k.Kind == "hang" && (k.Back.Worst < 299 || k.Back.Worst > 320) {
				t.Errorf("%s: duplex again after %v ms, it was 300", k.Kind, k.Back.Worst)
			}
		}
		if !strings.Contains(r.Verdict, "no error and nothing lost") {
			t.Errorf("the verdict is %q", r.Verdict)
		}
	})
}

// A box that stays simplex ends the drill: the fault is taken out, and named.
func TestDrillStopsWhereTheBoxDoesNotComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFakeBox(t)
		b.never = "hang"
		r := drilled(t, b, Options{Seed: 5, Parts: []string{"pci1/disk0"}}, nil)
		if r.OK || r.Stopped == nil || r.Stopped.Step != "inject pci1/disk0 hang" || !strings.Contains(r.Verdict, "the box is still simplex 10s after inject pci1/disk0 hang") {
			t.Fatalf("the report is\n%s", r.Table())
		}
		if !strings.Contains(r.Stopped.Look, "ftctl events --since") || !strings.Contains(r.Stopped.Look, "ftctl show pci1/disk0") {
			t.Errorf("it says to look at %q", r.Stopped.Look)
		}
		if !b.wasAsked("inject pci1/disk0 clear") {
			t.Error("the fault is left in")
		}
	})
}

// ftd that does not come back after it was killed ends the drill too, in bounded time.
func TestDrillEndsWithoutFtd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFakeBox(t)
		b.dies = true
		began := time.Now()
		r := drilled(t, b, Options{Seed: 5, Parts: []string{"ftd"}}, nil)
		if r.OK || r.State != "unknown" || !strings.Contains(r.Verdict, "ftd has not answered for 1m0s") || r.Stopped.Step != "inject ftd crash" {
			t.Errorf("the report is\n%s", r.Table())
		}
		if took := time.Since(began); took > 5*time.Minute {
			t.Errorf("it took %s", took)
		}
	})
}

// Ctrl-C: what is out is given back before the table is printed.
func TestDrillIsInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFakeBox(t)
		r := drilled(t, b, Options{Seed: 5, Parts: []string{"pci1/disk0"}}, func(d *Runner, _ *fakeLoad, cancel context.CancelFunc) {
			d.Show = func(p Progress) {
				if strings.Contains(p.Doing, "vanish") {
					time.AfterFunc(100*time.Millisecond, cancel)
				}
			}
		})
		if !r.Interrupted || !r.OK || !strings.HasPrefix(r.Verdict, "interrupted after ") || !b.wasAsked("inject pci1/disk0 return") {
			t.Errorf("the report is\n%s\n%v", r.Table(), b.asked)
		}
	})
}

// Interrupted before it began: the loads leave things as they were all the same.
func TestDrillThatDoesNotBegin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var load *fakeLoad
		r := drilled(t, newFakeBox(t), Options{Seed: 5}, func(_ *Runner, l *fakeLoad, cancel context.CancelFunc) { load = l; cancel() })
		if r.OK || !r.Interrupted || !strings.Contains(r.Verdict, "no fault was put in") || !load.ended.Load() {
			t.Errorf("the report is\n%s", r.Table())
		}
	})
}

func TestDrillFailsOnErrorsAndLosses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := drilled(t, newFakeBox(t), Options{Seed: 5}, func(_ *Runner, l *fakeLoad, _ context.CancelFunc) {
			time.AfterFunc(20*time.Second, func() { l.fails.Store(true) })
		})
		if r.OK || r.Errors != 1 || r.Lost != 3 || !strings.HasPrefix(r.Verdict, "1 error and 3 lost in") || r.Loads[0].LastErr == "" {
			t.Errorf("the report is\n%s", r.Table())
		}
	})
}

// A fault that a rule refuses was not tried: the drill says so, and is not a good one.
func TestDrillSaysWhatWasRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFakeBox(t)
		b.refuses = "remove"
		r := drilled(t, b, Options{Seed: 5, Parts: []string{"net0"}}, nil)
		if r.OK || r.Refused == 0 || !strings.Contains(r.Verdict, "could not be put in") {
			t.Errorf("the report is\n%s", r.Table())
		}
	})
}

// A part that its policy keeps out is brought up as a person would, again when it is too soon.
func TestDrillBringsUpWhatIsBroken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFakeBox(t)
		b.judges, b.tooSoon = true, 2
		r := drilled(t, b, Options{Seed: 5, Parts: []string{"pci1/disk0"}}, nil)
		if !r.OK || !b.wasAsked("bringup pci1/disk0") || !strings.Contains(r.Table(), "judged broken, brought up by hand") {
			t.Errorf("the report is\n%s\n%v", r.Table(), b.asked)
		}
	})
}

// Where nothing comes in by itself, the drill does what a person has to do.
func TestDrillOfABoxThatDefers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFakeBox(t)
		b.defers = true
		r := drilled(t, b, Options{Seed: 5, Parts: []string{"pci1/disk0"}}, nil)
		if !r.OK || !b.wasAsked("bringup pci1/disk0") || strings.Contains(r.Table(), "judged broken") {
			t.Errorf("the report is\n%s\n%v", r.Table(), b.asked)
		}
	})
}

// Most faults of NICs are those of the one that is active.
func TestDrillMakesANICActive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFakeBox(t)
		r := drilled(t, b, Options{Seed: 5, Parts: []string{"pci1/net0"}}, nil)
		if !r.OK || !b.wasAsked("switch net0") || !b.status.Devices[2].Sides[1].Active || !strings.Contains(r.Steps[0].Step+r.Steps[1].Step, "(active)") {
			t.Errorf("the report is\n%s\n%v", r.Table(), b.asked)
		}
	})
}

func TestDrillLeavesALoadThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := drilled(t, newFakeBox(t), Options{Seed: 5}, func(_ *Runner, l *fakeLoad, _ context.CancelFunc) { l.hangs = true })
		if r.OK || r.Errors != 1 || !strings.Contains(r.Loads[0].LastErr, "an answer is still owed") {
			t.Errorf("the report is\n%s", r.Table())
		}
		time.Sleep(2 * time.Hour) // it ends at last
	})
}
