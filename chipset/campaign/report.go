package campaign

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// Report is what a campaign has come to.
type Report struct {
	Seed    uint64  `json:"seed"`
	Faults  int     `json:"faults"`
	Memory  int64   `json:"memory_bytes"`
	Steps   uint64  `json:"steps"` // of the program
	Seconds float64 `json:"seconds"`

	Rows   []*Row   `json:"kinds"`
	Total  *Row     `json:"total"`
	Failed []*Trial `json:"failed"`

	rows map[string]*Row
}

// Row counts one kind of fault.
type Row struct {
	Kind     string          `json:"kind"`
	Injected int             `json:"injected"`
	NotIn    int             `json:"not_in,omitempty"`
	Outcomes map[Outcome]int `json:"outcomes"`
	Detected int             `json:"detected"`
	Named    int             `json:"named"` // rightly, of those that were detected
	Healthy  int             `json:"healthy_shot"`

	DetectSteps  Spread `json:"detect_steps"`
	DetectMicros Spread `json:"detect_us"`
	Repeated     Spread `json:"repeated_steps"`

	steps, micros, repeated []uint64
}

// Spread is how values are spread.
type Spread struct {
	Median uint64 `json:"median"`
	P95    uint64 `json:"p95"`
	Max    uint64 `json:"max"`
}

func spread(list []uint64) Spread {
	if len(list) == 0 {
		return Spread{}
	}
	slices.Sort(list)
	return Spread{list[len(list)/2], list[min(len(list)*95/100, len(list)-1)], list[len(list)-1]}
}

func (r *Report) row(kind string) *Row {
	if r.rows == nil {
		r.rows = map[string]*Row{}
	}
	if r.rows[kind] == nil {
		r.rows[kind] = &Row{Kind: kind, Outcomes: map[Outcome]int{}}
	}
	return r.rows[kind]
}

// add counts a run.
func (r *Report) add(t *Trial) {
	for _, kind := range []string{t.Kind, "total"} {
		row := r.row(kind)
		if t.Outcome == NotIn {
			row.NotIn++
			continue
		}
		row.Injected++
		row.Outcomes[t.Outcome]++
		if t.HealthyShot {
			row.Healthy++
		}
		if !t.Detected() {
			continue
		}
		row.Detected++
		if !t.Misnamed && !t.HealthyShot {
			row.Named++
		}
		if t.HasSteps {
			row.steps = append(row.steps, t.Steps)
		}
		if t.Outcome != BySelfTest {
			row.micros = append(row.micros, uint64(t.Latency.Microseconds()))
			row.repeated = append(row.repeated, t.Repeated)
		}
	}
	if t.Wrong != "" || t.Outcome == Pending || t.Outcome == Escaped {
		r.Failed = append(r.Failed, t)
	}
}

func (r *Report) finish() {
	r.Total = r.row("total")
	for kind, row := range r.rows {
		row.DetectSteps, row.DetectMicros, row.Repeated = spread(row.steps), spread(row.micros), spread(row.repeated)
		if kind != "total" {
			r.Rows = append(r.Rows, row)
		}
	}
	slices.SortFunc(r.Rows, func(a, b *Row) int { return cmp.Compare(slices.Index(Kinds, a.Kind), slices.Index(Kinds, b.Kind)) })
}

// OK says whether all faults were either found and named rightly, or proved to be gone.
func (r *Report) OK() bool { return len(r.Failed) == 0 }

// Print prints the tables.
func (r *Report) Print(w io.Writer) {
	rows := append(slices.Clone(r.Rows), r.Total)
	fmt.Fprintf(w, "%d faults, one a run of %d steps on two CPU modules with %d KiB of memory; seed %d; %v\n\n",
		r.Total.Injected, r.Steps, r.Memory>>10, r.Seed, time.Duration(r.Seconds*1e9).Round(time.Second))
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "fault\tinjected\t")
	for _, o := range outcomes {
		fmt.Fprintf(t, "%s\t", o)
	}
	fmt.Fprint(t, "named rightly\thealthy shot\t\n")
	for _, row := range rows {
		fmt.Fprintf(t, "%s\t%d\t", row.Kind, row.Injected)
		for _, o := range outcomes {
			fmt.Fprintf(t, "%d\t", row.Outcomes[o])
		}
		fmt.Fprintf(t, "%d of %d\t%d\t\n", row.Named, row.Detected, row.Healthy)
	}
	t.Flush()
	fmt.Fprint(w, "\nFrom the fault until it was noticed, and what was done again for it (median, 95th percentile, maximum):\n\n")
	t = tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "fault\tsteps\t\t\tµs\t\t\tsteps repeated\t\t\t\n")
	for _, row := range rows {
		fmt.Fprintf(t, "%s\t", row.Kind)
		for _, s := range []struct {
			Spread
			n int
		}{{row.DetectSteps, len(row.steps)}, {row.DetectMicros, len(row.micros)}, {row.Repeated, len(row.repeated)}} {
			if s.n == 0 {
				fmt.Fprint(t, "-\t-\t-\t")
				continue
			}
			fmt.Fprintf(t, "%d\t%d\t%d\t", s.Median, s.P95, s.Max)
		}
		fmt.Fprintln(t)
	}
	t.Flush()
	if r.Total.NotIn > 0 {
		fmt.Fprintf(w, "\n%d stores were to be lost or doubled when no store came any more; they are not counted.\n", r.Total.NotIn)
	}
}
