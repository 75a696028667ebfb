package main

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ft/bond"
	"ft/bond/bondtest"
	"ft/drivers"
)

const (
	rate  = 5000        // datagrams a second
	calm  = rate / 5    // so many must arrive after a failover
	alone = time.Second // how long a face without a driver process is left to itself
)

// scenario is a way in which the active port fails, or is left.
type scenario struct {
	name    string
	probes  time.Duration // their interval; 0 for the default
	ways    []bondtest.Direction
	ours    bool         // the kernel's own bonding cannot take part
	prepare func(*bench) // before the face is there
	fault   func(b *bench, s subject, active drivers.Side)
	repair  func(b *bench, s subject, active drivers.Side)
	kills   bool // the fault kills the driver's process
	goal    [2]string
	note    string
}

func (sc scenario) row(way bondtest.Direction) string { return fmt.Sprintf("%s, %s", sc.name, way) }

var (
	bothWays = []bondtest.Direction{bondtest.ToPeer, bondtest.FromPeer}
	// Section 12 of the design: "packets of a 5 kHz stream lost when the active link drops".
	linkDrops = [2]string{"10 x fewer", "none"}
	untold    = [2]string{"-", "-"}
)

var scenarios = []scenario{
	{name: "cable pull", ways: bothWays, goal: linkDrops,
		fault:  func(b *bench, _ subject, at drivers.Side) { b.net.PullCable(at) },
		repair: func(b *bench, _ subject, at drivers.Side) { b.net.ReturnCable(at) }},
	{name: "cable pull, its event late", ways: bothWays, goal: linkDrops,
		prepare: func(b *bench) { b.realNICs(); b.hearEvents() },
		fault:   func(b *bench, _ subject, at drivers.Side) { b.flapUnrelated(); b.net.PullCable(at) },
		repair:  func(b *bench, _ subject, at drivers.Side) { b.net.ReturnCable(at) },
		note:    "an unrelated link has flapped 100 ms before"},
	{name: "NIC deleted", ways: bothWays, goal: untold,
		fault:  func(b *bench, _ subject, at drivers.Side) { b.net.DeleteNIC(at) },
		repair: func(b *bench, s subject, at drivers.Side) { b.net.MakeNIC(at); s.back(at) }},
	{name: "silent path, 20 ms x 3", ways: bothWays, goal: untold, ours: true, probes: 20 * time.Millisecond,
		fault:  func(b *bench, _ subject, at drivers.Side) { b.net.SilencePath(at) },
		repair: func(b *bench, _ subject, at drivers.Side) { b.net.RestorePath(at) }},
	{name: "silent path, 100 ms x 3", ways: bothWays, goal: untold, ours: true,
		fault:  func(b *bench, _ subject, at drivers.Side) { b.net.SilencePath(at) },
		repair: func(b *bench, _ subject, at drivers.Side) { b.net.RestorePath(at) },
		note:   "100 ms x 3 are the probes' defaults; the kernel's bonding has no probes beside miimon"},
	{name: "admin switch", ways: []bondtest.Direction{bondtest.FromPeer}, goal: untold,
		fault:  func(_ *bench, s subject, _ drivers.Side) { s.change() },
		repair: func(*bench, subject, drivers.Side) {},
		note:   "the box says nothing by itself: the switch learns from what announces the face"},
	{name: "driver killed, cable pull", ways: bothWays, goal: untold, ours: true, kills: true,
		fault:  func(b *bench, s subject, at drivers.Side) { s.(mortal).kill(); b.net.PullCable(at) },
		repair: func(b *bench, _ subject, at drivers.Side) { b.net.ReturnCable(at) },
		note:   "a successor comes after 1 s at the latest; before it only tcx turns, with the next packet that the box sends"},
}

