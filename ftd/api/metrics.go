package api

import (
	"bytes"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
)

// The words that a state metric has one series for each, 1 for the present one.
var (
	faceStates = []string{"down", "simplex", "syncing", "duplex"}
	sideStates = []string{"empty", "removed", "offline", "diagnostics", "syncing", "simplex", "duplex", "shot", "broken", "dumping"}
)

// modules are the names under which a driver has the counters of one side.
var modules = []string{"cpu0", "cpu1", "pci0", "pci1"}

// getMetrics writes the Prometheus text format, version 0.0.4.
func (s *Server) getMetrics(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, _ = w.Write(metrics(s.backend.Status(), s.version))
}

func metrics(st Status, v Version) []byte {
	m := exposition{families: map[string]*family{}}
	m.add("ft_build_info", "gauge", "Always 1; what runs is in the labels.", 1, "version", v.Version, "go", v.Go)
	m.add("ft_events_seq", "counter", "Number of the last event.", float64(st.System.Seq))
	m.state("ft_system_state", "State of the box, 1 for the present one.", faceStates, st.System.State.String())
	for _, x := range st.Modules {
		m.state("ft_module_state", "State of a module, 1 for the present one.", sideStates, x.State.String(), "module", x.ID)
		m.add("ft_module_safe_to_pull", "gauge", "1 when the module can be pulled without loss of service.", number(x.SafeToPull), "module", x.ID)
	}
	for _, d := range st.Devices {
		m.state("ft_device_state", "State of a device's face, 1 for the present one.", faceStates, d.State.String(), "device", d.ID, "kind", d.Kind)
		m.stats("ft_"+metricWord(d.Kind), d.Stats, "device", d.ID)
		for _, x := range d.Sides {
			m.side(d, x)
		}
	}
	return m.bytes()
}

func (m *exposition) side(d DeviceStatus, x SideStatus) {
	labels := []string{"module", ModuleOf(x.ID), "device", d.ID}
	m.state("ft_side_state", "State of a side, 1 for the present one.", sideStates, x.State.String(), labels...)
	m.add("ft_side_safe_to_pull", "gauge", "1 when the side can be pulled without loss of service.", number(x.SafeToPull), labels...)
	m.add("ft_side_active", "gauge", "1 when the side is the active one.", number(x.Active), labels...)
	m.add("ft_side_faults", "gauge", "Faults in the side's history, without those of drills.", float64(x.MTBF.Faults), labels...)
	if p := x.Progress; p != nil {
		m.add("ft_side_progress_ratio", "gauge", "How far the side's background work is, 0 to 1.", p.Percent/100, labels...)
		m.add("ft_side_progress_rate_bytes", "gauge", "Rate of the side's background work, bytes a second.", float64(p.RateBytes), labels...)
	}
}

// exposition gathers series by family, as the format wants all of one together.
type exposition struct {
	order    []string
	families map[string]*family
}

type family struct {
	kind, help string
	series     []string
}

// labelEscapes are all that the format knows.
var labelEscapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

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
		fmt.Fprintf(&b, `%s%s="%s"`, sep, labels[i], labelEscapes.Replace(labels[i+1]))
	}
	if len(labels) > 0 {
		b.WriteByte('}')
	}
	fmt.Fprintf(&b, " %v", v)
	f.series = append(f.series, b.String())
}

func (m *exposition) state(name, help string, words []string, now string, labels ...string) {
	for _, w := range words {
		m.add(name, "gauge", help, number(w == now), append(slices.Clone(labels), "state", w)...)
	}
}

// stats exposes every number of a driver's stats. Maps within are joined by name, but for
// those of the sides, which are told apart by the module that carries them.
func (m *exposition) stats(prefix string, stats map[string]any, labels ...string) {
	for _, k := range slices.Sorted(maps.Keys(stats)) {
		name := prefix + "_" + metricWord(k)
		help := "The driver's " + strings.ReplaceAll(metricWord(k), "_", " ") + "."
		switch v := stats[k].(type) {
		case map[string]any:
			if slices.Contains(modules, k) {
				m.stats(prefix+"_side", v, append(slices.Clone(labels), "module", k)...)
			} else {
				m.stats(name, v, labels...)
			}
		case bool:
			m.add(name, "untyped", help, number(v), labels...)
		case float64:
			m.add(name, "untyped", help, v, labels...)
		case int:
			m.add(name, "untyped", help, float64(v), labels...)
		case int64:
			m.add(name, "untyped", help, float64(v), labels...)
		case uint64:
			m.add(name, "untyped", help, float64(v), labels...)
		}
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

// metricWord makes a name fit for a metric.
func metricWord(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '_':
			return r
		}
		return '_'
	}, s)
}
