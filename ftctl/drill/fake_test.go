package drill

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"ft/ftd/api"
)

// statusText is a box with all kinds of devices, duplex.
const statusText = `{"system": {"name": "box", "state": "duplex", "verdict": "every face is served by two good sides", "action": "none", "seq": 10},
 "modules": [
  {"id": "cpu0", "state": "duplex", "sides": ["cpu0/guest"]}, {"id": "cpu1", "state": "duplex", "sides": ["cpu1/guest"]},
  {"id": "pci0", "state": "duplex", "sides": ["pci0/disk0", "pci0/disk1", "pci0/net0"]}, {"id": "pci1", "state": "duplex", "sides": ["pci1/disk0", "pci1/disk1", "pci1/net0"]}],
 "devices": [
  {"id": "disk0", "kind": "disk", "state": "duplex", "face": "/dev/ft/disk0", "pid": 100, "driver": "connected",
   "sides": [{"id": "pci0/disk0", "state": "duplex"}, {"id": "pci1/disk0", "state": "duplex"}], "stats": {"survives_crash": true}},
  {"id": "disk1", "kind": "disk", "state": "duplex", "face": "/dev/ft/disk1", "pid": 101, "driver": "connected",
   "sides": [{"id": "pci0/disk1", "state": "duplex"}, {"id": "pci1/disk1", "state": "duplex"}], "stats": {"survives_crash": true}},
  {"id": "net0", "kind": "nic", "state": "duplex", "face": "net0", "pid": 102, "driver": "connected",
   "sides": [{"id": "pci0/net0", "state": "duplex", "active": true}, {"id": "pci1/net0", "state": "duplex"}]},
  {"id": "guest", "kind": "machine", "state": "duplex", "face": "guest", "pid": 103, "driver": "connected",
   "sides": [{"id": "cpu0/guest", "state": "duplex"}, {"id": "cpu1/guest", "state": "duplex"}],
   "stats": {"disk": {"path": "/dev/ft/disk1"}, "nic": {"link": "net0"}}}]}`

func statusOf(t testing.TB, edits ...string) (st api.Status) {
	t.Helper()
	text := strings.NewReplacer(edits...).Replace(statusText)
	if err := json.Unmarshal([]byte(text), &st); err != nil {
		t.Fatal(err)
	}
	return st
}

// fakeBox does as it is told: a fault is noticed and passes after the times that are set. It
// lives in a bubble of testing/synctest, whose clock is not the wall's.
type fakeBox struct {
	t testing.TB

	mu      sync.Mutex
	status  api.Status
	log     []api.Event
	asked   []string
	version api.Version
	away    bool

	notice  time.Duration // from a fault to its event
	mend    time.Duration // from the end of a fault to duplex
	never   string        // after this fault the box stays simplex
	refuses string        // this fault, by a rule
	dies    bool          // ftd does not come back
	tooSoon int           // so many times it may not be brought up
	defers  bool          // what was out stays offline until it is brought up
	judges  bool          // the part that fails stays broken until it is brought up
}

func newFakeBox(t testing.TB) *fakeBox {
	return &fakeBox{t: t, status: statusOf(t), version: api.Version{Pid: 50, Supervised: true}, notice: 7 * time.Millisecond, mend: 300 * time.Millisecond}
}

var errAway = &api.Error{Code: api.CodeUnreachable, Sentence: "ftd is not running"}

func (b *fakeBox) Status(context.Context) (api.Status, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.away {
		return api.Status{}, errAway
	}
	st := b.status
	st.Devices = slices.Clone(st.Devices)
	return st, nil
}

func (b *fakeBox) Version(context.Context) (api.Version, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.away {
		return api.Version{}, errAway
	}
	return b.version, nil
}

