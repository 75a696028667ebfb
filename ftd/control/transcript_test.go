package control

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ft/drivers"
)

// The transcripts in testdata read as stories: comments say why, commands say what
// happens to the box, and below ---- stands what the core made of it. Run with -update
// to write what it makes of it now, and read the difference.
//
// What the shell around the core does is played here: the state is kept over restarts,
// writes to disk succeed unless the story says otherwise, and time that passes stops at
// every timer the core has set. Drivers do nothing but what the story says.

var update = flag.Bool("update", false, "write what the core answers into the transcripts")

func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts in testdata: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			was, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			is := play(t, string(was))
			if is == string(was) {
				return
			}
			if *update {
				if err := os.WriteFile(file, []byte(is), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			t.Errorf("%s: the core tells another story (-update writes it):\n%s", file, firstDifference(string(was), is))
		})
	}
}

func firstDifference(was, is string) string {
	a, b := strings.Split(was, "\n"), strings.Split(is, "\n")
	for i := range a {
		if i >= len(b) || a[i] != b[i] {
			end := func(l []string) string { return strings.Join(l[min(i, len(l)):min(i+8, len(l))], "\n") }
			return fmt.Sprintf("from line %d, expected:\n%s\n\ngot:\n%s", i+1, end(a), end(b))
		}
	}
	return fmt.Sprintf("got more lines, from %d: %s", len(a)+1, b[len(a)])
}

// play runs a transcript and returns it with the answers of the core in place.
func play(t *testing.T, text string) string {
	b := newStage(t)
	var out strings.Builder
	skip := false // what was expected
	for _, line := range strings.SplitAfter(text, "\n") {
		word := strings.TrimSpace(line)
		switch {
		case word == "----":
			out.WriteString(line)
			out.WriteString(b.said.String())
			b.said.Reset()
			skip = true
		case word == "":
			skip = false
			out.WriteString(line)
		case skip:
		case strings.HasPrefix(word, "#"):
			out.WriteString(line)
		default:
			out.WriteString(line)
			b.command(word)
		}
	}
	if b.said.Len() > 0 {
		t.Fatalf("the story ends with a command that has no ---- below it")
	}
	return out.String()
}

// stage is the box that a story plays on.
type stage struct {
	t        *testing.T
	core     *Core
	cfg      Config
	now      time.Time
	start    time.Time
	timer    time.Time
	disk     Persistent // the state directory
	diskFull bool
	dark     []string // modules without power
	config   []DeviceConfigured
	seq      map[string]uint64 // of each driver's events
	waiting  []Action          // that have no result yet
	asked    int
	said     strings.Builder
}

func newStage(t *testing.T) *stage {
	start := time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)
	return &stage{t: t, now: start, start: start, cfg: Config{Name: "box"}, seq: map[string]uint64{}}
}

// words splits a command; "quoted words" stay together.
func words(line string) (w []string) {
	for i, part := range strings.Split(line, `"`) {
		if i%2 == 1 {
			if n := len(w); n > 0 && strings.HasSuffix(w[n-1], "=") {
				w[n-1] += part
			} else {
				w = append(w, part)
			}
			continue
		}
		w = append(w, strings.Fields(part)...)
	}
	return w
}

