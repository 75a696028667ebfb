// Package balance chooses which leg of a mirror a read goes to. It is a pure core: no
// I/O, no clock, no lock, and no memory beyond what a Balancer has from the start. The
// engine says which legs can have a read at all (in service, equal there, not tried yet);
// this package says which of them shall.
//
// # The rules, in this order
//
//  1. A leg that is marked avoid gets a read only when the other one cannot have it.
//  2. A leg that is late, because it sits on a read that its partner would long have
//     answered, gets none until it has answered one.
//  3. A leg that is marked prefer gets all others, unless it is slower by far.
//  4. A read that goes on where a sequential stream has come to stays on the stream's leg.
//     Disks with heads, and servers that read ahead, are quick so. It moves over when its
//     leg falls far behind what the other one would take, or has two more than the other.
//  5. Any other read goes where it is likely to be answered first: to the leg with less
//     under way, and where the legs differ clearly in speed, with less time under way. Of
//     two that are equal it is the one that did not get the last.
//
// # How speed is known
//
// The time of each read of the face, for its size, goes into a mean, in which the older
// counts the less the longer ago it was. The load is in it: that is meant. Legs count as
// different from twice the time on, so that two disks of a kind are balanced by what is
// under way alone, exactly, and noise moves nothing. A leg that is idle looks quick: where
// work would be moved to it, what it took is multiplied by what it would then have to do. A leg that gets few reads is not
// measured by making applications wait for it: Probe says when a copy of a read is to be
// sent to it whose answer nobody needs.
package balance

import "time"

const (
	streamsMax = 16 // sequential streams that are known at once
	// unitBytes: an I/O counts as one unit of load and one for each of these.
	unitBytes = 64 << 10
	unitsMax  = 64

	// differ is the ratio of two legs' times from which on they are not alike.
	differ = 2
	// deserted is the ratio from which on a stream leaves its leg.
	deserted = 3
	// unfit is the ratio from which on a leg does not keep up, although it is preferred.
	unfit = 16

	// meanShift: a read counts for 1/16 in the mean, or more when the mean is old.
	meanShift = 4
	meanAge   = int64(50 * time.Millisecond)
	// probeAge is how old a mean may be before the leg is probed.
	probeAge = int64(time.Second)
	// streamAge is how long a stream counts as one after its last read.
	streamAge = int64(200 * time.Millisecond)

	// A read is late when it takes lateTimes as long as the partner would take, and LateLeast at
	// least; lateUnknown when it is not known how long that is. (LateLeast is the engine's to
	// know how far it need look.)
	lateTimes   = 4
	LateLeast   = int64(50 * time.Millisecond)
	lateUnknown = int64(250 * time.Millisecond)
)

// Both is the set of both legs: bit 0 is leg 0.
const Both = 3

// Balancer is what is known of the two legs of one mirror. Its methods are called under
// the engine's lock.
type Balancer struct {
	marks   [2]Mark
	legs    [3]leg // the third is a device that is to take a leg's place: no read goes there
	streams [streamsMax]stream
	turn    int // the leg whose turn it is where nothing else decides
}

// leg is what is known of one.
type leg struct {
	load  int           // units under way
	means [classes]mean // by size
	late  bool          // rule 2
	// probed: when the last probe was sent; probing: it has not ended.
	probed  int64
	probing bool
}

// mean is how long a unit of a read took, lately.
type mean struct {
	ns int64 // 0: not known
	at int64 // of the last read in it
}

// class tells short reads, which cost a way there and back, from long ones, which cost
// bandwidth: their times are not comparable.
type class uint8

const (
	short class = iota
	long
	classes
)

func classOf(n int64) class {
	if n > unitBytes {
		return long
	}
	return short
}

func units(n int64) int { return 1 + int(min(n/unitBytes, unitsMax)) }

// stream is a place where reads may go on.
type stream struct {
	next int64 // the offset after its last read
	at   int64 // of its last read; 0: none
	side int
	sure bool // a second read went on where the first one ended
}

// SetMarks says how the legs are marked.
func (b *Balancer) SetMarks(m [2]Mark) { b.marks = m }

// Mark is how a leg is marked.
func (b *Balancer) Mark(side int) Mark { return b.marks[side] }

// Choose picks the leg for a read of n bytes at off out of a set of legs that can have
// it, which must not be empty, and notes the stream that it belongs to.
func (b *Balancer) Choose(can uint8, off, n, now int64) (side int, sequential bool) {
	s, goesOn, others := b.find(off, n, now)
	side = b.pick(can, s, goesOn, others, n)
	b.turn = 1 - side
	switch {
	case goesOn:
		s.side, s.at, s.sure, s.next = side, now, true, max(s.next, off+n)
	case s != nil:
		*s = stream{next: off + n, at: now, side: side}
	}
	return side, goesOn
}

// pick is the rules.
func (b *Balancer) pick(can uint8, s *stream, goesOn bool, others [2]int, n int64) int {
	if can != Both {
		return int(can >> 1)
	}
	if b.marks[0] != b.marks[1] {
		for i := range b.marks {
			if b.marks[i] == Avoid {
				return 1 - i
			}
		}
	}
	if b.legs[0].late != b.legs[1].late {
		return index(b.legs[0].late)
	}
	c := classOf(n)
	if b.marks[0] != b.marks[1] {
		if p := index(b.marks[1] == Prefer); !b.behind(p, n, unfit) {
			return p
		}
	}
	if !goesOn {
		return b.likelyFirst(others, n)
	}
	x, times := s.side, int64(deserted)
	if !s.sure {
		times = differ // it begins
	}
	switch {
	case b.behind(x, n, times):
		return 1 - x
	case others[x] <= others[1-x], b.slower(1-x, c, differ):
		return x
	}
	return 1 - x
}

