package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"ft/drivers/notify"
	"ft/ftd/control"
)

// notifier speaks to systemd (sd_notify(3)); where nobody listens it does nothing.
type notifier struct {
	sender *notify.Sender
	period time.Duration // of the watchdog, 0 for none
	log    *slog.Logger
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

// reloading needs no word of its own towards Type=notify: READY afterwards ends it.
func (n *notifier) reloading() { n.status("reading the configuration again") }

func (n *notifier) status(text string) { n.send(notify.Message{Status: &text}) }

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
			sys := c.Status(time.Now()).System
			text = fmt.Sprintf("%s %s", sys.Name, sys.State)
		})
		if err != nil {
			return
		}
		n.send(notify.Message{Watchdog: n.period > 0, Status: &text})
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
