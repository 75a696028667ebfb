package narrow

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"ft/chipset/cpu"
	"ft/chipset/engine"
	"ft/chipset/lockstep"
	"ft/chipset/rv64"
)

// run is one of the two machines.
type run struct {
	*cpu.Executor
	ram   []byte
	heard lockstep.Transcript
	last  lockstep.Record
	epoch uint64

	fault []byte // to be put in again after going back
	lasts bool   // it does not happen once, but from its step on
	flips bool   // a bit of memory, at off
	off   uint64

	happened bool // the fault, if it happens once
	had      bool // the same, and what there is at off, at the moment that back goes back to
	was      byte
}

// begin makes a machine on a copy of the memory.
func begin(c *Case, kind engine.Kind) (*run, error) {
	ram, err := unix.Mmap(c.Memory, 0, int(c.Bytes), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("map a copy of the module's memory: %w", err)
	}
	r := &run{ram: ram}
	// A slow module is not waited for.
	r.Executor, err = cpu.New(cpu.Config{RAM: ram, Build: c.Build, Engine: kind, Send: r.hear, EpochPages: lockstep.PagesMax / 2, Spend: func(time.Duration) {}})
	if err != nil {
		_ = unix.Munmap(ram)
		return nil, err
	}
	return r, nil
}

func (r *run) end() {
	_ = r.Close()
	_ = unix.Munmap(r.ram)
}

func (r *run) hear(rec *lockstep.Record) {
	r.heard.Add(rec)
	switch rec.Kind {
	case lockstep.Ran:
		r.last = *rec
		r.last.Data, r.last.Pages = nil, nil
	case lockstep.Injected:
		r.happened = !r.lasts
	}
}

func (r *run) do(c *lockstep.Command) error { return r.Do(c) }

// give puts the drill's fault in.
func (r *run) give(c *Case) (err error) {
	if c.Injection == nil {
		return nil
	}
	if r.fault, err = json.Marshal(c.Injection); err != nil {
		return err
	}
	r.lasts = cpu.Persistent(c.Injection.Name)
	r.happened = !r.lasts && c.Injection.Step > 0 && c.Injection.Step < r.Machine().Steps()
	var bit uint
	r.off, bit, r.flips = flipOf(c)
	if page := uint32(r.off / pageSize); r.flips && !r.happened {
		// The module's way back has left the flip where it was.
		bad, good := c.Damaged[page], c.Patches[page]
		if at := r.off % pageSize; len(bad) == pageSize && len(good) == pageSize && bad[at] == good[at]^1<<bit {
			r.Machine().Hart().Corrupt(r.off, good[at:at+1])
		}
	}
	return r.arm()
}

// arm puts the fault in, unless it has happened before.
func (r *run) arm() error {
	if r.fault == nil || r.happened {
		return nil
	}
	return r.do(&lockstep.Command{Verb: lockstep.Fault, Data: r.fault})
}

// keep makes the present moment the one that back goes back to.
func (r *run) keep() error {
	if r.had = r.happened; r.flips {
		r.was = r.ram[r.off]
	}
	r.epoch++
	return errors.Join(r.do(&lockstep.Command{Verb: lockstep.Epoch, A: r.epoch}), r.do(&lockstep.Command{Verb: lockstep.Commit, A: r.epoch}))
}

// back goes back there. The module's own way back leaves a flipped bit as it is; here the flip
// is still to come.
func (r *run) back() error {
	err := r.do(&lockstep.Command{Verb: lockstep.Back})
	if r.happened = r.had; r.flips {
		r.Machine().Hart().Corrupt(r.off, []byte{r.was})
	}
	return err
}

// pair are both machines, side by side.
type pair struct {
	bad, good *run
	// damaged are pages that are known to differ without a step that has made them so, or may.
	damaged map[uint32]bool
}

func (p *pair) both(f func(*run) error) error { return errors.Join(f(p.bad), f(p.good)) }

// pieces are the lengths that a quantum is looked at in: whole, then smaller and smaller.
var pieces = [...]uint64{1 << 62, 2048, 64, 1}

