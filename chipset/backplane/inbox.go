package backplane

import (
	"sync"

	"ft/chipset/lockstep"
)

// Bounds of what one module may have in an Inbox. A module beyond them waits, and in the
// end its process does, when its ring is full.
const (
	inboxRecordsMax = 2048
	inboxBytesMax   = 16 << 20
)

// Delivery is a record of a module, or that the module is gone: one of the two is set.
type Delivery struct {
	Module *Module
	Record *lockstep.Record
	Gone   *Gone

	bytes int
}

// Inbox is where the records of all modules of a machine arrive, for one goroutine. Those
// of each module are in its order.
type Inbox struct {
	wake chan struct{}

	mu    sync.Mutex // guards the fields below, and the counts of the modules in here
	room  sync.Cond
	queue []Delivery
}

// NewInbox makes an empty inbox.
func NewInbox() *Inbox {
	b := &Inbox{wake: make(chan struct{}, 1)}
	b.room.L = &b.mu
	return b
}

// Wake gets a value when there may be something to take. One value can stand for many
// deliveries: take all.
func (b *Inbox) Wake() <-chan struct{} { return b.wake }

// Take appends all that has arrived to into, and leaves out what came from modules that
// are fenced.
func (b *Inbox) Take(into []Delivery) []Delivery {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.queue) == 0 {
		return into
	}
	for i := range b.queue {
		d := &b.queue[i]
		m := d.Module
		m.queued--
		m.queuedBytes -= d.bytes
		switch {
		case !m.fenced:
			if d.Record != nil {
				m.passed.Add(1)
			}
			into = append(into, *d)
		case d.Record != nil:
			m.refused.Add(1)
		}
	}
	clear(b.queue) // the records are the taker's now
	b.queue = b.queue[:0]
	b.room.Broadcast()
	return into
}

// put waits until the module has room, and says whether the delivery was taken: not when
// the module is fenced.
func (b *Inbox) put(d Delivery) bool {
	m := d.Module
	b.mu.Lock()
	for d.Record != nil && !m.fenced && !m.leaving && m.queued > 0 && (m.queued >= inboxRecordsMax || m.queuedBytes+d.bytes > inboxBytesMax) {
		m.blocked = true
		b.room.Wait()
	}
	m.blocked = false
	taken := !m.fenced && !m.leaving
	if taken {
		m.queued++
		m.queuedBytes += d.bytes
		b.queue = append(b.queue, d)
	}
	b.mu.Unlock()
	if taken {
		select {
		case b.wake <- struct{}{}:
		default: // it is awake
		}
	}
	return taken
}
