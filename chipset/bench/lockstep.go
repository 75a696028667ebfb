package main

import (
	"fmt"
	"path/filepath"
	"time"

	"ft/chipset"
	"ft/drivers"
)

// The part of the table that is about two CPU modules side by side. All of its rows begin with
// the same word.
const lockstepName = "lockstep"

func inLockstep(name string) string { return lockstepName + ", " + name }

// lockstep measures machines on two CPU modules.
func (b *bench) lockstep() error {
	for _, part := range []func() error{b.pairs, b.detection, b.joins, b.panics} {
		here := len(b.cleanups)
		if err := part(); err != nil {
			return err
		}
		if err := b.cleanTo(here); err != nil {
			return err
		}
	}
	return nil
}

// machine boots a machine of ours whose events are followed. It ends with the part.
func (b *bench) machine(name string, a attached) (*computer, error) {
	c, _, err := b.ours(a).boot(filepath.Join(b.dir, "lockstep-"+name))
	if err != nil {
		return nil, err
	}
	b.cleanup(c.stop)
	c.machine.follow()
	return c, nil
}

// column is a way to run a guest's programs.
type column struct {
	name    string
	compare chipset.Compare
	duplex  bool
}

// Those of one machine stand together; the row's ratio is that of the last to the one before.
var columns = []column{
	{"off", chipset.CompareOff, false},
	{"off, duplex", chipset.CompareOff, true},
	{"store, duplex", chipset.CompareStore, true},
	{"simplex", chipset.CompareStep, false},
	{"duplex", chipset.CompareStep, true},
}

// wholeName is the row of all pieces of work together.
const wholeName = "all of these"

// pairs prints what machines compute on one CPU module and on two.
func (b *bench) pairs() error {
	var work []piece
	for _, p := range pieces {
		if b.wanted(inLockstep(p.name)) {
			work = append(work, p)
		}
	}
	if len(work) == 0 {
		return nil
	}
	names := []string{icountName}
	for _, c := range columns {
		names = append(names, c.name)
	}
	anchor, _, err := b.qemu(icountName, "-icount", "shift=0").boot("")
	if err != nil {
		return err
	}
	b.cleanup(anchor.stop)
	machines := map[chipset.Compare]*computer{}
	for _, c := range columns {
		if machines[c.compare] == nil {
			if machines[c.compare], err = b.machine("compare-"+string(c.compare), attached{compare: c.compare}); err != nil {
				return err
			}
		}
	}
	fmt.Println(head("lockstep: programs, by the wall", names...))
	whole := newPairs(wholeName)
	var sums [][]spent // by round, then column
	for range b.rounds {
		sums = append(sums, make([]spent, len(columns)+1))
	}
	for _, p := range work {
		rows := newPairs(p.name)
		expected := ""
		for round := range b.rounds {
			took := make([]spent, 1, len(columns)+1)
			var result string
			if result, took[0], err = anchor.do(p.command); err != nil {
				return err
			}
			if expected == "" {
				expected = result
			}
			for _, col := range columns {
				c := machines[col.compare]
				result, s, err := c.pairDo(p.command, col.duplex)
				if err != nil {
					return fmt.Errorf("%s: %w", col.name, err)
				}
				if result != expected {
					return fmt.Errorf("%s: %s answers %s, the first answer was %s", p.command, col.name, result, expected)
				}
				took = append(took, s)
			}
			rows.add(took)
			for i := range took {
				sums[round][i] = sums[round][i].plus(took[i])
			}
		}
		rows.print()
	}
	for _, took := range sums {
		whole.add(took)
	}
	whole.print()
	fmt.Println()
	return nil
}

// pairDo has a machine do a piece of work on one CPU module or on two.
func (c *computer) pairDo(command string, duplex bool) (result string, took spent, err error) {
	if duplex {
		if err := c.machine.complete(1); err != nil {
			return "", took, err
		}
		defer func() {
			if err == nil {
				err = c.machine.takeOut(1)
			}
		}()
	}
	return c.do(command)
}

// pairRows are two: by the wall, which wants two cores that are free, and by the CPU time of
// the one process that both a machine on one CPU module and one on two have.
type pairRows struct {
	wall, cpu *row
	duplex    []spent
}

func newPairs(name string) *pairRows {
	r := &pairRows{wall: newRow(name, "M/s"), cpu: newRow("  by CPU time of cpu0", "M/s")}
	r.wall.least = "0.8"
	return r
}

// add adds a round: what QEMU took, then the columns.
func (r *pairRows) add(took []spent) {
	last := len(took) - 1
	steps := float64(took[last].steps) / 1e6
	for i, s := range took {
		if s.steps > 0 { // QEMU does not tell; it has done what we have
			steps = float64(s.steps) / 1e6
		}
		one, ours := s.of["cpu0"]
		if !ours {
			one = s.cpu()
		}
		r.wall.add(i, steps/s.wall.Seconds())
		r.cpu.add(i, steps/one.Seconds())
	}
	r.wall.compare(r.wall.ratio(last, last-1))
	r.cpu.compare(r.cpu.ratio(last, last-1))
	r.duplex = append(r.duplex, took[last])
}

// print prints both rows, and what the duplex machine took in the median.
func (r *pairRows) print() {
	var steps, wall, all series
	of := map[string]series{}
	for _, s := range r.duplex {
		steps, wall, all = append(steps, float64(s.steps)), append(wall, s.wall.Seconds()), append(all, s.cpu().Seconds()/s.wall.Seconds())
		for name, t := range s.of {
			of[name] = append(of[name], t.Seconds())
		}
	}
	r.wall.remark = fmt.Sprintf("%s in %.2f s, had %.2f cores", giga(steps), wall.median(), all.median())
	r.cpu.remark = fmt.Sprintf("CPU of chipset %.2f s, cpu0 %.2f s, cpu1 %.2f s", of[chipsetName].median(), of["cpu0"].median(), of["cpu1"].median())
	fmt.Println(r.wall)
	fmt.Println(r.cpu)
}

// plus adds.
func (s spent) plus(t spent) spent {
	sum := spent{s.wall + t.wall, map[string]time.Duration{}, s.steps + t.steps}
	for _, of := range []map[string]time.Duration{s.of, t.of} {
		for name, d := range of {
			sum.of[name] += d
		}
	}
	return sum
}

// computing has a machine's guest do something over and over, during f.
func (c *computer) computing(what string, f func() error) error {
	if what == "" {
		return f()
	}
	if _, err := c.ask("begin " + what); err != nil {
		return err
	}
	if err := f(); err != nil {
		return err
	}
	_, err := c.ask("cease")
	return err
}

// ms is a time in milliseconds, as the table has them.
func ms(d time.Duration) float64 { return float64(d) / 1e6 }

// victim is the side that is failed in a round.
func victim(round int) drivers.Side { return drivers.Side(1 - round%2) }
