package lockstep

import (
	"errors"
	"fmt"
)

// Ahead is how many quanta are under way: sent and not agreed on.
func (c *Core) Ahead() int { return c.runs }

// AheadSteps is how many steps they have at most.
func (c *Core) AheadSteps() (steps uint64) {
	for i := range c.asked {
		if c.asked[i].verb == Run {
			steps += c.asked[i].a
		}
	}
	return steps
}

// Heritable says whether a successor may take a side over: it is in lockstep, or was in it
// under the core before and is being taken over.
func (c *Core) Heritable(s Side) bool {
	return c.sides[s].place == within || c.sides[s].place == adopting
}

// PageSize is the unit in which memory is compared and copied, in bytes.
const PageSize = 4096

// ErrLeaving is why a side cannot come in yet: what was in its place before is not gone.
var ErrLeaving = errors.New("the CPU module's place is not free yet")

// MayJoin says why a side cannot be brought in now.
func (c *Core) MayJoin(s Side) error {
	switch {
	case c.sides[s].place == within:
		return fmt.Errorf("%w: %v is in already", ErrJoin, s)
	case c.sides[s].place == leaving:
		return fmt.Errorf("%w: %v is on its way out", ErrLeaving, s)
	case c.sides[s].place != absent:
		return fmt.Errorf("%w: %v is on its way in", ErrJoin, s)
	case c.join != nil:
		return fmt.Errorf("%w: %v is on its way in", ErrJoin, c.join.to)
	case c.phase != Running || c.sides[s.Other()].place != within:
		return fmt.Errorf("%w: %v does not run a machine that it could join", ErrJoin, s.Other())
	}
	return nil
}

// Observer is implemented by hands that want to know at which steps inputs were applied.
type Observer interface {
	// Applied tells, behind each quantum that was agreed on, of the inputs before it: the
	// machine had run so many steps. The data are the core's.
	Applied(step uint64, in []byte)
}

// observe tells the observer, if there is one, what was applied before a quantum.
func (c *Core) observe(r *Record) {
	o, ok := c.hands.(Observer)
	if !ok {
		return
	}
	for i := range c.log {
		if cmd := &c.log[i]; cmd.Verb == Apply && cmd.Number > c.last.Number && cmd.Number < r.Number {
			o.Applied(c.last.Steps, cmd.Data)
		}
	}
}