func (b *fakeBox) Change(_ context.Context, c api.Change) (api.Outcome, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.away {
		return api.Outcome{}, errAway
	}
	b.asked = append(b.asked, strings.TrimSpace(fmt.Sprint(c.Verb, " ", c.ID, " ", c.Fault)))
	switch {
	case c.Fault != "" && c.Fault == b.refuses:
		return api.Outcome{}, &api.Error{Code: "rule", Refused: true, Sentence: "a rule refuses it"}
	case c.Verb == api.Switch:
		sides := slices.Clone(b.status.Devices[2].Sides)
		sides[0].Active, sides[1].Active = !sides[0].Active, sides[0].Active
		b.status.Devices[2].Sides = sides
	case c.ID == ftdID:
		b.away = true
		if !b.dies {
			time.AfterFunc(time.Second, func() { b.mu.Lock(); defer b.mu.Unlock(); b.away = false; b.version.Pid++ })
		}
	case c.Fault == "crash":
		for i := range b.status.Devices {
			if d := &b.status.Devices[i]; d.ID == c.ID {
				b.later(b.notice, func() { d.Pid++; b.say(d.ID, "duplex", "duplex", "the driver process of "+d.ID+" is gone") })
			}
		}
	case c.Verb == api.Bringup && b.tooSoon > 0:
		b.tooSoon--
		return api.Outcome{}, &api.Error{Code: "rule", Refused: true, Sentence: "it flaps"}
	case c.Fault == "clear" || c.Fault == "return" || c.Fault == "cable-return" || c.Fault == "power-on" || c.Verb == api.Bringup:
		if b.defers && c.Verb != api.Bringup {
			b.side("offline")
		}
		if b.state() == "simplex" && (!b.judges && !b.defers || c.Verb == api.Bringup) {
			b.later(b.mend, b.duplex)
		}
	case c.Fault == "slow" || c.Fault == "read-error":
		b.later(b.notice, func() { b.say(c.ID, "duplex", "duplex", "read error at 5: answered from its partner") })
	default:
		b.later(b.notice, func() {
			b.set("simplex")
			if b.judges {
				b.side("broken")
			}
			b.say(c.ID, "duplex", "shot", "it failed")
		})
		comesBack := strings.HasPrefix(c.ID, "cpu") && strings.Contains(c.ID, "/")
		if c.Fault != b.never && comesBack && !b.judges {
			b.later(b.notice+b.mend, b.duplex)
		}
	}
	return api.Outcome{}, nil
}

func (b *fakeBox) later(d time.Duration, f func()) {
	time.AfterFunc(d, func() { b.mu.Lock(); defer b.mu.Unlock(); f() })
}

func (b *fakeBox) state() string { return b.status.System.State.String() }

func (b *fakeBox) set(state string) {
	if err := b.status.System.State.UnmarshalText([]byte(state)); err != nil {
		b.t.Error(err)
	}
	b.status.System.Since = time.Now()
}

func (b *fakeBox) side(state string) {
	sides := slices.Clone(b.status.Devices[0].Sides)
	if err := sides[1].State.UnmarshalText([]byte(state)); err != nil {
		b.t.Error(err)
	}
	b.status.Devices[0].Sides = sides
}

func (b *fakeBox) duplex() {
	if b.never != "" && slices.ContainsFunc(b.asked, func(s string) bool { return strings.HasSuffix(s, " "+b.never) }) {
		return
	}
	b.side("duplex")
	b.set("duplex")
	b.say("box", "simplex", "duplex", "all faces are duplex")
}

func (b *fakeBox) say(id, from, to, reason string) {
	b.log = append(b.log, api.Event{Seq: uint64(11 + len(b.log)), Time: time.Now(), ID: id, From: from, To: to, Reason: reason})
}

// Events gives what is new every few milliseconds, as the stream does.
func (b *fakeBox) Events(ctx context.Context, q api.EventsQuery, each func(api.StreamItem) error) error {
	sent := *q.Since
	for ctx.Err() == nil {
		b.mu.Lock()
		fresh, away := slices.Clone(b.log), b.away
		b.mu.Unlock()
		if away {
			return errAway
		}
		for _, e := range fresh {
			if e.Seq > sent {
				sent = e.Seq
				if err := each(api.StreamItem{Event: &e}); err != nil {
					return err
				}
			}
		}
		time.Sleep(time.Millisecond)
	}
	return ctx.Err()
}

func (b *fakeBox) wasAsked(what string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Contains(b.asked, what)
}
