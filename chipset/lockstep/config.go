package lockstep

import (
	"time"

	"ft/chipset/module"
)

// Hands do what the core decides. None of its methods may call back into the core.
type Hands interface {
	// Now is a monotonic clock.
	Now() time.Duration
	// Grant is the guest time for the quantum to come (InputTime, "at least").
	Grant() module.Input
	// Send gives a module a command, without waiting. A module that cannot be reached is
	// reported by Gone later.
	Send(s Side, c *Command)
	// Release lets an output out of the machine.
	Release(r *Record)
	// Copy copies pages of memory from one module to the other; all of them when pages is nil.
	// Copied is the answer. pages is the hands' to keep.
	Copy(from, to Side, pages []uint32)
	// Fence cuts a module off and ends it: nothing of it is used afterwards.
	Fence(s Side, why string)
	// Referee has the stream run by a fresh process, from the memory and the state that a
	// module stands at; Refereed is the answer. log is the hands' to keep.
	Referee(from Side, state []byte, log []Command)
	// Page is a copy of a page of a module's memory, which stands still.
	Page(s Side, index uint32) []byte
	// Report tells of what has happened.
	Report(e Event)
}

// Config is how a machine is run. Zero values stand for the defaults.
type Config struct {
	Pages       int           // of memory
	Quantum     uint64        // steps; 100000
	QuantumMax  uint64        // of a machine that computes and neither sends nor gets anything; Quantum
	Window      int           // quanta sent ahead of the comparison; 4
	EpochTime   time.Duration // 50 ms
	Bare        bool          // the machine wants no guest time
	Undecided   Policy        // "stop"
	BlackoutMax time.Duration // of a re-integration; 20 ms
	Throttle    bool          // the guest may be slowed down so that a re-integration ends
	PatrolPages int           // a quantum, in the background; 16
	PatrolEvery int           // quanta, whose pages are patrolled at once; 1
	Hold        bool          // the machine stands at its start, and when a module was shot or has come in, until Resume
	Prove       bool          // it is over only when its modules have been proved equal
}

// Policy says whom to believe when nothing can be decided.
type Policy string

// Policies.
const (
	UndecidedStop Policy = "stop"
	UndecidedCPU0 Policy = "cpu0"
	UndecidedCPU1 Policy = "cpu1"
)

func (c Config) withDefaults() Config {
	if c.Quantum == 0 {
		c.Quantum = 100_000
	}
	c.QuantumMax = max(c.QuantumMax, c.Quantum)
	if c.Window <= 0 {
		c.Window = 4
	}
	if c.EpochTime <= 0 {
		c.EpochTime = 50 * time.Millisecond
	}
	if c.Undecided == "" {
		c.Undecided = UndecidedStop
	}
	if c.BlackoutMax <= 0 {
		c.BlackoutMax = 20 * time.Millisecond
	}
	if c.PatrolEvery <= 0 {
		c.PatrolEvery = 1
	}
	if c.PatrolPages <= 0 {
		c.PatrolPages = 16
	}
	return c
}

// quantumInputMax is how many bytes of input a quantum gets before it is run, but for the last
// input; the rest waits for the next one.
const quantumInputMax = 2 << 20

// inputsMax is how many inputs may wait before Takes says no.
const inputsMax = 1024

// logBytesMax bounds what is kept for a replay: an epoch with more input is ended.
const logBytesMax = 32 << 20

// Phase is what the machine as a whole is in.
type Phase uint8

// Phases.
const (
	Booting Phase = iota // the first module is being loaded
	Running
	Judging // two modules differed, or one is asked to repeat what it did
	Over    // the guest asked for a reset, or nothing can go on
)

func (p Phase) String() string { return [...]string{"booting", "running", "judging", "over"}[p] }
