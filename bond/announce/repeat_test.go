package announce

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"ft/bond/bondtest"
	"ft/drivers"
)

// fake starts an announcer of a machine, with both ports.
func fake(t *testing.T, n *bondtest.Net, m kernel, count int, delay time.Duration) (*Announcer, *journal) {
	t.Helper()
	j := &journal{}
	a, err := start(Config{Face: 1, Count: count, Delay: delay, Log: slog.New(slog.NewTextHandler(j, nil))}, m, func() {})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	for s := drivers.Side(0); s <= 1; s++ {
		if err := a.SetPort(s, n.Index(n.NIC(s))); err != nil {
			t.Fatal(err)
		}
	}
	return a, j
}

// bare is a face with as many addresses as told.
func bare(addresses int) *machine {
	m := &machine{list: []ifLink{{index: 1, name: "net0", mac: faceMAC, mtu: 1500, up: true}}, addrs: map[int][]address{}}
	for i := range addresses {
		m.addrs[1] = append(m.addrs[1], address{ip: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})})
	}
	return m
}

func TestCountAndDelay(t *testing.T) {
	const delay = 60 * time.Millisecond
	n := bondtest.New(t)
	a, _ := fake(t, n, bare(3), 4, delay)
	c := listen(t, n, bondtest.Switch, n.Port(1))
	a.Announce(1)
	bondtest.WaitFor(t, "four bursts", within, func() bool { return len(c.from(faceMAC)) >= 12 })
	// One more burst would be due in an hour, if there were one.
	bondtest.WaitFor(t, "the announcer is idle", within, func() bool { return a.step(time.Now().Add(time.Hour)) == idle })
	if s := a.Stats(); s.Frames != 12 {
		t.Fatalf("%d frames", s.Frames)
	}
	frames := c.from(faceMAC)
	for i := 3; i < len(frames); i += 3 {
		// Late by as much as a busy machine makes it; never early, but for when the capture was late.
		if gap := frames[i].at.Sub(frames[i-3].at); gap < delay/2 || gap > delay+time.Second {
			t.Errorf("burst %d came %v after the one before", i/3, gap)
		}
	}
}

// Once an announcement has returned, nothing of an earlier one leaves by the other port.
func TestNewerAnnouncementEndsOlder(t *testing.T) {
	const markerText = "\x88\xb5 marker"
	n := bondtest.New(t)
	a, _ := fake(t, n, bare(2000), 1000, 0) // would go on for a long time
	old := listen(t, n, bondtest.Switch, n.Port(0))
	goOn := func(more uint64) {
		t.Helper()
		before := a.Stats().Frames
		bondtest.WaitFor(t, "the announcement goes on", within, func() bool { return a.Stats().Frames >= before+more })
	}
	for range 20 {
		old.forget()
		a.Announce(0)
		goOn(200)
		a.Announce(1)
		sendRaw(t, n.NIC(0), slices.Concat(macBroadcast[:], faceMAC[:], []byte(markerText)))
		bondtest.WaitFor(t, "the marker", within, func() bool { return old.has(markerText) })
		goOn(200)
		frames := old.from(faceMAC)
		if last := frames[len(frames)-1].frame; !strings.HasPrefix(string(last[12:]), markerText) {
			t.Fatalf("of %d frames by the old port, some came after the marker: %x", len(frames), last)
		}
	}
}

// Repeats have the frames as they are then, and what is new when an announcement begins
// follows without waiting for a repeat.
func TestRepeatsAreFresh(t *testing.T) {
	n := bondtest.New(t)
	face := makeFace(t)
	give(t, face, "192.0.2.10/24")
	cfg, _ := config(face, 2, 300*time.Millisecond)
	a := announcer(t, n, cfg)
	c := listen(t, n, bondtest.Peer, bondtest.PeerNIC)
	give(t, face, "192.0.2.11/24") // and nobody says so
	begun := time.Now()
	a.Announce(0)
	expect(t, c, say(faceMAC, "garp 192.0.2.10"), say(faceMAC, "garp 192.0.2.11"))
	if d := c.from(faceMAC)[1].at.Sub(begun); d >= cfg.Delay {
		t.Errorf("the news waited %v", d)
	}
	give(t, face, "192.0.2.12/24")
	a.Refresh()
	expect(t, c, say(faceMAC, "garp 192.0.2.10"), say(faceMAC, "garp 192.0.2.11"),
		say(faceMAC, "garp 192.0.2.10"), say(faceMAC, "garp 192.0.2.11"), say(faceMAC, "garp 192.0.2.12"))
}

// A large announcement begins at once and is paced after that.
func TestLargeAnnouncementIsPaced(t *testing.T) {
	n := bondtest.New(t)
	a, _ := fake(t, n, bare(framesMax), 1, time.Second)
	c := listen(t, n, bondtest.Switch, n.Port(0))
	begun := time.Now()
	a.Announce(0)
	took := time.Since(begun)
	if s := a.Stats(); s.Frames < burstMax {
		t.Errorf("%d frames when Announce has returned", s.Frames)
	}
	bondtest.WaitFor(t, "all frames", 10*time.Second, func() bool { return len(c.from(faceMAC)) >= framesMax })
	all := time.Since(begun)
	if least := (framesMax - burstMax) / paceFrames * pace; all < least {
		t.Errorf("all within %v, want %v at least", all, least)
	}
	// They are counted when they have left.
	bondtest.WaitFor(t, "all are counted", within, func() bool { return a.Stats().Frames == framesMax })
	if s := a.Stats(); s.Errors != 0 {
		t.Errorf("%+v", s)
	}
	t.Logf("the first %d frames took %v, all %d %v", burstMax, took, framesMax, all)
}

