package sim

// Silent faults: what a device does wrong and does not tell of. They happen to one leg of a
// run, the victim, and the mirror has checksums from the beginning: then nothing that is
// wrong may be answered, whatever else ails the victim, and all of it is healed at the end.
// The process and the power do not fail in such runs: what was written last has its
// checksum in memory only, and a crash at that moment would be a second fault.

import (
	"ft/mirror"
	"ft/mirror/legio"
)

// spoil is one way in which a leg is wrong.
type spoil uint8

const (
	spoilRest     spoil = iota // what is stored changes
	spoilRead                  // a read returns what is not stored
	spoilWrite                 // a write stores what it was not given
	spoilMisplace              // a write goes elsewhere
	spoilLose                  // a write goes nowhere
	spoilTable                 // a checksum that is stored changes
)

func (s spoil) String() string {
	return [...]string{"a stored bit flips", "the next read has a bit flipped", "the next write has a bit flipped",
		"the next write goes elsewhere", "the next write is lost", "a stored checksum changes"}[s]
}

// spoilVictim lets something silent happen to the victim.
func (w *world) spoilVictim() {
	if w.p.victim < 0 || w.settling || w.dataBytes == 0 {
		return
	}
	// Of a block and its checksum only one may be wrong at a time.
	s := spoil(w.plan.IntN(int(spoilTable)))
	off := w.plan.Int64N(w.dataBytes)
	if w.p.tables {
		s, off = spoilTable, w.plan.Int64N(w.dataBytes/1024)
	} else if len(w.client.spots) > 0 && w.drawn(0.8) { // where something is
		x := w.client.spots[w.plan.IntN(len(w.client.spots))]
		off = min(x.off+w.plan.Int64N(x.n), w.dataBytes-1)
	}
	w.do("spoil", map[string]int64{"how": int64(s), "off": off})
}

// doSpoil does so, while the other leg has what the victim has.
func (w *world) doSpoil(x step) {
	if w.p.victim < 0 || w.dataBytes == 0 {
		return
	}
	l, s, off := w.legs[w.p.victim], spoil(x.arg["how"]), x.arg["off"]
	if !l.present || w.box.inSince[1-l.side] < 0 || s > spoilTable || off < 0 || off >= w.dataBytes {
		return
	}
	w.tracef("CHAOS  leg %d: %s", l.side, s)
	w.stats.Spoiled++
	l.spoiled = true
	switch s {
	case spoilTable:
		w.flipBit(l, w.box.layout.ChecksumOff+off%(w.dataBytes/1024))
	case spoilRest:
		w.flipBit(l, off)
	default:
		l.spoils = append(l.spoils, s)
	}
}

// flipBit changes a byte on a leg's medium.
func (w *world) flipBit(l *simLeg, off int64) {
	var b [sectorSize]byte
	at := off / sectorSize * sectorSize
	for _, m := range []*image{&l.disk.cur, &l.disk.stable} {
		m.read(at, b[:])
		b[off-at] ^= 1 << (off % 8)
		m.write(at, sectorSize, b[:])
	}
}

// spoiledCrash: the disk was not stopped cleanly, and what is wrong may lie in an extent that
// is marked, where no checksum can refute it.
func (w *world) spoiledCrash(legs [2]*mirror.Leg) bool {
	for _, l := range legs {
		if l != nil && l.Image != nil && l.Image.Intent.Count() > 0 && w.legs[w.p.victim].spoiled {
			return true
		}
	}
	return false
}

// spoiledRead may flip a bit of what was read.
func (l *simLeg) spoiledRead(w *world, io *legio.IO) {
	if io.Off < w.dataBytes && l.takeSpoil(w, spoilRead) {
		io.Buf[w.rng.IntN(len(io.Buf))] ^= 1 << w.rng.IntN(8)
	}
}

// spoiledWrite may store something else, or elsewhere, and says whether it did.
func (l *simLeg) spoiledWrite(w *world, c cached) bool {
	switch {
	case c.off >= w.dataBytes:
	case l.takeSpoil(w, spoilLose):
		return true
	case c.data == nil:
	case l.takeSpoil(w, spoilWrite):
		b := append([]byte(nil), c.data...)
		b[w.rng.IntN(len(b))] ^= 1 << w.rng.IntN(8)
		l.disk.write(c.off, c.n, b)
		return true
	case c.off+c.n+pageSize <= w.dataBytes && l.takeSpoil(w, spoilMisplace):
		l.disk.write(c.off+pageSize, c.n, c.data)
		return true
	}
	return false
}

// takeSpoil: it is time for a silent fault. While the other leg is out the victim is the
// only one to have something, and what it loses is lost.
func (l *simLeg) takeSpoil(w *world, s spoil) bool {
	if w.box.inSince[1-l.side] < 0 {
		return false
	}
	for i, x := range l.spoils {
		if x == s {
			l.spoils = append(l.spoils[:i], l.spoils[i+1:]...)
			return true
		}
	}
	return false
}
