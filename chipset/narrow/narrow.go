// Package narrow finds the first step at which a CPU module that was shot differed from what
// it should have done. It works on copies, afterwards: the other module has gone on long ago.
//
// Two machines are made from what is left of the one that was shot: its memory as it was at
// the beginning of the epoch, once as it is and once with the pages put right that were wrong;
// its state; the commands that it was given; and, of a drill, the fault that was put into it.
// Both do the epoch again side by side, quantum by quantum. Where they differ they go back and
// do the quantum in smaller pieces, down to a single step.
//
// A fault that has passed and that nobody put there does not show again. Then there is no first
// step to be told, and the quantum in which the chipset saw it is all there is.
package narrow

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"ft/chipset/cpu"
	"ft/chipset/firmware"
	"ft/chipset/lockstep"
	"ft/chipset/module"
	"ft/chipset/rv64"
)

// Case is what there is to go by.
type Case struct {
	Memory int   // a memfd with the module's memory, which nobody writes to any more
	Bytes  int64 // its size
	Build  func(ram []byte, sink module.Sink, onFirstWrite func(page uint64)) (cpu.Machine, error)
	lockstep.Case
	// Injection is what a drill had put into the module, nil for nothing.
	Injection *lockstep.Injection
}

// Result is what was found.
type Result struct {
	// Found: they differ from this step on, which began with so many steps done, at PC.
	Found   bool
	Step    uint64
	PC      uint64
	Differs []lockstep.Difference

	// Word is the first wrong word of memory, if there is one; a flip in memory has been used
	// only if Found is set.
	HasWord bool
	Word    lockstep.Difference
}

// Limits. An epoch has some hundred quanta; one of them is narrowed down in three passes.
const (
	commandsMax = 100_000
	differsMax  = 8
)

var pieces = [...]uint64{2048, 64, 1}

const pageSize = 4096

// run is one of the two machines.
type run struct {
	*cpu.Executor
	ram     []byte
	heard   lockstep.Transcript
	answers int
	last    lockstep.Record
	epoch   uint64
	fault   []byte // to be put in again after going back
	at      uint64 // its step
	lasts   bool   // from there on
}

// Find finds it. The memory is only read.
func Find(c *Case) (res Result, err error) {
	if len(c.Log) > commandsMax {
		return res, fmt.Errorf("%d commands are too many to be done again", len(c.Log))
	}
	bad, err := begin(c)
	if err != nil {
		return res, err
	}
	defer bad.end()
	good, err := begin(c)
	if err != nil {
		return res, err
	}
	defer good.end()
	for page, content := range c.Damaged {
		at, err := place(good.ram, page, content)
		if err != nil {
			return res, err
		}
		copy(bad.ram[at:], content)
	}
	for page, content := range c.Patches {
		at, err := place(good.ram, page, content)
		if err != nil {
			return res, err
		}
		if w, ok := firstWord(bad.ram[at:at+pageSize], content, uint64(firmware.RAMBase)+uint64(at)); ok && (!res.HasWord || w.What < res.Word.What) {
			res.HasWord, res.Word = true, w
		}
		copy(good.ram[at:], content)
	}
	both := [2]*run{bad, good}
	for _, r := range both {
		if err := r.do(&lockstep.Command{Verb: lockstep.Load, A: 1, Data: c.State}); err != nil {
			return res, err
		}
		r.epoch = 1
	}
	if c.Injection != nil {
		if bad.fault, err = json.Marshal(c.Injection); err != nil {
			return res, err
		}
		bad.at, bad.lasts = c.Injection.Step, cpu.Persistent(c.Injection.Name)
		if err := bad.arm(); err != nil {
			return res, err
		}
	}
	for i := range c.Log {
		switch cmd := &c.Log[i]; cmd.Verb {
		case lockstep.Apply:
			for _, r := range both {
				if err := r.do(cmd); err != nil {
					return res, err
				}
			}
		case lockstep.Run:
			differ, err := piece(both, cmd.A)
			if err != nil {
				return res, err
			}
			if differ {
				return res, within(both, cmd.A, &res)
			}
		}
	}
	if !res.HasWord {
		res.HasWord, res.Word = firstDifference(bad.ram, good.ram)
	}
	return res, nil
}

// place is where a page lies.
func place(ram []byte, page uint32, content []byte) (at int, err error) {
	if at = int(page) * pageSize; at+pageSize > len(ram) || len(content) != pageSize {
		return 0, fmt.Errorf("page %d is not in the memory", page)
	}
	return at, nil
}

// firstDifference is the first word in which two memories differ.
func firstDifference(bad, good []byte) (bool, lockstep.Difference) {
	for at := 0; at < len(bad); at += pageSize {
		b, g := bad[at:at+pageSize], good[at:at+pageSize]
		if bytes.Equal(b, g) {
			continue
		}
		w, ok := firstWord(b, g, uint64(firmware.RAMBase)+uint64(at))
		return ok, w
	}
	return false, lockstep.Difference{}
}

// begin makes a machine on a copy of the memory.
func begin(c *Case) (*run, error) {
	ram, err := unix.Mmap(c.Memory, 0, int(c.Bytes), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("map a copy of the module's memory: %w", err)
	}
	r := &run{ram: ram}
	r.Executor, err = cpu.New(cpu.Config{RAM: ram, Build: c.Build, Send: r.hear, EpochPages: lockstep.PagesMax / 2})
	if err != nil {
		_ = unix.Munmap(ram)
		return nil, err
	}
	return r, nil
}

