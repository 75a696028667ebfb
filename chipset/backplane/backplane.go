// Package backplane starts the processes that are CPU modules, carries messages between them
// and the chipset, watches over them, and fences them.
//
//	core ── Send ──▶ Module ── port ──▶ process `ftd cpu-module N`
//	  ▲                │ reader, watcher, mourner
//	  └──── Inbox ◀────┘
//
// # Invariants
//
//   - Nothing of a module comes out of its Inbox once Fence has returned: what it still sends,
//     and what it had sent and nobody had taken, is counted and refused.
//   - A module's death is reported behind all that it had sent. A module is reported gone at
//     most once; it is not fenced by that: the core decides.
//   - A module's memory and port stay mapped until Release, whatever the process does, and
//     their sizes are sealed: to look into them never faults.
//   - A process is named by a pidfd, so that a signal never reaches another one.
//   - A module outlives the chipset's process. A successor adopts it by its Descriptors, or it
//     ends by itself when nobody has for port.Patience.
//
// Each module has three goroutines, which end with it: the reader brings its records into
// the Inbox, the mourner waits for the end of the process, the watcher finds a process that
// lives and does not work (watch.go), and is the chipset's heartbeat.
package backplane

import (
	"fmt"
	"time"

	"ft/chipset/bare"
	"ft/chipset/engine"
	"ft/chipset/lockstep"
	"ft/chipset/rv64"
	"ft/chipset/virtio"
)

// Role is the word on ftd's command line that makes it a CPU module.
const Role = "cpu-module"

// Kinds of machines in a module.
const (
	KindMachine = "machine" // module.Machine
	KindBare    = "bare"    // a bare-metal program
)

// MachineConfig is what a module builds its machine from, but for the memory.
type MachineConfig struct {
	Kind    string              `json:"kind"`
	Disk    *virtio.BlockConfig `json:"disk,omitempty"`
	NIC     *virtio.NetConfig   `json:"nic,omitempty"`
	Entropy bool                `json:"entropy,omitempty"`
	Compare rv64.Compare        `json:"compare"`
	Bare    *bare.ModuleConfig  `json:"bare,omitempty"` // of KindBare
}

// Settings are what a module's process is told, in its port.
type Settings struct {
	Side        lockstep.Side `json:"side"`
	MemoryBytes int64         `json:"memory_bytes"`
	CPU         int           `json:"cpu"` // core that it is pinned to, or -1
	Machine     MachineConfig `json:"machine"`
	Engine      engine.Kind   `json:"engine,omitempty"`
	Patience    time.Duration `json:"patience_ns"`
	Private     bool          `json:"private,omitempty"` // the memory is another's: what is written stays here
}

// Why says why a module is gone.
type Why uint8

// Reasons for a module to be gone.
const (
	Died    Why = iota + 1 // the process has ended
	Stopped                // it is stopped, by a signal or a tracer
	Late                   // it computes, and nothing comes of it
	Hung                   // it sleeps over its commands, or gets no core for very long
	Garbage                // it sent what no module sends
)

func (w Why) String() string {
	if w < Died || w > Garbage {
		return fmt.Sprintf("why(%d)", uint8(w))
	}
	return [...]string{"died", "stopped", "late", "hung", "garbage"}[w-1]
}

// Gone says that a module cannot be relied on any more.
type Gone struct {
	Why  Why
	Text string // for people: "cpu1: process 4711 was killed (signal 9)"
}

// Limits are when a module counts as gone. Zero values are the defaults.
type Limits struct {
	LateCPU time.Duration // of its own processor time without a record; default 100 ms
	SlowCPU time.Duration // the same over commands that take long (Back, Save, Load, Test), and at the start; default 10 s
	Hung    time.Duration // asleep over a command; default 1 s
	Starved time.Duration // wanting a core and getting none; default 30 s
}

func (l Limits) withDefaults() Limits {
	for _, d := range []struct {
		at *time.Duration
		is time.Duration
	}{{&l.LateCPU, 100 * time.Millisecond}, {&l.SlowCPU, 10 * time.Second}, {&l.Hung, time.Second}, {&l.Starved, 30 * time.Second}} {
		if *d.at <= 0 {
			*d.at = d.is
		}
	}
	return l
}
