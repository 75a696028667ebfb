package lockstep

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"

	"ft/chipset/module"
)

// The stories in testdata/*.txt drive a core by hand: a line says what happens, the lines
// indented below it are what the core does then. `go test -update` writes those anew.
//
//	boot               a machine of four pages runs on cpu0, and cpu1 is in lockstep, proved equal
//	boot alone         on cpu0 only
//	join cpu1
//	go                 the core may send what there is to send
//	wait 60ms          time passes
//	cpu0 ran A         cpu0 answers the quantum it was asked for with result A …
//	cpu0 ran A out x   … having sent output x to the console before
//	cpu0 ran idle      … and waits now
//	cpu0 reset         … the guest asked for a reset
//	cpu0 ended 1=B     the epoch has ended; page 1 was written, and holds B
//	cpu0 patrolled     it gives the digests that it was asked for, all as agreed …
//	cpu0 patrolled 2=B … but for page 2, which holds B
//	cpu0 restored 1    it has gone back; page 1 is what it was …
//	cpu0 restored 1=B  … or is not
//	cpu0 digests       all of memory, in answer to digest; 2=B as above
//	cpu0 tested, cpu0 saved, cpu0 loaded; cpu0 saved B is another state than it should be
//	cpu0 gone died
//	copied             the copy has ended
//	referee A B out x  the referee's answers; 2=B says what it found in memory
//	referee dies
//	split cpu1, leave cpu1
//	succeed both       the chipset has died, and its successor takes over who was in lockstep
//	cpu0 emitted A out x  it wants x answered, and stands at A
//	3 times: go; …     all of it; what the core does is told of the last time
//
// "both" is one side after the other. A state is named after what it came from; "start" is that
// at the beginning of the epoch.

var update = flag.Bool("update", false, "write what the core does into testdata/*.txt")

const scriptPages = 4

// script is a core with hands that write down what they are told.
type script struct {
	core  *Core
	cfg   Config
	now   time.Duration
	out   []string
	sent  [2][]Command // not answered yet
	start string       // the state at the beginning of the epoch
	log   []Command    // the referee's
	copy  int          // pages that are being copied
	base  uint64       // the stream's number when the story begins
	equal bool
	table [scriptPages]string
}

func name(s string) uint64 { return xxhash.Sum64String(s) }

func (h *script) sayf(format string, args ...any) {
	h.out = append(h.out, "    "+fmt.Sprintf(format, args...))
}

func (h *script) Now() time.Duration  { return h.now }
func (h *script) Grant() module.Input { return module.Input{} }

func (h *script) Send(s Side, c *Command) {
	text := c.Verb.String()
	switch c.Verb {
	case Epoch, Commit:
		text += fmt.Sprintf(" %d", c.A)
	case Patrol, Digest:
		if c.B == 0 {
			text += " of nothing"
			break
		}
		text += fmt.Sprintf(" %d…%d", c.A, c.A+c.B-1)
	}
	if c.Number&requestBit == 0 && c.Number > 0 {
		text = fmt.Sprintf("%d %s", c.Number-h.base, text)
	}
	if line := "    cpu0 ◀ " + text; s == 1 && len(h.out) > 0 && slices.Contains(h.out, line) {
		h.out[slices.Index(h.out, line)] = "    both ◀ " + text
	} else {
		h.sayf("%v ◀ %s", s, text)
	}
	if c.Verb != Apply && c.Verb != Commit {
		h.sent[s] = append(h.sent[s], *c)
	}
}

func (h *script) Release(r *Record) { h.sayf("%s leaves", r.Data) }

func (h *script) Copy(from, to Side, pages []uint32) {
	h.copy = len(pages)
	if pages == nil {
		h.copy = scriptPages
		h.sayf("copy all from %v to %v", from, to)
		return
	}
	h.sayf("copy pages %v from %v to %v", pages, from, to)
}

