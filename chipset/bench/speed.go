package main

import (
	"fmt"
	"path/filepath"

	"ft/chipset/engine"
	"ft/chipset/rv64/translate"
)

// piece is a piece of work that guests do.
type piece struct {
	name    string
	command string // of package program
	least   string // of the interpreter's ratio to QEMU with -icount, where there is such a thing
	native  string // of the translator's
}

// Each takes our machine a second or two.
var pieces = []piece{
	{"integer, CoreMark's shape", "integer 3000", "0.35 or 300 M/s", "1.2"},
	{"floating point", "float 150", "0.20", "0.6"},
	{"memory, one load after another", "chase 12", "", ""},
	{"memory, three streams", "stream 20", "", ""},
	{"system calls", "syscalls 300", "", "0.6"},
}

// Rows that are no piece of work.
const (
	bootName = "boot to user space"
	idleName = "idle"
)

// speeds boots all machines and prints what they compute, and what they cost when they do
// not.
func (b *bench) speeds() error {
	working := b.wanted(bootName)
	for _, p := range pieces {
		working = working || b.wanted(p.name)
	}
	if !working && !b.wanted(idleName) {
		return nil
	}
	here := len(b.cleanups)
	makers := []maker{b.qemu(icountName, "-icount", "shift=0"), b.qemu(qemuName), b.ours(attached{engine: engine.Interpret})}
	if translate.Supported() == nil {
		makers = append(makers, b.ours(attached{engine: engine.Translate}))
	}
	if working {
		fmt.Println(head("a guest's programs, by CPU time", names(makers)...))
	}
	computers, err := b.boots(makers...)
	if err != nil {
		return err
	}
	for _, p := range pieces {
		if b.wanted(p.name) {
			if err := b.piece(p, computers); err != nil {
				return err
			}
		}
	}
	if working {
		fmt.Println()
	}
	if b.wanted(idleName) {
		if err := b.idle(computers); err != nil {
			return err
		}
	}
	return b.cleanTo(here)
}

func names(makers []maker) (all []string) {
	for _, m := range makers {
		all = append(all, m.name)
	}
	return all
}

// interpreted is where the interpreter's machine stands; the translator's follows it.
const interpreted = 2

// boots boots each machine in turn, as often as there are rounds (once where boots are not
// asked for), and leaves the last of each running.
func (b *bench) boots(makers ...maker) ([]*computer, error) {
	rounds := 1
	if b.wanted(bootName) {
		rounds = b.rounds
	}
	last := make([]*computer, len(makers))
	b.cleanup(func() error {
		for _, c := range last {
			if c != nil {
				if err := c.stop(); err != nil {
					return err
				}
			}
		}
		return nil
	})
	cpu, wall := newRow(bootName, "s"), newRow("  by the wall", "s")
	halved := newRow("  the interpreter's boot, its ratio", "")
	halved.least = "2"
	cpu.least, wall.least = "", "60 s at most"
	var steps series
	for round := range rounds {
		for i, m := range makers {
			if c := last[i]; c != nil {
				last[i] = nil
				if err := c.stop(); err != nil {
					return nil, err
				}
			}
			c, took, err := m.boot(filepath.Join(b.dir, fmt.Sprintf("%s-%d", m.name, round)))
			if err != nil {
				return nil, err
			}
			last[i] = c
			cpu.add(i, took.cpu().Seconds())
			wall.add(i, took.wall.Seconds())
			if took.steps > 0 {
				steps = append(steps, float64(took.steps))
			}
		}
		cpu.compare(1 / cpu.ratio(len(makers)-1, 0))
		wall.compare(1 / wall.ratio(len(makers)-1, 0))
		if len(makers) > interpreted+1 {
			halved.compare(cpu.ratio(interpreted, interpreted+1))
		}
	}
	if b.wanted(bootName) {
		cpu.remark = giga(steps)
		fmt.Println(cpu)
		fmt.Println(wall)
		if halved.ratios != nil {
			halved.cells = make([]series, len(makers))
			fmt.Println(halved)
		}
	}
	return last, nil
}

// piece has all machines do a piece of work in turn, and prints its row: steps of our
// machine a second of CPU time. The first answer is what all others have to be.
func (b *bench) piece(p piece, computers []*computer) error {
	r, other := newRow(p.name, "M/s"), newRow("  the interpreter's ratio", "")
	r.least, other.least = p.least, p.least
	if len(computers) > interpreted+1 {
		r.least = p.native
	}
	var steps series
	expected := ""
	for range b.rounds {
		took := make([]spent, len(computers))
		for i, c := range computers {
			result, s, err := c.do(p.command)
			if err != nil {
				return err
			}
			if expected == "" {
				expected = result
			}
			if result != expected {
				return fmt.Errorf("%s: %s answers %s, the first answer was %s", p.command, c.name, result, expected)
			}
			took[i] = s
		}
		own := took[len(took)-1]
		steps = append(steps, float64(own.steps))
		for i, s := range took {
			r.add(i, float64(own.steps)/1e6/s.cpu().Seconds())
		}
		r.compare(r.ratio(len(took)-1, 0))
		other.compare(r.ratio(interpreted, 0))
	}
	r.remark = giga(steps)
	fmt.Println(r)
	if len(computers) > interpreted+1 {
		other.cells = make([]series, len(computers))
		fmt.Println(other)
	}
	return nil
}

func giga(steps series) string { return fmt.Sprintf("%.2f G steps", steps.median()/1e9) }
