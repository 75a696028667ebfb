package monitor

// Invariants of the watch:
//
//   - The table is always what the kernel had at some moment, and the owner has been told
//     exactly the differences that lead to it.
//   - No message that was lost leaves a lasting mark: after any error of the socket a new
//     one subscribes first and dumps then, and the table becomes what that finds.
//   - While a dump runs, a notification has the last word on its link. A piece of a dump
//     is built before it is queued, so that it may be older than a notification that it
//     follows; the notifications of one link are never out of order.
//   - A watch ends only by Close or by its context. Everything that fails is tried again,
//     with a delay that grows.

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"ft/bond/nic"
)

// Events are the owner's functions. They are called one at a time, on one goroutine; while
// one runs, reports wait in the kernel.
type Events struct {
	// Link tells that a link is new or has changed, or is gone; then l is as it last was.
	Link func(l nic.Link, gone bool)
	// Addr tells that the addresses of a link have changed, or their flags.
	Addr func(ifindex int)
}

// LinkStats counts what a watch has seen.
type LinkStats struct {
	Messages   uint64 // reports of the kernel
	Changes    uint64 // differences that were delivered
	Unreadable uint64 // reports that made no sense, and were left out
	Overruns   uint64 // times that reports were lost, or the socket failed
	Resyncs    uint64 // dumps, the first one included
}

// Limits of the dumps.
const (
	firstTries   = 5 // of WatchLinks itself, before it returns an error
	dumpTries    = 8 // of one dump that changes have interrupted
	resyncMinGap = 5 * time.Millisecond
	resyncMaxGap = 500 * time.Millisecond
	warnGap      = 10 * time.Second // between two warnings of losses
)

// Links is a running watch.
type Links struct {
	log    *slog.Logger
	on     Events
	buffer int
	table  table // of the goroutine that calls on

	messages, changes, unreadable, overruns, resyncs atomic.Uint64

	ctx    context.Context
	cancel context.CancelFunc
	done   chan struct{}

	mu   sync.Mutex
	sock *rtnlSocket // the one in use, for the end of ctx to close
}

// WatchLinks subscribes and dumps, and returns when everything that there is has been
// delivered (on the calling goroutine; later calls come from one of its own). It ends with
// ctx or Close.
func WatchLinks(ctx context.Context, log *slog.Logger, on Events) (*Links, error) {
	return watchLinks(ctx, log, on, receiveBufferBytes)
}

func watchLinks(ctx context.Context, log *slog.Logger, on Events, buffer int) (*Links, error) {
	w := &Links{log: log, on: on, buffer: buffer, table: newTable(), done: make(chan struct{})}
	w.ctx, w.cancel = context.WithCancel(ctx)
	context.AfterFunc(w.ctx, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.sock != nil {
			w.sock.close()
		}
	})
	sock, err := w.resync(firstTries)
	if err != nil {
		w.cancel()
		return nil, fmt.Errorf("watch the links: %w", err)
	}
	go w.run(sock)
	return w, nil
}

// Stats may be called from any goroutine.
func (w *Links) Stats() LinkStats {
	return LinkStats{Messages: w.messages.Load(), Changes: w.changes.Load(), Unreadable: w.unreadable.Load(), Overruns: w.overruns.Load(), Resyncs: w.resyncs.Load()}
}

// Close ends the watch. No function of the owner is called after it.
func (w *Links) Close() {
	w.cancel()
	<-w.done
}

func (w *Links) run(sock *rtnlSocket) {
	defer close(w.done)
	defer w.cancel()
	var warned time.Time
	for {
		err := w.follow(sock)
		w.drop(sock)
		if w.ctx.Err() != nil {
			return
		}
		w.overruns.Add(1)
		level := slog.LevelDebug
		if now := time.Now(); now.Sub(warned) >= warnGap {
			level, warned = slog.LevelWarn, now
		}
		w.log.Log(w.ctx, level, "reports of links were lost; reading all of them again", "error", err, "times", w.overruns.Load())
		if sock, err = w.resync(0); err != nil {
			return // by the end of ctx alone
		}
	}
}

