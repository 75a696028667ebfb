package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"ft/chipset"
	"ft/chipset/bare"
	"ft/chipset/crossbar"
	"ft/chipset/duplex"
	"ft/chipset/lockstep"
	"ft/chipset/rv64"
	"ft/drivers"
)

// lockstepOptions are those of a program on two CPU modules.
type lockstepOptions struct {
	on        bool
	faults    []duplex.Fault
	undecided string
	rejoin    bool
}

// parseInjection reads a fault as in --inject "cpu1 flip-register x14 3 --at-step 100000".
func parseInjection(s string) (f duplex.Fault, err error) {
	words := strings.Fields(s)
	if len(words) < 2 || words[0] != "cpu0" && words[0] != "cpu1" {
		return f, errors.New(`want a side and a fault, as in "cpu1 flip-register x14 3 --at-step 100000"`)
	}
	if words[0] == "cpu1" {
		f.Side = 1
	}
	f.Injection, err = chipset.ParseFault(drivers.Fault{Name: words[1], Args: words[2:]})
	if err == nil && f.Name == "clear" {
		err = errors.New("clear is no fault: what is not to be there is not put in")
	}
	return f, err
}

// check says what is wrong with the options as a whole.
func (l *lockstepOptions) check(memory uint64) error {
	if !l.on && (len(l.faults) > 0 || l.undecided != string(lockstep.UndecidedStop) || !l.rejoin) {
		return errors.New("--inject, --undecided and --rejoin are for a program on two CPU modules: --lockstep runs it so")
	}
	switch lockstep.Policy(l.undecided) {
	case lockstep.UndecidedStop, lockstep.UndecidedCPU0, lockstep.UndecidedCPU1:
	default:
		return fmt.Errorf("--undecided %q: it is stop, cpu0 or cpu1", l.undecided)
	}
	for _, f := range l.faults {
		if err := f.Validate(int64(memory)); err != nil {
			return fmt.Errorf("--inject %q: %w", f, err)
		}
	}
	return nil
}

// runLockstep runs the program on two CPU modules and returns the exit status.
func (o *runELFOptions) runLockstep(program *bare.Program, sink *os.File, where bare.Signature, out, errs io.Writer) (code int, err error) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	limit := o.maxSteps
	if limit == ^uint64(0) {
		limit = 0
	}
	joined := 0
	m, err := duplex.Start(duplex.Config{
		Program: program, Memory: int64(o.memory), Engines: o.engines, Compare: rv64.EveryStep, MaxSteps: limit, Undecided: lockstep.Policy(o.lockstep.undecided),
		Rejoin: o.lockstep.rejoin, Faults: o.lockstep.faults, Console: out,
		Event: func(_ time.Time, e *crossbar.Event) {
			text := tell(e)
			if e.Kind == lockstep.JoinedIn {
				if joined++; joined > 1 {
					text = e.Side.String() + " is in lockstep again"
				}
			}
			if text != "" {
				fmt.Fprintf(errs, "ftd: %s\n", text)
			}
		},
		Missed: func(f duplex.Fault, err error) { fmt.Fprintf(errs, "ftd: %s was not put in: %v\n", f, err) },
	})
	if err != nil {
		return 0, err
	}
	defer m.Close()
	r, err := m.Run(ctx)
	switch {
	case ctx.Err() != nil:
		return 0, errors.New("interrupted")
	case err != nil:
		return 0, fmt.Errorf("%s: %w", o.file, err)
	case r.Lost != "":
		fmt.Fprintf(errs, "ftd: %s cannot go on after %d steps: %s\n", o.file, r.Steps, r.Lost)
		return exitUndecided, nil
	case r.Failed != nil:
		return 0, fmt.Errorf("%s, after %d steps: %w", o.file, r.Steps, r.Failed)
	}
	o.report(errs, r.Steps, r.Fingerprint, r.Took)
	if r.Ending == bare.Exited && sink != nil {
		if err := errors.Join(where.Write(sink, standing(m), o.granularity), sink.Close()); err != nil {
			return 0, fmt.Errorf("write the signature: %w", err)
		}
	}
	if r.Ending == bare.OutOfSteps {
		r.Steps = o.maxSteps // it stands at the end of the quantum
	}
	return o.conclude(errs, r.Steps, bare.Result{Ending: r.Ending, Status: r.Status}), nil
}

// standing is the memory of a module that is there at the end.
func standing(m *duplex.Machine) []byte {
	if ram := m.Memory(0); ram != nil {
		return ram
	}
	return m.Memory(1)
}

// tell is a sentence about what has happened to a module; "" for what goes without saying.
func tell(e *crossbar.Event) string {
	name := e.Side.String()
	switch e.Kind {
	case lockstep.InjectedFault:
		return fmt.Sprintf("%s: the fault is in at step %d: %s", name, e.Step, e.Text)
	case lockstep.Shot:
		text := fmt.Sprintf("%s was shot (%s): %s", name, e.Fault.Cause, e.Fault.Text)
		for _, d := range e.Fault.Differs {
			text += "; " + d.String()
		}
		return text
	case lockstep.Transient:
		return fmt.Sprintf("%s had a passing fault (%s): %s", name, e.Fault.Cause, e.Fault.Text)
	case lockstep.Repaired:
		return "both differed, and agree now"
	case lockstep.Undecided:
		return "nothing could be decided: " + e.Text
	case lockstep.DamagedAlone:
		return e.Text
	case lockstep.Evidence:
		return tellFound(e)
	case lockstep.WentOn:
		return fmt.Sprintf("%s went on alone %.1f ms after the difference was noticed", name, float64(e.Latency.Microseconds())/1000)
	case lockstep.JoinFailed:
		return fmt.Sprintf("%s is not taken in (%s): %s", name, e.Fault.Cause, e.Fault.Text)
	}
	return ""
}

// tellFound says where a module was wrong first.
func tellFound(e *crossbar.Event) string {
	name := e.Side.String()
	r := e.Found
	switch {
	case e.FindErr != nil:
		return fmt.Sprintf("%s: the first differing step was not found: %v", name, e.FindErr)
	case r == nil:
		return ""
	case !r.Found && !r.HasWord:
		return fmt.Sprintf("%s does not differ when the epoch is done again: the fault has passed", name)
	case !r.Found:
		return fmt.Sprintf("%s: %v; nothing has used it", name, r.Word)
	}
	return fmt.Sprintf("%s differed first at step %d (pc %#x)%s", name, r.Step, r.PC, r.What())
}
