package nbdserver

import (
	"sync"
	"time"

	"ft/mirror/nbd"
)

// looker answers BLOCK_STATUS in a goroutine of its own, one at a time, as a look at what
// is allocated goes to a file system that may hang. Then, and where nobody can look, the
// answer is that there is data.
type looker struct {
	look  func(off, n int64, most int) []nbd.Extent
	found func(*command, []nbd.Extent)

	mu      sync.Mutex // guards the fields below
	waiting []*command
	at      *command  // that is being looked for
	since   time.Time // when that began
	running bool      // there is a goroutine; with at nil it hangs
}

// ask has found called with the answer, maybe at once.
func (l *looker) ask(c *command) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.look == nil || l.running && l.at == nil {
		l.found(c, nil)
		return
	}
	l.waiting = append(l.waiting, c) // bounded by the commands of all connections
	if !l.running {
		l.running = true
		l.next()
		go l.run()
	}
}

// next takes the first that waits. Under mu.
func (l *looker) next() {
	if len(l.waiting) == 0 {
		l.at, l.waiting = nil, nil
		return
	}
	l.at, l.since = l.waiting[0], time.Now()
	l.waiting = l.waiting[1:]
}

func (l *looker) run() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.at != nil {
		c := l.at
		l.mu.Unlock()
		x := l.look(int64(c.r.Off), int64(c.r.Len), nbd.ExtentsMax)
		l.mu.Lock()
		if l.at == c { // else it was given up
			l.found(c, x)
			l.next()
		}
	}
	l.running = false
}

// check gives up what takes too long, and what waits behind it.
func (l *looker) check(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.at == nil || now.Sub(l.since) < statusWithin {
		return
	}
	for _, c := range append([]*command{l.at}, l.waiting...) {
		l.found(c, nil)
	}
	l.at, l.waiting = nil, nil
}
