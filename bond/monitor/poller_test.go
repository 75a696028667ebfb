package monitor

import (
	"context"
	"runtime"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"ft/bond/bondtest"
	"ft/bond/datapath"
	"ft/drivers"
)

// looks records what a poller reports.
type looks struct {
	mu   sync.Mutex
	seen [2][]Carrier
}

func (l *looks) on(s drivers.Side, c Carrier) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen[s] = append(l.seen[s], c)
}

func (l *looks) of(s drivers.Side) []Carrier {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]Carrier(nil), l.seen[s]...)
}

// waitFor waits until the newest look of a side is as wanted.
func (l *looks) waitFor(t *testing.T, s drivers.Side, what string, up, gone bool) Carrier {
	t.Helper()
	var last Carrier
	bondtest.WaitFor(t, what, soon, func() bool {
		seen := l.of(s)
		if len(seen) == 0 {
			return false
		}
		last = seen[len(seen)-1]
		return last.Up == up && last.Gone == gone
	})
	return last
}

func TestPollerSeesCarrierAndNIC(t *testing.T) {
	n := bondtest.New(t)
	var l looks
	p := NewPoller(2*time.Millisecond, quiet(t), l.on)
	t.Cleanup(p.Close)
	p.Watch(0, n.NIC(0))
	p.Watch(1, n.NIC(1))
	l.waitFor(t, 0, "the first look finds carrier", true, false)
	l.waitFor(t, 1, "the first look finds carrier", true, false)

	before := time.Now()
	n.PullCable(0)
	pulled := time.Now()
	c := l.waitFor(t, 0, "no carrier on eth0", false, false)
	if c.At.Before(before) || time.Since(c.At) > soon {
		t.Errorf("carrier lost at %v, and seen at %v", before, c.At)
	}
	t.Logf("seen %v after the cable was out", c.At.Sub(pulled))
	n.ReturnCable(0)
	l.waitFor(t, 0, "carrier on eth0 again", true, false)
	if seen := l.of(0); len(seen) != 3 {
		t.Errorf("one pulled cable gives %d reports: %v", len(seen), seen)
	}

	n.DeleteNIC(0)
	l.waitFor(t, 0, "eth0 is gone", false, true)
	n.MakeNIC(0)
	l.waitFor(t, 0, "eth0 is back", true, false)
	if seen := l.of(1); len(seen) != 1 {
		t.Errorf("nothing has happened to eth1, and it is reported %d times: %v", len(seen), seen)
	}

	p.Watch(1, "")
	p.Watch(1, n.NIC(1))
	bondtest.WaitFor(t, "a new watch begins with a look", soon, func() bool { return len(l.of(1)) == 2 })
	if err := p.Alive(); err != nil {
		t.Error(err)
	}
	p.Close()
	if err := p.Alive(); err == nil {
		t.Error("a closed poller says that it is alive")
	}
}

func TestPollerOfNoNIC(t *testing.T) {
	bondtest.New(t)
	var l looks
	p := NewPoller(time.Millisecond, quiet(t), l.on)
	defer p.Close()
	p.Watch(0, "none")
	p.Watch(1, "a-name-that-is-longer-than-a-name-can-be")
	for s := drivers.Side(0); s <= 1; s++ {
		l.waitFor(t, s, "it is gone", false, true)
	}
}

func TestPollerLooksWhenAsked(t *testing.T) {
	n := bondtest.New(t)
	var l looks
	p := NewPoller(10*soon, quiet(t), l.on)
	defer p.Close() // does not wait for the next round either
	bondtest.WaitFor(t, "the first round", soon, func() bool { return p.Stats().Polls == 1 })
	p.Watch(0, n.NIC(0))
	l.waitFor(t, 0, "carrier", true, false)
	n.PullCable(0)
	p.LookNow()
	l.waitFor(t, 0, "no carrier", false, false)
	if st := p.Stats(); st.Late > 0 || st.Missed > 0 {
		t.Errorf("looks ahead of time are taken for late ones: %+v", st)
	}
}

