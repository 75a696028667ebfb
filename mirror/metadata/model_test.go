package metadata

import (
	"flag"
	"fmt"
	"slices"
	"strconv"
	"testing"

	"pgregory.net/rapid"
)

// A tiny mirror: two places for legs, a witness, and the steps of the protocol that
// assemble.go relies on, one durable write after the other, with a crash possible
// between any two. There is no I/O and no concurrency: what is tested is whether the
// stored metadata always says enough, and whether Assemble and Relate read it rightly.
//
// A block of data is a number, larger ones written later; acked is what applications
// were told is stored. One region, one extent and one block are the same here.

const modelBlocks = 5

type blockSet [modelBlocks]bool

func (s *blockSet) or(o blockSet) {
	for b := range o {
		s[b] = s[b] || o[b]
	}
}

// modelLeg is what is stored on a leg. made is false while it is blank.
type modelLeg struct {
	sb             Superblock
	made           bool
	data           [modelBlocks]int
	intent, missed blockSet
}

type model struct {
	t    *rapid.T
	fuse int // steps until the crash, -1 for none

	all     [2][]*modelLeg // every leg that was ever made for a slot
	slots   [2]*modelLeg   // what is plugged in, nil for an empty slot
	w       *Witness
	mirror  UUID
	ids     byte
	parents map[Generation][]Generation

	version int
	acked   [modelBlocks]int
	dead    map[int]bool // versions that a person gave up

	// While up: who is in service, the leg being resynced or -1, and what the absent
	// leg lacks.
	up     bool
	in     [2]bool
	target int
	missed blockSet

	swapped bool // a leg was exchanged at some time
	// Without the witness, a leg that was overtaken without its knowledge cannot be told
	// from one that was not (rule 6). So a run has resolves and servers that are lost in
	// a join, or else a witness that vanishes, though not after a loss was half recorded.
	vanishing    bool
	halfRecorded bool
	seen         map[string]int // how often each outcome was
	trace        []string
}

type crash struct{}

func (m *model) logf(format string, args ...any) {
	m.trace = append(m.trace, fmt.Sprintf(format, args...))
}

func (m *model) failf(format string, args ...any) {
	for _, line := range m.trace {
		m.t.Log(line)
	}
	for i, l := range m.slots {
		if l != nil && l.made {
			d := Describe(&l.sb)
			m.t.Logf("leg %d: generation %s history %s in service %v syncing %v clean %v missed leg %s from %s; data %v intent %v missed %v",
				i, d.Generation, d.History, d.InService, d.Syncing, d.Clean, d.MissedLeg, d.MissedFrom, l.data, l.intent, l.missed)
		}
	}
	m.t.Logf("witness %+v acked %v", m.w, m.acked)
	m.t.Fatalf(format, args...)
}

// step comes before each durable write.
func (m *model) step() {
	if m.fuse == 0 {
		panic(crash{})
	}
	m.fuse--
}

func (m *model) uuid() UUID {
	m.ids++
	return UUID{0: m.ids, 15: 1}
}

func (m *model) maybe(label string) bool { return rapid.Bool().Draw(m.t, label) }

func (m *model) super(l *modelLeg, change func(sb *Superblock)) {
	m.step()
	sb := l.sb.Clone()
	change(&sb)
	sb.Sequence++
	l.sb, l.made = sb, true
}

func (m *model) witness(g Generation, survivor int) {
	m.step()
	m.w = &Witness{Mirror: m.mirror, Generation: g, Survivor: int8(survivor), Resources: [2]string{"/dev/a", "/dev/b"}}
}

// alone is the side that is in service alone, or -1.
func (m *model) alone() int {
	switch {
	case m.in[0] && !m.in[1]:
		return 0
	case m.in[1] && !m.in[0]:
		return 1
	}
	return -1
}

// recordLoss makes a new generation in which only side s is in service.
func (m *model) recordLoss(s int) { m.goOn(s, func(*Superblock) {}) }

// goOn does so with a change besides, from which over is given up.
func (m *model) goOn(s int, change func(sb *Superblock), over ...Generation) {
	l := m.slots[s]
	old := l.sb.Generation
	m.super(l, func(sb *Superblock) {
		sb.Bump(m.uuid(), over...)
		m.parents[sb.Generation] = append(over, old)
		sb.InService, sb.Clean, sb.MissedFrom = 1<<s, false, old
		change(sb)
	})
	m.logf("side %d goes on alone in generation %s", s, l.sb.Generation)
	half := m.halfRecorded
	m.halfRecorded = true // should it crash here
	m.witness(l.sb.Generation, s)
	m.halfRecorded = half
}

// lose takes side x out of service from a duplex mirror.
func (m *model) lose(x int) {
	m.logf("lose %d", x)
	s := 1 - x
	m.in[x] = false
	m.missed = m.slots[s].intent
	if m.maybe("record at once") {
		m.recordLoss(s)
	}
}

