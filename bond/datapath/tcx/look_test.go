package tcx

import (
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ft/bond/bondtest"
	"ft/bond/datapath"
	"ft/bond/monitor"
	"ft/drivers"
)

// What a look finds, as the poll tells.
const (
	carrierThere = "carrier"
	carrierNone  = "no carrier"
	nicGone      = "gone"
)

func (r *rig) look(s drivers.Side) datapath.CarrierLook {
	r.t.Helper()
	look, ok := r.Look(s)
	if !ok {
		r.t.Fatalf("there is no way to look at %s", r.NIC(s))
	}
	return look
}

// found makes the system call of a look.
func found(t *testing.T, look datapath.CarrierLook) string {
	t.Helper()
	_, _, errno := unix.RawSyscall(look.Call, look.Args[0], look.Args[1], look.Args[2])
	switch {
	case errno == unix.ENODEV:
		return nicGone
	case errno != 0:
		t.Fatalf("a look: %v", errno)
	case *look.Answer == 1:
		return carrierThere
	case *look.Answer != 0:
		t.Fatalf("a look answers %d", *look.Answer)
	}
	return carrierNone
}

// What has happened when a command returns is seen by the very next look.
func TestLookSeesAtOnce(t *testing.T) {
	r := newRig(t)
	look := r.look(0)
	for _, step := range []struct {
		name string
		do   func()
		then string
	}{
		{"at first", func() {}, carrierThere},
		{"the cable is pulled", func() { r.PullCable(0) }, carrierNone},
		{"the cable is back", func() { r.ReturnCable(0) }, carrierThere},
		{"set down by an admin", func() { r.run("ip", "link", "set", "eth0", "down") }, carrierNone},
		{"set up again", func() { r.run("ip", "link", "set", "eth0", "up") }, carrierThere},
		{"an injected fault is no carrier's", func() { r.fault(0, datapath.FaultDark) }, carrierThere},
		{"another name is nothing to it", func() { r.run("ip", "link", "set", "eth0", "down", "name", "other", "up") }, carrierThere},
		{"and its own again", func() { r.run("ip", "link", "set", "other", "down", "name", "eth0", "up") }, carrierThere},
		{"the other cable is pulled", func() { r.PullCable(1) }, carrierThere},
		{"it is deleted", func() { r.DeleteNIC(0) }, nicGone},
		{"it is made again, with another index", func() { r.MakeNIC(0) }, nicGone},
	} {
		if step.do(); found(t, look) != step.then {
			t.Errorf("%s: %s, not %s", step.name, found(t, look), step.then)
		}
	}
	r.setPort(0)
	if got := found(t, r.look(0)); got != carrierThere {
		t.Errorf("the new NIC: %s", got)
	}
}

func TestLookAtMovedNIC(t *testing.T) {
	r := newRig(t)
	look := r.look(0)
	var peer *os.File
	var err error
	r.InPeer(func() { peer, err = os.Open("/proc/thread-self/ns/net") })
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	eth0, err := netlink.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	// The peer has an eth0 already.
	r.run("ip", "link", "set", "eth0", "down", "name", "moved", "up")
	if err := netlink.LinkSetNsFd(eth0, int(peer.Fd())); err != nil {
		t.Fatal(err)
	}
	if got := found(t, look); got != nicGone {
		t.Errorf("a NIC that is in another namespace: %s", got)
	}
}

func TestNoWayToLook(t *testing.T) {
	r := newRig(t)
	if err := r.SetPort(1, nil); err != nil {
		t.Fatal(err)
	}
	for s, why := range map[drivers.Side]string{1: "a side without a NIC", drivers.Whole: "no side"} {
		if _, ok := r.Look(s); ok {
			t.Errorf("%s can be looked at", why)
		}
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if _, ok := r.Look(0); ok {
		t.Error("a closed path can be looked through")
	}
	limited.noCarrier = true
	defer func() { limited = limits{} }()
	r.reopen()
	r.setPort(0)
	if _, ok := r.Look(0); ok {
		t.Error("a kernel that cannot check carriers can be asked for them")
	}
}

// seen is what a poll has told of one NIC.
type seen struct {
	mu   sync.Mutex
	last monitor.Carrier
	n    int
}

func (s *seen) on(side drivers.Side, c monitor.Carrier) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if side == 0 {
		s.last, s.n = c, s.n+1
	}
}

func (s *seen) is(up, gone bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n > 0 && s.last.Up == up && s.last.Gone == gone
}

func startPoll(t testing.TB, interval time.Duration, on func(drivers.Side, monitor.Carrier)) *monitor.Poller {
	t.Helper()
	p := monitor.NewPoller(interval, slog.New(slog.NewTextHandler(t.Output(), nil)), on)
	t.Cleanup(p.Close)
	return p
}

