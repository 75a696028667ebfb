package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ft/bond/bondtest"
	"ft/drivers"
)

func TestMain(m *testing.M) { bondtest.Main(m) }

// still is a face that does not fail over: one NIC, with the face's addresses.
type still struct {
	p    *program
	net  *bondtest.Net
	dead int // times that it was killed and not revived
}

func (s *still) name() string         { return "still" }
func (s *still) up(time.Duration)     {}
func (s *still) down()                {}
func (s *still) settle() drivers.Side { return 0 }
func (s *still) change()              {}
func (s *still) back(drivers.Side)    {}
func (s *still) kill()                { s.dead++ }
func (s *still) revive()              { s.dead--; s.net.RestorePath(0) }

func newBench(t *testing.T) *bench {
	p := &program{}
	t.Cleanup(func() {
		p.clean()
		if p.failed {
			t.Error("something could not be removed")
		}
	})
	b := &bench{rounds: 2, seconds: 1, p: p, net: bondtest.New(p)}
	b.net.GiveAddresses(b.net.NIC(0)) // stands for the face
	b.net.PullCable(1)                // else it answers for it
	return b
}

// What a path that is silent for so many datagrams costs is what the bench says.
func TestFailuresAreMeasured(t *testing.T) {
	b := newBench(t)
	const silent = 40
	var missed []int // at least so many were sent into the silence, in each failure
	var lasted []time.Duration
	hole := func(b *bench, _ subject, at drivers.Side) {
		count := b.sent()
		began := time.Now()
		b.net.SilencePath(at)
		from := count()
		bondtest.WaitFor(t, "datagrams are sent", within, func() bool { return count() >= from+silent })
		missed = append(missed, int(count()-from))
		b.net.RestorePath(at)
		lasted = append(lasted, time.Since(began))
	}
	s := &still{p: b.p, net: b.net}
	sc := scenario{name: "hole", ways: []bondtest.Direction{bondtest.ToPeer}, fault: hole, repair: func(*bench, subject, drivers.Side) {}}
	all := b.endure(s, sc)[0]
	if len(all) != b.rounds {
		t.Fatalf("%d rounds were measured, not %d", len(all), b.rounds)
	}
	for i, o := range all {
		// The path is silent a little longer than the count says, and shorter than it all took.
		if most := int(lasted[i]*rate/time.Second) + 10; o.lost < missed[i] || o.lost > most {
			t.Errorf("round %d: %d lost of at least %d, at most %d", i, o.lost, missed[i], most)
		}
		if least := time.Duration(missed[i]-1) * time.Second / rate / 2; o.gap < least || o.gap > lasted[i]+200*time.Millisecond {
			t.Errorf("round %d: a gap of %v, while the path was silent for %v", i, o.gap, lasted[i])
		}
		if o.twice != 0 || o.rate <= 0 || o.rate > 1.1*rate {
			t.Errorf("round %d: %+v", i, o)
		}
	}
	if out := b.endure(s, scenario{ways: bothWays, fault: func(*bench, subject, drivers.Side) {}, repair: func(*bench, subject, drivers.Side) {}}); out[0][0].lost != 0 || out[1][1].gap != 0 {
		t.Errorf("without a failure: %+v", out)
	}
}

// sent counts what leaves the box by eth0, from now on.
func (b *bench) sent() func() uint64 {
	return func() uint64 { return attrs(b.p, b.net.NIC(0)).Statistics.TxPackets }
}

// A face whose process is dead is left to itself, and then has a successor.
func TestSuccessorComes(t *testing.T) {
	b := newBench(t)
	b.rounds = 1
	s := &still{p: b.p, net: b.net}
	sc := scenario{ways: []bondtest.Direction{bondtest.FromPeer}, kills: true, repair: func(*bench, subject, drivers.Side) {},
		fault: func(b *bench, s subject, at drivers.Side) { s.(mortal).kill(); b.net.SilencePath(at) }}
	o := b.endure(s, sc)[0][0]
	if s.dead != 0 || o.lost == 0 || o.gap < alone {
		t.Errorf("killed and not revived: %d; %+v", s.dead, o)
	}
}

