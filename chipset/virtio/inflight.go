package virtio

import "math/bits"

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

// pending is one request outside: where its answer goes.
type pending struct {
	ID    uint64
	Op    Op
	Head  uint16
	Bytes uint32 // of data outside: what was written, or is to be read
	Room  uint32 // bytes of data that the driver has room for
	Count uint16 // how many of Segs
	Segs  [segmentsMax]segment
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

func (p *pending) write() []segment { return p.Segs[:p.Count] }

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
	p.ID, p.Bytes = f.Serial*inFlightMax+uint64(slot), bytes
	return p
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