func (m *model) inService() (legs []int) {
	for i, in := range m.in {
		if in {
			legs = append(legs, i)
		}
	}
	return legs
}

// record makes durable that side s is alone, where it is not yet.
func (m *model) record(s int) {
	g := m.slots[s].sb.Generation
	switch {
	case m.slots[s].sb.Both():
		m.recordLoss(s)
	case m.w == nil || m.w.Generation != g || int(m.w.Survivor) != s:
		m.witness(g, s)
	}
}

func (m *model) write(b int) {
	if s := m.alone(); s >= 0 {
		m.record(s)
	}
	for _, i := range m.inService() {
		if m.slots[i].sb.Clean {
			m.super(m.slots[i], func(sb *Superblock) { sb.Clean = false })
		}
	}
	for _, i := range m.inService() {
		if l := m.slots[i]; !l.intent[b] {
			m.step()
			l.intent[b] = true
		}
	}
	if m.alone() >= 0 && m.target < 0 {
		m.missed[b] = true
	}
	m.version++
	v := m.version
	gets := m.inService()
	if m.target >= 0 {
		gets = append(gets, m.target)
	}
	if len(gets) == 2 && m.maybe("in turn") {
		gets[0], gets[1] = gets[1], gets[0]
	}
	for n, i := range gets {
		m.step()
		m.slots[i].data[b] = v
		if n == 0 && m.alone() < 0 && rapid.IntRange(0, 3).Draw(m.t, "lost in a write") == 0 {
			m.logf("lose %d in a write", gets[1])
			m.in[gets[1]] = false
			m.missed = m.slots[i].intent
			m.recordLoss(i)
			break
		}
	}
	m.acked[b] = v
	m.logf("write block %d version %d acknowledged, in service %v target %d", b, v, m.in, m.target)
}

// settle takes back the marks: nothing is under way. Alone, what they stood for must
// be in the missed-writes bitmap, and the bitmap must count for the absent leg.
func (m *model) settle() {
	if s := m.alone(); s >= 0 {
		if m.slots[s].sb.Both() && m.slots[s].intent != (blockSet{}) {
			m.recordLoss(s)
		}
		m.saveMissed(s)
	}
	for _, i := range m.inService() {
		m.step()
		m.slots[i].intent = blockSet{}
	}
}

func (m *model) saveMissed(s int) {
	m.step()
	m.slots[s].missed = m.missed
}

func (m *model) stopClean() {
	m.settle()
	for _, i := range m.inService() {
		m.super(m.slots[i], func(sb *Superblock) { sb.Clean = true })
	}
	m.up = false
	m.logf("clean stop")
}

// create makes the mirror on side s.
func (m *model) create(s int) {
	if m.slots[s] == nil {
		return
	}
	m.logf("create on %d", s)
	m.blank(s)
	l := m.slots[s]
	g := Generation{Counter: 1, ID: m.uuid()}
	m.super(l, func(sb *Superblock) {
		sb.Generation, sb.InService = g, 1<<s
	})
	m.witness(g, s)
	m.up, m.target = true, -1
	m.in = [2]bool{}
	m.in[s] = true
	m.missed = blockSet{}
}

// blank prepares the superblock, not yet written, of a leg without metadata.
func (m *model) blank(s int) {
	l, err := NewLayout(8<<20, DefaultRegionSize, DefaultExtentSize)
	if err != nil {
		m.t.Fatal(err)
	}
	m.slots[s].sb = NewSuper(l, m.mirror, m.uuid(), uint8(s), 512, 4096)
}

// plug puts a leg into a slot: a blank one, or one of those that were there before.
func (m *model) plug(s int) {
	n := rapid.IntRange(-2, len(m.all[s])-1).Draw(m.t, "leg")
	switch {
	case n == -2:
		m.slots[s] = nil
	case n == -1:
		m.slots[s] = &modelLeg{}
		m.all[s] = append(m.all[s], m.slots[s])
	default:
		m.slots[s] = m.all[s][n]
	}
	m.swapped = true
	m.logf("plug leg %d into slot %d", n, s)
}

func (m *model) images() (images [2]*Image) {
	for i, l := range m.slots {
		if l != nil && l.made {
			images[i] = &Image{Super: l.sb.Clone()}
		}
	}
	return images
}

