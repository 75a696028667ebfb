package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Machines that a CPU module is brought into: by their memory, most of which the guest has
// written to before, and by what the guest writes meanwhile.
var (
	joinMemories = []int{256, 512, 1024} // MiB
	joinLoads    = []struct{ name, work string }{{"idle", ""}, {"streams", "stream"}, {"dirties all it can", "dirty"}}
)

func joinName(memoryMiB int, load string) string {
	return fmt.Sprintf("%d MiB, %s", memoryMiB, load)
}

const blackoutMax = 20 * time.Millisecond // chipset.DefaultBlackoutMax

// joins prints what it takes to bring a CPU module in.
func (b *bench) joins() error {
	begun := false
	for _, memory := range joinMemories {
		if !slices.ContainsFunc(joinLoads, func(l struct{ name, work string }) bool { return b.wanted(inLockstep(joinName(memory, l.name))) }) {
			continue
		}
		if !begun {
			begun = true
			fmt.Println(plainHead("lockstep: a CPU module comes in", "brownout", "rounds", "blackout", "at most", "until duplex"))
		}
		here := len(b.cleanups)
		c, err := b.machine(fmt.Sprintf("memory-%d", memory), attached{memoryMiB: memory})
		if err != nil {
			return err
		}
		filled, err := c.ask("fill")
		if err != nil {
			return err
		}
		bytes, err := strconv.ParseInt(filled, 10, 64)
		if err != nil {
			return fmt.Errorf("what the guest has written is %q: %w", filled, err)
		}
		for _, l := range joinLoads {
			name := joinName(memory, l.name)
			if !b.wanted(inLockstep(name)) {
				continue
			}
			if err := c.computing(l.work, func() error { return b.joinsOf(c.machine, name, bytes) }); err != nil {
				return err
			}
		}
		if err := b.cleanTo(here); err != nil {
			return err
		}
	}
	if begun {
		fmt.Println()
	}
	return nil
}

// joinsOf prints a row.
func (b *bench) joinsOf(d *driven, name string, filled int64) error {
	r := newRow(name, "")
	r.units = []string{"s", "", "ms", "ms", "s"}
	r.cells = make([]series, len(r.units))
	refused := map[string]int{}
	for range b.rounds {
		j, err := d.bringIn(1)
		if not := (*notIn)(nil); errors.As(err, &not) {
			refused[not.why]++
			continue
		}
		if err != nil {
			return err
		}
		for i, v := range []float64{j.brownout.Seconds(), j.rounds, ms(j.blackout), 0, j.duplex.Seconds()} {
			r.add(i, v)
		}
		if err := d.takeOut(1); err != nil {
			return err
		}
	}
	r.cells[3] = most(r.cells[2])
	r.remark = fmt.Sprintf("%d MiB were written to before", filled>>20)
	if n := b.rounds - len(r.cells[0]); n > 0 {
		var why []string
		for text := range refused {
			why = append(why, text)
		}
		slices.Sort(why)
		r.remark += fmt.Sprintf("; %d of %d did not come in: %s", n, b.rounds, strings.Join(why, "; "))
	}
	if len(r.cells[3]) > 0 && r.cells[3][0] > ms(blackoutMax) {
		r.remark += fmt.Sprintf("; beyond blackout_max = %v", blackoutMax)
	}
	fmt.Println(r)
	return nil
}
