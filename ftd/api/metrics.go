package api

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// This file writes the metrics: the Prometheus text format, version 0.0.4, in names that its
// users expect: base units, _total for what only grows, one series for each word of a state
// with 1 for the present one (as OpenMetrics has its StateSet).
//
// What there is: metrics_box.go what the status document says of the box and its parts;
// metrics_drivers.go what drivers count, by tables; metrics_process.go ftd itself and what the
// keeper knows. How many series there are is bounded: by the configured devices, and by words
// from lists that stand here. What a driver says under a name that no table knows is left out.
//
// alerts.rules.yml has alerts on these names; a test holds the two together.

// keptProcesses is implemented by a Backend that knows the keeper.
type keptProcesses interface {
	// Kept is what the keeper runs. It may ask, briefly; an error says that no keeper answers.
	Kept(ctx context.Context) ([]KeptProcess, error)
}

// KeptProcess is a process of the keeper.
type KeptProcess struct {
	Name   string
	State  string // keeper.State
	Starts int    // since it became known
	Early  int    // deaths in a row soon after the start
}

// getMetrics answers GET /metrics.
func (s *Server) getMetrics(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	m := newExposition()
	m.build(s.version)
	m.box(s.backend.Status())
	if k, ok := s.backend.(keptProcesses); ok {
		m.keeper(k.Kept(r.Context()))
	}
	m.process()
	_, _ = w.Write(m.bytes())
}

// Kinds of metrics.
const (
	counter = "counter"
	gauge   = "gauge"
)

// exposition gathers series by family, as the format wants all of one together.
type exposition struct {
	order    []string
	families map[string]*family
}

type family struct {
	kind, help string
	series     []string
}

func newExposition() *exposition { return &exposition{families: map[string]*family{}} }

// labelEscapes are all that the format knows.
var labelEscapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

// add writes a series. labels are names and values in turn.
func (m *exposition) add(name, kind, help string, v float64, labels ...string) {
	f := m.families[name]
	if f == nil {
		f = &family{kind: kind, help: help}
		m.families[name] = f
		m.order = append(m.order, name)
	}
	var b strings.Builder
	b.WriteString(name)
	for i := 0; i+1 < len(labels); i += 2 {
		sep := ","
		if i == 0 {
			sep = "{"
		}
		// Bytes that are no UTF-8 would make the whole answer unreadable.
		fmt.Fprintf(&b, `%s%s="%s"`, sep, labels[i], labelEscapes.Replace(strings.ToValidUTF8(labels[i+1], "�")))
	}
	if len(labels) > 0 {
		b.WriteByte('}')
	}
	b.WriteByte(' ')
	b.WriteString(strconv.FormatFloat(v, 'g', -1, 64))
	f.series = append(f.series, b.String())
}

// state writes a series for each word, 1 for the present one.
func (m *exposition) state(name, help string, words []string, now string, labels ...string) {
	for _, w := range words {
		m.add(name, gauge, help+", 1 for the present one.", number(w == now), append(slices.Clone(labels), "state", w)...)
	}
}

// time writes a moment, if there was one.
func (m *exposition) time(name, help string, t time.Time, labels ...string) {
	if !t.IsZero() {
		m.add(name, gauge, help, float64(t.UnixMilli())/1000, labels...)
	}
}

func (m *exposition) bytes() []byte {
	var b bytes.Buffer
	for _, name := range m.order {
		f := m.families[name]
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s %s\n", name, f.help, name, f.kind)
		for _, s := range f.series {
			b.WriteString(s)
			b.WriteByte('\n')
		}
	}
	return b.Bytes()
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
