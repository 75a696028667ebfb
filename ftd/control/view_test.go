package control

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"ft/drivers"
)

// TestStatusDocumentNames holds the names of the product's status document: scripts of
// other people read them.
func TestStatusDocumentNames(t *testing.T) {
	c := New(Config{Name: "box"})
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	c.Step(now, StateLoaded{})
	c.Step(now, DeviceConfigured{Kind: "disk", Name: "disk0", Sides: [2]SideSpec{
		{Resource: drivers.Resource{Path: "/dev/loop0"}}, {Resource: drivers.Resource{Path: "/dev/loop1"}}}})
	st := drivers.Status{Name: "disk0", Pid: 1234, Face: "/dev/ft/disk0", State: drivers.FaceSyncing}
	st.Sides[0].State = drivers.Simplex
	st.Sides[1] = drivers.SideStatus{State: drivers.Syncing, Progress: &drivers.Progress{What: "resync", Percent: 61, DoneBytes: 1, TotalBytes: 2, RateBytes: 3, ETASeconds: 41}}
	c.Step(now, DriverConnected{"disk0", st})
	c.Step(now, DriverStatus{"disk0", st})

	raw, err := json.Marshal(c.Status(now.Add(41 * time.Hour)))
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	at := func(path ...any) any {
		var v any = doc
		for _, p := range path {
			switch p := p.(type) {
			case string:
				m, ok := v.(map[string]any)
				if !ok || m[p] == nil {
					t.Fatalf("the document has no %v: %s", path, raw)
				}
				v = m[p]
			case int:
				v = v.([]any)[p]
			}
		}
		return v
	}
	for _, c := range []struct {
		want any
		path []any
	}{
		{"box", []any{"system", "name"}},
		{"syncing", []any{"system", "state"}},
		{"2026-01-02T03:04:05Z", []any{"system", "since"}},
		{"pci1/disk0 is being brought up to date: resync 61 %", []any{"system", "verdict"}},
		{"none: it comes in by itself, 41 s left", []any{"system", "action"}},
		{float64(7), []any{"system", "seq"}},
		{"pci0", []any{"modules", 0, "id"}},
		{"simplex", []any{"modules", 0, "state"}},
		{false, []any{"modules", 0, "safe_to_pull"}},
		{"2026-01-02T03:04:05Z", []any{"modules", 0, "since"}},
		{"disk0", []any{"devices", 0, "id"}},
		{"disk", []any{"devices", 0, "kind"}},
		{"syncing", []any{"devices", 0, "state"}},
		{"/dev/ft/disk0", []any{"devices", 0, "face"}},
		{float64(1234), []any{"devices", 0, "pid"}},
		{"pci1/disk0", []any{"devices", 0, "sides", 1, "id"}},
		{"syncing", []any{"devices", 0, "sides", 1, "state"}},
		{"/dev/loop1", []any{"devices", 0, "sides", 1, "resource"}},
		{"being brought up to date", []any{"devices", 0, "sides", 1, "reason"}},
		{false, []any{"devices", 0, "sides", 1, "safe_to_pull"}},
		{false, []any{"devices", 0, "sides", 1, "active"}},
		{"resync", []any{"devices", 0, "sides", 1, "progress", "what"}},
		{61.0, []any{"devices", 0, "sides", 1, "progress", "percent"}},
		{1.0, []any{"devices", 0, "sides", 1, "progress", "done_bytes"}},
		{2.0, []any{"devices", 0, "sides", 1, "progress", "total_bytes"}},
		{3.0, []any{"devices", 0, "sides", 1, "progress", "rate_bytes"}},
		{41.0, []any{"devices", 0, "sides", 1, "progress", "eta_seconds"}},
		{0.0, []any{"devices", 0, "sides", 1, "mtbf", "faults"}},
		{41.0, []any{"devices", 0, "sides", 1, "mtbf", "hours"}},
		{24.0, []any{"devices", 0, "sides", 1, "mtbf", "threshold_hours"}},
		{"threshold", []any{"devices", 0, "sides", 1, "mtbf", "policy"}},
		{map[string]any{}, []any{"devices", 0, "stats"}},
	} {
		if got := at(c.path...); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%v is %v, not %v", c.path, got, c.want)
		}
	}
	var back StatusDocument
	if err := json.Unmarshal(raw, &back); err != nil {
		t.Fatalf("a client cannot read the document: %v", err)
	}
	if back.Devices[0].Sides[1].State != drivers.Syncing || back.System.State != drivers.FaceSyncing {
		t.Errorf("a client reads other states: %+v", back)
	}
}

// TestEmptyDocument: a box without devices has empty lists, not null.
func TestEmptyDocument(t *testing.T) {
	raw, err := json.Marshal(New(Config{Name: "box"}).Status(time.Time{}))
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]json.RawMessage
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	if string(doc["modules"]) != "[]" || string(doc["devices"]) != "[]" {
		t.Errorf("modules %s, devices %s: scripts iterate over these", doc["modules"], doc["devices"])
	}
}

