package virtio

import (
	"cmp"
	"math/bits"
	"slices"
)

// What is outside: requests that left and are not answered yet.

const (
	// inFlightMax bounds a device's requests outside.
	inFlightMax = 128
	// inFlightBytes bounds their data: with as much outside no further request is taken
	// from the ring until an answer makes room. The last one taken may go beyond it.
	inFlightBytes = 8 << 20
	// segmentsMax bounds the writable segments of a request that is answered.
	segmentsMax = 128
)

// pending is one request outside: where its answer goes, and what it takes to ask again.
type pending struct {
	ID            uint64
	Op            Op
	Unmap, Stable bool
	Sector        uint64
	Length        uint64
	Head          uint16
	Bytes         uint32 // of data outside: what was written, or is to be read
	Room          uint32 // bytes of data that the driver has room for
	Count         uint16 // how many of Segs are for the answer …
	Reads         uint16 // … and how many behind them hold what is written
	Segs          [chainMax]segment
}

// keep fills p from a chain. False: it has too many writable segments.
func (p *pending) keep(c *chain) bool {
	w := c.write()
	if len(w) > segmentsMax {
		return false
	}
	p.Head, p.Count = c.head, uint16(len(w))
	copy(p.Segs[:], w)
	return true
}

// keepReads fills p with what the device may read of the chain that keep was called with.
func (p *pending) keepReads(c *chain) {
	p.Reads = uint16(copy(p.Segs[p.Count:], c.read()))
}

func (p *pending) write() []segment { return p.Segs[:p.Count] }
func (p *pending) read() []segment  { return p.Segs[p.Count:][:p.Reads] }

// inFlight is a table of them. A request's ID names its slot and the serial number of its
// use, so that an ID is never twice.
type inFlight struct {
	Serial uint64
	Count  uint16
	Bytes  uint64
	Busy   [inFlightMax / 64]uint64 // bits: slots in use
	Slots  [inFlightMax]pending
}

// room says whether one more may leave.
func (f *inFlight) room() bool { return f.Count < inFlightMax && f.Bytes < inFlightBytes }

// take reserves the lowest free slot; there is room.
func (f *inFlight) take(bytes uint32) *pending {
	word := 0
	for f.Busy[word] == ^uint64(0) {
		word++
	}
	bit := bits.TrailingZeros64(^f.Busy[word])
	f.Busy[word] |= 1 << bit
	f.Count++
	f.Bytes += uint64(bytes)
	f.Serial++
	slot := word*64 + bit
	p := &f.Slots[slot]
	p.ID, p.Bytes, p.Reads = f.Serial*inFlightMax+uint64(slot), bytes, 0
	return p
}

// inOrder is what is outside, in the order in which it left.
func (f *inFlight) inOrder(into *[inFlightMax]*pending) []*pending {
	out := into[:0]
	for i := range f.Slots {
		if f.Busy[i/64]>>(i%64)&1 == 1 {
			out = append(out, &f.Slots[i])
		}
	}
	slices.SortFunc(out, func(a, b *pending) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// find is the request of an ID, nil where it is not outside.
func (f *inFlight) find(id uint64) *pending {
	slot := id % inFlightMax
	if p := &f.Slots[slot]; f.Busy[slot/64]>>(slot%64)&1 == 1 && p.ID == id {
		return p
	}
	return nil
}

// release frees the slot of p.
func (f *inFlight) release(p *pending) {
	slot := p.ID % inFlightMax
	f.Busy[slot/64] &^= 1 << (slot % 64)
	f.Count--
	f.Bytes -= uint64(p.Bytes)
}
