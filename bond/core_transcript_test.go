package bond

import (
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ft/bond/datapath"
	"ft/drivers"
)

var update = flag.Bool("update", false, "write the transcripts anew")

// TestTranscripts plays testdata/*.txt: lines are commands to the core, indented lines
// below them what it then does. Lines with # are the story. `go test -update` writes
// what the core does now; the diff is then to be read.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(text))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(text), got); diff != "" {
				t.Errorf("the core does something else (- written, + done):\n%s", diff)
			}
		})
	}
}

// player drives one core on a clock of its own.
type player struct {
	t     *testing.T
	core  *Core
	now   time.Time
	timer time.Time
	out   strings.Builder
}

func play(t *testing.T, text string) string {
	p := &player{t: t, now: time.Unix(1000, 0)}
	for _, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		if strings.HasPrefix(line, "    ") {
			continue // what was done when it was written
		}
		p.out.WriteString(line + "\n")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		p.command(strings.Fields(line))
	}
	return p.out.String()
}

func (p *player) command(w []string) {
	side := func() drivers.Side {
		if len(w) < 2 || w[1] != "0" && w[1] != "1" {
			p.t.Fatalf("%v: which side?", w)
		}
		return drivers.Side(w[1][0] - '0')
	}
	has := func(word string) bool {
		for _, x := range w[1:] {
			if x == word {
				return true
			}
		}
		return false
	}
	nics := [2]string{"eth0", "eth1"}
	switch w[0] {
	case "bond":
		p.core = NewCore(p.options(w[1:]), [2]drivers.SideConfig{{Resource: drivers.Resource{Path: "eth0"}}, {Resource: drivers.Resource{Path: "eth1"}}})
	case "seen":
		q := 0
		if has("fast") {
			q = 10
		}
		p.step(Seen{Side: side(), Name: nics[side()], Carrier: has("up"), Quality: q})
	case "adopted":
		st := datapath.State{Active: side(), Eligible: [2]bool{true, true}}
		p.step(Adopted{st})
	case "begin":
		p.step(Begin{})
	case "carrier":
		p.step(CarrierSeen{Side: side(), Up: has("up"), At: p.now})
	case "gone":
		p.step(Gone{Side: side(), Why: nics[side()] + " has vanished", At: p.now})
	case "path":
		v := map[bool]Path{true: PathGood, false: PathBad}[has("good")]
		p.step(PathSeen{Side: side(), Path: v, Why: map[bool]string{false: "3 probes unanswered"}[has("good")], At: p.now})
	case "heard":
		p.core.Heard(side(), p.now)
	case "turned":
		p.step(Turned{To: side(), At: p.now})
	case "attach":
		p.step(AttachAsked{side()})
	case "detach":
		r := drivers.Reason{Text: "an admin took it out"}
		if has("risk") {
			r.AcceptRisk = drivers.RiskLastSide
		}
		p.step(DetachAsked{side(), r})
	case "switch":
		p.step(SwitchAsked{To: datapath.None})
	case "wait":
		d, err := time.ParseDuration(w[1])
		if err != nil {
			p.t.Fatal(err)
		}
		p.wait(p.now.Add(d))
	case "flap": // flap SIDE TIMES EVERY: down and up again
		d, err := time.ParseDuration(w[3])
		var n int
		if _, serr := fmt.Sscan(w[2], &n); err != nil || serr != nil {
			p.t.Fatal(err, serr)
		}
		for range n {
			p.step(CarrierSeen{Side: side(), Up: false, At: p.now})
			p.wait(p.now.Add(d / 2))
			p.step(CarrierSeen{Side: side(), Up: true, At: p.now})
			p.wait(p.now.Add(d / 2))
		}
	default:
		p.t.Fatalf("no command %q", w[0])
	}
}

func (p *player) options(words []string) Options {
	o := Options{UpDelay: 200 * time.Millisecond}
	for _, w := range words {
		k, v, _ := strings.Cut(w, "=")
		d, _ := time.ParseDuration(v)
		switch k {
		case "primary":
			o.Primary = drivers.Side(v[0] - '0')
		case "reselect":
			o.Reselect = Reselect(v)
		case "updelay":
			o.UpDelay = d
		case "downdelay":
			o.DownDelay = d
		case "probe":
			o.Probe = []netip.Addr{netip.MustParseAddr("192.0.2.1")}
		default:
			p.t.Fatalf("no option %q", w)
		}
	}
	return o
}

// wait lets time pass; what falls due on the way happens.
func (p *player) wait(until time.Time) {
	for range 1000 {
		if p.timer.IsZero() || p.timer.After(until) {
			p.now = until
			return
		}
		p.now = p.timer
		p.step(Tick{})
	}
	p.t.Fatal("the core asks for one tick after the other")
}

func (p *player) say(format string, args ...any) {
	fmt.Fprintf(&p.out, "    %8.3f  %s\n", p.now.Sub(time.Unix(1000, 0)).Seconds(), fmt.Sprintf(format, args...))
}

func (p *player) step(ev Event) {
	out := p.core.Step(p.now, ev)
	p.timer = out.Timer
	var refused *drivers.Refused
	if errors.As(out.Refusal, &refused) {
		p.say("refused (%s): %s", refused.Code, refused.Sentence)
	}
	if out.State != nil {
		p.say("data path: active %d, the kernel may turn to %s%s", out.State.Active, eligible(out.State.Eligible), map[bool]string{true: ", planned"}[out.Planned])
	}
	if s := out.Switch; s != nil {
		by := ""
		if s.Kernel {
			by = ", by the kernel"
		}
		p.say("switched %d → %d%s: %s, %v ago", s.From, s.To, by, s.Cause, p.now.Sub(s.CauseAt))
	}
	if out.Carrier != nil {
		p.say("face: carrier %v", *out.Carrier)
	}
	for _, r := range out.Reports {
		fault := ""
		if r.Fault != "" {
			fault = " [fault: " + r.Fault + "]"
		}
		p.say("pci%d %v → %v: %s%s", r.Side, r.From, r.To, r.Reason, fault)
	}
}

func eligible(e [2]bool) string {
	switch e {
	case [2]bool{true, true}:
		return "both"
	case [2]bool{true, false}:
		return "0"
	case [2]bool{false, true}:
		return "1"
	}
	return "none"
}
