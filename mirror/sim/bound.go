package sim

// bound tells to which regions of which leg the engine may copy. A leg that went out
// of service may lack what clients wrote since its last flush; a crash adds what the
// metadata names. A copy to anything else means that more is resynced than was missed.

import (
	"ft/mirror/legio"
	"ft/mirror/metadata"
)

type bound struct {
	region  int64
	pending []int32 // client writes under way, by region
	touched []int64 // step of the last one that ended
	// step of the last copy to the leg, or when it was found marked
	copied  [2][]int64
	allowed [2][]bool
	flushed [2]int64 // step at which the last flush that a client saw succeed was sent
	step    int64
}

func (b *bound) reset(dataBytes, region int64) {
	n := int((dataBytes + region - 1) / region)
	*b = bound{region: region, pending: make([]int32, n), touched: make([]int64, n), step: 1}
	for s := range b.allowed {
		b.allowed[s], b.copied[s] = make([]bool, n), make([]int64, n)
	}
}

func (b *bound) known() bool { return b.region > 0 }

func (b *bound) span(off, n int64) (lo, hi int) {
	return int(off / b.region), int((off + n + b.region - 1) / b.region)
}

// wrote: a client sends a write, while legs are out.
func (b *bound) wrote(off, n int64, out [2]bool) {
	if !b.known() {
		return
	}
	lo, hi := b.span(off, n)
	for r := lo; r < hi; r++ {
		b.pending[r]++
		for s := range out {
			if out[s] {
				b.allowed[s][r] = true
			}
		}
	}
}

// ended: it was answered, or its client is gone. Until it is answered it may be sent
// again; after that no leg may differ there but one that was out.
func (b *bound) ended(off, n int64, out [2]bool) {
	if !b.known() {
		return
	}
	b.step++
	lo, hi := b.span(off, n)
	for r := lo; r < hi; r++ {
		b.pending[r]--
		b.touched[r] = b.step
		for s := range out {
			if out[s] {
				b.allowed[s][r] = true
			}
		}
	}
}

// lost: a leg went out of service.
func (b *bound) lost(side int) {
	for r := range b.touched {
		if b.pending[r] > 0 || max(b.touched[r], b.copied[side][r]) >= b.flushed[side] {
			b.allowed[side][r] = true
		}
	}
}

// joined: a leg is in service, and equal.
func (b *bound) joined(side int) {
	if b.known() {
		clear(b.allowed[side])
	}
}

// all: the leg is a stranger, everything is copied to it.
func (b *bound) all(side int) {
	for r := range b.allowed[side] {
		b.allowed[side][r] = true
	}
}

// found: at a start, the metadata names regions.
func (b *bound) found(img *metadata.Image) {
	extent := int64(img.Super.ExtentSize)
	for s := range b.allowed {
		for i := img.Missed.NextSet(0); i >= 0; i = img.Missed.NextSet(i + 1) {
			b.allowed[s][i] = true
		}
		for i := img.Intent.NextSet(0); i >= 0; i = img.Intent.NextSet(i + 1) {
			lo, hi := b.span(int64(i)*extent, extent)
			for r := lo; r < min(hi, len(b.allowed[s])); r++ {
				b.allowed[s][r] = true
				b.copied[s][r] = b.step // nobody knows how much of it is stable
			}
		}
	}
}

// flushDone: a client's flush, sent at a step, has succeeded: what was written before is
// stable on the legs that were in service all the time. A flush of the engine's own, for
// its metadata, may or may not count.
func (b *bound) flushDone(sent int64, in [2]bool) {
	for s := range in {
		if in[s] {
			b.flushed[s] = max(b.flushed[s], sent)
		}
	}
}

// opEnded follows the read errors of a leg.
func (b *bound) opEnded(o *legOp) {
	if !b.known() {
		return
	}
	if o.io.Op == legio.Read && o.io.Err != 0 {
		// What could not be read may be written again.
		lo, hi := b.span(o.io.Off, o.io.Len)
		for r := lo; r < min(hi, len(b.touched)); r++ {
			b.allowed[o.side][r] = true
		}
	}
}