func TestCells(t *testing.T) {
	ms := time.Millisecond
	theirs := outcomes{{lost: 300, gap: 60 * ms}, {lost: 500, gap: 100 * ms}, {lost: 100, gap: 20 * ms}}
	ours := outcomes{{lost: 7, gap: 1500 * time.Microsecond, rate: rate}, {lost: 9, gap: 2 * ms, rate: rate}, {lost: 0, rate: rate}}
	nothing := outcomes{{rate: rate}, {rate: rate}}
	both := []subject{&anchor{}, &still{}}
	for _, c := range []struct{ got, want string }{
		{theirs.String(), "60.0 (100)  300 (500)"},
		{ours.String(), "1.5 (2.0)  7 (9)"},
		{outcomes(nil).String(), "-"},
		{fewer(theirs, ours), "42.9 x"},
		{fewer(theirs, nothing), "> 300 x"},
		{fewer(nothing, nothing), "none"},
		{fewer(nil, ours), "-"},
		{strings.Join(remarks([][]outcomes{{nil, ours}}, both), ";"), ""},
		{strings.Join(remarks([][]outcomes{{{{twice: 2, rate: 4000}}, ours}}, both), ";"), "2 DATAGRAMS CAME TWICE on the path kernel bonding;a sender managed only 4.0 kHz"},
		{strings.Join(strings.Fields(row("pull", linkDrops, both, []outcomes{theirs, ours})), " "), "pull 60.0 (100) 300 (500) 1.5 (2.0) 7 (9) 42.9 x 10 x fewer none"},
		{strings.Join(strings.Fields(row("pull", untold, both[1:], []outcomes{nil})), " "), "pull - - - -"},
	} {
		if c.got != c.want {
			t.Errorf("%q, want %q", c.got, c.want)
		}
	}
	if theirs[0].lost != 300 {
		t.Error("a median has put the rounds in another order")
	}
	if m := median([]float64{4, 1, 3, 2}); m != 3 {
		t.Errorf("the median is %v", m)
	}
	var r ratios
	r.add(100, 90, 0.9)
	r.add(300, 330, 1.1)
	r.add(200, 200, 1)
	if got, want := strings.Fields(r.line("name", "k", 0.1, 0.95, 0)), "name 20 k 20 k 1.000 0.90-1.10 0.95 -"; strings.Join(got, " ") != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// A flow counts what arrives, all of it, and neither more nor what took the other way.
func TestFlows(t *testing.T) {
	b := newBench(t)
	b.plainVeth()
	for _, way := range bothWays {
		for _, e := range []ends{plainAddresses, faceAddresses} {
			t.Run(fmt.Sprintf("%v, %v", way, e), func(t *testing.T) {
				carried := func() uint64 {
					a := attrs(b.p, plainNIC).Statistics
					return a.TxPackets + a.RxPackets
				}
				d := b.datagrams(way, e)
				d.push(time.Now().Add(time.Millisecond)) // and ARP, for which the first ones wait
				wrong := "nothing was pushed"
				for try := 0; try < 10 && wrong != ""; try++ { // those may come while the next are counted
					seen, before := d.arrived.Load(), carried()
					n := d.push(time.Now().Add(5 * time.Millisecond))
					wrong = ""
					if by := carried() - before; n < batch || n != d.arrived.Load()-seen || e == plainAddresses && by < n || e == faceAddresses && by > n/10 {
						wrong = fmt.Sprintf("%d datagrams, counted %d; the plain veth carried %d frames", n, d.arrived.Load()-seen, by)
					}
				}
				if wrong != "" {
					t.Error(wrong)
				}
				d.close()
				c := b.connection(way, e)
				if n := c.push(time.Now().Add(5 * time.Millisecond)); n < chunk || n%chunk != 0 || n != c.arrived.Load() {
					t.Errorf("%d bytes of TCP, counted %d", n, c.arrived.Load())
				}
				c.close()
			})
		}
	}
}

// step is a flow that moves its own count, and notes its turns.
type step struct {
	units uint64
	turns *[]uint64
}

func (s step) push(time.Time) uint64 {
	*s.turns = append(*s.turns, s.units)
	for began := time.Now(); time.Since(began) < 15*time.Millisecond; { // longer than a tick
	}
	return s.units
}

func TestTurns(t *testing.T) {
	b := newBench(t)
	var turns []uint64
	of := b.inTurn(step{1, &turns}, step{2, &turns})
	if got := fmt.Sprint(turns); !strings.HasPrefix(got, "[1 2 2 1 1 2 2 1") {
		t.Errorf("the turns were %s", got)
	}
	for i, s := range of {
		if half := uint64(len(turns) / 2); s.units != half*uint64(i+1) {
			t.Errorf("flow %d had %d units in %d turns", i, s.units, half)
		}
		if s.wall < time.Duration(len(turns)/2)*15*time.Millisecond || s.own <= 0 || s.own > 2*s.wall {
			t.Errorf("flow %d: %+v", i, s)
		}
	}
}

func TestMachineTime(t *testing.T) {
	got, err := busy("cpu  100 20 3 90000 7000 400 50 6000 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n")
	if want := 573 * time.Second / userHZ; err != nil || got != want {
		t.Errorf("%v (%v), want %v", got, err, want)
	}
	for _, bad := range []string{"", "cpu 1 2 3", "cpu0 1 2 3 4 5 6 7 8", "cpu 1 2 x 4 5 6 7 8"} {
		if _, err := busy(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestProcessIsSeen(t *testing.T) {
	before, err := processTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for began := time.Now(); ; {
		now, err := processTime(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		if now > before {
			break
		}
		if time.Since(began) > within {
			t.Fatal("no CPU time goes by")
		}
	}
	if all, own, err := residentKiB(os.Getpid()); err != nil || own <= 0 || all < own {
		t.Errorf("%d KiB, %d of its own (%v)", all, own, err)
	}
}

// A directory goes with its program, and if that was killed with the next one.
func TestDirectoriesGo(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	left := filepath.Join(os.TempDir(), prefix+"1", "sub")
	if err := os.MkdirAll(left, 0o700); err != nil {
		t.Fatal(err)
	}
	p, q := &program{}, &program{}
	first, second := p.TempDir(), q.TempDir()
	here := func() string {
		names, err := filepath.Glob(filepath.Join(os.TempDir(), "*"))
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(names, " ")
	}
	for _, dir := range []string{first, second} {
		if !strings.Contains(here(), dir) {
			t.Errorf("%s is not there while it is in use: %s", dir, here())
		}
	}
	p.clean()
	q.clean()
	if here() != "" {
		t.Errorf("left: %s", here())
	}
}

// Work that fails ends, and what it has made is removed, the latest first.
func TestProgramCleansUp(t *testing.T) {
	var order []int
	p := &program{}
	p.guarded(func() error {
		p.Cleanup(func() { order = append(order, 1) })
		p.Cleanup(func() { order = append(order, 2); p.Fatal("a removal that fails") })
		p.must(nil, "nothing")
		p.must(os.ErrNotExist, "do %s", "it")
		t.Error("it went on")
		return nil
	})
	p.clean()
	if !p.failed || fmt.Sprint(order) != "[2 1]" {
		t.Errorf("failed %v, cleaned up in the order %v", p.failed, order)
	}
}
