package drill

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"ft/ftd/api"
)

// How a drill goes on.
const (
	pollEvery      = 200 * time.Millisecond // while something is waited for, beside the events
	calmLeast      = 400 * time.Millisecond // between two steps, with nothing wrong
	calmMore       = 600 * time.Millisecond // at random
	holdLeast      = 500 * time.Millisecond // that a part is out after it was noticed
	holdMore       = 1500 * time.Millisecond
	awayMax        = time.Minute     // that ftd may be away
	crashApart     = 6 * time.Second // between two deaths of a process: what dies young is restarted with a delay
	switchPatience = 5 * time.Second // for a NIC to be the active one
	raiseEvery     = 3 * time.Second // between two tries to bring a broken part up
	mendPatience   = time.Minute     // to be duplex again after Ctrl-C
	loadPatience   = time.Minute     // for the loads to end
	limitTimes     = 10              // a resync that goes on may take so many times the limit
)

// DefaultLimit is how long a box may be without duplex, and without getting on, after a fault.
const DefaultLimit = 3 * time.Minute

// Runner does a plan's steps.
type Runner struct {
	Box   Box
	Plan  *Plan
	Loads []Load
	For   time.Duration // no step begins later
	Limit time.Duration // DefaultLimit when 0
	Show  func(Progress)

	events  *events
	book    Book
	running *running
	began   time.Time
	latest  api.Status     // the last status that was seen
	random  *rand.Rand     // of pauses
	pids    map[string]int // of processes before they are killed
	crashed map[string]time.Time
}

// Progress is how a drill stands.
type Progress struct {
	Doing        string // now, "" between two steps
	Left         time.Duration
	Done         int // faults so far
	Errors, Lost int64
	Ended        *Result // a step that has just ended
}

// stopped ends a drill before its time.
type stopped struct {
	Step     Step
	Sentence string
	Look     string
}

func (s *stopped) Error() string { return s.Sentence }

var errInterrupted = errors.New("interrupted")

// Run drills until the time is over, ctx ends, or the box does not come back. The box must be
// duplex. The report is there whatever happens.
func (d *Runner) Run(ctx context.Context) *Report {
	if d.Limit == 0 {
		d.Limit = DefaultLimit
	}
	d.began, d.pids, d.crashed = time.Now(), map[string]int{}, map[string]time.Time{}
	d.random = rand.New(rand.NewPCG(d.Plan.Seed, 1)) // beside the plan's, whose order must not hang on how things go
	r := &Report{Seed: d.Plan.Seed, Began: d.began, LeftOut: d.Plan.LeftOut}
	d.running = start(ctx, d.Loads) // first of all: they end by leaving things as they were
	st, err := d.status(ctx)
	if err == nil {
		r.Box = st.System.Name
		following, unfollow := context.WithCancel(context.WithoutCancel(ctx))
		events, ended := followEvents(following, d.Box, st.System.Seq)
		defer func() { unfollow(); ended.Wait() }()
		d.events = events
		err = d.steps(ctx)
	}
	d.show("the loads read back what they wrote", nil)
	d.book.AddCalm(d.running.finish(loadPatience))
	var stop *stopped
	switch {
	case errors.As(err, &stop):
		r.Stopped = &Stop{N: stop.Step.N, Step: stop.Step.Text(), Why: stop.Sentence, Look: stop.Look}
	case errors.Is(err, errInterrupted):
		r.Interrupted = true
	case err != nil:
		r.Stopped = &Stop{Why: err.Error()}
	}
	d.fill(context.WithoutCancel(ctx), r)
	return r
}

// unloaded are the devices that are drilled without a load that would feel it.
func (d *Runner) unloaded() (ids []string) {
	for _, dev := range d.latest.Devices {
		if d.Plan.hits("", dev.ID) && len(primary(d.Loads, d.latest, []string{dev.ID})) == 0 {
			ids = append(ids, dev.ID)
		}
	}
	return ids
}

func devicesOf(st api.Status) (ids []string) {
	for _, dev := range st.Devices {
		ids = append(ids, dev.ID)
	}
	return ids
}

func (d *Runner) fill(ctx context.Context, r *Report) {
	r.Seconds = time.Since(d.began).Seconds()
	r.book(&d.book)
	r.Unloaded = d.unloaded()
	r.loads(d.running)
	ctx, cancel := context.WithTimeout(ctx, awayMax)
	defer cancel()
	if st, err := d.Box.Status(ctx); err != nil {
		r.State = "unknown"
	} else {
		r.State = st.System.State.String()
	}
	r.conclude()
}

// steps does them one after the other.
func (d *Runner) steps(ctx context.Context) error {
	for {
		left := d.For - time.Since(d.began)
		if left <= 0 {
			return nil
		}
		s, ok := d.Plan.Next()
		if !ok {
			return nil
		}
		if err := d.calm(ctx, s); err != nil {
			return err
		}
		res, err := d.step(ctx, s)
		windows := d.running.windows(time.Now())
		if res != nil {
			d.note(res, windows)
			d.book.Add(*res)
			d.show("", res)
		} else {
			d.book.AddCalm(windows)
		}
		if err != nil {
			return err
		}
	}
}

// note takes what the loads have seen of a step.
func (d *Runner) note(res *Result, windows map[string]Window) {
	res.Windows = windows
	for _, w := range windows {
		res.Errors, res.Lost, res.Missed = res.Errors+w.Errors, res.Lost+w.Lost, res.Missed+w.Missed
	}
	devices := res.Devices
	if len(devices) == 0 { // ftd's: it must not be felt anywhere
		devices = devicesOf(d.latest)
	}
	for _, name := range primary(d.Loads, d.latest, devices) {
		res.Stall, res.Loaded = max(res.Stall, windows[name].Stall), true
	}
}

