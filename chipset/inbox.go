package chipset

import (
	"sync"

	"ft/chipset/module"
)

// inbox holds what came from outside until the machine's next quantum. Whoever brings it
// never waits for the machine.
//
// It is bounded by what fills it: completions by the requests that a device may have in
// flight, typed bytes by typedMax, frames by framesMax (a frame too many is dropped and
// counted, as a NIC does).
type inbox struct {
	mu      sync.Mutex
	queue   []letter
	frames  int
	typed   []byte
	dropped uint64 // frames
	keyed   uint64 // bytes typed and taken
	free    [][]byte
	wake    chan struct{} // has room for one
}

// letter is an input and, where its data are somebody's, how they are given back.
type letter struct {
	in      module.Input
	release func()
}

const (
	framesMax = 512
	typedMax  = 64 << 10
	freeMax   = framesMax // buffers of frames kept for the next ones
)

func newInbox() *inbox { return &inbox{wake: make(chan struct{}, 1)} }

func (b *inbox) ring() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// put takes an input whose data stay as they are until release is called.
func (b *inbox) put(in module.Input, release func()) {
	b.mu.Lock()
	b.queue = append(b.queue, letter{in, release})
	b.mu.Unlock()
	b.ring()
}

// frame takes a copy of a frame for the NIC.
func (b *inbox) frame(p []byte) {
	b.mu.Lock()
	if b.frames >= framesMax {
		b.dropped++
		b.mu.Unlock()
		return
	}
	var buf []byte
	if n := len(b.free); n > 0 {
		buf, b.free = b.free[n-1], b.free[:n-1]
	}
	buf = append(buf[:0], p...)
	b.frames++
	b.queue = append(b.queue, letter{in: module.Input{Kind: module.InputFrame, Slot: module.NICSlot, Data: buf}})
	b.mu.Unlock()
	b.ring()
}

// keys takes what was typed, as much as there is room for.
func (b *inbox) keys(p []byte) int {
	b.mu.Lock()
	n := min(len(p), typedMax-len(b.typed))
	b.typed = append(b.typed, p[:n]...)
	b.keyed += uint64(n)
	b.mu.Unlock()
	b.ring()
	return n
}

// deliver gives everything that waits to the machine, typed bytes as far as it has room.
// apply is called without the lock.
func (b *inbox) deliver(spare []letter, room int, apply func(*module.Input)) []letter {
	b.mu.Lock()
	letters := b.queue
	b.queue = spare[:0]
	n := min(room, len(b.typed))
	var keys []byte
	if n > 0 {
		keys = append(keys, b.typed[:n]...)
		b.typed = append(b.typed[:0], b.typed[n:]...)
	}
	b.mu.Unlock()

	for i := range letters {
		apply(&letters[i].in)
		if letters[i].release != nil {
			letters[i].release()
		}
	}
	if len(keys) > 0 {
		apply(&module.Input{Kind: module.InputConsole, Data: keys})
	}

	b.mu.Lock()
	for i := range letters {
		if letters[i].in.Kind == module.InputFrame {
			b.frames--
			if len(b.free) < freeMax {
				b.free = append(b.free, letters[i].in.Data)
			}
		}
		letters[i] = letter{}
	}
	b.mu.Unlock()
	return letters
}

// clear forgets what waits: the machine that it was for has ended, and no request of it is
// under way.
func (b *inbox) clear() {
	b.mu.Lock()
	letters := b.queue
	b.queue, b.frames, b.typed = nil, 0, nil
	b.mu.Unlock()
	for _, l := range letters {
		if l.release != nil {
			l.release()
		}
	}
}

// lost is how many frames were dropped for want of room.
func (b *inbox) lost() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.dropped
}

// keysTaken is how many bytes were typed.
func (b *inbox) keysTaken() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.keyed
}
