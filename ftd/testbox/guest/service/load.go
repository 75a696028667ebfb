package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// load works the machine, for drills and endurance. Each worker checks what it does:
// wrong results are errors, and errors are what an hour of load must not show.
type load struct {
	dir string // for files

	mu      sync.Mutex
	cancel  context.CancelFunc // nil while nothing has been started yet
	running sync.WaitGroup
	until   time.Time
	works   []*work
}

// work is one kind of load.
type work struct {
	kind    string
	workers int // of memory: MiB, with one worker
	round   func(ctx context.Context, worker int, number uint64) error

	rounds atomic.Uint64
	errors atomic.Uint64
	last   atomic.Pointer[string] // the last error
}

var (
	errLoad = errors.New("that is no load")
	errBusy = errors.New("a load is running; DELETE /load ends it")
)

const (
	secondsDefault = 60
	secondsMax     = 24 * 3600
	workersMax     = 64
	memoryMax      = 64 << 10 // MiB
	errorPause     = 100 * time.Millisecond
)

func newLoad(dir string) *load { return &load{dir: dir} }

// kindsOfLoad are the parameters of POST /load, with the most that each takes.
var kindsOfLoad = []struct {
	name string
	most int
	make func(l *load, n int) *work
}{
	{"cpu", workersMax, func(_ *load, n int) *work { return &work{workers: n, round: computeRound} }},
	{"memory", memoryMax, func(_ *load, n int) *work { return &work{workers: 1, round: memoryRound(n)} }},
	{"fault", workersMax, func(_ *load, n int) *work { return &work{workers: n, round: faultRound} }},
	{"fork", workersMax, func(_ *load, n int) *work { return &work{workers: n, round: forkRound} }},
	{"disk", workersMax, func(l *load, n int) *work { return &work{workers: n, round: l.diskRound} }},
}

// start begins a load, which ends by itself.
func (l *load) start(q url.Values) error {
	seconds, works, err := l.parse(q)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Now().Before(l.until) {
		return errBusy
	}
	l.running.Wait() // of the load before: on its last round at the most
	if err := os.MkdirAll(l.files(), 0o755); err != nil {
		return err
	}
	l.works, l.until = works, time.Now().Add(seconds)
	ctx, cancel := context.WithDeadline(context.Background(), l.until)
	l.cancel = cancel
	for _, w := range works {
		for i := range w.workers {
			l.running.Go(func() { w.run(ctx, i) })
		}
	}
	return nil
}

func (l *load) parse(q url.Values) (time.Duration, []*work, error) {
	seconds := secondsDefault
	number := func(key string, most int) (int, error) {
		n, err := strconv.Atoi(q.Get(key))
		if err != nil || n < 1 || n > most {
			return 0, fmt.Errorf("%w: %s=%q; a number from 1 to %d", errLoad, key, q.Get(key), most)
		}
		return n, nil
	}
	var works []*work
	known := map[string]bool{"seconds": true}
	for _, k := range kindsOfLoad {
		known[k.name] = true
		if !q.Has(k.name) {
			continue
		}
		n, err := number(k.name, k.most)
		if err != nil {
			return 0, nil, err
		}
		w := k.make(l, n)
		w.kind = k.name
		works = append(works, w)
	}
	for key := range q {
		if !known[key] {
			return 0, nil, fmt.Errorf("%w: %q; there are cpu, memory (MiB), fault, fork, disk and seconds", errLoad, key)
		}
	}
	if len(works) == 0 {
		return 0, nil, fmt.Errorf("%w: say how much of cpu, memory (MiB), fault, fork or disk", errLoad)
	}
	if q.Has("seconds") {
		n, err := number("seconds", secondsMax)
		if err != nil {
			return 0, nil, err
		}
		seconds = n
	}
	return time.Duration(seconds) * time.Second, works, nil
}

func (w *work) run(ctx context.Context, worker int) {
	for number := uint64(0); ctx.Err() == nil; number++ {
		err := w.round(ctx, worker, number)
		switch {
		case err == nil:
			w.rounds.Add(1)
		case ctx.Err() == nil: // else the round was cut off
			text := err.Error()
			w.last.Store(&text)
			if w.errors.Add(1) == 1 {
				say("load %s: %s", w.kind, text)
			}
			time.Sleep(errorPause)
		}
	}
}

// stop ends the load and waits for its workers.
func (l *load) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cancel != nil {
		l.cancel()
		l.until = time.Time{}
	}
	l.running.Wait()
}

func (l *load) files() string { return filepath.Join(l.dir, "load") }

// loadReport is the document of GET /load: the load that runs, or the last one.
type loadReport struct {
	Running     bool         `json:"running"`
	SecondsLeft float64      `json:"seconds_left"`
	Errors      uint64       `json:"errors"`
	Kinds       []workReport `json:"kinds"`
}

type workReport struct {
	Kind      string `json:"kind"`
	Rounds    uint64 `json:"rounds"`
	Errors    uint64 `json:"errors"`
	LastError string `json:"last_error,omitempty"`
}

func (l *load) report() loadReport {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := loadReport{Kinds: []workReport{}}
	if left := time.Until(l.until); left > 0 {
		r.Running, r.SecondsLeft = true, left.Seconds()
	}
	for _, w := range l.works {
		wr := workReport{Kind: w.kind, Rounds: w.rounds.Load(), Errors: w.errors.Load()}
		if text := w.last.Load(); text != nil {
			wr.LastError = *text
		}
		r.Errors += wr.Errors
		r.Kinds = append(r.Kinds, wr)
	}
	return r
}
