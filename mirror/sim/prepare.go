package sim

// The mirrors that seeds start from: most of them a mirror in duplex, stopped cleanly,
// written by hand so that its regions and extents are small enough for a small leg to
// have many of both; some of them two blank legs.

import (
	"ft/mirror/metadata"
)

type geometry struct {
	bytes  int64 // of a leg
	block  int   // logical block of the legs, bytes
	region uint32
	extent uint32
}

var geometries = [...]geometry{
	{4 << 20, 512, 16 << 10, 64 << 10},
	{4 << 20, 4096, 4 << 10, 16 << 10},
	{8 << 20, 512, 64 << 10, 256 << 10},
	{8 << 20, 4096, 64 << 10, 512 << 10},
	{16 << 20, 4096, 64 << 10, 1 << 20},
	{bytes: 6 << 20, block: 512}, // of a mirror that the engine makes
}

const blank = int64(len(geometries) - 1)

type preparation struct {
	geometry
	summed bool
}

// prepared is the contents of both legs of a mirror.
type prepared struct {
	legs      [2]image
	witness   metadata.Witness
	dataBytes int64
}

func (r *Runner) prepare(g geometry, summed bool) *prepared {
	key := preparation{g, summed}
	if p := r.prepared[key]; p != nil {
		return p
	}
	y, err := metadata.NewLayout(g.bytes, g.region, g.extent)
	if err != nil {
		panic(err)
	}
	id := func(n byte) metadata.UUID { return metadata.UUID{0: 'f', 1: 't', 15: n} }
	p := &prepared{dataBytes: y.DataBytes}
	gen := metadata.Generation{Counter: 7, ID: id(9)}
	for s := range p.legs {
		// Its pages are never given back: they are for every seed.
		p.legs[s] = newImage(g.bytes, &pages{})
		sb := metadata.NewSuper(y, id(1), id(byte(2+s)), uint8(s), uint32(g.block), pageSize)
		sb.Sequence, sb.Generation, sb.InService, sb.Clean = 40, gen, 3, true
		sb.MissedLeg, sb.MissedFrom = id(byte(3-s)), gen
		sb.Sums = summed
		buf := metadata.AlignedBlock()
		put := func(off int64) { p.legs[s].write(off, metadata.BlockSize, buf) }
		none := metadata.NewBitmap(y.Extents)
		for i := range y.IntentBlocks {
			metadata.EncodeIntent(y, &sb, i, none, buf)
			put(y.IntentBlockOff(i))
		}
		none = metadata.NewBitmap(y.Regions)
		for i := range y.MissedBlocks {
			metadata.EncodeMissed(y, &sb, i, none, buf)
			put(y.MissedBlockOff(i))
		}
		for i := range y.SumBlocks() {
			if !summed {
				break
			}
			for k := range metadata.SumsPerBlock {
				metadata.PutSum(buf, k, metadata.ZeroSum(int64(i*metadata.SumsPerBlock+k)))
			}
			put(y.SumBlockOff(i))
		}
		metadata.EncodeSuper(&sb, buf)
		put(y.SuperOff[0])
		put(y.SuperOff[1])
	}
	p.witness = metadata.Witness{Mirror: id(1), Generation: gen, Survivor: -1}
	r.prepared[key] = p
	return p
}

// setUp makes the world of a seed.
func (w *world) setUp() {
	r := w.run
	r.pool.reset()
	r.bufs.reset()
	if w.replay {
		w.p = profile{conditions: w.script.cond}
	} else {
		w.drawProfile()
	}
	if w.script != nil {
		w.script.cond = w.p.conditions
	}
	w.geo = geometries[w.p.geometry]
	disks := r.disks[w.geo.bytes]
	for s := range w.legs {
		if disks[s] == nil {
			disks[s] = newDisk(w.geo.bytes, &r.pool)
		}
		disks[s].clear()
		w.legs[s] = &simLeg{side: s, bytes: w.geo.bytes, disk: disks[s], present: true, illAt: -1}
	}
	r.disks[w.geo.bytes] = disks
	w.wit = witnessStore{illAt: -1, seen: map[metadata.Generation]bool{}}
	w.scrub = scrubStore{}
	w.box.aim, w.box.resolving = -1, -1
	w.box.inSince = [2]int64{-1, -1}
	w.client = client{left: w.p.requests, healthySince: -1}
	w.model = r.model(w.geo.bytes)
	if !w.p.fresh {
		p := r.prepare(w.geo, w.p.summed)
		for s, l := range w.legs {
			l.disk.load(&p.legs[s])
		}
		wit := p.witness
		w.wit.now = &wit
		w.wit.seen[wit.Generation] = true
		w.known(p.dataBytes, w.geo.region, w.geo.extent)
	}
	w.tracef("seed %d: %+v, profile %+v", w.seed, w.geo, w.p)
	w.powerUp(0)
	if w.replay {
		for i, s := range w.script.steps {
			w.events.push(event{at: s.at, seq: afterAll + int64(i), kind: evStep, step: i})
		}
		return
	}
	w.in(1, event{kind: evClient})
	w.in(w.drawnIn(0, 2*w.p.chaos), event{kind: evChaos})
}

func (r *Runner) model(bytes int64) *model {
	m := r.models[bytes]
	if m == nil {
		m = newModel(bytes)
		r.models[bytes] = m
	}
	m.reset()
	return m
}

// known: the size of the face is known, and with it where everything lies.
func (w *world) known(dataBytes int64, region, extent uint32) {
	w.dataBytes = dataBytes
	y, err := metadata.NewLayout(w.geo.bytes, region, extent)
	if err != nil {
		panic(err)
	}
	w.box.layout = &y
	w.box.bound.reset(dataBytes, int64(region))
	for range w.p.spots {
		n := int64(4<<10) << w.plan.IntN(8)
		off := w.plan.Int64N(dataBytes-n) / int64(region) * int64(region)
		w.client.spots = append(w.client.spots, span{off, n})
	}
	if w.drawn(0.3) { // the end of the disk is a place of its own
		n := int64(64 << 10)
		w.client.spots = append(w.client.spots, span{dataBytes - n, n})
	}
}

// firstStart: a new mirror was made.
func (w *world) firstStart(size int64) {
	w.known(size, metadata.DefaultRegionSize, metadata.ExtentSizeFor(w.geo.bytes))
	for s := range w.legs {
		w.box.bound.all(s)
	}
}
