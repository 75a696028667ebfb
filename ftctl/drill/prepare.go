package drill

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"ft/ftd/api"
)

// Setup is what a person asks for.
type Setup struct {
	Seed      uint64
	For       time.Duration
	Limit     time.Duration
	Parts     []string
	Socket    string // of ftd: one drill at a time
	PeerNetns string
	GuestURL  string
	Say       func(string) // what is waited for before it begins; may be nil
}

// Prepared is a drill that may begin.
type Prepared struct {
	Runner *Runner
	notes  []string // what there is no load on, and why
	lock   net.Listener
}

// codeDrill is the code of a drill's own refusals.
const codeDrill = "drill"

func refuse(format string, args ...any) error {
	return &api.Error{Code: codeDrill, Refused: true, Sentence: fmt.Sprintf(format, args...)}
}

// Prepare looks whether there may be a drill, and makes plan and loads. Its errors are for
// the person who asked: a refusal says the way out.
func Prepare(ctx context.Context, box Box, o Setup) (*Prepared, error) {
	st, err := box.Status(ctx)
	if err != nil {
		return nil, err
	}
	version, err := box.Version(ctx)
	if err != nil {
		return nil, err
	}
	if state := st.System.State.String(); state != "duplex" {
		return nil, refuse("the box is %s (%s): a drill takes one side away, so both must be good; %s; then ftctl wait box --for duplex%s", state, st.System.Verdict, action(st), leftIn(st))
	}
	plan, err := NewPlan(st, Options{Seed: o.Seed, Parts: o.Parts, Supervised: version.Supervised})
	if err != nil {
		return nil, err
	}
	if plan.Size() == 0 {
		return nil, refuse("there is nothing to drill%s", nothing(st, o, plan))
	}
	p := &Prepared{}
	if p.lock, err = lock(o.Socket); err != nil {
		return nil, err
	}
	if err := clearFaults(ctx, box, st, plan); err != nil {
		p.Close()
		return nil, err
	}
	p.Runner = &Runner{Box: box, Plan: plan, For: o.For, Limit: o.Limit}
	p.Runner.Loads, p.notes = loadsOn(ctx, box, st, o)
	return p, nil
}

// Close lets go of what a drill has.
func (p *Prepared) Close() { _ = p.lock.Close() }

// Introduction says what is about to happen.
func (p *Prepared) Introduction() (lines []string) {
	plan := p.Runner.Plan
	lines = append(lines, fmt.Sprintf("drill    %d ways to fail, %d with every part, for %s; seed %d", plan.Round(), plan.Size(), clock(p.Runner.For), plan.Seed))
	for _, l := range p.Runner.Loads {
		lines = append(lines, fmt.Sprintf("load     %s: %s", l.Device(), l.What()))
	}
	for _, n := range p.notes {
		lines = append(lines, "no load  "+n)
	}
	return lines
}

func action(st api.Status) string {
	if a := st.System.Action; a != "" && !strings.HasPrefix(a, "none") {
		return a
	}
	return "ftctl status says what is under way"
}

// leftIn is the way out where an earlier drill that was killed has left a fault in.
func leftIn(st api.Status) string {
	for _, d := range st.Devices {
		for _, s := range d.Sides {
			if s.State.String() != "duplex" && s.State.String() != "simplex" && s.MTBF.Injected > 0 {
				return fmt.Sprintf(". If an earlier drill was killed and has left a fault in: ftctl inject %s clear", s.ID)
			}
		}
	}
	return ""
}

func nothing(st api.Status, o Setup, plan *Plan) string {
	switch {
	case len(st.Devices) == 0:
		return ": no device is configured; see /etc/ft/ft.toml"
	case len(plan.LeftOut) > 0:
		return ": " + strings.Join(plan.LeftOut, "; ")
	}
	return " among " + strings.Join(o.Parts, ", ") + ": ftctl ls has the parts"
}

// lock keeps a second drill off the box: two at once would see each other's faults. It goes
// with the process, however that ends.
func lock(socket string) (net.Listener, error) {
	path, err := filepath.Abs(socket)
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("@ft-drill-%x", sha256.Sum256([]byte(path)))
	l, err := net.Listen("unix", name)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, refuse("another drill runs on this box: let it end, or end it with Ctrl-C")
	}
	return l, err
}

// clearFaults ends what an earlier drill that was killed may have left in, which also shows
// whether whoever asks may put faults in at all.
func clearFaults(ctx context.Context, box Box, st api.Status, plan *Plan) error {
	for _, d := range st.Devices {
		for _, s := range d.Sides {
			if !plan.hits(s.ID, d.ID) {
				continue
			}
			if _, err := box.Change(ctx, api.Change{Verb: api.Inject, ID: s.ID, Fault: "clear"}); err != nil {
				return err
			}
		}
	}
	return nil
}