// calm is the while before a step. A process that was killed a moment ago is left in peace.
func (d *Runner) calm(ctx context.Context, s Step) error {
	d.show("", nil)
	wait := d.between(calmLeast, calmMore)
	if s.crash() {
		if at, ok := d.crashed[s.ID]; ok {
			wait = max(wait, crashApart-time.Since(at))
		}
	}
	err := d.sleep(ctx, wait)
	d.book.AddCalm(d.running.windows(time.Now()))
	return err
}

// step puts one fault in and waits until the box is duplex again. A nil result: it was not
// put in. Whatever happens, what was put in is taken out again.
func (d *Runner) step(ctx context.Context, s Step) (*Result, error) {
	if err := d.beforeCrash(ctx, s); err != nil {
		return nil, err
	}
	if err := d.makeActive(ctx, s); err != nil {
		return nil, err
	}
	since := d.events.number()
	res := &Result{Step: s, At: time.Now()}
	d.show(s.Text(), nil)
	if err := d.put(ctx, s); err != nil {
		if ctx.Err() != nil {
			return nil, d.mend(ctx, s, res) // it may be in
		}
		if refused(err) {
			res.Refused = err.Error()
			return res, nil
		}
		return res, d.giveUp(ctx, s, since, err.Error())
	}
	err := d.out(ctx, s, res, since)
	back := res.At.Add(res.Noticed) // where it comes back by itself
	if err == nil && !s.Kind.undo.none() {
		d.show(s.Text()+": given back", nil)
		back = time.Now()
		err = d.change(ctx, s.change(s.Kind.undo))
	}
	if err == nil {
		err = d.awaitDuplex(ctx, s, res)
	}
	res.Back = d.backAfter(s, back)
	switch {
	case err == nil:
		return res, nil
	case ctx.Err() != nil:
		return res, d.mend(ctx, s, res)
	}
	return res, d.giveUp(ctx, s, since, err.Error())
}

// put puts a fault in. A crash of ftd may take its answer along.
func (d *Runner) put(ctx context.Context, s Step) error {
	if s.ID != ftdID {
		return d.change(ctx, s.change(s.Kind.do))
	}
	_, err := d.Box.Change(ctx, s.change(s.Kind.do))
	if unreachable(err) {
		return nil
	}
	return err
}

// out waits until the fault is noticed, and a while longer.
func (d *Runner) out(ctx context.Context, s Step, res *Result, since uint64) error {
	if s.crash() {
		if err := d.awaitSuccessor(ctx, s); err != nil {
			return err
		}
	}
	if !s.Kind.quiet {
		limit := time.NewTimer(s.Kind.notice)
		defer limit.Stop()
		for waiting := true; waiting; {
			if e, ok := d.events.noticed(s, since); ok {
				res.Noticed = max(e.Time.Sub(res.At), time.Microsecond)
				break
			}
			select {
			case <-d.events.more:
			case <-limit.C:
				waiting = false
			case <-ctx.Done():
				return errInterrupted
			}
		}
	}
	if s.Kind.undo.none() {
		return nil // it comes back by itself
	}
	return d.sleep(ctx, d.between(holdLeast, holdMore))
}

// mend is what is done after Ctrl-C: what was put in is taken out, and the box has a while
// to be duplex again.
func (d *Runner) mend(ctx context.Context, s Step, res *Result) error {
	d.show("interrupted: giving back what was taken", nil)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), mendPatience)
	defer cancel()
	if !s.Kind.undo.none() {
		if err := d.change(ctx, s.change(s.Kind.undo)); err != nil {
			return &stopped{Step: s, Sentence: fmt.Sprintf("interrupted, and what was put in could not be taken out again: %v", err), Look: d.look(s, d.events.number())}
		}
	}
	if err := d.awaitDuplex(ctx, s, res); err != nil {
		return &stopped{Step: s, Sentence: fmt.Sprintf("interrupted, and the box is not duplex again %s later", mendPatience), Look: "ftctl status"}
	}
	return errInterrupted
}

// giveUp ends the drill. The box stays as it is, but for the fault itself.
func (d *Runner) giveUp(ctx context.Context, s Step, since uint64, why string) error {
	stop := &stopped{Step: s, Sentence: why, Look: d.look(s, since)}
	if !s.Kind.undo.none() && s.Kind.undo.verb == api.Inject {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), awayMax)
		defer cancel()
		if _, err := d.Box.Change(ctx, s.change(s.Kind.undo)); err != nil {
			c := s.change(s.Kind.undo)
			stop.Sentence += "; the fault may still be in"
			stop.Look = fmt.Sprintf("ftctl inject %s %s; %s", c.ID, c.Fault, stop.Look)
		}
	}
	return stop
}

// look is where a person finds more about a step.
func (d *Runner) look(s Step, since uint64) string {
	look := fmt.Sprintf("ftctl status; ftctl events --since %d", since)
	if s.ID != ftdID {
		look += "; ftctl show " + s.ID
	}
	return look
}

// show tells how the drill stands.
func (d *Runner) show(doing string, ended *Result) {
	if d.Show == nil {
		return
	}
	errors, lost := d.book.Totals()
	d.Show(Progress{Doing: doing, Left: max(0, d.For-time.Since(d.began)), Done: d.book.Done(), Errors: errors, Lost: lost, Ended: ended})
}

func refused(err error) bool {
	var wire *api.Error
	return errors.As(err, &wire) && wire.Refused
}
