package fuseloop

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"ft/mirror/frontend"
)

// carried is a request with what its answer is made of.
type carried struct {
	frontend.Request
	buf   *buffer // nil for a Flush or a Zero
	state atomic.Uint32
	out   struct {
		outHeader
		writeOut
	}
	iov  [2]unix.Iovec
	next *carried // in carriedList
}

// The states of a carried request.
const (
	stateFree     = iota // in carriedList
	stateOut             // the engine's
	stateAnswered        // the engine's, answered
)

// carriedList keeps requests for reuse.
type carriedList struct {
	mu   sync.Mutex
	head *carried
}

func (l *carriedList) take() *carried {
	l.mu.Lock()
	c := l.head
	if c != nil {
		l.head = c.next
	}
	l.mu.Unlock()
	if c == nil {
		c = new(carried)
	}
	c.next = nil
	return c
}

func (l *carriedList) give(c *carried) {
	l.mu.Lock()
	c.next = l.head
	l.head = c
	l.mu.Unlock()
}
