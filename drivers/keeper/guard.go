package keeper

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"ft/drivers"
	"ft/drivers/host"
	"ft/drivers/notify"
)

// probe looks for a process that is ending but is not gone: killed by somebody else
// while a device holds one of its requests. It gives no sign but this one until its
// watchdog.
func (k *keeper) probe(p *process, c *child, now time.Time) {
	if now.Sub(c.probedAt) < probeEvery {
		return
	}
	c.probedAt = now
	if exiting(c.pid) && !readable(c.pidfd.fd) {
		k.markDying(p, c, "it ends, but is not gone yet")
	}
}

// checkWatchdog kills a process that has been silent for too long. late is by how much
// this keeper itself was late: notifications may lie unread then, and more than half a
// period of it grants a full period anew. A silent process is killed at the tick after
// the one that found it so, when what lay in the socket has been read.
func (k *keeper) checkWatchdog(p *process, c *child, now time.Time, late time.Duration) {
	period := time.Duration(c.spec.WatchdogMS) * time.Millisecond
	if period == 0 {
		return
	}
	if late > period/2 {
		c.lastSign, c.overdue = now, false
		return
	}
	limit := period
	switch {
	case !c.signed:
		limit = max(period, startGrace)
	case c.adopted && !c.restored && now.Sub(c.adoptAt) < restoreTimeout:
		return // killed now it would lose what it has not handed over yet
	}
	silence := now.Sub(c.lastSign)
	if silence < limit {
		c.overdue = false
		return
	}
	if !c.overdue {
		c.overdue = true
		return
	}
	k.markDying(p, c, fmt.Sprintf("missed its watchdog: silent for %d ms, allowed are %d", silence.Milliseconds(), limit.Milliseconds()))
	// SIGABRT makes the Go runtime write all stacks: what a wedged driver waits for.
	// A stopped process does not get that far.
	k.signal(p, c, unix.SIGABRT)
	time.AfterFunc(k.o.AbortGrace, func() {
		k.post(func() {
			if !c.pidfd.closed {
				k.signal(p, c, unix.SIGKILL)
			}
		})
	})
}

// kill ends a child with SIGKILL.
func (k *keeper) kill(p *process, c *child, why string) {
	k.markDying(p, c, why)
	k.signal(p, c, unix.SIGKILL)
}

func (k *keeper) signal(p *process, c *child, sig unix.Signal) {
	if err := c.pidfd.signal(sig); err != nil {
		k.event(p, Event{Kind: EventNote, Pid: c.pid, Text: fmt.Sprintf("signal %d could not be sent: %v", sig, err)})
	}
}

// markDying begins the fence's grace.
func (k *keeper) markDying(p *process, c *child, why string) {
	if !c.dyingSince.IsZero() {
		return
	}
	c.dyingSince, c.why = time.Now(), why
	if c == p.cur {
		k.setState(p, Dying, why)
	}
	k.event(p, Event{Kind: EventDying, Pid: c.pid, Text: why})
}

// fence pushes a child aside that does not end in time: a leg that hangs keeps it, and
// must not keep the face from being served. Its successor gets its pidfd, so as to bar
// the leg until that is readable.
func (k *keeper) fence(p *process, c *child, now time.Time) {
	if now.Sub(c.dyingSince) < k.o.FenceGrace || readable(c.pidfd.fd) {
		return
	}
	if p.forgetting {
		return // no successor is wanted
	}
	if len(p.preds) >= predecessorMax {
		if p.state != Failed {
			k.fail(p, fmt.Sprintf("%d of its processes cannot end; what they wait for must be mended or removed first", len(p.preds)+1))
		}
		return
	}
	p.cur = nil
	p.preds = append(p.preds, c)
	p.lastEnd = "not gone " + k.o.FenceGrace.String() + " after it began to die: " + c.why
	k.event(p, Event{Kind: EventEnded, Pid: c.pid, Text: p.lastEnd})
	k.follow(p, c, ending{text: p.lastEnd}, now)
}

// replace lets a process make way for a successor, which adopts: asked over its
// control socket, so that it can come to rest, or killed where it does not answer.
func (k *keeper) replace(p *process, c *child) {
	c.replace = true
	if c.spec.Control == "" {
		k.kill(p, c, "restart asked for")
		return
	}
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), handOverLimit)
		defer cancel()
		err := host.Dial(c.spec.Control).Stop(ctx, drivers.HandOver)
		if err == nil {
			return // it ends by itself
		}
		k.post(func() {
			if p.cur == c {
				k.kill(p, c, fmt.Sprintf("restart asked for, and it did not hand over: %v", err))
			}
		})
	}()
}

// notified acts on a notification.
func (k *keeper) notified(packet *notify.Packet) {
	defer packet.Close()
	p, c := k.sender(packet)
	if packet.Barrier {
		k.answer(p, c, packet)
		return
	}
	if c == nil || c != p.cur {
		return // a stranger, or one that has a successor
	}
	if packet.Err != nil {
		c.storeErr = packet.Err
		k.event(p, Event{Kind: EventNote, Pid: c.pid, Text: "a notification made no sense: " + packet.Err.Error()})
		return
	}
	c.lastSign, c.signed, c.overdue = time.Now(), true, false
	if packet.Status != nil {
		p.status = *packet.Status
	}
	if packet.Store != "" {
		c.storeErr = k.keep(p, packet.Store, packet.Fds, packet.Replace)
		packet.Fds = nil
	}
	if packet.Remove != "" {
		k.drop(p, packet.Remove)
	}
	if packet.Exit != "" && c.word != packet.Exit {
		c.word = packet.Exit
		k.save()
	}
	if packet.Ready && p.state == Starting {
		p.policy.ready(time.Now())
		k.setState(p, Running, "")
		k.save()
		k.event(p, Event{Kind: EventReady, Pid: c.pid})
	}
}

// sender finds who sent a packet: by the token where there is one, else by the
// sender's pid. Only root, or the user that the keeper runs as, is listened to.
func (k *keeper) sender(packet *notify.Packet) (*process, *child) {
	if !ownUser(packet.Uid) {
		return nil, nil
	}
	for _, p := range k.procs {
		for _, c := range append(p.preds[:len(p.preds):len(p.preds)], p.cur) {
			if c != nil && (packet.Token == c.token || packet.Token == "" && packet.Pid == c.pid) {
				return p, c
			}
		}
	}
	return nil, nil
}

// answer tells through a barrier's pipe what became of the message before it.
func (k *keeper) answer(p *process, c *child, packet *notify.Packet) {
	text := "ok\n"
	switch {
	case c == nil:
		text = "this keeper does not know the sender\n"
	case c != p.cur:
		text = "the sender has a successor; nothing is taken from it any more\n"
	case c.storeErr != nil:
		text = c.storeErr.Error() + "\n"
		c.storeErr = nil
	}
	for _, fd := range packet.Fds {
		// The pipe is the sender's: one that is full must not stop the keeper.
		if unix.SetNonblock(fd, true) == nil {
			_, _ = unix.Write(fd, []byte(text)) // a sender that has gone needs no answer
		}
	}
}
