package mirror

import (
	"time"

	"ft/drivers"
	"ft/mirror/balance"
	"ft/mirror/frontend"
	"ft/mirror/legio"
	"ft/mirror/metadata"
	"ft/mirror/scrub"
)

// Env is the world as the engine sees it. The engine is a state machine: it never
// blocks, starts no goroutine and reads no clock but Now. Everything it wants done
// it says here, and the outcome comes back later through a method of Engine. The
// driver implements it with an event loop over real legs, the simulator with a
// seeded scheduler over simulated ones. Both call the engine under one lock, and no
// method of Env may call back into the engine.
type Env interface {
	// Now is monotonic, in nanoseconds. Wall is for what people read.
	Now() int64
	Wall() time.Time
	// Submit begins leg I/O; Engine.LegDone takes it back when it has ended.
	Submit(io *legio.IO)
	// Reply answers a request of the face; Engine.Replied says when the answer has
	// gone out. Until then the range of a write stays locked.
	Reply(r *frontend.Request)
	// Free takes a request back after Replied, when no leg I/O refers to it.
	Free(r *frontend.Request)
	// Alloc gives memory for internal copies, aligned to 4096; nil when there is none.
	Alloc(n int) (buf []byte, release func())
	// WriteWitness stores the witness durably; Engine.WitnessDone says how it ended.
	// The engine has at most one under way.
	WriteWitness(w metadata.Witness)
	// SaveScrub stores the state of the scrub, within a while: the last one counts. What
	// was not stored when the process ends is done again by its successor.
	SaveScrub(s scrub.State)
	// Event reports a change. Seq and Time are filled in by the receiver.
	Event(ev drivers.Event)
	// UUID draws a random identifier.
	UUID() metadata.UUID
}

// Leg is what the driver found on a leg when it opened it: the engine's input for
// Start and Attach.
type Leg struct {
	Resource      string // path as configured
	Bytes         int64
	LogicalBlock  int
	PhysicalBlock int
	// Image is its metadata, nil when it carries none of ours.
	Image *metadata.Image
	// Foreign names what else was found on it ("ext4 file system"), "" when blank.
	Foreign string
}

// Options are a mirror's settings, the disk's part of ft.toml.
type Options struct {
	Frontend      string        `json:"frontend"` // auto, fuseloop, ublk, nbd
	NoLeg         string        `json:"no_leg"`   // error, wait
	LegTimeout    time.Duration `json:"leg_timeout"`
	ResyncRateMin int64         `json:"resync_rate_min"` // bytes a second, under application load
	ResyncRateMax int64         `json:"resync_rate_max"` // bytes a second, 0 is unlimited
	Integrity     string        `json:"integrity"`       // none
	// SumCache is how many blocks of the table of checksums are kept in memory, each for
	// 4 MiB of data.
	SumCache   int           `json:"sum_cache,omitempty"`
	ScrubEvery time.Duration `json:"scrub_every"` // 0: only when asked for
	NBD        string        `json:"nbd,omitempty"`
	// Reads is each leg's part in reads.
	Reads   [2]balance.Mark `json:"reads"`
	Measure string          `json:"measure,omitempty"` // only for benchmarks: NoIntentMap
}

// The engine's methods, for those who write the shells around it:
//
//	NewEngine(name string, o Options, env Env) *Engine
//	Start(legs [2]*Leg, w *metadata.Witness, out [2]bool) error  nil leg: absent. Serves from the best; error *drivers.Refused when none may serve
//	Attach(s drivers.Side, leg *Leg, acceptRisk string) error    diagnostics are the caller's; begins the resync
//	Detach(s drivers.Side, why drivers.Reason) error             the drain is over when Drained(s)
//	Resolve(keep drivers.Side, legs [2]*Leg, w *metadata.Witness) error
//	Gone(s drivers.Side, why string)                             the device has vanished
//	Submit(r *frontend.Request)
//	Replied(r *frontend.Request)
//	LegDone(io *legio.IO)
//	WitnessDone(err error)
//	Tick()                                                       every 20 to 100 ms
//	Stop(done func(error))                                       clean stop: no request may come any more
//	Drained(s drivers.Side) bool                                 no I/O under way on the leg
//	RestoreScrub(s scrub.State)                                   before Start: what a predecessor kept
//	Scrub(repair bool, from int) error                           and PauseScrub, ResumeScrub, CancelScrub
//	SetPriority(p Priority) error                                of resync and scrub
//	SetReads(s drivers.Side, m *balance.Mark)                    a leg's part in reads, as an admin says; nil: as configured
//	ConfigureReads(m [2]balance.Mark)                            as ft.toml says now
//	Geometry() (frontend.Geometry, bool)                         false until a leg serves or has served
//	Snapshot() Snapshot                                          state, progress, counters
