package statuspage

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"ft/drivers"
	"ft/ftd/api"
	"ft/ftd/eventlog"
)

// shown is a Backend that shows what a test says. What a page has no business with is nil.
type shown struct {
	api.Backend
	log *eventlog.Log

	mu  sync.Mutex
	doc api.Status
}

func (s *shown) Status() api.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	doc := s.doc
	doc.System.Seq = s.log.LastSeq()
	return doc
}

func (s *shown) Events() *eventlog.Log { return s.log }

func (s *shown) Others(context.Context) (*api.Version, []string) { return nil, nil }

// change changes the document; what it is told is an event.
func (s *shown) change(t *testing.T, e api.Event, f func(*api.Status)) {
	t.Helper()
	s.mu.Lock()
	f(&s.doc)
	s.mu.Unlock()
	if _, err := s.log.Append(e); err != nil {
		t.Fatal(err)
	}
}

// recorded is a document of a real box: a NIC of pci0 was shot, all else is duplex.
func recorded(t *testing.T) (st api.Status) {
	t.Helper()
	text, err := os.ReadFile("../api/testdata/box.json")
	if err == nil {
		err = json.Unmarshal(text, &st)
	}
	if err != nil {
		t.Fatal(err)
	}
	st.System.Since = time.Now().Add(-75 * time.Second)
	return st
}

