package api

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"go.yaml.in/yaml/v3"

	"ft/ftd/control"
)

// recorded is a document of a real box, with a NIC shot by a drill.
func recorded(t *testing.T) (st Status) {
	t.Helper()
	text, err := os.ReadFile("testdata/box.json")
	if err == nil {
		err = json.Unmarshal(text, &st)
	}
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// eventful is the same with all that a side can have.
func eventful(t *testing.T) Status {
	st := recorded(t)
	at, mean := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), 41.5
	x := &st.Devices[0].Sides[1]
	x.Progress = &Progress{What: "resync", Percent: 50, DoneBytes: 1 << 30, TotalBytes: 2 << 30, RateBytes: 7, ETASeconds: 12}
	x.MTBF.Faults, x.MTBF.Injected, x.MTBF.MeanHours, x.MTBF.LastFaultAt, x.MTBF.LastDrillAt = 2, 1, &mean, &at, &at
	return st
}

// withKeeper is a Backend that knows the keeper.
type withKeeper struct {
	*fake
	err error
}

func (w withKeeper) Kept(context.Context) ([]KeptProcess, error) {
	if w.err != nil {
		return nil, w.err
	}
	return []KeptProcess{{Name: "disk0", State: "running", Starts: 3}, {Name: "net0", State: "waiting", Starts: 9, Early: 8}}, nil
}

func metricsOf(t *testing.T, st Status, keeperErr error) string {
	t.Helper()
	b := newFake(t)
	b.status = st
	w := publicAsk(NewServer(withKeeper{b, keeperErr}, Version{Version: "v\"1\n", Go: "go"}, discardLog), "GET", "/metrics")
	if w.Code != 200 || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/plain; version=0.0.4") {
		t.Fatalf("%d %s", w.Code, w.Header())
	}
	return w.Body.String()
}

func TestMetrics(t *testing.T) {
	out := metricsOf(t, eventful(t), nil)
	problems, err := promlint.New(strings.NewReader(out)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	for _, want := range []string{
		`ft_build_info{version="v\"1\n",goversion="go"} 1`,
		`ft_system_state{state="simplex"} 1`, `ft_system_state{state="duplex"} 0`,
		`ft_side_state{side="pci0/net0",module="pci0",device="net0",state="shot"} 1`,
		`ft_module_safe_to_pull{module="pci1"} 0`,
		`ft_device_driver_state{device="disk0",kind="disk",state="connected"} 1`,
		`ft_side_progress_ratio{side="pci1/disk0",module="pci1",device="disk0"} 0.5`,
		`ft_side_progress_done_bytes{side="pci1/disk0",module="pci1",device="disk0"} 1.073741824e+09`,
		`ft_side_mean_time_between_faults_seconds{side="pci1/disk0",module="pci1",device="disk0"} 149400`,
		`ft_side_fault_threshold_seconds{side="pci1/disk0",module="pci1",device="disk0"} 86400`,
		`ft_side_fault_policy{side="pci1/disk0",module="pci1",device="disk0",policy="threshold"} 1`,
		`ft_side_last_fault_timestamp_seconds{side="pci1/disk0",module="pci1",device="disk0"} 1.767323045e+09`,
		`ft_side_drill_faults{side="pci1/disk0",module="pci1",device="disk0"} 1`,
		`ft_nic_failovers_total{device="net0"} 1`,
		`ft_nic_port_carrier{side="pci0/net0",module="pci0",device="net0"} 0`,
		`ft_nic_port_path_good{side="pci1/net0",module="pci1",device="net0"} 1`,
		`ft_machine_power{device="guest",state="running"} 1`,
		`ft_machine_link_up{device="guest",link="cpu1-pci0",cpu="cpu1",pci="pci0"} 1`,
		`ft_keeper_up 1`,
		`ft_keeper_process_starts_total{process="disk0"} 3`, `ft_keeper_process_state{process="net0",state="waiting"} 1`,
	} {
		if !strings.Contains(out, want+"\n") {
			t.Errorf("missing: %s", want)
		}
	}
	for _, name := range []string{"process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds", "process_max_fds", "process_start_time_seconds", "go_goroutines"} {
		if !regexp.MustCompile(`(?m)^` + name + ` [0-9]`).MatchString(out) {
			t.Errorf("no %s", name)
		}
	}
	if gone := metricsOf(t, eventful(t), errors.New("no keeper")); !strings.Contains(gone, "ft_keeper_up 0\n") {
		t.Error("a keeper that does not answer is not told of")
	}
}

// notMetrics are numbers in drivers' stats that say how something is made, not how it does, or
// that another metric says as well.
var notMetrics = []string{"disk.active", "disk.logical_block", "disk.physical_block", "nic.*.ifindex",
	"machine.guest_time", "machine.disk.size", "machine.disk.direct", "machine.modules.cpu0", "machine.modules.cpu1",
	"*.host.started", "*.host.stored.*"}

// A number that a driver has and nobody has looked at would otherwise be missing in silence.
func TestEveryNumberOfADriverIsAMetricOrKnowinglyNone(t *testing.T) {
	for _, d := range recorded(t).Devices {
		var known []string
		for _, s := range append(slices.Clone(statsOf[""]), statsOf[d.Kind]...) {
			rest, ofSides := strings.CutPrefix(s.path, "side.")
			if !ofSides {
				known = append(known, s.path)
				continue
			}
			known = append(known, "pci0."+rest, "pci1."+rest)
		}
		for _, name := range linkNames {
			known = append(known, "links."+name+".passed", "links."+name+".refused")
		}
		for _, what := range portCounters {
			known = append(known, "port0_"+what, "port1_"+what)
		}
		for path := range numbers("", d.Stats) {
			left := slices.ContainsFunc(notMetrics, func(p string) bool {
				p = strings.ReplaceAll(regexp.QuoteMeta(p), `\*`, `[^.]*`)
				return regexp.MustCompile("^" + p + "$").MatchString(d.Kind + "." + path)
			})
			if !left && !slices.Contains(known, path) {
				t.Errorf("%s says %s, which is no metric", d.ID, path)
			}
		}
	}
}

func numbers(prefix string, stats map[string]any) map[string]bool {
	found := map[string]bool{}
	for k, v := range stats {
		if below, ok := v.(map[string]any); ok {
			maps.Copy(found, numbers(prefix+k+".", below))
		} else if _, isText := v.(string); !isText {
			if _, ok := numberOf(v); ok {
				found[prefix+k] = true
			}
		}
	}
	return found
}

// What is not ours to choose (names, reasons, what drivers say) can break neither the format
// nor the bound on the number of series.
func TestMetricsOfAHostileBox(t *testing.T) {
	st := eventful(t)
	st.System.Name = "x\"} 1\nevil 1\n"
	st.Devices[0].ID = "a\"} 1\nft_system_state{state=\"down\"} 1\n\\"
	st.Devices[0].Stats["injected\n# TYPE x"] = 1.0
	st.Devices[0].Stats["reads"] = "many"
	st.Devices[0].Stats["pci0"] = "gone"
	for i := range 10_000 {
		st.Devices[1].Stats["n"+string(rune('a'+i%26))+strings.Repeat("x", i%500)] = float64(i)
	}
	st.Devices[3].Stats["links"] = map[string]any{"cpu0-pci9": map[string]any{"state": "on"}, "cpu0-pci0": 7}
	st.Devices[3].Stats["state"] = "\xff\xfe"
	st.Devices[3].ID = "\xff\xfe"
	out := metricsOf(t, st, nil)
	if _, err := promlint.New(strings.NewReader(out)).Lint(); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out, "\nevil") || strings.Contains(out, "injected") || strings.Count(out, "\n") > 1500 {
		t.Errorf("%d lines\n%.500s", strings.Count(out, "\n"), out)
	}
	if n := strings.Count(out, `ft_system_state{state="down"} `); n != 1 {
		t.Errorf("the state of the box stands there %d times", n)
	}
}