func TestAnnounceDoesNotAllocate(t *testing.T) {
	n := bondtest.New(t)
	a, _ := fake(t, n, bare(100), 1, 0)
	// What the goroutines allocate beside the caller would be counted too: end them early.
	close(a.stop)
	a.wait.Wait()
	a.stop = make(chan struct{}) // for Close
	if allocs := testing.AllocsPerRun(100, func() { a.Announce(0) }); allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}

// A NIC that is down, or gone, is said so once; the caller does not wait. When it is back,
// no frame is lost to the memory of it.
func TestRefusalsAreCountedAndSaidOnce(t *testing.T) {
	n := bondtest.New(t)
	a, j := fake(t, n, bare(2), 1, 0)
	warnings := func(what string) int { return strings.Count(strings.Join(j.lines(), "\n"), what) }
	errs := uint64(0)
	fails := func(want uint64) {
		t.Helper()
		before := a.Stats()
		a.Announce(0)
		s := a.Stats()
		errs += want
		if s.Errors != errs || s.Frames != before.Frames+2-want {
			t.Errorf("%+v after %+v, want %d errors", s, before, want)
		}
	}
	fails(0)
	l, err := netlink.LinkByName(n.NIC(0))
	if err != nil {
		t.Fatal(err)
	}
	set := func(up func(netlink.Link) error) {
		t.Helper()
		if err := up(l); err != nil {
			t.Fatal(err)
		}
	}
	set(netlink.LinkSetDown)
	fails(2)
	fails(2)
	if warnings("network is down; the NIC is down: set it up") != 1 {
		t.Errorf("the log: %v", j.lines())
	}
	set(netlink.LinkSetUp)
	fails(0)
	n.DeleteNIC(0)
	fails(2)
	fails(2)
	if warnings("the NIC is gone") != 1 {
		t.Errorf("the log: %v", j.lines())
	}
	n.MakeNIC(0)
	if err := a.SetPort(0, n.Index(n.NIC(0))); err != nil {
		t.Fatal(err)
	}
	fails(0)
	if err := a.SetPort(0, 0); err != nil {
		t.Fatal(err)
	}
	before := a.Stats()
	a.Announce(0)
	if s := a.Stats(); s.Errors != before.Errors+1 || s.Frames != before.Frames || warnings("no NIC there") != 1 {
		t.Errorf("without a NIC: %+v after %+v: %v", s, before, j.lines())
	}
	if err := a.SetPort(0, 1<<20); err == nil {
		t.Error("a NIC that is not there was taken")
	}
}

// shaky is a kernel that refuses now and then.
type shaky struct {
	*machine
	refuse atomic.Bool
	looks  atomic.Int64
}

func (s *shaky) links() ([]ifLink, error) {
	s.looks.Add(1)
	if s.refuse.Load() {
		return nil, errors.New("refused")
	}
	return s.machine.links()
}

// When the kernel cannot be asked, what was last seen is announced, and it is asked again.
func TestLookFails(t *testing.T) {
	n := bondtest.New(t)
	k := &shaky{machine: bare(2)}
	a, j := fake(t, n, k, 1, 0)
	k.refuse.Store(true)
	for looks := range int64(3) {
		a.Refresh()
		bondtest.WaitFor(t, "a look", within, func() bool { return k.looks.Load() > looks+1 })
	}
	a.Announce(0)
	if s := a.Stats(); s.Frames != 2 || s.Addresses != 2 {
		t.Errorf("%+v", s)
	}
	asked := a.asked.Load()
	k.refuse.Store(false)
	bondtest.WaitFor(t, "the kernel is asked again", within, func() bool { return a.read.Load() >= asked })
	if lines := j.lines(); len(lines) != 1 || !strings.Contains(lines[0], "list links: refused") {
		t.Errorf("the log: %v", lines)
	}
}

// A storm of wishes is few looks, and Close ends all that was begun.
func TestRefreshCoalescesAndCloseEnds(t *testing.T) {
	n := bondtest.New(t)
	k := &shaky{machine: bare(1)}
	goroutines := runtime.NumGoroutine()
	a, _ := fake(t, n, k, 100, time.Millisecond)
	begun := time.Now()
	for range 10000 {
		a.Refresh()
	}
	bondtest.WaitFor(t, "the last wish is fulfilled", within, func() bool { return a.read.Load() == 10000 })
	if most := int64(time.Since(begun)/refreshSpacing) + 3; k.looks.Load() > most {
		t.Errorf("%d looks in %v", k.looks.Load(), time.Since(begun))
	}
	a.Announce(1)
	a.Close()
	a.Close()
	frames := a.Stats().Frames
	a.Refresh()
	a.Announce(1)
	if err := a.SetPort(1, n.Index(n.NIC(1))); err == nil {
		t.Error("a closed one took a port")
	}
	if s := a.Stats(); s.Frames != frames {
		t.Errorf("%d frames after Close", s.Frames-frames)
	}
	bondtest.WaitFor(t, "no goroutine is left", within, func() bool { return runtime.NumGoroutine() <= goroutines })
}

func TestConfigIsChecked(t *testing.T) {
	for _, cfg := range []Config{{Face: 1, Count: 0}, {Face: 1, Count: 1, Delay: -1}} {
		if a, err := start(cfg, bare(1), func() {}); err == nil {
			a.Close()
			t.Errorf("%+v was taken", cfg)
		}
	}
	if _, err := start(Config{Face: 1, Count: 1}, &machine{fail: errors.New("refused")}, func() {}); err == nil ||
		err.Error() != fmt.Sprintf("announce interface %d: list links: refused", 1) {
		t.Error(err)
	}
}
