package main

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"ft/bond"
	"ft/bond/bondtest"
)

// Rates are measured in turns of a tenth of a second, anchor and face, face and anchor: a
// machine that has other things to do has them in both.
const turn = 100 * time.Millisecond

// flow is one way through the network, at full speed in its turns.
type flow interface {
	// push sends until a time, and returns when all of it has arrived that ever will, with
	// how much did: datagrams, or bytes.
	push(until time.Time) (arrived uint64)
}

// spent is what a flow has got done in its turns, and for what.
type spent struct {
	units   uint64
	wall    time.Duration
	own     time.Duration // CPU time of this process, with what the kernel does on it
	machine time.Duration // CPU time of the whole machine, whoever had it
}

func (s *spent) add(t spent) {
	s.units += t.units
	s.wall += t.wall
	s.own += t.own
	s.machine += t.machine
}

func (s spent) rate() float64 { return float64(s.units) / s.wall.Seconds() }

// each is CPU time for one unit.
func (s spent) each(cpu time.Duration) float64 { return cpu.Seconds() / float64(s.units) }

// inTurn has two flows take turns: anchor, face, face, anchor, and so on.
func (b *bench) inTurn(anchor, face flow) (of [2]spent) {
	flows := [2]flow{anchor, face}
	turns := max(4, int(time.Duration(b.seconds)*time.Second/turn)/4*4)
	for i := range turns {
		which := (i + 1) / 2 % 2
		before := b.clocks()
		units := flows[which].push(time.Now().Add(turn))
		after := b.clocks()
		of[which].add(spent{units, after.wall - before.wall, after.own - before.own, after.machine - before.machine})
	}
	for i, s := range of {
		if s.units == 0 || s.machine == 0 {
			b.p.Fatalf("nothing arrived by way %d of anchor and face, or no time went by: %+v", i, s)
		}
	}
	return of
}

// clocks reads all clocks.
func (b *bench) clocks() (now spent) {
	var ru unix.Rusage
	b.p.must(unix.Getrusage(unix.RUSAGE_SELF, &ru), "getrusage")
	now.own = time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
	var err error
	now.machine, err = machineTime()
	b.p.must(err, "read the machine's CPU time")
	var ts unix.Timespec
	b.p.must(unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts), "clock_gettime")
	now.wall = time.Duration(ts.Nano())
	return now
}

const (
	aLeast, anAim = 0.95, 0.98 // section 12 of the design: packets, and CPU a packet
	unset         = 0
)

// rates prints the rows of one data path.
func (b *bench) rates(d *driven) {
	type want struct {
		kind string
		way  bondtest.Direction
	}
	var rows []want
	for _, kind := range []string{"packets", "TCP"} {
		for _, way := range bothWays {
			if b.wanted(fmt.Sprintf("%s, %s %s", d.name(), kind, way)) {
				rows = append(rows, want{kind, way})
			}
		}
	}
	idle := b.wanted(d.name() + ", idle")
	if rows == nil && !idle {
		return
	}
	d.up(bond.DefaultProbeInterval)
	defer d.down()
	if rows != nil {
		b.plainVeth()
		fmt.Printf("%-38s %14s %14s %7s  %11s %9s %5s\n", "rates through the face, path "+d.name(), "a plain veth", "the face", "ratio", "of rounds", "at least", "aim")
	}
	for _, r := range rows {
		if r.kind == "TCP" {
			b.throughput(r.way)
		} else {
			b.packets(r.way)
		}
	}
	if idle {
		b.idle(d)
	}
	fmt.Println()
}

// packets prints small datagrams a second, and what one costs.
func (b *bench) packets(way bondtest.Direction) {
	var rate, machine, own ratios
	plain, through := b.datagrams(way, plainAddresses), b.datagrams(way, faceAddresses)
	for range b.rounds {
		of := b.inTurn(plain, through)
		a, f := of[0], of[1]
		rate.add(a.rate(), f.rate(), f.rate()/a.rate())
		machine.add(a.each(a.machine), f.each(f.machine), a.each(a.machine)/f.each(f.machine))
		own.add(a.each(a.own), f.each(f.own), a.each(a.own)/f.each(f.own))
	}
	fmt.Println(rate.line(fmt.Sprintf("packets a second, %s", way), "k/s", 1e-3, aLeast, anAim))
	fmt.Println(machine.line("  CPU a packet, whole machine", "µs", 1e6, aLeast, anAim))
	fmt.Println(own.line("  CPU a packet, sender and receiver", "µs", 1e6, aLeast, anAim))
	plain.close()
	through.close()
}

// throughput prints what one TCP connection carries.
func (b *bench) throughput(way bondtest.Direction) {
	var rate ratios
	plain, through := b.connection(way, plainAddresses), b.connection(way, faceAddresses)
	for range b.rounds {
		of := b.inTurn(plain, through)
		rate.add(of[0].rate(), of[1].rate(), of[1].rate()/of[0].rate())
	}
	fmt.Println(rate.line(fmt.Sprintf("TCP, one connection, %s", way), "Gbit/s", 8e-9, unset, unset))
	plain.close()
	through.close()
}
