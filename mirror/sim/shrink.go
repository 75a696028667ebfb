package sim

// Shrinking: a script that fails is made shorter and simpler for as long as it fails in the
// same way: steps are left out (delta debugging), then conditions are made plain, then sizes
// and times. What is left is for a person to read, and to be kept as a test.

import (
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"
)

// Budget bounds a shrinking.
type Budget struct {
	Tries int
	Until time.Time // zero: never
}

// noises is how many kinds of chance each try is given: what a step less changes is also
// what chance does next.
const noises = 3

type shrinker struct {
	run    func(*Script) Result
	budget Budget
	tries  int
	best   *Script
	kind   string
}

// Shrink makes a script that fails smaller. run runs one; a script that does not fail is
// given back as it is.
func Shrink(s *Script, run func(*Script) Result, b Budget) *Script {
	z := &shrinker{run: run, budget: b, best: s}
	res := run(s)
	if res.Err == nil {
		return s
	}
	z.kind = failureKind(res.Err)
	for round := 0; !z.spent(); round++ {
		before := z.best.String()
		z.dropSteps()
		z.plainConditions()
		z.smallerSizes()
		z.smallerTimes()
		if z.best.String() == before {
			break
		}
	}
	return z.best
}

func (z *shrinker) spent() bool {
	return z.tries >= z.budget.Tries || !z.budget.Until.IsZero() && time.Now().After(z.budget.Until)
}

// failureKind is what violations of one kind have in common: their first words, without
// names and numbers.
func failureKind(err error) string {
	text := err.Error()
	if _, after, ok := strings.Cut(text, ": "); ok {
		text = after // the time
	}
	var words []string
	for _, f := range strings.Fields(text) {
		if !strings.ContainsFunc(f, func(r rune) bool { return unicode.IsDigit(r) || r == '[' }) {
			words = append(words, f)
		}
		if len(words) == 4 {
			break
		}
	}
	return strings.Join(words, " ")
}

// try takes a script for the best so far, if it fails as it must.
func (z *shrinker) try(s *Script) bool {
	for n := range uint64(noises) {
		if z.spent() {
			return false
		}
		z.tries++
		c := *s
		c.noise = s.noise + n
		if res := z.run(&c); res.Err != nil && failureKind(res.Err) == z.kind {
			z.best = &c
			return true
		}
	}
	return false
}

func (s *Script) without(lo, hi int) *Script {
	c := *s
	c.steps = slices.Concat(s.steps[:lo], s.steps[hi:])
	return &c
}

// dropSteps leaves out runs of steps, long ones first.
func (z *shrinker) dropSteps() {
	for size := max(1, len(z.best.steps)/2); ; size /= 2 {
		for lo := len(z.best.steps) - size; lo >= 0; lo -= size {
			if hi := lo + size; hi <= len(z.best.steps) {
				z.try(z.best.without(lo, hi))
			}
			if z.spent() {
				return
			}
		}
		if size <= 1 {
			return
		}
	}
}

// plainConditions makes one condition after the other the usual one.
func (z *shrinker) plainConditions() {
	usual := plain
	for _, x := range settings {
		v := x.get(&usual)
		if x.get(&z.best.cond) == v {
			continue
		}
		c := *z.best
		if err := x.set(&c.cond, v); err == nil {
			z.try(&c)
		}
	}
}

// with is the script with an argument of a step changed.
func (s *Script) with(i int, name string, v int64) *Script {
	c := *s
	c.steps = slices.Clone(s.steps)
	c.steps[i].arg = maps.Clone(c.steps[i].arg)
	c.steps[i].arg[name] = v
	if v == 0 && name != "leg" && name != "off" {
		delete(c.steps[i].arg, name)
	}
	return &c
}

// smallerSizes makes arguments small or round.
func (z *shrinker) smallerSizes() {
	for i := range z.best.steps {
		for _, name := range slices.Sorted(maps.Keys(z.best.steps[i].arg)) {
			v := z.best.steps[i].arg[name]
			for _, simple := range simpler(name, v) {
				if simple < v && z.try(z.best.with(i, name, simple)) {
					break
				}
			}
		}
	}
}

// simpler are the values to be tried in the place of one, the simplest first.
func simpler(name string, v int64) []int64 {
	switch {
	case name == "leg" || name == "op" || name == "area" || name == "errno" || name == "how" || name == "without" || name == "mute":
		return nil
	case name == "len":
		return []int64{4096, 8192, 64 << 10}
	case name == "off":
		return []int64{0, v &^ (1<<20 - 1), v &^ (64<<10 - 1), v &^ 4095}
	case durations[name]:
		return []int64{0, v / sec * sec, v / (100 * ms) * 100 * ms, v / ms * ms}
	}
	return []int64{0, 1}
}

// smallerTimes takes the waiting between steps out, and makes times round.
func (z *shrinker) smallerTimes() {
	before := int64(0)
	for i := range z.best.steps {
		at := z.best.steps[i].at
		for _, gap := range []int64{0, ms, 10 * ms, 100 * ms, sec, 5 * sec} {
			if at-before > gap && z.try(z.best.earlier(i, at-before-gap)) {
				break
			}
		}
		if at := z.best.steps[i].at; at%ms != 0 && at/ms*ms >= before {
			z.try(z.best.earlier(i, at%ms))
		}
		before = z.best.steps[i].at
	}
}

// earlier lets the steps from i on happen earlier.
func (s *Script) earlier(i int, by int64) *Script {
	c := *s
	c.steps = slices.Clone(s.steps)
	for k := i; k < len(c.steps); k++ {
		c.steps[k].at -= by
	}
	return &c
}
