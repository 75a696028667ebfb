package mirror

import (
	"ft/mirror/legio"
	"ft/mirror/metadata"
	"ft/mirror/scrub"
)

// copySummed holds what a copy has read from its source against the checksums, and says
// whether it may be written. Where the source is refuted the destination is read as well,
// and what is confirmed there is written to both: after a crash both legs are as good, and
// a target still has what was not changed since it went. What is refuted on both is copied
// as it is, and its checksum stays: reading it gives an error rather than what is wrong.
func (e *Engine) copySummed(j *copyJob) bool {
	if !e.sums.on || j.heal {
		return true
	}
	var lost, healed span
	for off := int64(0); off < int64(len(j.buf)); off += metadata.BlockSize {
		n := (j.lock.lo + off) / metadata.BlockSize
		b, i := e.sumAt(n)
		if b == nil {
			continue
		}
		block := j.buf[off : off+metadata.BlockSize]
		sum := metadata.BlockSum(block, n)
		want, hard := b.get(i)
		// A soft checksum may choose between two legs that are as good. A target is not: what
		// it confirms there may be what was overwritten since.
		counts := hard || want != metadata.NoSum && j.dst.state == legIn
		if counts && !e.confirms(b, i, n, sum) && e.defect&SumsFollowCopies == 0 {
			switch {
			case !j.seconded:
				j.seconded = true
				j.second = alignedBytes(len(j.buf))
				j.refs++
				j.dst.counters.Reads++
				e.begin(j.dst, legio.Read, j.lock.lo, j.lock.hi-j.lock.lo, j.second, j)
				return false
			case j.second != nil && metadata.BlockSum(j.second[off:off+metadata.BlockSize], n) == want:
				copy(block, j.second[off:])
				j.both = true
				sum = want
				if hard {
					healed.add(j.lock.lo+off, metadata.BlockSize)
				}
			case hard:
				lost.add(j.lock.lo+off, metadata.BlockSize)
				continue
			}
		}
		if !hard || sum != want {
			e.setSum(n, sum)
			e.sums.filled = true
		}
	}
	tell := func(r span, f scrub.Finding) {
		if r.hi > 0 {
			f.Offset, f.Bytes, f.Time = r.lo, r.hi-r.lo, e.env.Wall()
			e.found(f, nil)
		}
	}
	tell(healed, scrub.Finding{What: scrub.Wrong, Side: j.src.side, Repaired: true})
	tell(lost, scrub.Finding{What: scrub.Lost, Side: scrub.NoSide})
	return true
}

// add widens a span to hold a range as well.
func (s *span) add(off, n int64) {
	if s.hi == 0 {
		s.lo = off
	}
	s.hi = off + n
}