func (h *script) Fence(s Side, why string) {
	h.sent[s] = nil
	h.sayf("fence %v: %s", s, why)
}

func (h *script) Referee(from Side, _ []byte, log []Command) {
	h.log = log
	h.sayf("a referee does it, from %v", from)
}

func (h *script) Page(s Side, index uint32) []byte { return fmt.Appendf(nil, "%v %d", s, index) }

func (h *script) Report(e Event) {
	text := strings.TrimSpace(e.Text + " " + e.Fault.Text)
	if e.Fault.Cause != "" {
		text = e.Fault.Cause + ": " + text
	}
	switch e.Kind {
	case Equal:
		h.equal = true
	case JoinedIn:
		text += fmt.Sprintf(", %v of blackout", e.Blackout)
	case WentOn:
		text += fmt.Sprintf("%v after the difference was noticed", e.Latency)
	case Evidence:
		text = fmt.Sprintf("%d commands", len(e.Case.Log))
		for _, page := range slices.Sorted(keys(e.Case.Patches)) {
			text += fmt.Sprintf(", page %d was %q and should be %q", page, e.Case.Damaged[page], e.Case.Patches[page])
		}
	}
	h.sayf("%s", strings.TrimSpace(fmt.Sprintf("● %v %s: %s", e.Side, eventNames[e.Kind], text)))
}

// answer takes the command that a side answers next.
func (h *script) answer(s Side, verbs ...Verb) (c Command, err error) {
	if len(h.sent[s]) == 0 {
		return c, fmt.Errorf("%v was asked nothing", s)
	}
	c = h.sent[s][0]
	h.sent[s] = h.sent[s][1:]
	if !slices.Contains(verbs, c.Verb) {
		return c, fmt.Errorf("%v was asked to %v", s, c.Verb)
	}
	return c, nil
}

// pages are those from one to another, as agreed but for those that the words name.
func (h *script) pages(from, to uint64, words []string) (list []Page) {
	for i := from; i < to; i++ {
		p := Page{uint32(i), name(h.table[i])}
		for _, w := range words {
			if page, content, _ := strings.Cut(w, "="); page == strconv.FormatUint(i, 10) {
				p.Digest = name(content)
			}
		}
		list = append(list, p)
	}
	return list
}

// some are the pages that the words name, and no others. Written ones are agreed from here on.
func (h *script) some(words []string, written bool) (list []Page) {
	for _, w := range words {
		page, content, given := strings.Cut(w, "=")
		i, _ := strconv.ParseUint(page, 10, 32)
		if !given {
			content = h.table[i]
		}
		if written {
			h.table[i] = content
		}
		list = append(list, Page{uint32(i), name(content)})
	}
	return list
}