// box serves a document until the test ends, or stop is called. at "" is any port.
func box(t *testing.T, s *shown, at string) (host string, stop func()) {
	t.Helper()
	if at == "" {
		at = "127.0.0.1:0"
	}
	ln, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	public := api.NewServer(s, api.Version{Version: "v1", Go: "go"}, discard).Public()
	go func() { ended <- Serve(ctx, ln, public, discard) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return ln.Addr().String(), stop
}

func show(t *testing.T, st api.Status) *shown {
	t.Helper()
	log, err := eventlog.Open(t.TempDir(), 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	s := &shown{log: log, doc: st}
	for i := range 5 {
		s.change(t, api.Event{ID: "disk0", From: "syncing", To: "duplex", Reason: fmt.Sprint("event of before ", i), Severity: "info"}, func(*api.Status) {})
	}
	return s
}

// sideOf finds a side by its id.
func sideOf(st *api.Status, id string) *api.SideStatus {
	for i := range st.Devices {
		for j := range st.Devices[i].Sides {
			if x := &st.Devices[i].Sides[j]; x.ID == id {
				return x
			}
		}
	}
	panic("no side " + id)
}

// busy is a box in which much happens at once.
func busy(t *testing.T) api.Status {
	st := recorded(t)
	st.System.Verdict, st.System.Action = "pci1/disk0 is being brought up to date: resync 61 % (and 1 more: ftctl status)", "none: it comes in by itself, 0:41 left"
	st.System.State = drivers.FaceSyncing
	x := sideOf(&st, "pci1/disk0")
	x.State, x.SafeToPull, x.PullNote = drivers.Syncing, false, "pci1/disk0 is syncing"
	x.Progress = &api.Progress{What: "resync", Percent: 61.4, DoneBytes: 61, TotalBytes: 100, RateBytes: 212_400_000, ETASeconds: 41}
	mean := 41.2
	x.MTBF.Faults, x.MTBF.MeanHours = 3, &mean
	y := sideOf(&st, "pci0/disk0")
	y.State, y.SafeToPull, y.PullNote = drivers.Simplex, false, "pci0/disk0 is the only good side of disk0"
	z := sideOf(&st, "cpu1/guest")
	z.State, z.Reason, z.Note, z.Active = drivers.Broken, "cpu1 was shot: differed from cpu0 at step 81223441007, 3 faults", "", false
	for i := range st.Modules {
		m := &st.Modules[i]
		switch m.ID {
		case "cpu0":
			m.State, m.SafeToPull, m.PullNote = drivers.Simplex, false, "cpu0/guest is the only good side of guest"
			sideOf(&st, "cpu0/guest").State = drivers.Simplex
			sideOf(&st, "cpu0/guest").SafeToPull = false
		case "cpu1":
			m.State, m.SafeToPull = drivers.Broken, true
		case "pci0":
			m.State, m.SafeToPull, m.PullNote = drivers.Shot, false, "pci0/disk0 is the only good side of disk0"
		case "pci1":
			m.State, m.SafeToPull, m.PullNote = drivers.Syncing, false, "pci1/disk0 is syncing"
			sideOf(&st, "pci1/net0").SafeToPull, sideOf(&st, "pci1/net0").State = true, drivers.Duplex
		}
	}
	links := st.Devices[len(st.Devices)-1].Stats["links"].(map[string]any)
	for _, id := range []string{"cpu1-pci0", "cpu1-pci1"} {
		links[id] = map[string]any{"state": "off", "passed": 1200.0, "refused": 7.0}
	}
	return st
}

const drawn = `document.querySelector(".chassis") && document.querySelectorAll("#log .entry").length > 0`

func TestThePageShowsTheBoxAndKeepsUp(t *testing.T) {
	s := show(t, busy(t))
	host, _ := box(t, s, "")
	tb := open(t, "http://"+host+"/", look{width: 1300, height: 900})
	tb.until(drawn)
	for selector, want := range map[string]string{
		"#verdict h1":                          "box SYNCING",
		".cause":                               "Cause pci1/disk0 is being brought up to date: resync 61 % (and 1 more: ftctl status)",
		".action":                              "Do none: it comes in by itself, 0:41 left",
		"#age":                                 ", live",
		"[data-key=cpu0] .pull.red":            "do not pull",
		"[data-key=cpu1] .pull.green":          "safe to pull",
		"[data-key=pci1] .pull.yellow":         "do not pull yet",
		"[data-key=pci0] .pull.red":            "do not pull",
		"[data-key=pci0] .why":                 "pci0/disk0 is the only good side of disk0",
		"[data-key='pci1/disk0'] .progress":    "resync · 61 % · 212 MB/s · 0:41 left",
		"[data-key='pci1/disk0'] .faults":      "3 faults, one in 41 h",
		"[data-key='pci0/disk1'] .faults":      "no faults",
		"[data-key='pci0/disk1'] .role":        "carries",
		"[data-key='cpu1/guest'] .what":        "cpu1 was shot: differed from cpu0 at step 81223441007, 3 faults",
		".crossbar summary":                    "crossbar cpu1–pci0, cpu1–pci1 off",
		".faces":                               "disk0",
		"#log .entry:nth-child(2)":             "event of before 4", // the first is the day
		"#log .entry:last-child":               "event of before 0",
		"[data-key='cpu1/guest'] .part .state": "broken",
	} {
		if got := tb.text(selector); !strings.Contains(got, want) {
			t.Errorf("%s shows %q, want %q", selector, got, want)
		}
	}
	if got := tb.text(".since"); !regexp.MustCompile(`for \d+:\d\d`).MatchString(got) {
		t.Errorf(".since shows %q, want for how long", got)
	}
	var is struct {
		Value  float64
		Lamps  []int
		Title  string
		Spoken string
	}
	tb.eval(&is, `({
		value: document.querySelector("progress").value,
		title: document.title,
		spoken: document.querySelector("#spoken").textContent,
	})`)
	if is.Value != 61 || is.Title != "SYNCING · box" || !strings.HasPrefix(is.Spoken, "box is syncing. Cause: pci1/disk0 is being brought up to date") {
		t.Errorf("%+v", is)
	}

	// Without a reload, what the reader opened stays open, and what only counts is not spoken.
	tb.eval(nil, `window.stays = true; document.querySelector("[data-key='pci1/disk0'] details").open = true; document.querySelector("#spoken").textContent = ""; 0`)
	s.change(t, api.Event{ID: "pci1/disk0", From: "syncing", To: "syncing", Reason: "half way", Severity: "warning"}, func(st *api.Status) {
		st.System.Verdict, st.System.Action = "pci1/disk0 is being brought up to date: resync 80 % (and 1 more: ftctl status)", "none: it comes in by itself, 0:21 left"
		p := *sideOf(st, "pci1/disk0").Progress
		p.Percent, p.ETASeconds = 80, 21
		sideOf(st, "pci1/disk0").Progress = &p
	})
	tb.until(`document.querySelector("progress").value === 80 && document.querySelector("#log .entry .reason").textContent === "half way"`)
	tb.eval(&is, `({ spoken: document.querySelector("#spoken").textContent })`)
	if is.Spoken != "" {
		t.Errorf("a screen reader is told %q for a few percent more", is.Spoken)
	}
	s.change(t, api.Event{ID: "box", From: "syncing", To: "duplex", Reason: "all faces are duplex", Severity: "info"}, func(st *api.Status) {
		*st = recorded(t)
		st.System.State, st.System.Verdict, st.System.Action = drivers.FaceDuplex, "every face is served by two good sides", "none"
	})
	tb.until(`document.querySelector("#verdict [data-state=duplex]") && document.title === "DUPLEX · box" && document.querySelector("#spoken").textContent === "box is duplex. "`)
	tb.until(`window.stays && document.querySelector("[data-key='pci1/disk0'] details").open && !document.querySelector("progress")`)

	// Held, the log waits for its reader.
	tb.eval(nil, `document.querySelector("#log-follow").click(); 0`)
	s.change(t, api.Event{ID: "box", Reason: "later", Severity: "info"}, func(*api.Status) {})
	tb.until(`!document.querySelector("#log-held").hidden`)
	if got := tb.text("#log"); strings.Contains(got, "later") || tb.text("#log-release") != "1 event more: show" {
		t.Errorf("held, it shows %.200s and %q", got, tb.text("#log-release"))
	}
	tb.eval(nil, `document.querySelector("#log-release").click(); 0`)
	tb.until(`document.querySelector("#log .entry .reason").textContent === "later" && document.querySelector("#log-held").hidden`)
	tb.eval(nil, `document.querySelector("#log-less").click(); 0`)
	tb.until(`document.querySelectorAll("#log .entry").length === 1`) // the warning
	tb.noTrouble(host)
}

func TestAnFtdThatIsGoneIsSaidAndWaitedFor(t *testing.T) {
	s := show(t, busy(t))
	host, stop := box(t, s, "")
	tb := open(t, "http://"+host+"/", look{width: 1000, height: 900})
	tb.until(drawn)
	stop()
	tb.until(`document.body.hasAttribute("data-lost")`)
	tb.until(`/What is shown is 0:0[1-9] old\. (Asking again in \d+ s\.|Asking …)/.test(document.querySelector("#lost-next").textContent)`)
	for selector, want := range map[string]string{
		"#lost-why":   "ftd does not answer",
		"#verdict h1": "box SYNCING",
		"#age":        "ago",
	} {
		if got := tb.text(selector); !strings.Contains(got, want) {
			t.Errorf("%s shows %q, want %q", selector, got, want)
		}
	}
	var is struct{ Filter, Title string }
	tb.eval(&is, `({ filter: getComputedStyle(document.querySelector("main")).filter, title: document.title })`)
	if is.Filter != "grayscale(1)" || !strings.Contains(is.Title, "old · box") {
		t.Errorf("%+v", is)
	}
	box(t, s, host)
	s.change(t, api.Event{ID: "ftd", Reason: "started again"}, func(*api.Status) {})
	tb.eval(nil, `document.querySelector("#lost-again").click(); 0`)
	tb.until(`!document.body.hasAttribute("data-lost") && document.querySelector("#lost").hidden`)
	tb.until(`document.querySelector("#log .entry .reason").textContent === "started again"`)
	tb.noTrouble(host)
}

// crowded is a box of 64 devices whose names and sentences are as long and as bad as can be.
func crowded(t *testing.T) api.Status {
	st := busy(t)
	bad := `<img src=x onerror="window.hit=1"><script>window.hit=1</script>` + "\u202e" + `"'&amp;{{}}`
	long := strings.Repeat("a_sentence_without_a_space_", 30)
	disk := st.Devices[0]
	for i := range 60 {
		d := disk
		d.ID = fmt.Sprintf("d%02d%s", i, strings.Repeat("x", 29))
		d.Face = "/dev/ft/" + d.ID
		d.Sides = append([]api.SideStatus(nil), disk.Sides...)
		for j := range d.Sides {
			d.Sides[j].ID = api.ModuleOf(d.Sides[j].ID) + "/" + d.ID
			d.Sides[j].Reason, d.Sides[j].Resource, d.Sides[j].Note = bad+long, "/dev/"+long, bad
		}
		st.Devices = append(st.Devices, d)
	}
	st.System.Verdict, st.System.Action = bad+long, bad+strings.Repeat("very long words ", 60)
	st.System.Name = strings.Repeat("n", 63)
	st.Modules[0].PullNote = bad + long
	return st
}

func TestAHostileBoxStaysTextAndFitsAPhone(t *testing.T) {
	s := show(t, crowded(t))
	s.change(t, api.Event{ID: `<b>x</b>`, From: "<i>", To: `"><svg onload=window.hit=1>`, Reason: `<img src="http://198.51.100.1/x">` + strings.Repeat("long", 500), Severity: `critical" onclick="x`,
		Extra: map[string]any{"__proto__": map[string]any{"x": 1}}}, func(*api.Status) {})
	host, _ := box(t, s, "")
	tb := open(t, "http://"+host+"/", look{width: 360, height: 740})
	tb.until(drawn)
	tb.eval(nil, `document.querySelectorAll("details").forEach((d) => { d.open = true }); 0`)
	for _, width := range []int{360, 320, 700, 1300} {
		tb.as(look{width: width, height: 740})
		var wide []string
		tb.eval(&wide, `document.documentElement.scrollWidth <= innerWidth ? [] :
			[...document.querySelectorAll("body *")].filter((e) => e.getBoundingClientRect().right > innerWidth + 1).slice(0, 5).map((e) => e.outerHTML.slice(0, 200))`)
		if len(wide) > 0 {
			t.Errorf("at %d px it is wider than the window: %s", width, strings.Join(wide, "\n"))
		}
	}
	var is struct {
		Hit, Foreign bool
		Parts        int
		Cause        string
	}
	tb.eval(&is, `({
		hit: Boolean(window.hit), foreign: Boolean(document.querySelector("body img, main script, #log b b, [onclick]")),
		parts: document.querySelectorAll(".part").length, cause: document.querySelector(".cause").textContent,
	})`)
	if is.Hit || is.Foreign || is.Parts != 8+120 || !strings.Contains(is.Cause, `<img src=x onerror="window.hit=1">`) || strings.Contains(is.Cause, "\u202e") {
		t.Errorf("%+v", is)
	}
	tb.noTrouble(host)
}
