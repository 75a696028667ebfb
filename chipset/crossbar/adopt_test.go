package crossbar

import (
	"errors"
	"slices"
	"testing"

	"ft/chipset/lockstep"
	"ft/chipset/port"
)

// sent is a module's stream: what it was sent, of which the ring still holds the newest.
type sent struct {
	numbers []uint64
	held    int
	full    int // how often there is no room
	dead    bool
}

func (s *sent) Last() (number uint64, ok bool) {
	if len(s.numbers) == 0 {
		return 0, false
	}
	return s.numbers[len(s.numbers)-1], true
}

func (s *sent) Tail(from uint64) (list []lockstep.Command, ok bool) {
	for _, n := range s.numbers[len(s.numbers)-s.held:] {
		if ok = ok || n == from; ok {
			list = append(list, lockstep.Command{Verb: lockstep.Run, Number: n})
		}
	}
	return list, ok
}

func (s *sent) Send(c *lockstep.Command) error {
	switch {
	case s.dead:
		return errors.New("it is dead")
	case s.full > 0:
		s.full--
		return port.ErrFull
	}
	s.numbers = append(s.numbers, c.Number)
	return nil
}

func TestBothModulesGetTheSameStream(t *testing.T) {
	upTo := func(n uint64, held int) *sent {
		s := &sent{held: held}
		for i := range n {
			s.numbers = append(s.numbers, i+1)
		}
		return s
	}
	for _, c := range []struct {
		name   string
		cpu    [2]*sent
		number uint64
		short  []lockstep.Side
	}{
		{"both have been sent the same", [2]*sent{upTo(7, 5), upTo(7, 5)}, 7, nil},
		{"cpu0 less", [2]*sent{upTo(5, 5), upTo(7, 5)}, 7, nil},
		{"cpu1 less, and there is no room at first", [2]*sent{upTo(7, 5), {numbers: []uint64{1, 2, 3}, full: 3}}, 7, nil},
		{"cpu1 less than the ring still has", [2]*sent{upTo(7, 2), upTo(3, 3)}, 7, []lockstep.Side{1}},
		{"cpu0 less, and dead", [2]*sent{{numbers: []uint64{1}, dead: true}, upTo(7, 7)}, 7, []lockstep.Side{0}},
		{"cpu1 has just come in", [2]*sent{upTo(7, 5), {}}, 7, []lockstep.Side{1}},
		{"cpu0 runs alone", [2]*sent{upTo(7, 5), nil}, 7, nil},
		{"the machine has just started", [2]*sent{{}, nil}, 0, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			var sides []lockstep.Side
			for s, m := range c.cpu {
				if m != nil {
					sides = append(sides, lockstep.Side(s))
				}
			}
			number, short, err := even(sides, func(s lockstep.Side) sentTo { return c.cpu[s] })
			if number != c.number || (err == nil) != (number > 0) {
				t.Fatalf("the stream goes up to %d, not %d (%v)", number, c.number, err)
			}
			for _, s := range sides {
				switch why, is := short[s]; {
				case is != slices.Contains(c.short, s):
					t.Errorf("%v: %q", s, why)
				case !is && number > 0 && !slices.Equal(c.cpu[s].numbers, upTo(number, 0).numbers):
					t.Errorf("%v has been sent %v", s, c.cpu[s].numbers)
				}
			}
		})
	}
}