// failovers prints the rows of all scenarios. Each subject has its turn, each direction
// has a stream of its own: the other direction's frames would teach the switch the way.
func (b *bench) failovers(subjects []subject) {
	var rows []scenario
	for _, sc := range scenarios {
		sc.ways = slices.DeleteFunc(slices.Clone(sc.ways), func(way bondtest.Direction) bool { return !b.wanted(sc.row(way)) })
		if len(sc.ways) > 0 {
			rows = append(rows, sc)
		}
	}
	if len(rows) == 0 {
		return
	}
	fmt.Printf("failover: what a UDP stream at 5 kHz loses: longest gap in ms, datagrams; median (worst) of %d\n", b.rounds)
	head := fmt.Sprintf("%-40s", "what")
	for _, s := range subjects {
		head += fmt.Sprintf(" %24s", s.name())
	}
	fmt.Printf("%s %*s %10s %5s\n", head, lessWidth(subjects), "fewer", "at least", "aim")
	for _, sc := range rows {
		results := make([][]outcomes, len(sc.ways)) // by way, by subject
		for w := range results {
			results[w] = make([]outcomes, len(subjects))
		}
		for i, s := range subjects {
			if _, theirs := s.(*anchor); theirs && sc.ours {
				continue
			}
			for w, o := range b.endure(s, sc) {
				results[w][i] = o
			}
		}
		for w, way := range sc.ways {
			fmt.Println(row(sc.row(way), sc.goal, subjects, results[w]))
		}
		for _, note := range append(b.notes(sc), remarks(results, subjects)...) {
			fmt.Println("    " + note)
		}
	}
	fmt.Println()
}

// lessWidth is that of the column that compares ours with the kernel's.
func lessWidth(subjects []subject) int {
	if _, anchors := subjects[0].(*anchor); anchors {
		return 10 * (len(subjects) - 1)
	}
	return len("fewer")
}

// row is a line of the table: a cell for each subject, the kernel's own bonding first.
func row(name string, goal [2]string, subjects []subject, of []outcomes) string {
	line := fmt.Sprintf("%-40s", name)
	var less []string
	for i, o := range of {
		line += fmt.Sprintf(" %24s", o)
		if _, theirs := subjects[i].(*anchor); !theirs {
			less = append(less, fewer(of[0], o))
		}
	}
	if _, anchors := subjects[0].(*anchor); !anchors || of[0] == nil {
		less = []string{"-"}
	}
	return line + fmt.Sprintf(" %*s %10s %5s", lessWidth(subjects), strings.Join(less, ", "), goal[0], goal[1])
}

func (b *bench) notes(sc scenario) (all []string) {
	if sc.note != "" {
		all = append(all, sc.note)
	}
	if len(b.late) > 0 {
		all = append(all, fmt.Sprintf("who listens to the kernel's events hears of such a pull after %.0f ms (%.0f)", median(b.late).Seconds()*1000, slices.Max(b.late).Seconds()*1000))
		b.late = nil
	}
	return all
}

// endure measures a scenario on a subject, which is there only for that.
func (b *bench) endure(s subject, sc scenario) []outcomes {
	if sc.prepare != nil {
		sc.prepare(b)
	}
	probes := sc.probes
	if probes == 0 {
		probes = bond.DefaultProbeInterval
	}
	b.forgetFace()
	s.up(probes)
	all := make([]outcomes, len(sc.ways))
	for range b.rounds {
		for w, way := range sc.ways {
			all[w] = append(all[w], b.fail(s, sc, way))
		}
	}
	s.down()
	return all
}

// forgetFace has the peer ask anew for the face: each one has a MAC of its own, and a peer
// may send to the last one's for half a minute.
func (b *bench) forgetFace() {
	b.net.InPeer(func() {
		nic, err := netlink.LinkByName(bondtest.PeerNIC)
		if err == nil {
			err = netlink.NeighDel(&netlink.Neigh{LinkIndex: nic.Attrs().Index, Family: unix.AF_INET, IP: net.ParseIP(bondtest.BoxIP4)})
		}
		if err != nil && !errors.Is(err, unix.ENOENT) {
			b.p.Errorf("have the peer forget the face: %v", err)
		}
	})
}

// fail has the active port fail once, under a stream.
func (b *bench) fail(s subject, sc scenario, way bondtest.Direction) outcome {
	active := s.settle()
	began := time.Now()
	stream := b.net.Stream(way, rate)
	stream.WaitArrived(calm/4, within)
	sc.fault(b, s, active)
	if sc.kills {
		want := stream.Arrived() + calm
		for until := time.Now().Add(alone); stream.Arrived() < want && time.Now().Before(until); {
			time.Sleep(time.Millisecond)
		}
		s.(mortal).revive()
	}
	stream.WaitArrived(calm, within)
	seconds := time.Since(began).Seconds()
	res := stream.Stop()
	sc.repair(b, s, active)
	// A switch may forward late after the last repair: what that has cost is not this failure's.
	return outcome{lost: res.Lost - res.LostFirst, gap: res.LongestGap, twice: res.Duplicated, rate: float64(res.Sent) / seconds}
}
