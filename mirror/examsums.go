package mirror

import (
	"bytes"
	"syscall"

	"ft/mirror/legio"
	"ft/mirror/metadata"
	"ft/mirror/scrub"
)

// What an exam makes of checksums.

// summed judges a block by its checksum.
func (j *exam) summed(e *Engine, off int64) (verdict, int) {
	n := (j.lock.lo + off) / examBlock
	b, i := e.sumAt(n)
	want, hard := b.get(i)
	equal := j.errs == [2]syscall.Errno{} && bytes.Equal(j.buf[0][off:off+examBlock], j.buf[1][off:off+examBlock])
	var sum [2]uint32
	for s := range sum {
		switch {
		case j.errs[s] != 0:
		case s == 1 && equal:
			sum[1] = sum[0]
		default:
			sum[s] = metadata.BlockSum(j.buf[s][off:off+examBlock], n)
		}
	}
	if e.defect&RepairFromFirst != 0 && !equal {
		return blockWrong, 1
	}
	confirmed := func(s int) bool {
		if j.errs[s] != 0 {
			return false
		}
		return e.confirms(b, i, n, sum[s])
	}
	a, c := confirmed(0), confirmed(1)
	switch {
	case a && c, !hard && equal:
		if !hard {
			e.fillSum(n, sum[0])
		}
		return blockGood, scrub.NoSide
	case a || c:
		wrong := 1
		if c {
			wrong = 0
		}
		if !hard {
			e.fillSum(n, want)
		}
		return blockWrong, wrong
	case hard, j.errs[0] != 0 && j.errs[1] != 0:
		return blockLost, scrub.NoSide
	case j.errs[0] != 0:
		return blockWrong, 0
	case j.errs[1] != 0:
		return blockWrong, 1
	}
	return blockDiffer, scrub.NoSide
}

// resum makes the checksums those of the side that a person named.
func (j *exam) resum(e *Engine, f scrub.Finding) {
	if !e.sums.on {
		return
	}
	for off := f.Offset; off < f.Offset+f.Bytes; off += examBlock {
		e.setSum(off/examBlock, metadata.BlockSum(j.buf[j.from][off-j.lock.lo:][:examBlock], off/examBlock))
	}
}

// readTables has both legs' blocks of the table read as well, where the scrub comes to a
// new one, if they must be as the one in memory.
func (j *exam) readTables(e *Engine) {
	j.tables = [2][]byte{}
	if !j.scrub || !e.sums.on || j.lock.lo%metadata.SumSpan != 0 {
		return
	}
	b, _ := e.sumAt(j.lock.lo / examBlock)
	if b.dirty || b.write != nil {
		return
	}
	j.version = b.version
	for i := range e.legs {
		j.pending++
		j.refs++
		e.legs[i].counters.Reads++
		e.begin(&e.legs[i], legio.Read, e.layout.SumBlockOff(b.n), metadata.BlockSize, metadata.AlignedBlock(), j)
	}
}

// judgeTables holds the legs' tables against the one in memory, which is right.
func (j *exam) judgeTables(e *Engine) {
	b, _ := e.sumAt(j.lock.lo / examBlock)
	for side, table := range j.tables {
		if table == nil || b == nil || b.version != j.version || bytes.Equal(table, b.table) {
			continue
		}
		wrong := int64(0)
		for i := range metadata.SumsPerBlock {
			if metadata.GetSum(table, i) != metadata.GetSum(b.table, i) {
				wrong++
			}
		}
		j.found = append(j.found, scrub.Finding{What: scrub.Table, Side: side, Offset: j.lock.lo, Bytes: wrong * 4, Repaired: true, Time: e.env.Wall()})
	}
	if len(j.found) > 0 && b != nil && j.found[len(j.found)-1].What == scrub.Table {
		b.change()
		e.sums.filled = true
	}
}
