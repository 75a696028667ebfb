package drill

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Report is what a drill came to; as JSON it is `ftctl --json drill`.
type Report struct {
	Box         string       `json:"box"`
	OK          bool         `json:"ok"` // no error, nothing lost, duplex
	Verdict     string       `json:"verdict"`
	Action      string       `json:"action,omitempty"`
	Seed        uint64       `json:"seed"`
	Began       time.Time    `json:"began"`
	Seconds     float64      `json:"seconds"`
	State       string       `json:"state"` // of the box at the end; unknown when ftd does not answer
	Faults      int          `json:"faults"`
	Errors      int64        `json:"errors"`
	Lost        int64        `json:"lost"`
	Refused     int          `json:"refused"`
	Interrupted bool         `json:"interrupted,omitempty"`
	Stopped     *Stop        `json:"stopped,omitempty"`
	Kinds       []KindReport `json:"kinds"`
	Calm        *KindReport  `json:"calm,omitempty"` // what the loads saw between the steps
	Loads       []LoadReport `json:"loads"`
	Unloaded    []string     `json:"unloaded,omitempty"` // devices with no load on them that would feel a fault
	LeftOut     []string     `json:"left_out,omitempty"`
	Steps       []StepReport `json:"steps"`
}

// Stop is why a drill ended before its time.
type Stop struct {
	N    int    `json:"n,omitempty"`
	Step string `json:"step,omitempty"`
	Why  string `json:"why"`
	Look string `json:"look,omitempty"`
}

// KindReport is one way of failing.
type KindReport struct {
	On        string    `json:"on,omitempty"`
	Kind      string    `json:"kind"`
	Times     int       `json:"times"`
	Unnoticed int       `json:"unnoticed,omitempty"`
	Judged    int       `json:"judged_broken,omitempty"`
	Refused   int       `json:"refused,omitempty"`
	Noticed   *SpanJSON `json:"noticed_ms,omitempty"`
	Stall     *SpanJSON `json:"stall_ms,omitempty"`
	Back      *SpanJSON `json:"duplex_ms,omitempty"`
	Errors    int64     `json:"errors"`
	Lost      int64     `json:"lost"`
}

// SpanJSON is a Span in milliseconds.
type SpanJSON struct {
	Median float64 `json:"median"`
	Worst  float64 `json:"worst"`
}

// LoadReport is what one load did.
type LoadReport struct {
	Name    string  `json:"name"`
	Device  string  `json:"device"`
	What    string  `json:"what"`
	Ops     int64   `json:"ops"`
	Bytes   int64   `json:"bytes"`
	Errors  int64   `json:"errors"`
	Lost    int64   `json:"lost"`
	Missed  int64   `json:"unanswered,omitempty"`
	Worst   float64 `json:"stall_ms"`
	LastErr string  `json:"last_error,omitempty"`
}

