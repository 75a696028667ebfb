package sim

// The tables of checksums on the legs' media, held against the data beside them.

import (
	"ft/mirror"
	"ft/mirror/metadata"
)

// integrity is what the configuration says at a start.
func (w *world) integrity() string {
	if !w.settling && w.p.turn > 0 && w.chance(w.p.turn) {
		w.p.integrity = !w.p.integrity
	}
	if w.p.integrity {
		return mirror.IntegrityCRC32C
	}
	return "none"
}

// checkServedTables: the table of a leg that is served holds wherever no mark is.
func (w *world) checkServedTables() {
	for s, l := range w.legs {
		if w.err == nil && w.box.inSince[s] >= 0 && !l.spoiled {
			w.checkTable(l)
		}
	}
}

// checkTables: at rest those of both legs do, and nothing is unknown after a scrub.
func (w *world) checkTables() {
	for _, l := range w.legs {
		if w.err != nil {
			return
		}
		if unknown, on := w.checkTable(l); unknown > 0 && w.rateMaxAllowsScrub() {
			w.fail("after a scrub %d blocks of leg %d are without a checksum", unknown, l.side)
		} else if w.p.integrity != on {
			w.fail("at rest leg %d has checksums: %v, they are wanted: %v", l.side, on, w.p.integrity)
		}
	}
}

// checkTable says how many blocks have no checksum, and whether the leg has a table.
func (w *world) checkTable(l *simLeg) (unknown int, on bool) {
	img, err := metadata.Load(reader{l.disk}, l.bytes)
	if err != nil || !img.Super.Sums {
		return 0, false
	}
	y := w.box.layout
	table, data := make([]byte, metadata.BlockSize), make([]byte, metadata.BlockSize)
	loaded := -1
	for n := range w.dataBytes / metadata.BlockSize {
		if img.Intent.Get(int(n * metadata.BlockSize / int64(img.Super.ExtentSize))) {
			continue
		}
		if b := int(n / metadata.SumsPerBlock); b != loaded {
			l.disk.read(y.SumBlockOff(b), table)
			loaded = b
		}
		sum := metadata.GetSum(table, int(n%metadata.SumsPerBlock))
		if sum == metadata.NoSum {
			unknown++
			continue
		}
		want := metadata.ZeroSum(n)
		if l.disk.cur.pages[n] != nil {
			l.disk.read(n*metadata.BlockSize, data)
			want = metadata.BlockSum(data, n)
		}
		if sum != want {
			w.fail("leg %d: the checksum of block %d, in an extent that is not marked, is not that of its data", l.side, n)
			return unknown, true
		}
	}
	return unknown, true
}