func (r *run) end() { _ = unix.Munmap(r.ram) }

func (r *run) hear(rec *lockstep.Record) {
	r.heard.Add(rec)
	if rec.Kind == lockstep.Ran {
		r.last = *rec
		r.last.Data, r.last.Pages = nil, nil
	}
}

func (r *run) do(c *lockstep.Command) error { return r.Do(c) }

// arm puts the fault in, unless it has happened before. One that lasts, or is of step 0, was
// there all the time.
func (r *run) arm() error {
	if r.fault == nil || !r.lasts && r.at > 0 && r.Machine().Steps() > r.at {
		return nil
	}
	return r.do(&lockstep.Command{Verb: lockstep.Fault, Data: r.fault})
}

// keep makes the present moment the one that back goes back to.
func (r *run) keep() error {
	r.epoch++
	return errors.Join(r.do(&lockstep.Command{Verb: lockstep.Epoch, A: r.epoch}), r.do(&lockstep.Command{Verb: lockstep.Commit, A: r.epoch}))
}

func (r *run) back() error {
	return errors.Join(r.do(&lockstep.Command{Verb: lockstep.Back}), r.arm())
}

// piece has both run up to steps steps from a moment that they can go back to, and says whether
// they differ then.
func piece(both [2]*run, steps uint64) (differ bool, err error) {
	var sum [2]uint64
	for i, r := range both {
		if err := r.keep(); err != nil {
			return false, err
		}
		r.heard = lockstep.Transcript{}
		if err := r.do(&lockstep.Command{Verb: lockstep.Run, A: steps}); err != nil {
			return false, err
		}
		if s := r.heard.Sums(); len(s) == 1 {
			sum[i] = s[0]
		}
	}
	return sum[0] != sum[1], nil
}

// within narrows a quantum down that both have just done with different results.
func within(both [2]*run, steps uint64, res *Result) error {
	for _, size := range pieces {
		for _, r := range both {
			if err := r.back(); err != nil {
				return err
			}
		}
		differ := false
		for done := uint64(0); done < steps && !differ; {
			before := both[1].Machine().Steps()
			n := min(size, steps-done)
			var err error
			if differ, err = piece(both, n); err != nil {
				return err
			}
			if ran := both[1].Machine().Steps() - before; !differ && ran == 0 {
				break
			} else if !differ {
				done += ran
			}
		}
		if !differ {
			return nil // it does not show in smaller pieces: a matter of where the quantum ended
		}
		steps = size
	}
	// Both stand behind the step. What it began from is the other end of the way back.
	after := [2]rv64.State{both[0].Machine().Hart().State(), both[1].Machine().Hart().State()}
	outputs := both[0].last.Why != both[1].last.Why
	for _, r := range both {
		if err := r.do(&lockstep.Command{Verb: lockstep.Back}); err != nil {
			return err
		}
	}
	start := both[1].Machine().Hart()
	res.Found, res.Step, res.PC = true, start.Steps(), start.PC()
	b, g := after[0].Words(), after[1].Words()
	for i := range b {
		if b[i] != g[i] && len(res.Differs) < differsMax {
			name := rv64.WordName(i)
			if name == "Fingerprint" {
				continue // it follows from the rest
			}
			res.Differs = append(res.Differs, lockstep.Difference{What: wordName(name), Bad: b[i], Good: g[i]})
		}
	}
	if len(res.Differs) == 0 && outputs {
		res.Differs = append(res.Differs, lockstep.Difference{What: "what leaves", Bad: uint64(both[0].last.Why), Good: uint64(both[1].last.Why)})
	}
	if len(res.Differs) == 0 {
		res.Differs = append(res.Differs, lockstep.Difference{What: "what was stored", Bad: b[fingerprintWord], Good: g[fingerprintWord]})
	}
	return nil
}

// fingerprintWord is where State has the fingerprint.
var fingerprintWord = func() int {
	for i := range rv64.StateWords {
		if rv64.WordName(i) == "Fingerprint" {
			return i
		}
	}
	panic("narrow: a hart's state has no fingerprint")
}()

// wordName is the name that people have for a word of the state.
func wordName(name string) string {
	var n int
	switch {
	case scan(name, "X[%d]", &n):
		return fmt.Sprintf("register x%d", n)
	case scan(name, "F[%d]", &n):
		return fmt.Sprintf("register f%d", n)
	case name == "PC":
		return "pc"
	}
	return "CSR " + name
}

func scan(s, format string, n *int) bool {
	got, err := fmt.Sscanf(s, format, n)
	return err == nil && got == 1
}

// firstWord is the first doubleword in which two pages differ.
func firstWord(bad, good []byte, base uint64) (lockstep.Difference, bool) {
	for at := 0; at < pageSize; at += 8 {
		b, g := binary.LittleEndian.Uint64(bad[at:]), binary.LittleEndian.Uint64(good[at:])
		if b != g {
			return lockstep.Difference{What: fmt.Sprintf("memory at %#x", base+uint64(at)), Bad: b, Good: g}, true
		}
	}
	return lockstep.Difference{}, false
}
