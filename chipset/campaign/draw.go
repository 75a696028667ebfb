package campaign

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"ft/chipset/cpu"
	"ft/chipset/duplex"
	"ft/chipset/firmware"
	"ft/chipset/lockstep"
)

// Kinds are the faults that there are, in the order of the table.
var Kinds = []string{
	"flip-register", "flip-pc", "flip-csr", "flip-memory", "stuck", "wrong-result", "lose-store", "double-store", "kill", "stop", "slow",
}

// draw draws the fault of run i. Each run's is drawn by itself, so that the same seed gives the
// same ones however many there are.
func (c *Config) draw(i int, g *golden) duplex.Fault {
	r := rand.New(rand.NewPCG(c.Seed, uint64(i)))
	f := duplex.Fault{Side: lockstep.Side(r.IntN(2)), Injection: lockstep.Injection{Name: c.Kinds[i%len(c.Kinds)], Step: 1 + r.Uint64N(max(g.steps-1, 1))}}
	bit := func(n int) *int { b := r.IntN(n); return &b }
	register := func() *int {
		n := 1 + r.IntN(31)
		if r.IntN(4) == 0 { // floating point
			n = 32 + r.IntN(32)
		}
		return &n
	}
	switch f.Name {
	case "flip-register":
		f.Register, f.Bit = register(), bit(64)
	case "flip-pc":
		f.Bit = bit(63)
		*f.Bit++
	case "flip-csr":
		names := slices.DeleteFunc(cpu.CSRs(), func(name string) bool { return strings.HasPrefix(name, "pmp") && r.IntN(8) > 0 })
		f.CSR = names[r.IntN(len(names))]
		for f.Bit = bit(64); cpu.Validate(f.Injection, uint64(c.Memory)) != nil; {
			f.Bit = bit(64)
		}
	case "flip-memory":
		page := r.Uint64N(uint64(c.Memory) / pageSize)
		if r.IntN(2) == 0 { // one that the program uses
			page = uint64(g.used[r.IntN(len(g.used))])
		}
		at := firmware.RAMBase + page*pageSize + r.Uint64N(pageSize)
		f.Address, f.Bit = &at, bit(8)
	case "stuck":
		f.Register, f.Bit, f.Seed = register(), bit(64), 1+r.Uint64N(1<<20) // which decides at what
	case "wrong-result":
		f.Class, f.Seed = cpu.Classes()[r.IntN(len(cpu.Classes()))], 1+r.Uint64N(1<<20) // which bit
	}
	return f
}

const pageSize = 4096

// Check says what is wrong with a Config, and fills in what it does not say.
func (c *Config) Check() error {
	if len(c.Kinds) == 0 {
		c.Kinds = Kinds
	}
	for _, k := range c.Kinds {
		if !slices.Contains(Kinds, k) {
			return fmt.Errorf("there is no fault %q; there are %s", k, strings.Join(Kinds, ", "))
		}
	}
	if c.Faults < 1 {
		return fmt.Errorf("%d faults are none", c.Faults)
	}
	return nil
}
