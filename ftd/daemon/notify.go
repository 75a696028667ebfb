package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"ft/drivers/notify"
	"ft/ftd/control"
)

// notifier speaks to systemd (sd_notify(3)); where nobody listens it does nothing.
type notifier struct {
	sender *notify.Sender
	period time.Duration // of the watchdog, 0 for none
	log    *slog.Logger
	noted  atomic.Pointer[string]
}

func newNotifier(log *slog.Logger) *notifier {
	return &notifier{sender: notify.SenderFromEnv(), period: notify.WatchdogFromEnv(), log: log}
}

func (n *notifier) send(m notify.Message) {
	if n.sender.Watched() && !n.sender.Send(m) {
		n.log.Warn("systemd was not told: its socket is full", "drops", n.sender.Drops())
	}
}

func (n *notifier) ready()    { n.send(notify.Message{Ready: true}) }
func (n *notifier) stopping() { n.send(notify.Message{Stopping: true}) }

// reloading begins a reload, ready ends it.
func (n *notifier) reloading() { n.send(notify.Message{Reloading: true}) }

// note is said beside the box's state from now on, "" for nothing: why a reload was
// refused, which `systemctl reload` does not tell.
func (n *notifier) note(text string) { n.noted.Store(&text) }

// watchdog gives the sign of life, and the box's state as status text, from within the
// core's own goroutine: ftd is alive when that is.
func (n *notifier) watchdog(ctx context.Context, o *owner) {
	if !n.sender.Watched() {
		return
	}
	every := n.period / 3
	if every <= 0 {
		every = 10 * time.Second
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		var text string
		err := o.look(func(c *control.Core) {
			doc := c.Status(time.Now())
			text = fmt.Sprintf("%s is %s", doc.System.Name, doc.System.State)
			if len(doc.Devices) == 0 {
				text = "nothing is configured"
			}
		})
		if err != nil {
			return
		}
		if note := n.noted.Load(); note != nil && *note != "" {
			text += "; " + *note
		}
		n.send(notify.Message{Watchdog: n.period > 0, Status: &text})
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