func TestEntryIsOneFlatObject(t *testing.T) {
	e := Entry{Seq: 7, Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), ID: "cpu1/guest", From: "duplex", To: "shot",
		Reason: "differed", Severity: Error, Extra: map[string]any{"first_step": 81223441007.0, "pc": "ffffffff80231a4c"}}
	raw, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"seq":7,"time":"2026-01-02T03:04:05Z","id":"cpu1/guest","from":"duplex","to":"shot","reason":"differed","severity":"error","first_step":81223441007,"pc":"ffffffff80231a4c"}`
	if string(raw) != want {
		t.Errorf("got  %s\nwant %s", raw, want)
	}
	var back Entry
	if err := json.Unmarshal(raw, &back); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(back, e) {
		t.Errorf("read back as %+v", back)
	}
}

// TestEntryCannotBeForged: a driver's detail does not replace a field of the log.
func TestEntryCannotBeForged(t *testing.T) {
	raw, err := json.Marshal(Entry{Seq: 7, ID: "pci1/disk0", Extra: map[string]any{"seq": 99, "id": "pci0/disk0"}})
	if err != nil {
		t.Fatal(err)
	}
	var back Entry
	if err := json.Unmarshal(raw, &back); err != nil {
		t.Fatal(err)
	}
	if back.Seq != 7 || back.ID != "pci1/disk0" || back.Extra["x_seq"] != 99.0 || back.Extra["x_id"] != "pci0/disk0" {
		t.Errorf("read back as %+v from %s", back, raw)
	}
}

// TestPersistentSurvivesItsFile: what is written is what is read.
func TestPersistentSurvivesItsFile(t *testing.T) {
	b := simulate(seeded(13), simThings, false, newCore)
	raw, err := json.Marshal(b.disk)
	if err != nil {
		t.Fatal(err)
	}
	var back Persistent
	if err := json.Unmarshal(raw, &back); err != nil {
		t.Fatal(err)
	}
	again, err := json.Marshal(back)
	if err != nil {
		t.Fatal(err)
	}
	if string(raw) != string(again) || len(back.History) == 0 || len(back.Targets) == 0 {
		t.Errorf("written %s\nread    %s", raw, again)
	}
}

func TestJudgement(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	every := func(d time.Duration, n int) (l FaultList) {
		for i := range n {
			l.add(FaultRecord{At: start.Add(time.Duration(i) * d), Slot: "pci1/disk0"})
		}
		return l
	}
	for _, c := range []struct {
		name   string
		list   FaultList
		set    MTBFSettings
		broken bool
	}{
		{"the first two are forgiven, however close", every(time.Second, 2), DefaultMTBF, false},
		{"three in an hour", every(30*time.Minute, 3), DefaultMTBF, true},
		{"three, a day apart", every(24*time.Hour, 3), DefaultMTBF, false},
		{"three, just under a day apart", every(24*time.Hour-time.Second, 3), DefaultMTBF, true},
		{"many, two days apart", every(48*time.Hour, 30), DefaultMTBF, false},
		{"never", every(time.Hour, 1), MTBFSettings{Policy: MTBFNever}, true},
		{"always", every(time.Second, 30), MTBFSettings{Policy: MTBFAlways}, false},
		{"two are enough", every(time.Hour, 2), MTBFSettings{Policy: MTBFThreshold, Threshold: 24 * time.Hour, MinFaults: 2}, true},
		{"one has no mean", every(time.Hour, 1), MTBFSettings{Policy: MTBFThreshold, Threshold: 24 * time.Hour, MinFaults: 1}, false},
		{"more than are remembered", every(time.Hour, 100), DefaultMTBF, true},
	} {
		if broken, why := c.list.judge(c.set); broken != c.broken {
			t.Errorf("%s: broken %v (%s)", c.name, broken, why)
		}
	}
	old := every(time.Hour, 40)
	old.forgive()
	old.add(FaultRecord{At: start.Add(41 * time.Hour)})
	if broken, why := old.judge(DefaultMTBF); broken || old.Count != 41 {
		t.Errorf("after an admin brought it up: broken %v of %d (%s)", broken, old.Count, why)
	}
}

// TestPartsAreForgotten: a box where parts come and go does not grow.
func TestPartsAreForgotten(t *testing.T) {
	c := New(Config{Name: "box"})
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	c.Step(now, StateLoaded{})
	c.Step(now, DeviceConfigured{Kind: "disk", Name: "disk0", Sides: [2]SideSpec{
		{Resource: drivers.Resource{Path: "/dev/loop0"}}, {Resource: drivers.Resource{Path: "/dev/loop1"}}}})
	for i := range 3 * historyParts {
		now = now.Add(time.Minute)
		st := drivers.Status{Name: "disk0"}
		st.Sides[0] = drivers.SideStatus{State: drivers.Simplex, Resource: drivers.Resource{Identity: "stays"}}
		st.Sides[1] = drivers.SideStatus{State: drivers.Offline, Resource: drivers.Resource{Identity: time.Duration(i).String()}}
		c.Step(now, DriverConnected{"disk0", st})
	}
	if len(c.history) > historyParts || c.history["stays"] == nil {
		t.Errorf("%d parts are remembered, the one in use among them: %v", len(c.history), c.history["stays"] != nil)
	}
}
