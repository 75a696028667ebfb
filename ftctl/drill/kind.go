package drill

import (
	"fmt"
	"math/rand/v2"
	"time"

	"ft/ftd/api"
)

// target is what a fault is put into.
type target string

const (
	onLeg       target = "a leg"
	onNIC       target = "a NIC"
	onCPU       target = "a CPU side"
	onPCIModule target = "a PCI module"
	onCPUModule target = "a CPU module"
	onProcess   target = "a process"
)

// Kind is one way of failing, of one sort of part.
type Kind struct {
	Name string // of the fault, as ftctl inject knows it, or of what a person does
	On   target

	do, undo change // undo of a fault that ends by itself is none
	// seeded: what is not said of the fault is drawn by lot, from the drill's own seed.
	seeded bool
	// quiet: the part stays in service, and nobody need take notice.
	quiet bool
	// note is in the log where a fault is seen without a change of state.
	note string
	// process is the kind of device whose process it is, or ftd.
	process string
	// notice is how long it is waited for that somebody does; a flipped bit that nobody
	// looks at is not noticed at all.
	notice time.Duration
}

// change is what is asked of ftd, but for the part.
type change struct {
	verb  api.Verb
	fault string
	args  []string
}

func (c change) none() bool { return c.verb == "" }

func inject(fault string, args ...string) change { return change{api.Inject, fault, args} }

const (
	noticeSoon = 15 * time.Second // above leg_timeout, which a leg that hangs takes
	noticeUsed = 5 * time.Second  // where only what is used shows
	noticeIdle = 20 * time.Second // a patrol of all of a machine's memory
	slowMillis = "100"            // a slow leg that is not cut off for it
	ftdID      = "ftd"
	// One fault of a NIC in so many hits the port that is active at the moment or the other,
	// as it comes; the rest hit the active one.
	activeOneIn = 4

	passingFault = "passing fault"     // of a CPU module that goes on
	processGone  = "driver process of" // is gone
)

// kinds are all ways of failing that a drill tries: those that ftctl inject knows but for
// `corrupt`. What that spoils lies there until it is read or scrubbed, and the next fault could
// take the good copy: those would be two faults at a time.
var kinds = []*Kind{
	{Name: "read-error", On: onLeg, do: inject("read-error"), undo: inject("clear"), note: "read error", notice: noticeUsed},
	{Name: "write-error", On: onLeg, do: inject("write-error"), undo: inject("clear"), notice: noticeSoon},
	{Name: "hang", On: onLeg, do: inject("hang"), undo: inject("clear"), notice: noticeSoon},
	{Name: "slow", On: onLeg, do: inject("slow", slowMillis), undo: inject("clear"), quiet: true},
	{Name: "vanish", On: onLeg, do: inject("vanish"), undo: inject("return"), notice: noticeSoon},

	{Name: "cable-pull", On: onNIC, do: inject("cable-pull"), undo: inject("cable-return"), notice: noticeSoon},
	{Name: "silent-path", On: onNIC, do: inject("silent-path"), undo: inject("clear"), notice: noticeSoon},
	{Name: "remove", On: onNIC, do: inject("remove"), undo: inject("return"), notice: noticeSoon},
	{Name: "flap", On: onNIC, do: inject("flap"), undo: inject("clear"), notice: noticeSoon},

	{Name: "kill", On: onCPU, do: inject("kill"), notice: noticeSoon},
	{Name: "stop", On: onCPU, do: inject("stop"), notice: noticeSoon},
	{Name: "slow", On: onCPU, do: inject("slow"), undo: inject("clear"), notice: noticeSoon},
	{Name: "flip-register", On: onCPU, do: inject("flip-register"), seeded: true, note: passingFault, notice: noticeUsed},
	{Name: "flip-pc", On: onCPU, do: inject("flip-pc"), seeded: true, note: passingFault, notice: noticeUsed},
	{Name: "flip-csr", On: onCPU, do: inject("flip-csr"), seeded: true, note: passingFault, notice: noticeUsed},
	{Name: "flip-memory", On: onCPU, do: inject("flip-memory"), seeded: true, note: passingFault, notice: noticeIdle},
	{Name: "stuck", On: onCPU, do: inject("stuck"), undo: inject("clear"), seeded: true, notice: noticeUsed},
	{Name: "wrong-result", On: onCPU, do: inject("wrong-result"), undo: inject("clear"), seeded: true, notice: noticeUsed},
	{Name: "lose-store", On: onCPU, do: inject("lose-store"), seeded: true, note: passingFault, notice: noticeUsed},
	{Name: "double-store", On: onCPU, do: inject("double-store"), seeded: true, note: passingFault, notice: noticeUsed},

	{Name: "power-off", On: onPCIModule, do: inject("power-off"), undo: inject("power-on"), notice: noticeSoon},
	{Name: "bringdown", On: onPCIModule, do: change{verb: api.Bringdown}, undo: change{verb: api.Bringup}, notice: noticeSoon},
	{Name: "power-off", On: onCPUModule, do: inject("power-off"), undo: inject("power-on"), notice: noticeSoon},
	{Name: "bringdown", On: onCPUModule, do: change{verb: api.Bringdown}, undo: change{verb: api.Bringup}, notice: noticeSoon},

	{Name: "crash of a disk's", On: onProcess, process: kindDisk, do: inject("crash"), note: processGone, notice: noticeSoon},
	{Name: "crash of a NIC's", On: onProcess, process: kindNIC, do: inject("crash"), note: processGone, notice: noticeSoon},
	{Name: "crash of a machine's", On: onProcess, process: kindMachine, do: inject("crash"), note: processGone, notice: noticeSoon},
	{Name: "crash of ftd", On: onProcess, process: ftdID, do: inject("crash"), quiet: true},
}

// key names a kind in the table and in JSON.
func (k *Kind) key() string { return string(k.On) + ": " + k.Name }

// Step is one fault in one part.
type Step struct {
	N    int // from 1
	Kind *Kind
	ID   string // a side, a module, a device, or ftd
	// Devices are those that it hits: they are looked at for the time it takes to be
	// noticed, and their loads for the stall. None: the fault is ftd's, and no device's.
	Devices []string
	args    []string // beside the kind's own
	// Active: the NIC is made the active one first, which is the one that matters; the other
	// has its turns too.
	Active bool
}

// Text is the step as a person would type it.
func (s Step) Text() string {
	c := s.change(s.Kind.do)
	if c.Verb != api.Inject {
		return fmt.Sprintf("%s %s", c.Verb, c.ID)
	}
	text := fmt.Sprintf("inject %s %s", c.ID, c.Fault)
	for _, a := range c.Args {
		text += " " + a
	}
	if s.Active {
		text += " (active)"
	}
	return text
}

func (s Step) change(c change) api.Change {
	out := api.Change{Verb: c.verb, ID: s.ID, Fault: c.fault, Args: c.args}
	if c.fault == s.Kind.do.fault {
		out.Args = append(append([]string(nil), c.args...), s.args...)
	}
	return out
}

// crash says whether the step ends a process, which another one follows.
func (s Step) crash() bool { return s.Kind.On == onProcess }

// settle draws what a kind leaves open.
func (s *Step) settle(r *rand.Rand) {
	if s.Kind.seeded {
		s.args = []string{fmt.Sprintf("--seed=%d", 1+r.Uint64N(1<<31))}
	}
	s.Active = s.Kind.On == onNIC && r.IntN(activeOneIn) > 0
}
