package sim

// disk is the storage behind a simulated leg: what is on the medium, and a volatile
// write cache in front of it. It is the part that makes crashes interesting, so its
// rules are those of a drive that promises nothing more than it must:
//
//   - a completed write is in the cache: reads see it, a power cut may lose it;
//   - a flush makes stable what had completed before the flush was submitted, and
//     nothing else for certain;
//   - at a power cut each unflushed sector of each write survives or does not, on
//     its own: writes are torn at 512 bytes and survive in any combination, but two
//     writes of one sector never survive in the wrong order.
//
// Contents are kept as tables of shared 4 KiB pages, so that a copy of a disk costs
// its page table and a seed can start from a prepared mirror for next to nothing.

import "math/rand/v2"

const (
	sectorSize = 512
	pageSize   = 4096
)

type page [pageSize]byte

// pages hands out pages and takes all of them back at once, between seeds.
type pages struct {
	slabs [][]page
	slab  int
	next  int
}

const slabPages = 256

func (p *pages) get() *page {
	if p.slab == len(p.slabs) {
		p.slabs = append(p.slabs, make([]page, slabPages))
	}
	pg := &p.slabs[p.slab][p.next]
	if p.next++; p.next == slabPages {
		p.slab, p.next = p.slab+1, 0
	}
	return pg
}

func (p *pages) reset() { p.slab, p.next = 0, 0 }

// image is one state of a disk's contents. A nil page is zeroes. A page may be
// written in place only by the image that owns it.
type image struct {
	pages []*page
	own   []bool
	pool  *pages
}

func newImage(bytes int64, pool *pages) image {
	n := int(bytes / pageSize)
	return image{pages: make([]*page, n), own: make([]bool, n), pool: pool}
}

// share makes dst equal to m; from then on neither owns the pages they share.
func (m *image) share(dst *image) {
	copy(dst.pages, m.pages)
	clear(dst.own)
	clear(m.own)
}

// each splits a range into the parts that lie in one page.
func each(off, n int64, f func(pg int, lo, hi int64)) {
	for n > 0 {
		pg, lo := int(off/pageSize), off%pageSize
		hi := min(lo+n, pageSize)
		f(pg, lo, hi)
		off, n = off+hi-lo, n-(hi-lo)
	}
}

func (m *image) read(off int64, buf []byte) {
	each(off, int64(len(buf)), func(pg int, lo, hi int64) {
		if p := m.pages[pg]; p != nil {
			copy(buf[:hi-lo], p[lo:hi])
		} else {
			clear(buf[:hi-lo])
		}
		buf = buf[hi-lo:]
	})
}

// sector is what lies at a multiple of the sector size: to be read only.
func (m *image) sector(off int64) []byte {
	p := m.pages[off/pageSize]
	if p == nil {
		return zeroSector[:]
	}
	return p[off%pageSize:][:sectorSize]
}

var zeroSector [sectorSize]byte

// write stores data, or n zeroes when data is nil.
func (m *image) write(off, n int64, data []byte) {
	each(off, n, func(pg int, lo, hi int64) {
		if data == nil && lo == 0 && hi == pageSize {
			m.pages[pg], m.own[pg] = nil, false
			return
		}
		p := m.pages[pg]
		if !m.own[pg] {
			q := m.pool.get()
			switch {
			case data != nil && lo == 0 && hi == pageSize:
			case p != nil:
				*q = *p
			default:
				*q = page{}
			}
			p = q
			m.pages[pg], m.own[pg] = q, true
		}
		if data != nil {
			copy(p[lo:hi], data[:hi-lo])
			data = data[hi-lo:]
		} else {
			clear(p[lo:hi])
		}
	})
}

// cached is a completed write that no flush has covered yet.
type cached struct {
	off, n int64
	data   []byte // nil: zeroes
}

type disk struct {
	cur    image // what reads see
	stable image // what a power cut leaves for certain
	cache  []cached
	// gone counts the entries that flushes have taken off the front of cache, so that
	// a flush can name the writes it covers by a number that stays valid.
	gone  int
	arena arena
}

func newDisk(bytes int64, pool *pages) *disk {
	return &disk{cur: newImage(bytes, pool), stable: newImage(bytes, pool)}
}

