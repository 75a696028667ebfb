package monitor

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"
)

const interval = 100 * time.Millisecond

var (
	t0    = time.Unix(1000, 0)
	one   = netip.MustParseAddr("192.0.2.1")
	two   = netip.MustParseAddr("192.0.2.2")
	three = netip.MustParseAddr("192.0.2.3")
)

// story drives a path by milliseconds from t0.
type story struct {
	t *testing.T
	*path
}

func at(ms float64) time.Time { return t0.Add(time.Duration(ms * float64(time.Millisecond))) }

func (s story) ask(ms float64) {
	s.round(at(ms))
	for i := range s.targets {
		s.sent(i, at(ms))
	}
}

func (s story) answer(from netip.Addr, ms float64, want bool) time.Duration {
	s.t.Helper()
	rtt, counts, _ := s.answered(from, at(ms))
	if counts != want {
		s.t.Errorf("at %v ms: an answer from %v counts: %v, want %v", ms, from, counts, want)
	}
	return rtt
}

// turnsBad asks at whole intervals from a time on and says when the verdict turned.
func (s story) turnsBad(from int) float64 {
	s.t.Helper()
	for ms := from; ms < from+5000; ms++ {
		if why, turned := s.expire(at(float64(ms))); turned {
			if !strings.Contains(why, s.targets[0].addr.String()) {
				s.t.Errorf("%q does not name the target", why)
			}
			return float64(ms)
		}
		if ms%100 == 0 {
			s.ask(float64(ms))
		}
	}
	s.t.Fatal("a path without answers stays good")
	return 0
}

func newStory(t *testing.T, misses int, targets ...netip.Addr) story {
	return story{t, newPath(targets, interval, misses, t0)}
}

func TestPathIsBadAfterMissesWithoutAnswer(t *testing.T) {
	for misses := 1; misses <= 5; misses++ {
		s := newStory(t, misses, one)
		if v := s.verdict; v != Unknown {
			t.Errorf("misses %d: a path that nobody has asked is %v", misses, v)
		}
		if got := s.turnsBad(0); got != float64(misses)*100 {
			t.Errorf("misses %d: never answered, bad after %v ms", misses, got)
		}
		s = newStory(t, misses, one)
		s.ask(0)
		s.answer(one, 0.5, true)
		// The path dies at once; the issue allows misses × interval, and half an interval
		// for the answer to the only probe where one miss is enough.
		want := float64(misses)*100 + 1
		if misses == 1 {
			want = 150
		}
		if got := s.turnsBad(1); got != want {
			t.Errorf("misses %d: bad at %v ms, want %v", misses, got, want)
		}
	}
}

func TestOneTargetOfSeveralSuffices(t *testing.T) {
	s := newStory(t, 3, one, two)
	for ms := 0.0; ms < 2000; ms += 100 {
		s.ask(ms)
		s.answer(two, ms+1, true)
		if _, turned := s.expire(at(ms + 99)); turned || s.verdict != Good {
			t.Fatalf("at %v ms the path is %v", ms, s.verdict)
		}
	}
}

func TestOnlyAnswersToProbesCount(t *testing.T) {
	s := newStory(t, 3, one, two)
	s.answer(one, 0, false) // before any probe
	s.ask(1)
	s.answer(three, 2, false) // not a target
	if rtt := s.answer(one, 2, true); rtt != time.Millisecond {
		t.Errorf("round trip %v", rtt)
	}
	s.answer(one, 3, false) // a second one to the same probe
	s.answer(two, 4, true)  // the other's own probe
	s.ask(101)
	s.ask(201)
	if rtt := s.answer(one, 202, true); rtt != 0 {
		t.Errorf("a round trip of %v, where it cannot be known which probe was answered", rtt)
	}
	s.answer(one, 203, false)
	s.ask(300)
	s.answer(one, 1301, false) // far too late
}

func TestProberThatWasHeldUpHasMissedNothing(t *testing.T) {
	s := newStory(t, 3, one)
	s.ask(0)
	s.answer(one, 1, true)
	if _, turned := s.expire(at(5000)); turned {
		t.Fatal("a path is bad although nobody has asked for five seconds")
	}
	s.ask(5000)
	if got := s.turnsBad(5001); got != 5200 {
		t.Errorf("bad at %v ms, want 5200: two probes that had time, and a third one due", got)
	}
}

func TestProbesThatCannotBeSentMakeAPathBad(t *testing.T) {
	s := newStory(t, 2, one)
	var why string
	for ms := 0.0; why == ""; ms += 100 {
		if ms > 1000 {
			t.Fatal("the path stays unknown")
		}
		why, _ = s.expire(at(ms))
		s.round(at(ms))
		s.unsent(errors.New("network is down"))
	}
	if !strings.Contains(why, "network is down") {
		t.Errorf("%q does not say why", why)
	}
	s.ask(2000)
	if _, counts, turned := s.answered(one, at(2001)); !counts || !turned || s.verdict != Good {
		t.Error("an answer does not make a bad path good")
	}
}