// follow delivers what comes until the socket fails.
func (w *Links) follow(sock *rtnlSocket) error {
	for {
		b, err := sock.receive()
		if err != nil {
			return err
		}
		err = messages(b, func(h unix.NlMsghdr, body []byte) error {
			if m, ok := w.decode(h.Type, body); ok {
				w.deliver(w.table.apply(m))
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("a report that cannot be read: %w", err)
		}
	}
}

// decode leaves out a report that cannot be read: the others are worth no less for it.
func (w *Links) decode(kind uint16, body []byte) (message, bool) {
	w.messages.Add(1)
	m, ok, err := decode(kind, body)
	if err != nil && w.unreadable.Add(1) == 1 {
		w.log.Warn("a report of the kernel cannot be read and is left out; later ones like it are only counted", "error", err)
	}
	return m, ok
}

func (w *Links) deliver(changes []change) {
	for _, c := range changes {
		if w.ctx.Err() != nil {
			return
		}
		w.changes.Add(1)
		switch {
		case c.addrs && w.on.Addr != nil:
			w.on.Addr(c.index)
		case !c.addrs && w.on.Link != nil:
			w.on.Link(c.link, c.gone)
		}
	}
}

// resync subscribes and dumps until that has succeeded without a loss, and delivers each
// time what was found: in a flood that never ends the table still follows. tries of 0 is
// without limit; then it fails only by the end of ctx.
func (w *Links) resync(tries int) (*rtnlSocket, error) {
	gap := resyncMinGap
	for try := 1; ; try++ {
		sock, whole, err := w.resyncOnce()
		if err == nil && whole {
			return sock, nil
		}
		if sock != nil {
			w.drop(sock)
		}
		if err := w.ctx.Err(); err != nil {
			return nil, err
		}
		if err == nil {
			err = errors.New("the links change faster than they can be read")
		}
		if try == tries {
			return nil, err
		}
		w.log.Debug("reading all links will be tried again", "error", err, "in", gap)
		select {
		case <-time.After(gap):
		case <-w.ctx.Done():
			return nil, w.ctx.Err()
		}
		gap = min(2*gap, resyncMaxGap)
	}
}

func (w *Links) resyncOnce() (sock *rtnlSocket, whole bool, err error) {
	if sock, err = openRtnl(w.buffer); err != nil {
		return nil, false, err
	}
	if err := w.use(sock); err != nil {
		return nil, false, err
	}
	d := dump{w: w, sock: sock, next: newTable(), whole: true, spokenLinks: map[int]bool{}, spokenAddrs: map[addressOf]bool{}}
	if err := d.all(); err != nil {
		return sock, false, err
	}
	w.resyncs.Add(1)
	if !d.complete {
		d.keep(w.table)
	}
	w.deliver(w.table.replace(d.next))
	return sock, d.whole, nil
}

// use makes the end of ctx close the socket.
func (w *Links) use(sock *rtnlSocket) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.ctx.Err(); err != nil {
		sock.close()
		return err
	}
	w.sock = sock
	return nil
}

func (w *Links) drop(sock *rtnlSocket) {
	w.mu.Lock()
	defer w.mu.Unlock()
	sock.close()
	w.sock = nil
}

// dump reads everything into next, notifications that come meanwhile included.
type dump struct {
	w        *Links
	sock     *rtnlSocket
	next     table
	complete bool // nothing that exists can be missing in next
	whole    bool // complete, and no notification was lost
	// A notification has spoken of these: what the dump says of them may be older.
	spokenLinks map[int]bool
	spokenAddrs map[addressOf]bool
}

type addressOf struct {
	index int
	addr  address
}

func (d *dump) all() error {
	if err := d.sock.f.SetReadDeadline(time.Now().Add(dumpPatience)); err != nil {
		return fmt.Errorf("limit the time of a dump over netlink: %w", err)
	}
	d.complete = true
	for _, kind := range []uint16{unix.RTM_GETLINK, unix.RTM_GETADDR} {
		interrupted := true
		for try := 0; interrupted && try < dumpTries; try++ {
			if err := d.sock.ask(kind); err != nil {
				return err
			}
			var err error
			if interrupted, err = d.read(); err != nil {
				return err
			}
		}
		d.complete = d.complete && !interrupted
	}
	d.whole = d.whole && d.complete
	if err := d.sock.f.SetReadDeadline(time.Time{}); err != nil {
		return fmt.Errorf("end the time limit of a dump over netlink: %w", err)
	}
	return nil
}

// read goes on to the end of one dump. interrupted: the kernel says that what it walked
// over changed under it (NLM_F_DUMP_INTR), so that entries may be missing.
func (d *dump) read() (interrupted bool, err error) {
	for ended := false; !ended; {
		b, err := d.sock.receive()
		if overrun(err) {
			// Notifications were lost, the dump was not.
			d.whole = false
			continue
		}
		if err != nil {
			return false, fmt.Errorf("dump over netlink: %w", err)
		}
		err = messages(b, func(h unix.NlMsghdr, body []byte) error {
			answer := d.sock.answers(h)
			interrupted = interrupted || answer && h.Flags&unix.NLM_F_DUMP_INTR != 0
			switch {
			case answer && (h.Type == unix.NLMSG_DONE || h.Type == unix.NLMSG_ERROR):
				ended = true
				return dumped(body)
			default:
				d.take(h.Type, body, answer)
				return nil
			}
		})
		if err != nil {
			return false, err
		}
	}
	return interrupted, nil
}

func (d *dump) take(kind uint16, body []byte, answer bool) {
	m, ok := d.w.decode(kind, body)
	if !ok {
		return
	}
	at := addressOf{m.index, m.addr}
	isLink := m.kind == linkIs || m.kind == linkGone
	if answer && (isLink && d.spokenLinks[m.index] || !isLink && d.spokenAddrs[at]) {
		return
	}
	if !answer && isLink {
		d.spokenLinks[m.index] = true
	} else if !answer {
		d.spokenAddrs[at] = true
	}
	d.next.apply(m)
}

// keep adds what was known before and may only be missing in the dump.
func (d *dump) keep(before table) {
	for i, l := range before.links {
		if _, there := d.next.links[i]; !there && !d.spokenLinks[i] {
			d.next.apply(message{kind: linkIs, index: i, link: l})
		}
	}
	for i, of := range before.addrs {
		for a, flags := range of {
			if _, there := d.next.addrs[i][a]; !there && !d.spokenAddrs[addressOf{i, a}] {
				d.next.apply(message{kind: addrIs, index: i, addr: a, flags: flags})
			}
		}
	}
}