// module does a line about a module.
func (h *script) module(s Side, words []string) error {
	r := Record{}
	var c Command
	var err error
	switch verb, rest := words[0], words[1:]; verb {
	case "gone":
		h.core.Gone(s, rest[0], "it "+rest[0])
		return nil
	case "ran", "reset":
		if c, err = h.answer(s, Run); err != nil {
			return err
		}
		r.Kind, r.Why = Ran, Budget
		if h.base > 0 {
			r.Steps = (c.Number - h.base) * 100
		}
		if verb == "reset" {
			r.Why = Reset
		} else {
			r.State = name(rest[0])
			if rest[0] == "idle" {
				r.Why, r.Due = Idle, Never
			}
			_, out, _ := cut(rest, "out")
			for _, text := range out {
				h.core.Record(s, &Record{Kind: Output, Number: c.Number, Slot: ConsoleSlot, Data: []byte(text)})
			}
		}
	case "emitted":
		if c, err = h.answer(s, Emit); err != nil {
			return err
		}
		r.Kind, r.State = Ran, name(rest[0])
		_, out, _ := cut(rest, "out")
		for _, text := range out {
			h.core.Record(s, &Record{Kind: Output, Number: c.Number, Data: []byte(text)})
		}
	case "ended":
		c, err = h.answer(s, Epoch)
		r.Kind, r.Pages = Ended, h.some(rest, true)
		h.start = fmt.Sprint("epoch ", c.A)
		r.State = name(h.start)
	case "patrolled", "digests":
		c, err = h.answer(s, Patrol, Digest)
		r.Kind, r.Pages = Patrolled, h.pages(c.A, c.A+c.B, rest)
	case "restored":
		for len(h.sent[s]) > 0 && h.sent[s][0].Verb != Back {
			h.sent[s] = h.sent[s][1:]
		}
		c, err = h.answer(s, Back)
		r.Kind, r.State = Restored, name(h.start)
		if len(rest) > 0 && rest[0] == "spoilt" {
			r.State, rest = name("spoilt"), rest[1:]
		}
		r.Pages = h.some(rest, false)
	case "tested":
		c, err = h.answer(s, Test)
		r.Kind, r.Data = Tested, []byte(strings.Join(rest, " "))
	case "saved":
		for len(h.sent[s]) > 0 && h.sent[s][0].Verb != Save {
			h.sent[s] = h.sent[s][1:]
		}
		c, err = h.answer(s, Save)
		r.Kind, r.State, r.Data = Saved, name(h.start), []byte("state")
		if len(rest) > 0 {
			r.State = name(rest[0])
		}
	case "loaded":
		c, err = h.answer(s, Load)
		r.Kind, r.State = Loaded, name(h.start)
	default:
		err = fmt.Errorf("a module does not %q", verb)
	}
	if err == nil {
		r.Number = c.Number
		h.core.Record(s, &r)
	}
	return err
}

// do does a line.
func (h *script) do(line string) error {
	words := strings.Fields(line)
	sides := map[string][]Side{"cpu0": {0}, "cpu1": {1}, "both": {0, 1}}
	if list, ok := sides[words[0]]; ok {
		for _, s := range list {
			if err := h.module(s, words[1:]); err != nil {
				return err
			}
		}
		return nil
	}
	switch words[0] {
	case "boot":
		return h.boot(words[1:])
	case "join":
		return h.core.Join(sides[words[1]][0])
	case "go":
		h.core.Go(false)
	case "wait":
		d, err := time.ParseDuration(words[1])
		h.now += d
		return err
	case "copied":
		h.copied()
	case "referee":
		h.referee(words[1:])
	case "split":
		return h.core.SplitOff(sides[words[1]][0], false)
	case "succeed":
		h.core = Adopt(h.cfg, h, sides[words[1]], h.core.number)
	case "leave":
		h.core.Leave(sides[words[1]][0], "an admin wants it out")
	default:
		return fmt.Errorf("nobody does %q", words[0])
	}
	return nil
}

// cut cuts words at one of them.
func cut(words []string, at string) (before, after []string, found bool) {
	if i := slices.Index(words, at); i >= 0 {
		return words[:i], words[i+1:], true
	}
	return words, nil, false
}

// referee gives the referee's answers.
func (h *script) referee(words []string) {
	if words[0] == "dies" {
		h.core.Refereed(nil, errors.New("it died"))
		return
	}
	heard := &Transcript{}
	heard.Add(&Record{Kind: Loaded, State: name(h.start)})
	words, out, _ := cut(words, "out")
	results := slices.DeleteFunc(slices.Clone(words), func(w string) bool { return strings.Contains(w, "=") })
	for i := range h.log {
		switch c := &h.log[i]; c.Verb {
		case Digest:
			heard.Add(&Record{Kind: Patrolled, Number: c.Number, Pages: h.pages(c.A, c.A+c.B, words)})
		case Patrol:
			heard.Add(&Record{Kind: Patrolled, Number: c.Number, Pages: h.pages(c.A, c.A+c.B, nil)})
		case Run:
			for _, text := range out {
				heard.Add(&Record{Kind: Output, Number: c.Number, Slot: ConsoleSlot, Data: []byte(text)})
			}
			heard.Add(&Record{Kind: Ran, Number: c.Number, Steps: (c.Number - h.base) * 100, State: name(results[0])})
			results = results[1:]
		}
	}
	h.core.Refereed(heard, nil)
}