// What the data path has made ready is a system call that the kernel may refuse any time,
// as it does here: there is no such program. The NIC is looked at all the same.
func TestPollerIsRefusedTheDirectWay(t *testing.T) {
	n := bondtest.New(t)
	var l looks
	p := NewPoller(time.Millisecond, quiet(t), l.on)
	defer p.Close()
	attr := &struct{ fd, retval uint32 }{fd: 1<<31 - 1}
	const bpfProgTestRun = 10
	p.WatchDirect(0, n.NIC(0), datapath.CarrierLook{Call: unix.SYS_BPF, Answer: &attr.retval, Held: attr,
		Args: [3]uintptr{bpfProgTestRun, uintptr(unsafe.Pointer(attr)), unsafe.Sizeof(*attr)}})
	l.waitFor(t, 0, "carrier", true, false)
	if way := p.Stats().Ways[0]; way != ByEthtool {
		t.Errorf("it is looked at by %v", way)
	}
	n.PullCable(0)
	l.waitFor(t, 0, "no carrier", false, false)
	if seen := l.of(0); len(seen) != 2 {
		t.Errorf("it is reported %d times: %v", len(seen), seen)
	}
}

func TestPollerKeepsItsTimes(t *testing.T) {
	n := bondtest.New(t)
	var l looks
	const interval = 2 * time.Millisecond
	p := NewPoller(interval, quiet(t), l.on)
	defer p.Close()
	p.Watch(0, n.NIC(0))
	p.Watch(1, n.NIC(1))
	l.waitFor(t, 1, "the first look", true, false)
	first, began := p.Stats().Polls, time.Now()
	bondtest.WaitFor(t, "two hundred rounds", soon, func() bool { return p.Stats().Polls >= first+200 })
	st := p.Stats()
	if least := 199 * interval; time.Since(began) < least {
		t.Errorf("%d rounds in %v, which takes %v at least", st.Polls-first, time.Since(began), least)
	}
	if !st.RealTime {
		t.Error("the thread is not SCHED_FIFO although the test may make it so")
	}
	t.Logf("%+v", st)
}

func TestPollerRoundAllocatesNothing(t *testing.T) {
	n := bondtest.New(t)
	p := &Poller{log: quiet(t), on: func(drivers.Side, Carrier) {}}
	if err := p.prepare(pollIntervalMin); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(int(p.rounds.socket))
	p.Watch(0, n.NIC(0))
	p.Watch(1, "none")
	p.adopt()
	p.rounds.askAlways = true // one round at a time
	got := testing.AllocsPerRun(100, func() {
		p.rounds.untilNews()
		p.tell()
		p.rounds.askAlways = true
	})
	if got != 0 {
		t.Errorf("a round allocates %v times", got)
	}
	if p.rounds.looks[0].last != (Carrier{Up: true, At: p.rounds.looks[0].last.At}) || !p.rounds.looks[1].last.Gone {
		t.Error("the rounds have not looked")
	}
}

// Looking must not hold up the garbage collector or other goroutines: the thread sleeps
// without a processor of the runtime.
func TestPollerKeepsNoProcessor(t *testing.T) {
	n := bondtest.New(t)
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	var l looks
	p := NewPoller(500*time.Millisecond, quiet(t), l.on)
	defer p.Close()
	p.Watch(0, n.NIC(0))
	l.waitFor(t, 0, "the first look", true, false)
	// The thread sleeps now. With one processor in all, whoever keeps it keeps everybody.
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	rounds := p.Stats().Polls
	for turns := 0; turns < 100; turns++ {
		done := make(chan struct{})
		go close(done)
		select {
		case <-done:
		case <-ctx.Done():
			t.Fatal("no other goroutine runs while the poller sleeps")
		}
		runtime.GC()
	}
	if more := p.Stats().Polls - rounds; more > 30 {
		t.Errorf("a hundred turns of another goroutine took %d rounds of the poller", more)
	}
}

// BenchmarkIdle measures the share of one processor that the process takes while nothing
// happens: the poller's thread and what the runtime does because of it.
func BenchmarkIdle(b *testing.B) {
	for _, interval := range []time.Duration{2 * time.Millisecond, 5 * time.Millisecond} {
		b.Run(interval.String(), func(b *testing.B) {
			n := bondtest.New(b)
			p := NewPoller(interval, quiet(b), func(drivers.Side, Carrier) {})
			defer p.Close()
			p.Watch(0, n.NIC(0))
			p.Watch(1, n.NIC(1))
			before, began := processorTime(b), time.Now()
			for b.Loop() {
				rounds := p.Stats().Polls
				for p.Stats().Polls < rounds+200 {
					time.Sleep(50 * interval)
				}
			}
			b.ReportMetric(100*float64(processorTime(b)-before)/float64(time.Since(began)), "%CPU")
			b.ReportMetric(float64(p.Stats().Late), "late")
		})
	}
}

func processorTime(b *testing.B) time.Duration {
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
