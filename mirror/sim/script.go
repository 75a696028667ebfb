package sim

// A script is a run written down: the conditions, and one line for each thing that a
// client, an admin or fate does, with its time. What is left to chance then is small (how
// long an operation takes, what a power cut leaves), and comes from the number `noise`. A
// run of a seed is recorded as a script; a script that is run again does the same.

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// patience is how long after its last step a script waits for answers before all is healed.
const patience = 10 * sec

// Script is a run that can be read, stored and replayed.
type Script struct {
	Note  string // a line for people
	noise uint64
	cond  conditions
	steps []step
}

// step is one thing that is done.
type step struct {
	at   int64
	verb string
	arg  map[string]int64
}

func (s step) leg() int { return int(s.arg["leg"]) }

// conditions are what a run is under, from its beginning to its end.
type conditions struct {
	geometry  int64 // number in geometries
	fresh     bool  // it begins with two blank legs
	even      bool  // every operation takes the same time
	latency   int64 // of an operation of a leg, about
	transit   int64 // of an answer
	timeout   int64 // leg_timeout
	wait      bool  // no_leg = "wait"
	rateMin   int64
	rateMax   int64
	resolve   float64 // chance that an admin chooses between legs
	starved   float64 // chance that there is no memory
	rot       float64 // chance that a copy of a superblock rots while the driver is down
	integrity bool    // checksums are wanted
	turn      float64 // chance that a start finds that changed
	summed    bool    // the mirror begins with checksums
	sumCache  int64   // blocks of the table in memory
	victim    int64   // the leg with silent faults, -1: none
	tables    bool    // its checksums, and not its data
	control   bool    // the control core decides what comes back
	mtbf      int64   // its policy, by number
	marks     int64   // the legs' parts in reads: of leg 0, and three times that of leg 1
}

// plain are the conditions that a script need not name.
var plain = conditions{geometry: 1, even: true, latency: ms, transit: ms, timeout: 200 * ms, sumCache: 100, victim: -1}

// setting is one condition as it is written.
type setting struct {
	name string
	of   func(*conditions) any // a pointer
}

var settings = []setting{
	{"geometry", func(c *conditions) any { return &c.geometry }},
	{"fresh", func(c *conditions) any { return &c.fresh }},
	{"even", func(c *conditions) any { return &c.even }},
	{"latency", func(c *conditions) any { return (*time.Duration)(&c.latency) }},
	{"transit", func(c *conditions) any { return (*time.Duration)(&c.transit) }},
	{"timeout", func(c *conditions) any { return (*time.Duration)(&c.timeout) }},
	{"wait", func(c *conditions) any { return &c.wait }},
	{"rate_min", func(c *conditions) any { return &c.rateMin }},
	{"rate_max", func(c *conditions) any { return &c.rateMax }},
	{"resolve", func(c *conditions) any { return &c.resolve }},
	{"starved", func(c *conditions) any { return &c.starved }},
	{"rot", func(c *conditions) any { return &c.rot }},
	{"integrity", func(c *conditions) any { return &c.integrity }},
	{"turn", func(c *conditions) any { return &c.turn }},
	{"summed", func(c *conditions) any { return &c.summed }},
	{"sum_cache", func(c *conditions) any { return &c.sumCache }},
	{"victim", func(c *conditions) any { return &c.victim }},
	{"tables", func(c *conditions) any { return &c.tables }},
	{"control", func(c *conditions) any { return &c.control }},
	{"mtbf", func(c *conditions) any { return &c.mtbf }},
	{"marks", func(c *conditions) any { return &c.marks }},
}

func (s setting) get(c *conditions) string {
	switch p := s.of(c).(type) {
	case *bool:
		return strconv.FormatBool(*p)
	case *int64:
		return strconv.FormatInt(*p, 10)
	case *float64:
		return strconv.FormatFloat(*p, 'g', -1, 64)
	case *time.Duration:
		return p.String()
	}
	panic("sim: a condition of an unknown type")
}

func (s setting) set(c *conditions, v string) (err error) {
	switch p := s.of(c).(type) {
	case *bool:
		*p, err = strconv.ParseBool(v)
	case *int64:
		*p, err = strconv.ParseInt(v, 10, 64)
	case *float64:
		*p, err = strconv.ParseFloat(v, 64)
	case *time.Duration:
		*p, err = time.ParseDuration(v)
	}
	return err
}

// durations are the arguments of steps that are times.
var durations = map[string]bool{"for": true, "by": true, "gone": true, "back": true}

func (s step) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-14v %s", time.Duration(s.at), s.verb)
	for _, k := range slices.Sorted(maps.Keys(s.arg)) {
		if durations[k] {
			fmt.Fprintf(&b, " %s=%v", k, time.Duration(s.arg[k]))
		} else {
			fmt.Fprintf(&b, " %s=%d", k, s.arg[k])
		}
	}
	return b.String()
}

// String writes the script as ParseScript reads it.
func (s *Script) String() string {
	var b strings.Builder
	for line := range strings.Lines(s.Note) {
		fmt.Fprintf(&b, "# %s\n", strings.TrimSpace(line))
	}
	if s.noise != 0 {
		fmt.Fprintf(&b, "noise %d\n", s.noise)
	}
	c, usual := s.cond, plain
	for _, x := range settings {
		if v := x.get(&c); v != x.get(&usual) {
			fmt.Fprintf(&b, "%s %s\n", x.name, v)
		}
	}
	for _, x := range s.steps {
		fmt.Fprintln(&b, x)
	}
	return b.String()
}