// boot makes the machine of a story.
func (h *script) boot(words []string) error {
	cfg := Config{Pages: scriptPages, Bare: true, Window: 1, PatrolPages: scriptPages}
	alone := false
	for _, w := range words {
		switch w {
		case "alone":
			alone = true
		case "throttle":
			cfg.Throttle = true
		case "impatient":
			cfg.BlackoutMax = time.Millisecond // no time for pages
		default:
			cfg.Undecided = Policy(w)
		}
	}
	table := make([]uint64, scriptPages)
	for i := range table {
		h.table[i] = fmt.Sprint("page ", i)
		table[i] = name(h.table[i])
	}
	h.cfg, h.equal, h.sent = cfg, false, [2][]Command{}
	h.core, h.start = New(cfg, h, table), "boot"
	h.core.Boot(0, []byte("state"))
	if err := h.do("cpu0 loaded"); err != nil {
		return err
	}
	if !alone {
		if err := h.core.Join(1); err != nil {
			return err
		}
		for !h.equal {
			if err := h.settle(); err != nil {
				return err
			}
		}
	}
	// The story begins with an epoch.
	h.core.endEpoch()
	for s := range h.sent {
		if h.core.Within(Side(s)) {
			if err := h.module(Side(s), []string{"ended"}); err != nil {
				return err
			}
		}
	}
	h.base = h.core.number
	h.out = nil
	return nil
}

// settle lets the core go, and gives every answer that is asked for then as it should be.
func (h *script) settle() error {
	h.now += 30 * time.Millisecond
	h.core.Go(false)
	for s := range h.sent {
		for len(h.sent[s]) > 0 {
			line := map[Verb]string{
				Run: "ran boot", Epoch: "ended", Patrol: "patrolled", Digest: "digests", Test: "tested", Save: "saved", Load: "loaded",
			}[h.sent[s][0].Verb]
			if err := h.module(Side(s), strings.Fields(line)); err != nil {
				return err
			}
		}
	}
	if h.copy > 0 || h.core.join != nil && h.core.join.copying {
		h.copied()
	}
	return nil
}

func (h *script) copied() {
	n := h.copy
	h.copy = 0
	h.core.Copied(n, time.Duration(n)*time.Microsecond, nil)
}

func keys[V any](m map[uint32]V) func(func(uint32) bool) {
	return func(yield func(uint32) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// tell runs a story and returns it with what the core did.
func tell(story string) (string, error) {
	h := &script{}
	var b strings.Builder
	for i, line := range strings.Split(strings.TrimRight(story, "\n"), "\n") {
		if strings.HasPrefix(line, "    ") {
			continue
		}
		fmt.Fprintln(&b, line)
		if line == "" || line[0] == '#' {
			continue
		}
		h.out = nil
		what, _, _ := strings.Cut(line, "#")
		times, steps := 1, what
		if n, rest, many := strings.Cut(what, " times: "); many {
			times, _ = strconv.Atoi(n)
			steps = rest
		}
		for range times {
			h.out = nil
			for step := range strings.SplitSeq(steps, ";") {
				if err := h.do(step); err != nil {
					return b.String(), fmt.Errorf("line %d: %s: %w\n%s", i+1, step, err, strings.Join(h.out, "\n"))
				}
			}
		}
		for _, l := range h.out {
			fmt.Fprintln(&b, l)
		}
	}
	return b.String(), nil
}

func TestStories(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no stories: ", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got, err := tell(string(want))
			if err != nil {
				t.Fatalf("%v\n%s", err, got)
			}
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if got != string(want) {
				t.Errorf("the core does this:\n%s", got)
			}
		})
	}
}