func TestABoxOf64DevicesHasBoundedMetrics(t *testing.T) {
	st := recorded(t)
	disk := st.Devices[0]
	st.Devices = nil
	for i := range 64 {
		d := disk
		d.ID = "disk" + strings.Repeat("x", i+1)
		st.Devices = append(st.Devices, d)
	}
	if out := metricsOf(t, st, nil); len(out) > 1<<20 || !strings.Contains(out, disk.ID) {
		t.Errorf("%d bytes", len(out))
	}
}

// Every alert says what is wrong and what to do, and asks for metrics that there are, with
// words that they have.
func TestAlertRules(t *testing.T) {
	text, err := os.ReadFile("alerts.rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	dec := yaml.NewDecoder(strings.NewReader(string(text)))
	dec.KnownFields(true)
	if err := dec.Decode(&file); err != nil {
		t.Fatal(err)
	}
	out := metricsOf(t, eventful(t), nil)
	seen := map[string]bool{}
	for _, r := range file.Groups[0].Rules {
		if seen[r.Alert] || !regexp.MustCompile(`^Ftd?[A-Z][A-Za-z]+$`).MatchString(r.Alert) {
			t.Errorf("the name %q", r.Alert)
		}
		seen[r.Alert] = true
		if !slices.Contains([]string{"info", "warning", "critical"}, r.Labels["severity"]) || r.Annotations["summary"] == "" || len(r.Annotations["runbook"]) < 40 {
			t.Errorf("%s lacks its severity, summary or runbook", r.Alert)
		}
		if r.For != "" {
			if _, err := time.ParseDuration(r.For); err != nil {
				t.Errorf("%s: %v", r.Alert, err)
			}
		}
		for _, name := range regexp.MustCompile(`\b(ft|process|go)_\w+`).FindAllString(r.Expr, -1) {
			if !strings.Contains(out, "\n# TYPE "+name+" ") {
				t.Errorf("%s asks for %s, which there is not", r.Alert, name)
			}
		}
		for _, m := range regexp.MustCompile(`\b(\w+)\{(\w+)=~?"([^"]*)"\}`).FindAllStringSubmatch(r.Expr, -1) {
			for _, word := range strings.Split(m[3], "|") {
				if m[2] != "job" && !regexp.MustCompile(`(?m)^`+m[1]+`\{[^}]*`+m[2]+`="`+word+`"`).MatchString(out) {
					t.Errorf("%s: %s has no %s=%q", r.Alert, m[1], m[2], word)
				}
			}
		}
		for _, text := range r.Annotations {
			for _, label := range regexp.MustCompile(`\$labels\.(\w+)`).FindAllStringSubmatch(text, -1) {
				if !strings.Contains(out, label[1]+`="`) && label[1] != "instance" {
					t.Errorf("%s: no metric has the label %s", r.Alert, label[1])
				}
			}
		}
	}
	if len(seen) < 15 {
		t.Errorf("%d alerts", len(seen))
	}
}

// The words of states stand in their own packages; a new one must get its series.
func TestStateWordsAreComplete(t *testing.T) {
	if len(sideStates) != 10 || len(faceStates) != 4 {
		t.Error("states")
	}
	for i, w := range sideStates {
		var s = control.ModuleView{}.State
		if err := s.UnmarshalText([]byte(w)); err != nil || int(s) != i {
			t.Errorf("%s: %v", w, err)
		}
	}
}