func (b *stage) command(line string) {
	w := words(line)
	arg := func(i int) string {
		if i < len(w) && !strings.Contains(w[i], "=") {
			return w[i]
		}
		return ""
	}
	opt := map[string]string{}
	for _, x := range w[1:] {
		if k, v, ok := strings.Cut(x, "="); ok {
			opt[k] = v
		}
	}
	b.asked++
	req := Request{ID: fmt.Sprintf("r%d", b.asked), By: "root"}
	switch w[0] {
	case "box":
		b.cfg.Bringup = BringupPolicy(opt["bringup"])
		b.core = New(b.cfg)
	case "disk", "nic", "machine":
		ev := DeviceConfigured{Kind: w[0], Name: w[1]}
		for i, path := range w[2:4] {
			ev.Sides[i].Resource.Path = strings.TrimPrefix(path, "-") // - is a side that is not configured
		}
		if opt["needs"] != "" {
			ev.Needs = strings.Split(opt["needs"], ",")
		}
		b.config = append(b.config, ev)
		b.step(ev)
	case "load":
		ev := StateLoaded{State: b.disk, LastSeq: b.core.Seq()}
		if arg(1) == "boot" {
			ev.Booted = b.now
		}
		b.step(ev)
	case "restart": // ftd dies and starts again
		seq := b.core.Seq()
		b.core, b.timer, b.waiting = New(b.cfg), time.Time{}, nil
		b.step(StateLoaded{State: b.disk, LastSeq: seq})
		for _, module := range b.dark { // ftd's shell keeps that
			b.step(ModulePower{Module: module})
		}
		for _, ev := range b.config {
			b.step(ev)
		}
	case "disk-full":
		b.diskFull = true
	case "disk-free":
		b.diskFull = false
	case "connect":
		b.seq[w[1]] = 0
		b.step(DriverConnected{w[1], b.snapshot(w[1], w[2:4], opt)})
	case "look":
		b.step(DriverStatus{w[1], b.snapshot(w[1], w[2:4], opt)})
	case "lost":
		b.step(DriverLost{Device: w[1], Reason: opt["reason"], GaveUp: arg(2) == "gave-up"})
	case "report":
		b.report(w, opt)
	case "drained":
		d, i := split(w[1])
		b.step(DriverReport{d, drivers.Event{Seq: b.count(d), Kind: drivers.EventDrained, Side: i}})
	case "face":
		b.step(DriverReport{w[1], drivers.Event{Seq: b.count(w[1]), Kind: drivers.EventFace, Side: drivers.Whole, To: w[2], Reason: opt["reason"]}})
	case "ok", "refused", "failed":
		b.result(w, opt)
	case "vanished":
		b.step(DeviceVanished{ID: w[1]})
	case "power": // of a module: on or off
		ev := ModulePower{Module: w[1], On: w[2] == "on"}
		b.dark = slices.DeleteFunc(b.dark, func(id string) bool { return id == w[1] })
		if !ev.On {
			b.dark = append(b.dark, w[1])
		}
		b.step(ev)
	case "seen":
		b.step(DeviceSeen{ID: w[1], Identity: arg(2)})
	case "bringup":
		b.step(BringUp{req, w[1], opt["risk"]})
	case "bringdown":
		b.step(BringDown{req, w[1], opt["risk"]})
	case "machine-start":
		b.step(StartMachine{req, w[1]})
	case "machine-stop":
		b.step(StopMachine{req, w[1]})
	case "switch":
		b.step(SwitchActive{req, w[1]})
	case "policy":
		b.step(SetBringup{req, BringupPolicy(w[1])})
	case "mtbf-set":
		b.step(SetMTBF{req, w[1], MTBFSettings{Policy: MTBFPolicy(opt["policy"])}, false})
	case "mtbf-clear":
		b.step(ClearMTBF{req, w[1]})
	case "status":
		b.status()
	default:
		if d, err := time.ParseDuration(strings.TrimPrefix(w[0], "+")); err == nil {
			b.pass(d)
			return
		}
		b.t.Fatalf("the story has a command that nobody knows: %s", line)
	}
}

// split takes a side's id apart.
func split(id string) (device string, i drivers.Side) {
	module, device, _ := strings.Cut(id, "/")
	return device, drivers.Side(module[len(module)-1] - '0')
}

func (b *stage) count(device string) uint64 {
	b.seq[device]++
	return b.seq[device]
}

// snapshot is what a driver says of itself.
func (b *stage) snapshot(device string, states []string, opt map[string]string) drivers.Status {
	st := drivers.Status{Name: device, Pid: 100, Seq: b.seq[device], Face: b.face(device), State: drivers.FaceSimplex}
	for i, word := range states {
		state, err := drivers.ParseState(word)
		if err != nil {
			b.t.Fatal(err)
		}
		ago, _ := time.ParseDuration(opt[fmt.Sprintf("ago%d", i)])
		st.Sides[i].State, st.Sides[i].Since = state, b.now.Add(-ago)
		st.Sides[i].Reason = opt[fmt.Sprintf("reason%d", i)]
		st.Sides[i].Resource.Identity = opt[fmt.Sprintf("id%d", i)]
		st.Sides[i].Active = opt["active"] == fmt.Sprint(i)
		st.Sides[i].OutBy = opt[fmt.Sprintf("out_by%d", i)]
	}
	return st
}

// face is what the driver of a device calls its face.
func (b *stage) face(device string) string {
	if b.core.device(device).kind.name == "disk" {
		return "/dev/ft/" + device
	}
	return device
}

func (b *stage) report(w []string, opt map[string]string) {
	device, i := split(w[1])
	ev := drivers.Event{
		Seq: b.count(device), Time: b.now, Kind: drivers.EventSide, Side: i, To: w[2],
		Reason: opt["reason"], Fault: opt["fault"], Detail: map[string]any{},
	}
	for _, x := range w[3:] {
		switch {
		case x == "injected":
			ev.Injected = true
		case x == "draining":
			ev.Detail["draining"] = true
		}
	}
	for _, key := range []string{"code", "out_by"} {
		if opt[key] != "" {
			ev.Detail[key] = opt[key]
		}
	}
	b.step(DriverReport{device, ev})
}

// result answers the oldest action of a kind that waits for a device or side.
func (b *stage) result(w []string, opt map[string]string) {
	for _, a := range b.waiting {
		if string(a.Kind) == w[1] && b.about(a) == w[2] {
			b.step(ActionResult{a.ID, Outcome(w[0]), opt["code"], opt["reason"]})
			return
		}
	}
	b.t.Fatalf("the story answers %s %s, which nobody asked for", w[1], w[2])
}

// about is the id that an action is about.
func (b *stage) about(a Action) string {
	if a.Kind != ActionAttach && a.Kind != ActionDetach {
		return a.Device
	}
	return b.core.device(a.Device).sides[a.Side].id
}

