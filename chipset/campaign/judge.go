package campaign

import (
	"fmt"
	"time"

	"ft/chipset/crossbar"
	"ft/chipset/lockstep"
)

// judge looks at by what a fault was noticed, and whether it was named rightly.
func (t *Trial) judge(s *seen) {
	var mine *crossbar.Event
	for _, e := range s.shots {
		if e.Side != t.fault.Side {
			t.HealthyShot = true
			t.wrong("%v was shot, which is in order: %s", e.Side, e.Fault.Text)
		} else if mine == nil {
			mine = e
		}
	}
	if mine == nil && s.passing != nil {
		mine = s.passing
	}
	if mine == nil {
		if t.HealthyShot {
			t.Outcome = Escaped
		}
		return
	}
	t.Told = mine.Fault.Cause + ": " + mine.Fault.Text
	t.Outcome = by(&mine.Fault)
	if s.in == nil {
		t.misnamed("it was shot, and the fault was not in yet")
		return
	}
	noticed := s.shotAt
	if !s.wentOn.IsZero() && s.wentOn.Before(noticed) {
		noticed = s.wentOn
	}
	t.Latency = max(noticed.Sub(s.at), time.Duration(0))
	if mine.Fault.To >= s.in.Step && t.Outcome != ByDeath {
		t.Steps, t.HasSteps = mine.Fault.To-s.in.Step, true
	}
	if cause, ok := map[string]string{"kill": "died", "stop": "stopped", "slow": "late"}[t.Kind]; ok {
		if mine.Fault.Cause != cause {
			t.misnamed("it is %q, not %q", mine.Fault.Cause, cause)
		}
		return
	}
	t.named(s)
}

// by is by what a fault was noticed.
func by(f *lockstep.Finding) Outcome {
	switch f.Cause {
	case "compare":
		return ByCompare
	case "epoch":
		return ByEpoch
	case "patrol":
		return ByPatrol
	case "memory": // that is why; noticed it was by records that differed, or at an epoch's end
		if f.To > f.From {
			return ByCompare
		}
		return ByEpoch
	}
	return ByDeath
}

func (t *Trial) misnamed(format string, args ...any) {
	t.Misnamed = true
	t.wrong(format, args...)
}

// named looks at the first differing step that was told, and the word of memory.
func (t *Trial) named(s *seen) {
	if s.found == nil || s.found.Found == nil {
		t.misnamed("no first differing step was told")
		return
	}
	if s.found.FindErr != nil {
		t.misnamed("the first differing step was not found: %v", s.found.FindErr)
		return
	}
	r := s.found.Found
	if r.Found {
		t.Told += fmt.Sprintf("; first at step %d (pc %#x): %v", r.Step, r.PC, r.Differs)
	}
	if r.HasWord {
		t.Told += fmt.Sprintf("; %v", r.Word)
	}
	if t.Kind == "flip-memory" {
		word := *t.fault.Address &^ 7
		flip := uint64(1) << (*t.fault.Address%8*8 + uint64(*t.fault.Bit))
		switch {
		case !r.HasWord || r.Word.What != fmt.Sprintf("memory at %#x", word) || r.Word.Bad^r.Word.Good != flip:
			t.misnamed("the word at %#x was not named, in which bit %#x was wrong", word, flip)
		case r.Found && r.Step < s.in.Step:
			t.misnamed("step %d is before the fault, which was put in at step %d", r.Step, s.in.Step)
		}
		return
	}
	// What is told of behind a step began with it.
	first := s.in.Step
	switch t.Kind {
	case "lose-store", "double-store", "wrong-result":
		first--
	case "stuck":
		if r.Step+1 == first {
			return
		}
	}
	if !r.Found || r.Step != first {
		t.misnamed("the first differing step is %d, and was not named", first)
	}
}