// likelyFirst is rule 5.
func (b *Balancer) likelyFirst(streams [2]int, n int64) int {
	var cost [2]int64
	for i := range b.marks {
		cost[i] = int64(b.legs[i].load + units(n))
	}
	if c := classOf(n); b.slower(0, c, differ) || b.slower(1, c, differ) {
		for i := range b.marks {
			cost[i] *= b.legs[i].means[c].ns
		}
	}
	switch {
	case cost[0] != cost[1]:
		return index(cost[1] < cost[0])
	case streams[0] != streams[1]:
		return index(streams[1] < streams[0])
	}
	return b.turn
}

func index(second bool) int {
	if second {
		return 1
	}
	return 0
}

// slower says whether a leg takes times as long as its partner, as far as both are known.
func (b *Balancer) slower(side int, c class, times int64) bool {
	x, y := b.legs[side].means[c].ns, b.legs[1-side].means[c].ns
	return y > 0 && x >= times*y
}

// ifMoved is how long a unit would take on a leg's partner if that had to do what the leg
// has under way as well; 0: not known. Its mean is that of its own load. This is careful: a
// leg that does much at once may be no slower for it.
func (b *Balancer) ifMoved(side int, n int64) int64 {
	o := &b.legs[1-side]
	u := units(n)
	return o.means[classOf(n)].ns * int64(b.legs[side].load+o.load+u) / int64(o.load+u)
}

// behind says whether a leg takes times as long as its partner would, all told.
func (b *Balancer) behind(side int, n, times int64) bool {
	moved := b.ifMoved(side, n)
	return moved > 0 && b.legs[side].means[classOf(n)].ns >= times*moved
}

// find looks for the stream that a read goes on, or the place for a new one, nil if all are
// taken. others are the streams on each leg, without that one.
func (b *Balancer) find(off, n, now int64) (s *stream, goesOn bool, others [2]int) {
	for i := range b.streams {
		x := &b.streams[i]
		if !goesOn && x.goesOn(off, n) {
			s, goesOn = x, true
			continue
		}
		if x.sure && now-x.at < streamAge {
			others[x.side]++
		} else if !goesOn && (s == nil || x.at < s.at) {
			s = x
		}
	}
	return s, goesOn, others
}

// goesOn says whether a read goes on where the stream has come to. Several reads of a
// stream are under way at once, and change places now and then.
func (s *stream) goesOn(off, n int64) bool {
	return s.at != 0 && off <= s.next+2*n && off >= s.next-4*n && (off == s.next || s.sure)
}

// Began notes that an I/O of n bytes, of whatever kind, was given to a leg; Ended that the
// leg has given it back.
func (b *Balancer) Began(side int, n int64) { b.legs[side].load += units(n) }

// Ended is the other half of Began.
func (b *Balancer) Ended(side int, n int64) { b.legs[side].load -= units(n) }

// Took notes that a leg has answered a read of n bytes, and how long it took.
func (b *Balancer) Took(side int, n, took, now int64) {
	l := &b.legs[side]
	l.late = false
	m := &l.means[classOf(n)]
	x := max(1, took/int64(units(n)))
	switch age := now - m.at; {
	case m.ns == 0:
		m.ns = x
	case age<<meanShift < meanAge:
		m.ns = max(1, m.ns+(x-m.ns)>>meanShift)
	default:
		m.ns = max(1, m.ns+int64(float64(x-m.ns)*float64(age)/float64(age+meanAge)))
	}
	m.at = now
}

// Failed notes that a leg has answered a read with an error.
func (b *Balancer) Failed(side int) { b.legs[side].late = false }

// LateAfter is how long a read of n bytes may be under way on a leg before it is sent to
// the other one as well. That of a leg to be avoided is asked only when half of the time is
// over after which a leg is cut off. 0: the other one would not be quicker.
func (b *Balancer) LateAfter(side int, n, timeout int64) int64 {
	p := &b.legs[1-side]
	if p.late {
		return 0
	}
	after := lateUnknown
	if moved := b.ifMoved(side, n); moved > 0 {
		after = max(LateLeast, lateTimes*moved*int64(units(n)))
	}
	if b.marks[1-side] == Avoid && b.marks[side] != Avoid {
		after = max(after, timeout/2)
	}
	return after
}

// Late notes that a read on a leg is late.
func (b *Balancer) Late(side int) { b.legs[side].late = true }

// Probe says whether a read of n bytes, which goes to one leg, is to be sent to the other
// one as well, to see how quick that is. ProbeEnded says that it is back.
func (b *Balancer) Probe(side int, n, now int64) bool {
	o := &b.legs[1-side]
	if o.probing || b.marks[1-side] == Avoid || now-o.means[classOf(n)].at < probeAge || now-o.probed < probeAge {
		return false
	}
	o.probing, o.probed = true, now
	return true
}

// ProbeEnded is the other half of Probe, for the leg that was probed.
func (b *Balancer) ProbeEnded(side int) { b.legs[side].probing = false }

// Forget is for a leg that goes: what comes in its place may be another one. What it has
// under way stays counted until it has ended.
func (b *Balancer) Forget(side int) {
	l := &b.legs[side]
	*l = leg{load: l.load, probing: l.probing}
}

// Mean is how long a read of up to 64 KiB takes on a leg, lately; 0: not known.
func (b *Balancer) Mean(side int) time.Duration { return time.Duration(b.legs[side].means[short].ns) }