// start asks Assemble and checks its word against the truth.
func (m *model) start(present [2]bool) {
	images := m.images()
	for i := range images {
		if !present[i] {
			images[i] = nil
		}
	}
	v := Assemble("disk0", images, m.w, [2]bool{})
	m.logf("start with %v: serve %d %s %s", present, v.Serve, v.Code, v.Sentence)
	m.seen[fmt.Sprint(v.Code, v.Serve >= 0)]++
	if v.Create {
		if m.w == nil && m.slots[0] != nil && present == [2]bool{true, true} && m.acked == [modelBlocks]int{} && !m.swapped {
			m.create(0)
		}
		return
	}
	if v.Serve < 0 {
		if images[0] != nil && images[1] != nil && m.w != nil && !m.swapped && m.oneHistory() {
			m.failf("both legs and the witness are here and there is one history, yet: %s", v.Sentence)
		}
		return
	}
	l := m.slots[v.Serve]
	for b, want := range m.acked {
		if l.data[b] < want {
			m.failf("leg %d is served and has version %d of block %d, acknowledged was %d", v.Serve, l.data[b], b, want)
		}
		if m.dead[l.data[b]] {
			m.failf("leg %d is served and has version %d of block %d, which was given up", v.Serve, l.data[b], b)
		}
	}
	m.up, m.target = true, -1
	m.in = [2]bool{}
	m.in[v.Serve] = true
	m.missed = l.missed
	m.missed.or(l.intent)
}

// oneHistory says whether what the legs and the witness know lies on one line.
func (m *model) oneHistory() bool {
	gs := []Generation{m.slots[0].sb.Generation, m.slots[1].sb.Generation, m.w.Generation}
	for _, a := range gs {
		for _, b := range gs {
			if !a.IsZero() && !b.IsZero() && !m.descends(a, b) && !m.descends(b, a) {
				return false
			}
		}
	}
	return true
}

func (m *model) descends(a, from Generation) bool {
	if a == from {
		return true
	}
	for _, p := range m.parents[a] {
		if m.descends(p, from) {
			return true
		}
	}
	return false
}

// run does one thing, and says whether the box crashed in the middle of it.
func (m *model) run(what func()) {
	m.fuse = rapid.IntRange(-1, 14).Draw(m.t, "fuse")
	defer func() {
		switch r := recover(); r.(type) {
		case nil:
		case crash:
			m.logf("crash")
			m.up = false
		default:
			panic(r)
		}
		if !m.up {
			m.in, m.target = [2]bool{}, -1
		}
	}()
	what()
}

func (m *model) whileUp() {
	switch rapid.IntRange(0, 9).Draw(m.t, "op") {
	case 0, 1, 2:
		m.write(rapid.IntRange(0, modelBlocks-1).Draw(m.t, "block"))
	case 3:
		if m.alone() < 0 {
			m.lose(rapid.IntRange(0, 1).Draw(m.t, "side"))
		}
	case 4, 5, 6:
		m.attach()
	case 7:
		m.settle()
	case 8:
		m.stopClean()
	case 9:
		panic(crash{})
	}
}

func (m *model) whileDown() {
	switch rapid.IntRange(0, 11).Draw(m.t, "op") {
	default:
		m.start([2]bool{true, true})
	case 0, 1, 2:
		i := rapid.IntRange(0, 1).Draw(m.t, "present")
		m.start([2]bool{i == 0, i == 1})
	case 3:
		if rapid.IntRange(0, 3).Draw(m.t, "exchange") == 0 {
			m.plug(rapid.IntRange(0, 1).Draw(m.t, "side"))
		}
	case 4:
		if m.vanishing && !m.halfRecorded {
			m.logf("the witness vanishes")
			m.w = nil
		}
	case 5:
		if !m.vanishing {
			m.resolve(rapid.IntRange(0, 1).Draw(m.t, "keep"))
		}
	}
}

// atLeastChecks makes rapid try n runs in this test, unless more were asked for.
func atLeastChecks(t *testing.T, n int) {
	f := flag.Lookup("rapid.checks")
	old := f.Value.String()
	if was, err := strconv.Atoi(old); err != nil || was >= n {
		return
	}
	f.Value.Set(strconv.Itoa(n))
	t.Cleanup(func() { f.Value.Set(old) })
}

func TestAssembleModel(t *testing.T) {
	seen := map[string]int{}
	atLeastChecks(t, 6000)
	check := func(t *rapid.T) {
		m := &model{t: t, mirror: UUID{0xaa}, parents: map[Generation][]Generation{}, dead: map[int]bool{},
			target: -1, seen: seen, vanishing: rapid.Bool().Draw(t, "witness may vanish")}
		for i := range m.slots {
			m.slots[i] = &modelLeg{}
			m.all[i] = []*modelLeg{m.slots[i]}
		}
		for range rapid.IntRange(10, 100).Draw(t, "ops") {
			if m.up {
				m.run(m.whileUp)
			} else {
				m.run(m.whileDown)
			}
		}
	}
	// Some outcomes are rare: of each there is one, sooner or later.
	for round := 1; ; round++ {
		rapid.Check(t, check)
		missing := slices.DeleteFunc([]string{"true", CodeStale + "false", CodeSplitBrain + "false", CodeNoLeg + "false",
			"attach equal", "attach behind", "attach behind, extent unknown", "attach ahead"}, func(o string) bool { return seen[o] > 0 })
		if len(missing) == 0 || t.Failed() {
			break
		}
		if round == 20 {
			t.Errorf("the model never came to %q: it tests less than it says (%v)", missing, seen)
			break
		}
	}
	t.Log(seen)
}
