package sim

// simLeg is a simulated leg: a disk, the operations under way on it, and what ails
// it. Operations end in any order. The memory of an operation is used at the moment
// it ends, or at the moment it is abandoned, so an engine that lets go of memory too
// early is found by the garbage that lands.

import (
	"encoding/binary"
	"syscall"

	"ft/mirror/legio"
	"ft/mirror/metadata"
)

// legOp is one operation on a leg, from Submit to LegDone.
type legOp struct {
	io     *legio.IO
	number int64 // in order of submission, over both legs
	side   int
	mark   int  // for a flush: what it makes stable
	dead   bool // its process is gone: nobody waits for it
	held   bool // by a hang
	vanish bool // it was under way when the device went
	early  bool // a read that is answered from what was there when it was submitted
	zombie bool // of a dead process, still in the hung device
}

type simLeg struct {
	side  int
	bytes int64
	disk  *disk
	ops   []*legOp // under way, in order of submission

	present bool // the device is there
	hung    bool // nothing ends
	slow    int64
	until   int64 // when what ails it ends by itself, 0: never
	// errors: how many of the next operations of a kind fail, by area.
	fail []failure
	// badSectors fail to be read until they are written.
	bad map[int64]struct{}

	// spoils are silent faults yet to come; spoiled: there was one.
	spoils  []spoil
	spoiled bool

	// older is what each copy of the superblock was before its last update; rotten: one of
	// them is bad.
	older  [2][]byte
	rotten bool
	// lost: its cache was lost, and that it is out of date may not be recorded yet.
	lost bool

	// What the client side of the simulator knows: when it was last ill.
	illAt int64
}

// failure makes the next left operations of a kind fail.
type failure struct {
	op    legio.Op
	area  area
	left  int
	errno syscall.Errno
}

type area uint8

const (
	anywhere area = iota
	dataArea
	metaArea
)

func (a area) String() string { return [...]string{"anywhere", "data", "metadata"}[a] }

// errGone is what the operations of a device that went return.
const errGone = syscall.ENODEV

func (l *simLeg) well() bool {
	return l.present && !l.hung && l.slow == 0 && len(l.fail) == 0 && len(l.bad) == 0 && !l.spoiled
}

func (l *simLeg) area(w *world, io *legio.IO) area {
	if io.Op == legio.Flush {
		return anywhere
	}
	if io.Off >= w.dataBytes {
		return metaArea
	}
	return dataArea
}

func (l *simLeg) remove(o *legOp) {
	for i, x := range l.ops {
		if x == o {
			l.ops = append(l.ops[:i], l.ops[i+1:]...)
			return
		}
	}
	panic("sim: an operation ended twice")
}

// end carries an operation out, as far as the leg's state allows, and says how it
// went.
func (l *simLeg) end(w *world, o *legOp) syscall.Errno {
	io := o.io
	errno := l.verdict(w, o)
	switch io.Op {
	case legio.Read:
		if errno != 0 {
			scribble(io.Buf)
			break
		}
		if !o.early {
			l.disk.read(io.Off, io.Buf)
		}
		l.spoiledRead(w, io)
	case legio.Write, legio.Zero:
		c := cachedOf(io)
		switch {
		case errno == 0:
			l.keepOld(w, io)
			if !l.spoiledWrite(w, c) {
				l.disk.write(c.off, c.n, c.data)
			}
			l.healed(c.off, c.n)
		case !l.present && !o.vanish:
		default:
			l.disk.land(c, w.rng, w.frail(l))
		}
	case legio.Flush:
		if errno == 0 {
			l.disk.flush(o.mark)
		}
	}
	return errno
}

func (l *simLeg) verdict(w *world, o *legOp) syscall.Errno {
	if !l.present || o.vanish {
		return errGone
	}
	for i := range l.fail {
		f := &l.fail[i]
		if f.op != o.io.Op || f.area != anywhere && f.area != l.area(w, o.io) {
			continue
		}
		errno := f.errno
		if f.left--; f.left == 0 {
			l.fail = append(l.fail[:i], l.fail[i+1:]...)
		}
		l.illAt = w.now
		return errno
	}
	if o.io.Op == legio.Read && len(l.bad) > 0 {
		for s := o.io.Off / sectorSize; s < (o.io.Off+o.io.Len)/sectorSize; s++ {
			if _, ok := l.bad[s]; ok {
				l.illAt = w.now
				return syscall.EIO
			}
		}
	}
	return 0
}

func (l *simLeg) keepOld(w *world, io *legio.IO) {
	y := w.box.layout
	if y == nil || io.Off < y.SuperOff[0] || w.p.rot == 0 {
		return
	}
	for i, off := range y.SuperOff {
		if io.Off == off {
			buf := make([]byte, metadata.BlockSize)
			l.disk.cur.read(off, buf)
			if old, err := metadata.DecodeSuper(buf); err == nil {
				if now, err := metadata.DecodeSuper(io.Buf); err == nil && now.Leg == old.Leg && now.Mirror == old.Mirror {
					l.older[i] = buf
				} else {
					l.older[i] = nil
				}
			}
		}
	}
}

func (l *simLeg) healed(off, n int64) {
	if len(l.bad) == 0 {
		return
	}
	for s := off / sectorSize; s < (off+n)/sectorSize; s++ {
		delete(l.bad, s)
	}
}

// inFlight are the writes under way, as what a power cut may let land.
func (l *simLeg) inFlight() []cached {
	var c []cached
	for _, o := range l.ops {
		if o.io.Op == legio.Write || o.io.Op == legio.Zero {
			c = append(c, cachedOf(o.io))
		}
	}
	return c
}

// scribble makes memory garbage: none of its sectors is one of ours, whatever was in it, and
// no block of it agrees with a checksum that was made before.
func scribble(b []byte) {
	const junk = 0xdbdbdbdb_dbdbdbdb
	for ; len(b) >= sectorSize; b = b[sectorSize:] {
		binary.LittleEndian.PutUint64(b, junk)
		binary.LittleEndian.PutUint64(b[8:], junk)
	}
}

// cachedOf is a write as what may land of it.
func cachedOf(io *legio.IO) cached {
	c := cached{off: io.Off, n: io.Len}
	if io.Op == legio.Write {
		c.data = io.Buf
	}
	return c
}