// An ifindex that a deleted NIC has left may be given to any interface. What that one's
// carrier does is nothing to the port.
func TestPollIsNotFooledByReusedIndex(t *testing.T) {
	r := newRig(t)
	var s seen
	p := startPoll(t, time.Millisecond, s.on)
	p.WatchDirect(0, "eth0", r.look(0))
	bondtest.WaitFor(t, "carrier", 5*time.Second, func() bool { return s.is(true, false) })
	index := r.Index("eth0")
	r.DeleteNIC(0)
	bondtest.WaitFor(t, "gone", 5*time.Second, func() bool { return s.is(false, true) })
	la := netlink.NewLinkAttrs()
	la.Name, la.Index = "eth0", index
	stranger := &netlink.Veth{LinkAttrs: la, PeerName: "eth8"}
	if err := netlink.LinkAdd(stranger); err != nil {
		t.Fatal(err)
	}
	defer netlink.LinkDel(stranger)
	r.run("ip", "link", "set", "eth0", "up")
	r.run("ip", "link", "set", "eth8", "up")
	if r.Index("eth0") != index {
		t.Fatal("the stranger has another index")
	}
	rounds := p.Stats().Polls
	bondtest.WaitFor(t, "more looks", 5*time.Second, func() bool { return p.Stats().Polls > rounds+10 })
	if !s.is(false, true) {
		t.Errorf("the NIC is taken for another: %+v", s.last)
	}
	p.Watch(0, "eth0")
	bondtest.WaitFor(t, "a new watch finds it", 5*time.Second, func() bool { return s.is(true, false) })
}

// Whoever makes or deletes a link keeps the RTNL lock for a while: here, for as long as the
// test likes. ETHTOOL_GLINK, which is asked beside ours, waits for it; if it did not, this
// test would show nothing.
func TestLookDoesNotWaitForRTNL(t *testing.T) {
	r := newRig(t)
	const interval = time.Millisecond
	nobody := func(drivers.Side, monitor.Carrier) {}
	direct, ethtool := startPoll(t, interval, nobody), startPoll(t, interval, nobody)
	for s := drivers.Side(0); s <= 1; s++ {
		direct.WatchDirect(s, r.NIC(s), r.look(s))
		ethtool.Watch(s, r.NIC(s))
	}
	bondtest.WaitFor(t, "both look", 5*time.Second, func() bool { return direct.Stats().Polls > 0 && ethtool.Stats().Polls > 0 })
	release := holdRTNL(t, r.NIC(1))
	before := direct.Stats()
	// It may have been past the lock when that was taken.
	bondtest.WaitFor(t, "looks by the program", 5*time.Second, func() bool { return direct.Stats().Polls >= before.Polls+20 })
	stuck := ethtool.Stats().Polls
	bondtest.WaitFor(t, "a hundred looks by the program", 5*time.Second, func() bool { return direct.Stats().Polls >= before.Polls+120 })
	after := direct.Stats()
	if n := ethtool.Stats().Polls; n != stuck {
		t.Errorf("ETHTOOL_GLINK has looked %d times although the lock was held", n-stuck)
	}
	release()
	bondtest.WaitFor(t, "ETHTOOL_GLINK goes on", 5*time.Second, func() bool { return ethtool.Stats().Polls > stuck })
	t.Logf("by the program: missed %d, slowest look %v; by ethtool: slowest look %v", after.Missed-before.Missed, after.SlowMax, ethtool.Stats().SlowMax)
	for s := range after.Ways {
		if a, b := after.Ways[s], ethtool.Stats().Ways[s]; a != monitor.ByProgram || b != monitor.ByEthtool {
			t.Errorf("they look at eth%d by %v and %v", s, a, b)
		}
	}
}

// BenchmarkIdlePoll compares what the poll takes of one processor, both ways, while nothing
// happens. See also BenchmarkIdle of monitor.
func BenchmarkIdlePoll(b *testing.B) {
	r := newRig(b)
	const interval = 4 * time.Millisecond
	for _, way := range []monitor.Way{monitor.ByEthtool, monitor.ByProgram} {
		b.Run(way.String(), func(b *testing.B) {
			p := monitor.NewPoller(interval, slog.New(slog.DiscardHandler), func(drivers.Side, monitor.Carrier) {})
			defer p.Close()
			for s := drivers.Side(0); s <= 1; s++ {
				if way == monitor.ByProgram {
					look, ok := r.Look(s)
					if !ok {
						b.Fatal("there is no way to look")
					}
					p.WatchDirect(s, r.NIC(s), look)
				} else {
					p.Watch(s, r.NIC(s))
				}
			}
			before, began, first := processTime(b), time.Now(), p.Stats().Polls
			for b.Loop() {
				rounds := p.Stats().Polls
				for p.Stats().Polls < rounds+200 {
					time.Sleep(50 * interval)
				}
			}
			b.ReportMetric(100*float64(processTime(b)-before)/float64(time.Since(began)), "%CPU")
			b.ReportMetric(float64((processTime(b)-before).Microseconds())/float64(p.Stats().Polls-first), "µs/round")
			b.ReportMetric(float64(p.Stats().SlowMax.Microseconds()), "slowest-µs")
		})
	}
}

func processTime(b *testing.B) time.Duration {
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