// load makes the disk a fresh copy of an image with nothing in its cache.
func (d *disk) load(m *image) {
	copy(d.cur.pages, m.pages)
	clear(d.cur.own)
	copy(d.stable.pages, m.pages)
	clear(d.stable.own)
	d.dropCache()
}

// clear makes the disk blank.
func (d *disk) clear() {
	clear(d.cur.pages)
	clear(d.cur.own)
	clear(d.stable.pages)
	clear(d.stable.own)
	d.dropCache()
}

func (d *disk) dropCache() {
	d.gone += len(d.cache)
	clear(d.cache)
	d.cache = d.cache[:0]
	d.arena.reset()
}

func (d *disk) read(off int64, buf []byte) { d.cur.read(off, buf) }

func (d *disk) write(off, n int64, data []byte) {
	d.cur.write(off, n, data)
	if data != nil {
		data = d.arena.copy(data)
	}
	d.cache = append(d.cache, cached{off, n, data})
}

// mark names everything that has completed by now; flush makes that stable.
func (d *disk) mark() int { return d.gone + len(d.cache) }

func (d *disk) flush(mark int) {
	n := mark - d.gone
	if n <= 0 {
		return
	}
	for _, c := range d.cache[:n] {
		d.stable.write(c.off, c.n, c.data)
	}
	if n == len(d.cache) {
		d.dropCache()
		return
	}
	d.gone += n
	d.cache = append(d.cache[:0], d.cache[n:]...)
}

// partial lets a random part of one write reach m, sector by sector.
func partial(m *image, c cached, rng *rand.Rand, keep float64) {
	for o := int64(0); o < c.n; o += sectorSize {
		if rng.Float64() >= keep {
			continue
		}
		if c.data != nil {
			m.write(c.off+o, sectorSize, c.data[o:o+sectorSize])
		} else {
			m.write(c.off+o, sectorSize, nil)
		}
	}
}

// powerCut loses the cache: what survives of it, and of the writes in flight, is up
// to the seed. Writes from frail on are not torn.
func (d *disk) powerCut(inFlight []cached, rng *rand.Rand, frail int64) {
	whole := rng.IntN(2) == 0 // writes survive whole or not at all
	keep := [...]float64{0, 0.1, 0.5, 0.9, 1}[rng.IntN(5)]
	for _, c := range append(d.cache, inFlight...) {
		k := keep
		if whole || c.off >= frail {
			k = 0
			if rng.Float64() < keep {
				k = 1
			}
		}
		switch k {
		case 0:
		case 1:
			d.stable.write(c.off, c.n, c.data)
		default:
			partial(&d.stable, c, rng, k)
		}
	}
	d.dropCache()
	d.stable.share(&d.cur)
}

// land lets part of a write that failed or was abandoned reach the cache.
func (d *disk) land(c cached, rng *rand.Rand, frail int64) {
	switch part := rng.IntN(3); {
	case part == 0:
		d.write(c.off, c.n, c.data)
	case part == 1 && c.off < frail:
		for o := int64(0); o < c.n; o += sectorSize {
			if rng.IntN(2) == 0 {
				continue
			}
			if c.data != nil {
				d.write(c.off+o, sectorSize, c.data[o:o+sectorSize])
			} else {
				d.write(c.off+o, sectorSize, nil)
			}
		}
	}
}

// arena holds the copies of cached writes until the cache is empty.
type arena struct {
	chunks [][]byte
	chunk  int
	used   int
}

const arenaChunk = 2 << 20

func (a *arena) copy(b []byte) []byte {
	if len(b) > arenaChunk {
		return append([]byte(nil), b...)
	}
	if a.chunk < len(a.chunks) && a.used+len(b) > arenaChunk {
		a.chunk, a.used = a.chunk+1, 0
	}
	if a.chunk == len(a.chunks) {
		a.chunks = append(a.chunks, make([]byte, arenaChunk))
	}
	c := a.chunks[a.chunk][a.used : a.used+len(b) : a.used+len(b)]
	a.used += len(b)
	copy(c, b)
	return c
}

func (a *arena) reset() { a.chunk, a.used = 0, 0 }
