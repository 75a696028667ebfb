package drill

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"ft/ftd/api"
)

func planOf(t *testing.T, st api.Status, o Options) *Plan {
	t.Helper()
	p, err := NewPlan(st, o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func deal(p *Plan, n int) (texts []string) {
	for range n {
		s, ok := p.Next()
		if !ok {
			break
		}
		texts = append(texts, s.Text())
	}
	return texts
}

// A seed is a drill: the same one again, and another one with another seed.
func TestPlanIsItsSeed(t *testing.T) {
	o := Options{Seed: 7, Supervised: true}
	a, b := deal(planOf(t, statusOf(t), o), 100), deal(planOf(t, statusOf(t), o), 100)
	if !slices.Equal(a, b) {
		t.Error("one seed gives two plans")
	}
	o.Seed = 8
	if c := deal(planOf(t, statusOf(t), o), 100); slices.Equal(a, c) {
		t.Error("two seeds give one plan")
	}
}

// Each round has every kind once; as many rounds as a kind has parts, and each part had
// its turn.
func TestPlanDealsEveryKindToEveryPart(t *testing.T) {
	p := planOf(t, statusOf(t), Options{Seed: 1, Supervised: true})
	if p.Round() != len(kinds) {
		t.Errorf("%d kinds of %d are in the plan", p.Round(), len(kinds))
	}
	const rounds = 4 // legs are four
	tried := map[string]int{}
	for range rounds {
		seen := map[*Kind]bool{}
		for range p.Round() {
			s, _ := p.Next()
			if seen[s.Kind] {
				t.Errorf("%s comes twice in one round", s.Kind.key())
			}
			seen[s.Kind] = true
			tried[s.Kind.key()+" "+s.ID]++
		}
	}
	if len(tried) != p.Size() {
		t.Errorf("%d of %d parts and kinds were tried in %d rounds: %v", len(tried), p.Size(), rounds, tried)
	}
	for _, want := range []string{"a leg: hang pci1/disk1", "a NIC: flap pci0/net0", "a CPU side: stuck cpu1/guest", "a PCI module: bringdown pci0",
		"a CPU module: power-off cpu1", "a process: crash of ftd ftd", "a process: crash of a machine's guest"} {
		if tried[want] == 0 {
			t.Errorf("%s was not tried", want)
		}
	}
}

func TestPlanKeepsToParts(t *testing.T) {
	ids := func(parts ...string) (ids []string) {
		p := planOf(t, statusOf(t), Options{Seed: 1, Parts: parts, Supervised: true})
		for range 200 {
			if s, ok := p.Next(); ok && !slices.Contains(ids, s.ID) {
				ids = append(ids, s.ID)
			}
		}
		slices.Sort(ids)
		return ids
	}
	for parts, want := range map[string]string{
		"disk0":           "disk0 pci0/disk0 pci1/disk0",
		"pci1":            "pci1 pci1/disk0 pci1/disk1 pci1/net0",
		"cpu0/guest":      "cpu0/guest",
		"ftd,pci0/net0":   "ftd pci0/net0",
		"cpu0,cpu1,guest": "cpu0 cpu0/guest cpu1 cpu1/guest guest",
	} {
		if got := strings.Join(ids(strings.Split(parts, ",")...), " "); got != want {
			t.Errorf("--parts %s drills %s, want %s", parts, got, want)
		}
	}
	for _, bad := range []string{"disk9", "box", "pci0/guest"} {
		if _, err := NewPlan(statusOf(t), Options{Parts: []string{bad}}); err == nil || !strings.Contains(err.Error(), bad) {
			t.Errorf("--parts %s: %v", bad, err)
		}
	}
}

// What has one good side is left alone, with all that would take that one away.
func TestPlanTakesNoLastSide(t *testing.T) {
	st := statusOf(t, `"id": "disk1", "kind": "disk", "state": "duplex"`, `"id": "disk1", "kind": "disk", "verdict": "disk1 runs on pci0/disk1 alone", "state": "simplex"`)
	p := planOf(t, st, Options{Seed: 1, Supervised: true})
	for range 300 {
		if s, _ := p.Next(); strings.HasSuffix(s.ID, "disk1") || strings.HasPrefix(s.ID, "pci") && !strings.Contains(s.ID, "/") {
			t.Fatalf("it would %s", s.Text())
		}
	}
	if said := fmt.Sprint(p.LeftOut); !strings.Contains(said, "disk1 is left alone: disk1 runs on pci0/disk1 alone") {
		t.Errorf("it says %s", said)
	}
}

func TestPlanSparesProcessesThatNobodyFollows(t *testing.T) {
	st := statusOf(t, `"survives_crash": true`, `"survives_crash": false`)
	p := planOf(t, st, Options{Seed: 1})
	for range 300 {
		if s, _ := p.Next(); s.crash() && s.ID != "net0" && s.ID != "guest" {
			t.Fatalf("it would %s", s.Text())
		}
	}
	said := fmt.Sprint(p.LeftOut)
	for _, want := range []string{"ftd is not killed", "the process of disk0 is not killed", "corrupt is not tried"} {
		if !strings.Contains(said, want) {
			t.Errorf("it does not say %q: %s", want, said)
		}
	}
}

// What a person can repeat by hand is what is done.
func TestStepsReadAsCommands(t *testing.T) {
	p := planOf(t, statusOf(t), Options{Seed: 3, Supervised: true})
	all := strings.Join(deal(p, 200), "\n")
	for _, want := range []string{"inject pci0/disk0 slow 100", "bringdown pci1", "inject cpu0 power-off", "inject ftd crash", "inject cpu1/guest flip-pc --seed="} {
		if !strings.Contains(all, want) {
			t.Errorf("there is no %q in\n%s", want, all)
		}
	}
	s := Step{ID: "pci0/disk0", Kind: kinds[3]}
	if undo := s.change(s.Kind.undo); undo.Fault != "clear" || len(undo.Args) > 0 {
		t.Errorf("%s ends with %+v", s.Text(), undo)
	}
}

func TestBookSums(t *testing.T) {
	hang, flip := kinds[2], kinds[12]
	second := time.Second
	var b Book
	b.AddCalm(map[string]Window{"disk0": {Stall: second}})
	b.Add(Result{Step: Step{Kind: hang}, Noticed: second, Loaded: true, Stall: 5 * second, Back: 2 * second})
	b.Add(Result{Step: Step{Kind: hang}, Noticed: 3 * second, Loaded: true, Stall: 7 * second, Back: 4 * second, Errors: 2, Lost: 1, Judged: true})
	b.Add(Result{Step: Step{Kind: hang}, Refused: "no"})
	b.Add(Result{Step: Step{Kind: flip}})
	b.AddCalm(map[string]Window{"disk0": {Stall: 2 * second, Errors: 1}, "net0": {Stall: 3 * second, Lost: 4}})
	if errors, lost := b.Totals(); errors != 3 || lost != 5 {
		t.Errorf("%d errors, %d lost: want 3 and 5, those in between too", errors, lost)
	}
	rows := b.Rows()
	if len(rows) != 3 || rows[0].Kind != hang || rows[1].Kind != flip || rows[2].Kind != nil {
		t.Fatalf("the rows are %+v", rows)
	}
	if r := rows[0]; r.Times != 2 || r.Refused != 1 || r.Judged != 1 || r.Errors != 2 || r.Lost != 1 ||
		r.Noticed != (Span{2, 2 * second, 3 * second}) || r.Stall != (Span{2, 6 * second, 7 * second}) || r.Back.Worst != 4*second {
		t.Errorf("the row of hang is %+v", r)
	}
	if r := rows[1]; r.Unnoticed != 1 || r.Noticed.N != 0 {
		t.Errorf("the row of a flip that nobody saw is %+v", r)
	}
	if r := rows[2]; r.Stall.Worst != 3*second || r.Lost != 4 {
		t.Errorf("the row of the time in between is %+v", r)
	}
}

// A machine is the load of the disk under it; what nobody feels is said.
func TestLoadsThatFeelAFault(t *testing.T) {
	st := statusOf(t)
	guest, disk0 := &guestLoad{device: "guest"}, &diskLoad{device: "disk0"}
	for devices, want := range map[string]string{"disk0": "disk0", "disk1": "guest", "net0": "guest", "guest": "guest", "disk0 disk1": "disk0 guest"} {
		if got := strings.Join(primary([]Load{guest, disk0}, st, strings.Fields(devices)), " "); got != want {
			t.Errorf("a fault of %s is felt by %s, want %s", devices, got, want)
		}
	}
	d := &Runner{Plan: planOf(t, st, Options{Seed: 1}), Loads: []Load{newStepsLoad(nil, "guest"), disk0}, latest: st}
	if got := strings.Join(d.unloaded(), " "); got != "disk1 net0 guest" {
		t.Errorf("nobody feels faults of %s", got)
	}
}