// pass lets time pass, and stops at the core's timers.
func (b *stage) pass(d time.Duration) {
	until := b.now.Add(d)
	for !b.timer.IsZero() && !b.timer.After(until) {
		b.now = b.timer
		b.step(Tick{})
	}
	b.now = until
	b.step(Tick{})
}

// step gives the core an event, and tells what came of it.
func (b *stage) step(ev Event) {
	r := b.core.Step(b.now, ev)
	if _, done := ev.(ActionResult); done {
		id := ev.(ActionResult).ID
		for i := range b.waiting {
			if b.waiting[i].ID == id {
				b.waiting = append(b.waiting[:i], b.waiting[i+1:]...)
				break
			}
		}
	}
	for _, e := range r.Entries {
		change := e.To
		if e.From != e.To {
			change = e.From + " → " + e.To
		}
		mark := map[Severity]string{Info: " ", Warning: "~", Error: "!", Critical: "‼"}[e.Severity]
		fmt.Fprintf(&b.said, "%s %s %s %s", b.clock(e.Time), mark, e.ID, change)
		if e.Reason != "" {
			fmt.Fprintf(&b.said, ": %s", e.Reason)
		}
		b.said.WriteString("\n")
	}
	var written []ActionResult
	failed := map[uint64]bool{}
	for _, a := range r.Actions {
		if failed[a.After] {
			continue // as the contract says: without a result of its own
		}
		if a.Kind == ActionPersist {
			res := ActionResult{ID: a.ID, Outcome: OK}
			if b.diskFull {
				res.Outcome, res.Sentence, failed[a.ID] = Failed, "write /var/lib/ft/state.json: no space left on device", true
			} else {
				b.disk = *a.State
			}
			written = append(written, res)
		}
		b.tell(a)
	}
	for _, a := range r.Answers {
		if !failed[a.After] || a.After == 0 {
			code := ""
			if a.Code != "" {
				code = " (" + a.Code + ")"
			}
			fmt.Fprintf(&b.said, "  answer %s%s: %s\n", a.Status, code, a.Sentence)
		}
	}
	for _, res := range written {
		b.step(res)
	}
}

func (b *stage) tell(a Action) {
	after := ""
	if a.After != 0 {
		after = ", once that is on disk"
	}
	switch a.Kind {
	case ActionTimer:
		b.timer = a.At
		return
	case ActionAlarm, ActionConfigure:
		return // the entry says it; transcripts are about the rest
	case ActionPersist:
		fmt.Fprintf(&b.said, "  persist\n")
		return
	case ActionAttach:
		risk := ""
		if a.Resource.AcceptRisk != "" {
			risk = " accepting " + a.Resource.AcceptRisk
		}
		fmt.Fprintf(&b.said, "  attach %s (%s)%s%s\n", b.about(a), a.Resource.Path, risk, after)
	case ActionDetach:
		risk := ""
		if a.Reason.AcceptRisk != "" {
			risk = ", accepting " + a.Reason.AcceptRisk
		}
		fmt.Fprintf(&b.said, "  detach %s (%s)%s%s\n", b.about(a), a.Reason.Text, risk, after)
	case ActionSwitch:
		to := ""
		if a.Side.Valid() {
			to = " to " + b.core.device(a.Device).sides[a.Side].id
		}
		fmt.Fprintf(&b.said, "  switch %s%s%s\n", a.Device, to, after)
	case ActionStart:
		out := ""
		for i, sc := range a.Sides {
			if sc.Out {
				out += fmt.Sprintf(", without side %d", i)
			}
		}
		fmt.Fprintf(&b.said, "  start driver of %s%s%s\n", a.Device, out, after)
	default:
		fmt.Fprintf(&b.said, "  %s %s%s\n", a.Kind, a.Device, after)
	}
	if a.WantsResult() {
		b.waiting = append(b.waiting, a)
	}
}

func (b *stage) clock(t time.Time) string { return t.Format("15:04:05") }

// status tells what a person would see.
func (b *stage) status() {
	doc := b.core.Status(b.now)
	fmt.Fprintf(&b.said, "%s %v\n  cause  %s\n  action %s\n", doc.System.Name, doc.System.State, doc.System.Verdict, doc.System.Action)
	pull := func(safe bool, note string) string {
		if safe {
			return "safe to pull"
		}
		return "do not pull: " + note
	}
	for _, m := range doc.Modules {
		fmt.Fprintf(&b.said, "  %s %v, %s\n", m.ID, m.State, pull(m.SafeToPull, m.PullNote))
	}
	for _, d := range doc.Devices {
		for _, s := range d.Sides {
			fmt.Fprintf(&b.said, "    %s %v, wanted %s by %s, %d faults (%d injected), %s\n", s.ID, s.State, s.Target, s.TargetBy, s.MTBF.Faults, s.MTBF.Injected, pull(s.SafeToPull, s.PullNote))
		}
	}
}