// search runs both for steps steps, and looks for the first one at which they differ.
func (p *pair) search(steps uint64, level int, res *Result) (found bool, err error) {
	for done := uint64(0); done < steps; {
		n := min(pieces[level], steps-done)
		before := p.good.Machine().Steps()
		answers, pages, err := p.piece(n)
		if err != nil {
			return false, err
		}
		if answers || len(pages) > 0 {
			if err := p.both((*run).back); err != nil {
				return false, err
			}
			fresh := answers || p.fresh(pages)
			smallest := level == len(pieces)-1
			if smallest && fresh {
				return true, p.tell(n, res)
			}
			if err := p.both((*run).arm); err != nil {
				return false, err
			}
			if smallest || !fresh {
				_, _, err = p.piece(n)
			} else {
				found, err = p.search(n, level+1, res)
			}
			if found || err != nil {
				return found, err
			}
		}
		ran := p.good.Machine().Steps() - before
		if ran == 0 {
			break
		}
		done += ran
	}
	return false, nil
}

// piece has both run up to steps steps from a moment that they can go back to. It says whether
// they answer differently, and in which of the pages that they have written they differ then.
func (p *pair) piece(steps uint64) (answers bool, pages []uint32, err error) {
	var sums [2]uint64
	for i, r := range [2]*run{p.bad, p.good} {
		if err := r.keep(); err != nil {
			return false, nil, err
		}
		r.heard = lockstep.Transcript{}
		if err := r.do(&lockstep.Command{Verb: lockstep.Run, A: steps}); err != nil {
			return false, nil, err
		}
		if s := r.heard.Sums(); len(s) == 1 {
			sums[i] = s[0]
		}
	}
	return sums[0] != sums[1], p.written(), nil
}

// written are the pages that either has written since they could go back, and in which they
// differ, but for those that differ anyway.
func (p *pair) written() (pages []uint32) {
	bad, good := p.bad.Machine().Hart().Dirty(), p.good.Machine().Hart().Dirty()
	for i := range bad {
		for w := bad[i] | good[i]; w != 0; w &= w - 1 {
			if page := uint32(i*64 + bits.TrailingZeros64(w)); !p.damaged[page] && !p.equal(page) {
				pages = append(pages, page)
			}
		}
	}
	return pages
}

func (p *pair) equal(page uint32) bool { return bytes.Equal(p.bad.page(page), p.good.page(page)) }

func (r *run) page(page uint32) []byte { return r.ram[int(page)*pageSize:][:pageSize] }

// fresh says whether one of the pages is alike in both, where they stand. The others are
// damaged by something else than what is done from here on.
func (p *pair) fresh(pages []uint32) (fresh bool) {
	for _, page := range pages {
		if p.equal(page) {
			fresh = true
		} else {
			p.damaged[page] = true
		}
	}
	return fresh
}

// tell says in what both differ behind the steps that they stand before.
func (p *pair) tell(steps uint64, res *Result) error {
	start := p.good.Machine().Hart()
	res.Found, res.Step, res.PC = true, start.Steps(), start.PC()
	res.HasWord, res.Word = p.word(res)
	if err := p.both((*run).arm); err != nil {
		return err
	}
	if _, _, err := p.piece(steps); err != nil {
		return err
	}
	bad, good := p.bad.Machine().Hart().State(), p.good.Machine().Hart().State()
	b, g := bad.Words(), good.Words()
	differs := func(what string, bad, good uint64) {
		if len(res.Differs) < differsMax {
			res.Differs = append(res.Differs, lockstep.Difference{What: what, Bad: bad, Good: good})
		}
	}
	for i := range b {
		if name := rv64.WordName(i); b[i] != g[i] && name != fingerprint {
			differs(wordName(name), b[i], g[i])
		}
	}
	for _, page := range p.written() {
		if w, ok := firstWord(p.bad.page(page), p.good.page(page), page); ok {
			differs(w.What, w.Bad, w.Good)
		}
	}
	if len(res.Differs) == 0 && p.bad.last.Why != p.good.last.Why {
		differs("what leaves", uint64(p.bad.last.Why), uint64(p.good.last.Why))
	}
	if len(res.Differs) == 0 { // the fingerprint follows from the rest
		differs("what was stored", bad.Fingerprint, good.Fingerprint)
	}
	return nil
}

// word is the first word of memory that is known to be wrong.
func (p *pair) word(res *Result) (ok bool, w lockstep.Difference) {
	if res.HasWord {
		return true, res.Word
	}
	for _, page := range slices.Sorted(maps.Keys(p.damaged)) {
		if w, ok = firstWord(p.bad.page(page), p.good.page(page), page); ok {
			return true, w
		}
	}
	return false, w
}

// fingerprint is the name of the fingerprint in a hart's state.
const fingerprint = "Fingerprint"
