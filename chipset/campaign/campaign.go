// Package campaign puts many random faults into a program that runs on two CPU modules, one a
// run, and counts what became of them: by what they were detected, how soon, whether what was
// wrong was named rightly, and whether anything wrong left the machine.
//
// Invariants:
//   - A run's fault depends on the seed and the run's number alone.
//   - What is right is known from a run by itself, without any of what is tested here. Output,
//     exit status, steps, fingerprint, the machine's state and all of its memory at the end are
//     compared with it, on all modules that stand.
//   - A fault of which nothing was seen counts as overwritten only when all of that is equal,
//     and both modules were proved equal (lockstep.Config.Prove).
package campaign

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"ft/chipset/bare"
	"ft/chipset/cpu"
	"ft/chipset/crossbar"
	"ft/chipset/duplex"
	"ft/chipset/lockstep"
	"ft/chipset/rv64"
)

// Config is a campaign.
type Config struct {
	Program  *bare.Program
	Memory   int64
	MaxSteps uint64 // of the program
	Faults   int
	Seed     uint64
	Kinds    []string // empty: all

	// Done is told of each run; it may be nil.
	Done func(*Trial)
}

// Outcome is what became of a fault.
type Outcome string

// Outcomes, in the order of the table.
const (
	ByCompare   Outcome = "compare"   // records that differed
	ByEpoch     Outcome = "epoch"     // memory or state at an epoch's end
	ByPatrol    Outcome = "patrol"    // memory that nobody wrote to
	ByDeath     Outcome = "death"     // the module died, stopped or was late
	BySelfTest  Outcome = "self-test" // nothing came of it, and the self-test at the end found it
	Overwritten Outcome = "overwritten"
	Pending     Outcome = "pending" // it is there, and was not found
	Escaped     Outcome = "escaped" // something wrong left the machine, or it could not go on
	NotIn       Outcome = "not-in"  // there was nothing to put it into: no store came any more
)

var outcomes = []Outcome{ByCompare, ByEpoch, ByPatrol, ByDeath, BySelfTest, Overwritten, Pending, Escaped}

// Trial is one run.
type Trial struct {
	Number  int     `json:"number"`
	Fault   string  `json:"fault"`
	Kind    string  `json:"kind"`
	Outcome Outcome `json:"outcome"`
	// Wrong is what is not as it should be: what left, what was named; "" if all is right.
	Wrong       string `json:"wrong,omitempty"`
	HealthyShot bool   `json:"healthy_shot,omitempty"`
	Misnamed    bool   `json:"misnamed,omitempty"`
	// Told is how the fault was named.
	Told string `json:"told,omitempty"`

	Steps    uint64        `json:"steps"`      // from the fault to the end of the quantum in which it was noticed
	HasSteps bool          `json:"-"`          // they are known
	Latency  time.Duration `json:"latency_ns"` // from the fault until it was noticed
	Repeated uint64        `json:"repeated"`

	fault duplex.Fault
}

// Detected says whether the system has noticed the fault.
func (t *Trial) Detected() bool {
	switch t.Outcome {
	case ByCompare, ByEpoch, ByPatrol, ByDeath, BySelfTest:
		return true
	}
	return false
}

// Run runs the campaign.
func (c Config) Run(ctx context.Context) (*Report, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	g, err := c.golden(ctx)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	rep := &Report{Seed: c.Seed, Faults: c.Faults, Memory: c.Memory, Steps: g.steps}
	for i := range c.Faults {
		t, err := c.trial(ctx, i, g)
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("run %d, %s: %w", i, t.Fault, err)
		}
		rep.add(t)
		if c.Done != nil {
			c.Done(t)
		}
	}
	rep.Seconds = time.Since(began).Seconds()
	rep.finish()
	return rep, nil
}

// seen is what was seen in a run.
type seen struct {
	in      *crossbar.Event // the fault was put in
	at      time.Time
	shots   []*crossbar.Event
	shotAt  time.Time // the first one
	wentOn  time.Time // when the first one was noticed
	found   *crossbar.Event
	passing *crossbar.Event
}

func (s *seen) event(at time.Time, e *crossbar.Event) {
	switch e.Kind {
	case lockstep.InjectedFault:
		if s.in == nil {
			s.in, s.at = e, at
		}
	case lockstep.Shot:
		if s.shots = append(s.shots, e); len(s.shots) == 1 {
			s.shotAt = at
		}
	case lockstep.WentOn:
		if s.wentOn.IsZero() {
			s.wentOn = at.Add(-e.Latency)
		}
	case lockstep.Evidence:
		if s.found == nil {
			s.found = e
		}
	case lockstep.Transient:
		s.passing = e
	}
}

// trial is run i.
func (c *Config) trial(ctx context.Context, i int, g *golden) (*Trial, error) {
	f := c.draw(i, g)
	t := &Trial{Number: i, Fault: f.String(), Kind: f.Name, fault: f}
	var out bytes.Buffer
	var s seen
	m, err := duplex.Start(duplex.Config{
		Program: c.Program, Memory: c.Memory, Compare: rv64.EveryStep, MaxSteps: 2 * g.steps, Rejoin: true, Faults: []duplex.Fault{f},
		Console: &out, Event: s.event,
	})
	if err != nil {
		return t, err
	}
	defer m.Close()
	r, err := m.Run(ctx)
	if err != nil {
		return t, err
	}
	t.Repeated = max(r.Repeated[0], r.Repeated[1])
	left, inside := g.differs(m, r, out.Bytes())
	if t.judge(&s); t.Outcome == "" {
		if t.Outcome, err = unseen(m, t, &s); err != nil {
			return t, err
		}
	}
	switch {
	case left != "":
		t.Outcome = Escaped
		t.wrong("%s", left)
	case inside != "":
		t.Outcome = Pending
		t.wrong("%s", inside)
	}
	return t, nil
}

// unseen says what became of a fault for which no module was shot, if the end is right.
func unseen(m *duplex.Machine, t *Trial, s *seen) (Outcome, error) {
	switch {
	case cpu.Persistent(t.fault.Name):
		text, err := m.Test(t.fault.Side)
		if err != nil || text == "" {
			return Pending, err
		}
		t.Told = text
		return BySelfTest, nil
	case s.in == nil:
		return NotIn, nil
	case m.Memory(0) == nil || m.Memory(1) == nil:
		return Pending, nil
	}
	return Overwritten, nil
}

// wrong takes note of what is not as it should be.
func (t *Trial) wrong(format string, args ...any) {
	if t.Wrong != "" {
		t.Wrong += "; "
	}
	t.Wrong += fmt.Sprintf(format, args...)
}