// ParseScript reads a script: "NAME VALUE" is a condition, "TIME VERB NAME=VALUE…" a step,
// # begins a comment.
func ParseScript(text string) (*Script, error) {
	s := &Script{cond: plain}
	n := 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimSpace(line)
		if note, ok := strings.CutPrefix(line, "#"); ok {
			s.Note += strings.TrimSpace(note) + "\n"
			continue
		}
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		var err error
		if at, no := time.ParseDuration(f[0]); no == nil && len(f) > 1 {
			err = s.parseStep(at, f[1], f[2:])
		} else {
			err = s.parseCondition(f)
		}
		if err != nil {
			return nil, fmt.Errorf("line %d of the script, %q: %w", n, line, err)
		}
	}
	return s, nil
}

func (s *Script) parseCondition(f []string) (err error) {
	if len(f) != 2 {
		return fmt.Errorf("neither a condition (NAME VALUE) nor a step (TIME VERB NAME=VALUE…)")
	}
	if f[0] == "noise" {
		s.noise, err = strconv.ParseUint(f[1], 10, 64)
		return err
	}
	for _, x := range settings {
		if x.name == f[0] {
			return x.set(&s.cond, f[1])
		}
	}
	return fmt.Errorf("there is no condition %q", f[0])
}

func (s *Script) parseStep(at time.Duration, verb string, args []string) error {
	if verbs[verb] == nil {
		return fmt.Errorf("there is no verb %q", verb)
	}
	x := step{at: int64(at), verb: verb, arg: map[string]int64{}}
	for _, a := range args {
		k, v, ok := strings.Cut(a, "=")
		if !ok {
			return fmt.Errorf("%q is not NAME=VALUE", a)
		}
		if durations[k] {
			d, err := time.ParseDuration(v)
			if err != nil {
				return err
			}
			x.arg[k] = int64(d)
			continue
		}
		i, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			return err
		}
		x.arg[k] = i
	}
	if g := s.cond.geometry; g < 0 || g >= int64(len(geometries)) {
		return fmt.Errorf("there is no geometry %d", g)
	}
	s.steps = append(s.steps, x)
	return nil
}

// RunScript runs a script.
func (r *Runner) RunScript(s *Script) Result {
	w := r.newWorld(s.noise)
	w.script, w.replay = s, true
	return r.finish(w)
}

// Record runs a seed and writes down what was done.
func (r *Runner) Record(seed uint64) (Result, *Script) {
	w := r.newWorld(seed)
	w.script = &Script{noise: seed}
	res := r.finish(w)
	return res, w.script
}

// do lets something happen, and writes it down.
func (w *world) do(verb string, arg map[string]int64) {
	s := step{at: w.now, verb: verb, arg: arg}
	if w.tracing() {
		w.tracef("DO     %s", s.String()[15:])
	}
	if w.script != nil && !w.replay && !w.settling {
		w.script.steps = append(w.script.steps, s)
	}
	verbs[verb](w, s)
}

// playStep does the next step of a script.
func (w *world) playStep(n int) {
	if w.settling {
		return
	}
	s := w.script.steps[n]
	w.played = n + 1
	if l, ok := s.arg["leg"]; ok && (l < 0 || l > 1) {
		w.fail("the script is wrong: there is no leg %d", l)
		return
	}
	w.tracef("DO     %s", s.String()[15:])
	verbs[s.verb](w, s)
}

// finished: nothing is left to be done before everything is healed.
func (w *world) finished() bool {
	if w.replay {
		n := len(w.script.steps)
		return w.played == n && (w.client.active == 0 && w.dataBytes > 0 || n == 0 || w.now > w.script.steps[n-1].at+patience)
	}
	// Where an admin has taken out what serves, say, nothing is answered until he helps.
	return w.client.finished() || w.now > max(w.client.moved, w.client.paused)+waitMax && w.p.mishaps == 0
}

// waitMax is how long a run waits for an answer before all is healed. A face that is frozen
// is a violation long before (client.go).
const waitMax = 60 * sec

// drawn is a choice of the seed's, that a script has made.
func (w *world) drawn(p float64) bool { return !w.replay && w.plan.Float64() < p }

// drawnIn is a duration of the seed's, from lo up to hi.
func (w *world) drawnIn(lo, hi int64) int64 { return lo + w.plan.Int64N(hi-lo) }

// verbs carry out steps.
var verbs map[string]func(*world, step)

func init() {
	verbs = map[string]func(*world, step){
		"read":          func(w *world, s step) { w.request(opRead, s) },
		"write":         func(w *world, s step) { w.request(opWrite, s) },
		"zero":          func(w *world, s step) { w.request(opZero, s) },
		"flush":         func(w *world, s step) { w.request(opFlush, s) },
		"fail":          (*world).doFail,
		"hang":          (*world).doHang,
		"slow":          (*world).doSlow,
		"vanish":        (*world).doVanish,
		"bad":           (*world).doBad,
		"spoil":         (*world).doSpoil,
		"witness-error": (*world).doWitnessError,
		"witness-slow":  (*world).doWitnessSlow,
		"power":         (*world).doPower,
		"kill":          (*world).doKill,
		"stop":          (*world).doStop,
		"replace":       (*world).doReplace,
		"scrub":         (*world).doScrub,
		"priority":      (*world).doPriority,
		"attach":        (*world).doAttach,
		"detach":        (*world).doDetach,
		"bringup":       (*world).doBringUp,
		"bringdown":     (*world).doBringDown,
		"kill-ftd":      (*world).doKillFtd,
	}
}
