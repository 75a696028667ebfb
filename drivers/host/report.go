package host

import (
	"log/slog"
	"sync"
	"time"

	"ft/drivers/notify"
)

// Times of the reporter.
const (
	// pingsPerPeriod is how often in a watchdog's period a sign of life is sent:
	// more than the two that sd_notify(3) asks for, since one may be dropped.
	pingsPerPeriod = 4
	// againAfter is when a message that did not fit is tried again, and the shortest
	// time between two status texts.
	againAfter = 50 * time.Millisecond
)

// reporter tells the keeper about this process. It sends states, not messages: what
// did not go out is sent again as it then is, so that a burst of texts costs one
// message and READY is never lost. All of it happens in one goroutine, so that nobody
// who reports ever waits.
type reporter struct {
	sender *notify.Sender
	log    *slog.Logger
	period time.Duration // of the watchdog, 0 for none
	alive  func() error

	urgent  chan struct{} // to send now; capacity 1
	nudge   chan struct{} // to send when the last text is againAfter old; capacity 1
	stopped chan struct{}
	once    sync.Once

	mu    sync.Mutex
	ready bool
	text  string
	dirty bool // ready or text have changed since they went out
}

func newReporter(sender *notify.Sender, log *slog.Logger, watchdog time.Duration) *reporter {
	return &reporter{sender: sender, log: log, period: watchdog / pingsPerPeriod, urgent: make(chan struct{}, 1), nudge: make(chan struct{}, 1), stopped: make(chan struct{})}
}

// Ready says that the driver serves.
func (r *reporter) Ready() { r.change(r.urgent, func() { r.ready = true }) }

// Text sets the status text. Never blocks.
func (r *reporter) Text(s string) { r.change(r.nudge, func() { r.text = s }) }

func (r *reporter) change(tell chan<- struct{}, f func()) {
	r.mu.Lock()
	f()
	r.dirty = true
	r.mu.Unlock()
	select {
	case tell <- struct{}{}:
	default:
	}
}

// state is everything that the keeper should know.
func (r *reporter) state() notify.Message {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stateLocked()
}

func (r *reporter) stateLocked() notify.Message {
	text := r.text
	return notify.Message{Ready: r.ready, Status: &text}
}

// start begins reporting; alive is asked before each sign of life.
func (r *reporter) start(alive func() error) {
	r.alive = alive
	go r.run()
}

func (r *reporter) stop() { r.once.Do(func() { close(r.stopped) }) }

func (r *reporter) run() {
	var ping <-chan time.Time
	if r.period > 0 {
		t := time.NewTicker(r.period)
		defer t.Stop()
		ping = t.C
		r.ping()
	}
	again := time.NewTimer(0)
	defer again.Stop()
	nudge := r.nudge
	for {
		select {
		case <-r.stopped:
			return
		case <-r.urgent:
			r.flush()
			nudge = nil
			again.Reset(againAfter)
		case <-nudge:
			r.flush()
			nudge = nil
			again.Reset(againAfter)
		case <-again.C:
			if r.flush() {
				nudge = r.nudge
			} else {
				again.Reset(againAfter)
			}
		case <-ping:
			r.ping()
		}
	}
}

// flush sends what has changed and says whether nothing is left to send.
func (r *reporter) flush() bool {
	r.mu.Lock()
	if !r.dirty {
		r.mu.Unlock()
		return true
	}
	m := r.stateLocked()
	r.dirty = false
	r.mu.Unlock()
	if r.sender.Send(m) {
		return true
	}
	r.mu.Lock()
	r.dirty = true
	r.mu.Unlock()
	return false
}

// ping sends a sign of life if the driver gives one.
func (r *reporter) ping() {
	if err := r.alive(); err != nil {
		r.log.Error("the driver is not well: no sign of life is sent", "err", err)
		return
	}
	for range 3 {
		if r.sender.Send(notify.Message{Watchdog: true}) {
			return
		}
		select {
		case <-r.stopped:
			return
		case <-time.After(againAfter / 5):
		}
	}
}