// StepReport is one fault.
type StepReport struct {
	N       int                `json:"n"`
	Step    string             `json:"step"`
	At      time.Time          `json:"at"`
	Noticed float64            `json:"noticed_ms,omitempty"`
	Back    float64            `json:"duplex_ms"`
	Stalls  map[string]float64 `json:"stalls_ms,omitempty"`
	Errors  int64              `json:"errors"`
	Lost    int64              `json:"lost"`
	Missed  int64              `json:"unanswered,omitempty"`
	Judged  bool               `json:"judged_broken,omitempty"`
	Refused string             `json:"refused,omitempty"`
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func (s Span) json() *SpanJSON {
	if s.N == 0 {
		return nil
	}
	return &SpanJSON{millis(s.Median), millis(s.Worst)}
}

// book takes what the steps came to.
func (r *Report) book(b *Book) {
	r.Faults = b.Done()
	r.Errors, r.Lost = b.Totals()
	for _, row := range b.Rows() {
		k := KindReport{Kind: "nothing", Times: row.Times, Unnoticed: row.Unnoticed, Judged: row.Judged, Refused: row.Refused,
			Noticed: row.Noticed.json(), Stall: row.Stall.json(), Back: row.Back.json(), Errors: row.Errors, Lost: row.Lost}
		if row.Kind == nil {
			r.Calm = &k
			continue
		}
		k.On, k.Kind = string(row.Kind.On), row.Kind.Name
		r.Refused += row.Refused
		r.Kinds = append(r.Kinds, k)
	}
	for _, s := range b.Results {
		step := StepReport{N: s.N, Step: s.Text(), At: s.At, Noticed: millis(s.Noticed), Back: millis(s.Back), Stalls: map[string]float64{},
			Errors: s.Errors, Lost: s.Lost, Missed: s.Missed, Judged: s.Judged, Refused: s.Refused}
		for name, w := range s.Windows {
			step.Stalls[name] = millis(w.Stall)
		}
		r.Steps = append(r.Steps, step)
	}
}

// loads takes what the loads did in all.
func (r *Report) loads(run *running) {
	for _, l := range run.loads {
		w := run.total[l.Name()]
		r.Loads = append(r.Loads, LoadReport{Name: l.Name(), Device: l.Device(), What: l.What(), Ops: w.Ops, Bytes: w.Bytes,
			Errors: w.Errors, Lost: w.Lost, Missed: w.Missed, Worst: millis(w.Stall), LastErr: w.LastErr})
	}
}

// conclude draws the verdict.
func (r *Report) conclude() {
	r.OK = r.Errors == 0 && r.Lost == 0 && r.Refused == 0 && r.State == "duplex" && r.Stopped == nil && r.Faults > 0
	took := clock(time.Duration(r.Seconds * float64(time.Second)))
	switch {
	case r.Stopped != nil:
		r.Verdict, r.Action = "stopped: "+r.Stopped.Why, r.Stopped.Look
	case r.Errors > 0 || r.Lost > 0:
		r.Verdict = fmt.Sprintf("%s and %s lost in %s", count(r.Errors, "error"), orNothing(r.Lost), count(int64(r.Faults), "fault"))
		r.Action = "ftctl --json drill --seed " + fmt.Sprint(r.Seed) + " does it again; its steps say what was seen when"
	case r.State != "duplex":
		r.Verdict, r.Action = "the box is "+r.State+" at the end", "ftctl status"
	case r.Refused > 0:
		r.Verdict = fmt.Sprintf("nothing was lost, but %s could not be put in", count(int64(r.Refused), "fault"))
	case r.Faults == 0:
		r.Verdict, r.Action = "no fault was put in", "give it more time: --minutes"
	default:
		r.Verdict = fmt.Sprintf("no error and nothing lost in %s over %s; the box is duplex", count(int64(r.Faults), "fault"), took)
		if len(r.Unloaded) > 0 {
			r.Verdict += ". But there was no load on " + strings.Join(r.Unloaded, ", ") + ": of that only the states are known"
		}
	}
	if r.Interrupted {
		r.Verdict = "interrupted after " + took + ": " + r.Verdict
	}
}

func orNothing(n int64) string {
	if n == 0 {
		return "nothing"
	}
	return fmt.Sprint(n)
}

func count(n int64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// clock writes minutes and seconds: 5:02.
func clock(d time.Duration) string {
	s := int64(max(0, d).Round(time.Second) / time.Second)
	return fmt.Sprintf("%d:%02d", s/60, s%60)
}

// Columns of the table.
const (
	nameColumn  = 22
	timesColumn = 6
	numColumn   = 8
	badColumn   = 8
)

// Table is the report for a person.
func (r *Report) Table() string {
	var b strings.Builder
	cell := func(text string) { fmt.Fprintf(&b, "%*s", numColumn, text) }
	fmt.Fprintf(&b, "%-*s%*s%*s%*s%*s%*s%*s\n", nameColumn, "", timesColumn, "times", 2*numColumn, "noticed after", 2*numColumn, "stall or gap", 2*numColumn, "duplex after", badColumn, "errors", badColumn, "lost")
	fmt.Fprintf(&b, "%-*s", nameColumn+timesColumn, "")
	for range 3 {
		cell("median")
		cell("worst")
	}
	b.WriteByte('\n')
	line := func(name string, k KindReport) {
		fmt.Fprintf(&b, "%-*s%*d", nameColumn, name, timesColumn, k.Times)
		for _, s := range []*SpanJSON{k.Noticed, k.Stall, k.Back} {
			if s == nil {
				cell("–")
				cell("–")
				continue
			}
			cell(short(s.Median))
			cell(short(s.Worst))
		}
		fmt.Fprintf(&b, "%*d%*d%s\n", badColumn, k.Errors, badColumn, k.Lost, remark(k))
	}
	on := ""
	for _, k := range r.Kinds {
		if k.On != on {
			on = k.On
			b.WriteString(on + "\n")
		}
		line("  "+k.Kind, k)
	}
	if r.Calm != nil {
		line("nothing, in between", *r.Calm)
	}
	b.WriteByte('\n')
	for _, l := range slices.SortedFunc(slices.Values(r.Loads), func(a, b LoadReport) int { return cmp.Compare(a.Device, b.Device) }) {
		fmt.Fprintf(&b, "load     %s\n", l.text())
	}
	for _, s := range r.LeftOut {
		fmt.Fprintf(&b, "left out %s\n", s)
	}
	if r.Stopped != nil && r.Stopped.Step != "" {
		fmt.Fprintf(&b, "fault    step %d: %s\n", r.Stopped.N, r.Stopped.Step)
	}
	fmt.Fprintf(&b, "seed     %d\nverdict  %s\n", r.Seed, r.Verdict)
	if r.Action != "" {
		fmt.Fprintf(&b, "action   %s\n", r.Action)
	}
	return b.String()
}

// remark is what there is to say of a kind beside its numbers.
func remark(k KindReport) string {
	var notes []string
	if k.Unnoticed > 0 {
		notes = append(notes, fmt.Sprintf("%d without effect", k.Unnoticed))
	}
	if k.Judged > 0 {
		notes = append(notes, fmt.Sprintf("%d judged broken, brought up by hand", k.Judged))
	}
	if k.Refused > 0 {
		notes = append(notes, fmt.Sprintf("%d refused", k.Refused))
	}
	if len(notes) == 0 {
		return ""
	}
	return "  " + strings.Join(notes, ", ")
}

func (l LoadReport) text() string {
	longest := "longest " + short(l.Worst)
	if l.Worst == 0 { // of echoes only those without an answer make a gap
		longest = "no gap"
	}
	text := fmt.Sprintf("%s: %s: %d done, %s", l.Device, l.What, l.Ops, longest)
	if l.Missed > 0 {
		text += fmt.Sprintf(", %d unanswered", l.Missed)
	}
	if l.Errors > 0 {
		text += ", " + count(l.Errors, "error")
	}
	if l.Lost > 0 {
		text += fmt.Sprintf(", %d lost", l.Lost)
	}
	if l.LastErr != "" {
		text += ": " + l.LastErr
	}
	return text
}

// short writes milliseconds with about three digits: 0.2 ms, 41 ms, 5.01 s.
func short(ms float64) string {
	switch {
	case ms < 10:
		return fmt.Sprintf("%.1f ms", ms)
	case ms < 999.5: // 999.6 would be written as 1000
		return fmt.Sprintf("%.0f ms", ms)
	case ms < 100_000:
		return fmt.Sprintf("%.2f s", ms/1000)
	}
	return clock(time.Duration(ms * float64(time.Millisecond)))
}

// Line is one step for a person, when it is over.
func (r *Result) Line() string {
	text := fmt.Sprintf("%4d  %-50s", r.N, r.Text())
	if r.Refused != "" {
		return text + "refused: " + r.Refused
	}
	noticed := "not noticed"
	switch {
	case r.Noticed > 0:
		noticed = "noticed " + short(millis(r.Noticed))
	case r.Kind.quiet:
		noticed = ""
	}
	stall := ""
	if r.Loaded {
		stall = "stall " + short(millis(r.Stall))
	}
	text += fmt.Sprintf("%-16s %-15s duplex %-9s", noticed, stall, short(millis(r.Back)))
	if r.Errors > 0 || r.Lost > 0 {
		text += fmt.Sprintf(" %d errors, %d lost", r.Errors, r.Lost)
		for name, w := range r.Windows {
			if w.LastErr != "" {
				text += "; " + name + ": " + w.LastErr
			}
		}
	}
	return strings.TrimRight(text, " ")
}
