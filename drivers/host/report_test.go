package host

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	"ft/drivers/notify"
)

// reporting starts a reporter towards a keeper that this test plays.
func reporting(t *testing.T, k *keeper, watchdog time.Duration, alive func() error) *reporter {
	t.Helper()
	r := newReporter(notify.NewSender(k.path, "tok"), slog.New(slog.DiscardHandler), watchdog)
	r.start(alive)
	t.Cleanup(r.stop)
	return r
}

// TestReadyDoesNotWaitBehindATextThatWasJustSent: a successor's READY ends an outage,
// texts are held back. The fastest of some tries counts, since the machine may be busy.
func TestReadyDoesNotWaitBehindATextThatWasJustSent(t *testing.T) {
	best := time.Hour
	for range 10 {
		k := newKeeper(t, "")
		r := reporting(t, k, 0, func() error { return nil })
		r.Text("adopting")
		k.next(t, "the text", func(m notify.Packet) bool { return m.Status != nil && *m.Status == "adopting" })
		began := time.Now()
		r.Ready()
		k.next(t, "READY", func(m notify.Packet) bool { return m.Ready })
		best = min(best, time.Since(began))
	}
	if best > againAfter/2 {
		t.Errorf("READY took %v at best", best)
	}
}

func TestTextsAreHeldBackAndTheLastOneArrives(t *testing.T) {
	k := newKeeper(t, "")
	r := reporting(t, k, 0, func() error { return nil })
	for range 1000 {
		r.Text("progress")
	}
	r.Text("done")
	k.next(t, "the last text", func(m notify.Packet) bool { return m.Status != nil && *m.Status == "done" })
	if d := r.sender.Drops(); d != 0 {
		t.Errorf("%d messages dropped: a burst was sent one by one", d)
	}
}

func TestADriverThatIsNotWellGivesNoSignOfLife(t *testing.T) {
	k := newKeeper(t, "")
	asked := make(chan struct{}, 100)
	reporting(t, k, 40*time.Millisecond, func() error {
		asked <- struct{}{}
		return errors.New("the data path stands still")
	})
	for range 5 {
		<-asked
	}
	select {
	case <-k.pings:
		t.Error("a sign of life was sent")
	default:
	}
}
