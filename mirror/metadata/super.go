package metadata

import (
	"slices"
	"time"
)

// NewSuper is the superblock of a leg that has never been in service: a generation of
// zero, nothing clean, nothing known about what anyone misses. Whoever takes it in sets
// the rest.
func NewSuper(l Layout, mirror, leg UUID, slot uint8, logicalBlock, physicalBlock uint32) Superblock {
	return Superblock{
		Version: FormatVersion,
		Mirror:  mirror, Leg: leg, Slot: slot,
		DeviceBytes: uint64(l.DeviceBytes), DataBytes: uint64(l.DataBytes),
		LogicalBlock: logicalBlock, PhysicalBlock: physicalBlock,
		RegionSize: l.RegionSize, ExtentSize: l.ExtentSize,
	}
}

// Layout is where the leg's metadata lies.
func (sb *Superblock) Layout() (Layout, error) {
	return NewLayout(int64(sb.DeviceBytes), sb.RegionSize, sb.ExtentSize)
}

// Clone is a copy that shares no memory.
func (sb *Superblock) Clone() Superblock {
	c := *sb
	c.History = slices.Clone(sb.History)
	return c
}

// Unserve makes it that of a leg that has never been in service: whatever is on it, it is
// brought up to date in full before it serves.
func (sb *Superblock) Unserve() {
	sb.Generation, sb.History, sb.InService, sb.Syncing = Generation{}, nil, 0, true
	sb.Clean, sb.Sums, sb.Staged = false, false, false
	sb.MissedLeg, sb.MissedFrom = UUID{}, Generation{}
}

// Disowns says whether this leg, when both were in service, had another partner than o: one
// of the two was replaced since. A leg in service always names its partner.
func (sb *Superblock) Disowns(o *Superblock) bool {
	return sb.Both() && !sb.MissedLeg.IsZero() && sb.MissedLeg != o.Leg
}

// Bump begins a new generation, named id: the mirror goes on with fewer legs than
// before. The present generation becomes history. An admin who resolves a split-brain
// in favour of this leg decides that what the other one (and the witness) had is
// history as well: their generations are passed as over, so that they are known as
// superseded from then on.
func (sb *Superblock) Bump(id UUID, over ...Generation) {
	next := Generation{Counter: sb.Generation.Counter, ID: id}
	history := make([]Generation, 0, HistoryLen)
	remember := func(g Generation) {
		if !g.IsZero() && len(history) < HistoryLen && !slices.Contains(history, g) {
			history = append(history, g)
		}
	}
	remember(sb.Generation)
	for _, g := range over {
		next.Counter = max(next.Counter, g.Counter)
		remember(g)
	}
	for _, g := range sb.History {
		remember(g)
	}
	next.Counter++
	sb.Generation, sb.History = next, history
}

// Supersedes says whether g is a former generation of this leg.
func (sb *Superblock) Supersedes(g Generation) bool {
	return !g.IsZero() && g != sb.Generation && slices.Contains(sb.History, g)
}

// knows says whether g is this leg's generation or a former one.
func (sb *Superblock) knows(g Generation) bool { return g == sb.Generation || sb.Supersedes(g) }

// Has says whether the leg in slot was in service as this leg last knew.
func (sb *Superblock) Has(slot uint8) bool { return sb.InService>>slot&1 != 0 }

// Alone says whether this leg last knew itself as the only one in service.
func (sb *Superblock) Alone() bool { return sb.InService == 1<<sb.Slot }

// Both says whether both legs were in service as this leg last knew.
func (sb *Superblock) Both() bool { return sb.InService == 3 }

// Description is a superblock for people and programs, as `ftctl show` prints it.
type Description struct {
	Mirror        UUID      `json:"mirror"`
	Leg           UUID      `json:"leg"`
	Slot          uint8     `json:"slot"`
	Version       uint32    `json:"version"`
	Sequence      uint64    `json:"sequence"`
	DeviceBytes   uint64    `json:"device_bytes"`
	DataBytes     uint64    `json:"data_bytes"`
	LogicalBlock  uint32    `json:"logical_block_bytes"`
	PhysicalBlock uint32    `json:"physical_block_bytes"`
	RegionSize    uint32    `json:"region_bytes"`
	ExtentSize    uint32    `json:"extent_bytes"`
	Generation    string    `json:"generation"`
	History       []string  `json:"history"` // newest first
	InService     []uint8   `json:"in_service"`
	Syncing       bool      `json:"syncing"`
	Clean         bool      `json:"clean"`
	Sums          bool      `json:"checksums"`
	MissedLeg     string    `json:"missed_leg,omitempty"`
	MissedFrom    string    `json:"missed_from,omitempty"`
	Time          time.Time `json:"time"`
}

// Describe says what a superblock holds, generations with their full identifiers.
func Describe(sb *Superblock) Description {
	d := Description{
		Mirror: sb.Mirror, Leg: sb.Leg, Slot: sb.Slot, Version: sb.Version, Sequence: sb.Sequence,
		DeviceBytes: sb.DeviceBytes, DataBytes: sb.DataBytes,
		LogicalBlock: sb.LogicalBlock, PhysicalBlock: sb.PhysicalBlock,
		RegionSize: sb.RegionSize, ExtentSize: sb.ExtentSize,
		Generation: sb.Generation.long(), History: []string{}, InService: []uint8{},
		Syncing: sb.Syncing, Clean: sb.Clean, Sums: sb.Sums, Time: sb.Time,
	}
	for _, g := range sb.History {
		d.History = append(d.History, g.long())
	}
	for slot := range uint8(2) {
		if sb.Has(slot) {
			d.InService = append(d.InService, slot)
		}
	}
	if !sb.MissedLeg.IsZero() {
		d.MissedLeg, d.MissedFrom = sb.MissedLeg.String(), sb.MissedFrom.long()
	}
	return d
}
