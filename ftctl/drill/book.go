package drill

import (
	"slices"
	"time"
)

// Window is what a load has seen in a while.
type Window struct {
	Ops     int64
	Bytes   int64
	Errors  int64
	Lost    int64         // what was acknowledged and is not there: blocks, bytes, requests, a guest's computation
	Missed  int64         // echoes without an answer, which nobody has promised
	Stall   time.Duration // the longest that one answer took, or is taking
	LastErr string
}

func (w *Window) add(o Window) {
	w.Ops, w.Bytes, w.Errors, w.Lost, w.Missed = w.Ops+o.Ops, w.Bytes+o.Bytes, w.Errors+o.Errors, w.Lost+o.Lost, w.Missed+o.Missed
	w.Stall = max(w.Stall, o.Stall)
	if o.LastErr != "" {
		w.LastErr = o.LastErr
	}
}

// Result is what became of a step.
type Result struct {
	Step
	At time.Time // when it was asked for
	// Noticed is how long after that the box had it in its log, 0 when it never did.
	Noticed time.Duration
	// Back is how long it took to be duplex again, from the moment that the part was given
	// back, or that it was noticed where it comes back by itself.
	Back    time.Duration
	Stall   time.Duration // the longest of the loads on what was hit
	Loaded  bool          // there is such a load
	Windows map[string]Window
	Errors  int64
	Lost    int64
	Missed  int64
	Refused string // why it could not be put in
	Judged  bool   // its policy had it stay out, and it was brought up by hand
}

// Span is the middle and the worst of a few durations.
type Span struct {
	N             int
	Median, Worst time.Duration
}

func spanOf(all []time.Duration) Span {
	if len(all) == 0 {
		return Span{}
	}
	s := slices.Sorted(slices.Values(all))
	n := len(s)
	return Span{n, (s[(n-1)/2] + s[n/2]) / 2, s[n-1]}
}

// Row is a line of the table: one kind, all its steps.
type Row struct {
	Kind                 *Kind // nil: what the loads saw while nothing was wrong
	Times                int
	Unnoticed            int // and not quiet
	Noticed, Stall, Back Span
	Errors, Lost         int64
	Refused, Judged      int
}

// Book keeps what the steps of a drill came to.
type Book struct {
	Results []Result
	Calm    []time.Duration // the longest answer in each while between two steps
	calm    Window          // all of those together
}

// Add notes a step.
func (b *Book) Add(r Result) { b.Results = append(b.Results, r) }

// AddCalm notes a while in which nothing was wrong.
func (b *Book) AddCalm(windows map[string]Window) {
	if len(windows) == 0 {
		return
	}
	var all Window
	for _, w := range windows {
		all.add(w)
	}
	b.Calm = append(b.Calm, all.Stall)
	b.calm.add(all)
}

// Totals of all steps, and of the time between them.
func (b *Book) Totals() (errors, lost int64) {
	errors, lost = b.calm.Errors, b.calm.Lost
	for _, r := range b.Results {
		errors, lost = errors+r.Errors, lost+r.Lost
	}
	return errors, lost
}

// Done is how many faults were put in.
func (b *Book) Done() (n int) {
	for _, r := range b.Results {
		if r.Refused == "" {
			n++
		}
	}
	return n
}

// Rows are the lines of the table, in the order of the kinds; the calm comes last.
func (b *Book) Rows() (rows []Row) {
	for _, k := range kinds {
		row := Row{Kind: k}
		var noticed, stall, back []time.Duration
		for _, r := range b.Results {
			if r.Kind != k {
				continue
			}
			if r.Refused != "" {
				row.Refused++
				continue
			}
			row.Times++
			switch {
			case r.Noticed > 0:
				noticed = append(noticed, r.Noticed)
			case !k.quiet:
				row.Unnoticed++
			}
			if r.Judged {
				row.Judged++
			}
			if r.Loaded {
				stall = append(stall, r.Stall)
			}
			if r.Noticed > 0 || k.quiet {
				back = append(back, r.Back)
			}
			row.Errors, row.Lost = row.Errors+r.Errors, row.Lost+r.Lost
		}
		row.Noticed, row.Stall, row.Back = spanOf(noticed), spanOf(stall), spanOf(back)
		if row.Times+row.Refused > 0 {
			rows = append(rows, row)
		}
	}
	if len(b.Calm) > 0 {
		rows = append(rows, Row{Times: len(b.Calm), Stall: spanOf(b.Calm), Errors: b.calm.Errors, Lost: b.calm.Lost})
	}
	return rows
}
