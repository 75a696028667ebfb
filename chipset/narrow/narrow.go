// Package narrow finds the first step at which a CPU module that was shot differed from what
// it should have done. It works on copies, afterwards: the other module has gone on long ago.
//
// Two machines are made from what is left of the one that was shot: its memory as it was at
// the beginning of the epoch, once as it is and once with the pages put right that were wrong;
// its state; the commands that it was given; its engine; and, of a drill, the fault that was put
// into it. The other one has the interpreter.
// Both do the epoch again side by side, quantum by quantum. Where they differ, in what they
// answer or in memory that was written, they go back and do the quantum in smaller pieces, down
// to a single step (search.go).
//
// A fault that has passed and that nobody put there does not show again. Then there is no first
// step to be told, and the quantum in which the chipset saw it is all there is.
package narrow

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"ft/chipset/cpu"
	"ft/chipset/engine"
	"ft/chipset/firmware"
	"ft/chipset/lockstep"
	"ft/chipset/module"
)

// Case is what there is to go by.
type Case struct {
	Memory int   // a memfd with the module's memory, which nobody writes to any more
	Bytes  int64 // its size
	Build  func(ram []byte, sink module.Sink, onFirstWrite func(page uint64)) (cpu.Machine, error)
	// Engine is the module's. What is right comes from the interpreter.
	Engine engine.Kind
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

// What says in what they differ, to be put behind where.
func (r *Result) What() (text string) {
	for _, d := range r.Differs {
		text += ", " + d.String()
	}
	if r.HasWord {
		text += "; " + r.Word.String()
	}
	return text
}

// Limits. An epoch has some hundred quanta.
const (
	commandsMax = 100_000
	differsMax  = 8
)

const pageSize = 4096

// Find finds it. The memory is only read.
func Find(c *Case) (res Result, err error) {
	if len(c.Log) > commandsMax {
		return res, fmt.Errorf("%d commands are too many to be done again", len(c.Log))
	}
	bad, err := begin(c, c.Engine)
	if err != nil {
		return res, err
	}
	defer bad.end()
	good, err := begin(c, engine.Interpreter)
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
		if w, ok := firstWord(bad.ram[at:at+pageSize], content, page); ok && (!res.HasWord || w.What < res.Word.What) {
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
	if err := bad.give(c); err != nil {
		return res, err
	}
	p := &pair{bad: bad, good: good, damaged: map[uint32]bool{}}
	if off, _, ok := flipOf(c); ok {
		p.damaged[uint32(off/pageSize)] = true
	}
	for i := range c.Log {
		switch cmd := &c.Log[i]; cmd.Verb {
		case lockstep.Apply:
			for _, r := range both {
				if err := r.do(cmd); err != nil {
					return res, err
				}
			}
		case lockstep.Epoch: // what is wrong here is what was seen; later it may be overwritten
			res.HasWord, res.Word = p.word(&res)
		case lockstep.Run:
			if found, err := p.search(cmd.A, 0, &res); found || err != nil {
				return res, err
			}
		}
	}
	if !res.HasWord {
		res.HasWord, res.Word = firstDifference(bad.ram, good.ram)
	}
	return res, nil
}

// flipOf is where a drill has flipped a bit of memory.
func flipOf(c *Case) (off uint64, bit uint, ok bool) {
	if c.Injection == nil {
		return 0, 0, false
	}
	return cpu.FlipAt(*c.Injection, uint64(c.Bytes))
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
		w, ok := firstWord(b, g, uint32(at/pageSize))
		return ok, w
	}
	return false, lockstep.Difference{}
}

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

// firstWord is the first doubleword in which a page differs.
func firstWord(bad, good []byte, page uint32) (w lockstep.Difference, ok bool) {
	for at := 0; at < pageSize; at += 8 {
		b, g := binary.LittleEndian.Uint64(bad[at:]), binary.LittleEndian.Uint64(good[at:])
		if b != g {
			addr := uint64(firmware.RAMBase) + uint64(page)*pageSize + uint64(at)
			return lockstep.Difference{What: fmt.Sprintf("memory at %#x", addr), Bad: b, Good: g}, true
		}
	}
	return lockstep.Difference{}, false
}
