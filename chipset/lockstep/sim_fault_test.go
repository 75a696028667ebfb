package lockstep

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
)

// What can go wrong with a simulated module.

// ill is a kind of fault.
type ill uint8

const (
	flipState     ill = iota // a bit of the state, once
	flipWritten              // a bit of a page that was written in this epoch
	flipIdle                 // a bit of a page that was not
	flipHidden               // a bit of an idle page, and its digest says that it is not
	flipUndo                 // a bit of what a page held before it was written
	flipUndoState            // a bit of the state that can be gone back to
	stuck                    // some results are wrong, from now on
	loseWrite                // one write does not happen
	doubleWrite              // one write happens to another page as well
	wrongOutput              // one output is another one
	missingOutput            // one output does not leave
	extraOutput              // one output leaves twice
	wrongOutputs             // all of them are wrong, from now on
	wrongDigest              // one list of digests is wrong
	wrongDigests             // all of them
	wrongNumber              // one answer is to another command
	wrongKind                // one answer is of another kind
	wrongPages               // one answer lists pages that nobody asked for
	swallow                  // one answer does not come
	babble                   // one more answer comes, to nothing
	wrongSave                // the state that is given is not the one that it is in
	wrongLoad                // the state that is taken over is not the one that was given
	failTest                 // the self-test finds something
	die                      // the process ends
	hang                     // it answers nothing any more
	illEnd
)

var illNames = [illEnd]string{
	"flip in the state", "flip in a written page", "flip in an idle page", "hidden flip", "flip in a saved page", "flip in the saved state",
	"stuck", "lost write", "doubled write", "wrong output", "missing output", "extra output", "wrong outputs", "wrong digest", "wrong digests",
	"wrong number", "wrong kind", "wrong pages", "swallowed answer", "babble", "wrong save", "wrong load", "failing self-test", "death", "hang",
}

func (i ill) String() string { return illNames[i] }

// simFault is one of them, and when it strikes: at the command of a kind, after some others.
type simFault struct {
	ill
	verb  Verb
	skip  int
	after *simFault // it strikes only when this one has
	seed  uint64
	may   func() bool // it strikes only then
	fired bool        // it has struck
	armed bool        // it strikes at the next occasion
	tell  func(f *simFault)
}

func (f *simFault) String() string {
	return fmt.Sprintf("%v at %v %d", f.ill, f.verb, f.skip)
}

// lasts says whether it goes on once it has struck.
func (i ill) lasts() bool { return i == stuck || i == wrongOutputs || i == wrongDigests }

// shows says whether it is always found: the others may be overwritten before they are used.
func (i ill) shows() bool {
	switch i {
	case flipState, flipWritten, flipIdle, flipHidden, flipUndo, flipUndoState, loseWrite, doubleWrite:
		return false
	}
	return true
}

// before lets faults strike that are due at a command.
func (v *simModule) before(c *Command) {
	for _, f := range v.faults {
		if f.armed || f.fired || f.verb != c.Verb || f.may != nil && !f.may() || f.after != nil && !f.after.fired {
			continue
		}
		if f.skip > 0 {
			f.skip--
			continue
		}
		rng := rand.New(rand.NewPCG(f.seed, 1))
		bit := uint64(1) << rng.IntN(64)
		any := func(pages map[uint32]uint64, not bool) (uint32, bool) {
			var list []uint32
			for p := range uint32(len(v.ram)) {
				if _, has := pages[p]; has != not {
					list = append(list, p)
				}
			}
			if len(list) == 0 {
				return 0, false
			}
			return list[rng.IntN(len(list))], true
		}
		switch f.ill {
		case flipState:
			v.simState[[...]int{wX, wX, wX, wSteps, wTime, wPrint, wID, wDue, wTyped}[rng.IntN(9)]] ^= bit
		case flipWritten, flipIdle, flipHidden:
			p, ok := any(v.now().saved, f.ill != flipWritten)
			if !ok {
				continue // another time
			}
			if f.ill == flipHidden {
				v.hidden[v.ram[p]^bit] = v.ram[p]
			}
			v.ram[p] ^= bit
		case flipUndo:
			g := &v.epochs[rng.IntN(len(v.epochs))]
			keys := slices.Sorted(maps.Keys(g.saved))
			if len(keys) == 0 {
				continue
			}
			g.saved[keys[rng.IntN(len(keys))]] ^= bit
		case flipUndoState:
			v.epochs[rng.IntN(len(v.epochs))].state[wX] ^= bit
		case die:
			v.die("it crashed")
		case hang:
			v.hung = true
		default:
			f.armed = true
			continue
		}
		v.struck(f)
	}
}

func (v *simModule) struck(f *simFault) {
	first := !f.fired
	f.fired = true
	f.armed = f.armed && f.ill.lasts()
	if first && f.tell != nil {
		f.tell(f)
	}
}

// strikes says whether an armed fault of a kind strikes now.
func (v *simModule) strikes(kinds ...ill) *simFault {
	for _, f := range v.faults {
		if f.armed && slices.Contains(kinds, f.ill) && (f.fired || f.may == nil || f.may()) {
			v.struck(f)
			return f
		}
	}
	return nil
}

// faultyALU is what becomes of a result.
func (v *simModule) faultyALU(x uint64) uint64 {
	if x&7 == 3 {
		if f := v.strikes(stuck); f != nil {
			return x ^ 1<<(8+f.seed%40)
		}
	}
	return x
}

// faultyWrite is where a write goes.
func (v *simModule) faultyWrite(p uint32) []uint32 {
	if v.strikes(loseWrite) != nil {
		return nil
	}
	if f := v.strikes(doubleWrite); f != nil {
		return []uint32{p, uint32(f.seed % uint64(len(v.ram)))}
	}
	return []uint32{p}
}

// afterLoad is what becomes of a state that is taken over.
func (v *simModule) afterLoad() {
	if f := v.strikes(wrongLoad); f != nil {
		v.simState[wX] ^= 1 << (f.seed % 64)
	}
}

// faultyReply is what is sent in place of a record.
func (v *simModule) faultyReply(r Record) []Record {
	switch r.Kind {
	case Output:
		if f := v.strikes(wrongOutput, wrongOutputs, missingOutput, extraOutput); f != nil {
			switch f.ill {
			case missingOutput:
				return nil
			case extraOutput:
				return []Record{r, r}
			}
			r.Sector ^= 1 << (f.seed % 64)
		}
		return []Record{r}
	case Saved:
		if f := v.strikes(wrongSave); f != nil {
			r.Data[f.seed%uint64(len(r.Data))] ^= 1 << (f.seed % 8)
		}
	case Tested:
		if v.strikes(failTest) != nil {
			r.Data = []byte("multiply: 6 · 7 = 41")
		}
	}
	if len(r.Pages) > 0 {
		if f := v.strikes(wrongDigest, wrongDigests); f != nil {
			r.Pages[f.seed%uint64(len(r.Pages))].Digest ^= 1
		}
	}
	if f := v.strikes(wrongNumber, wrongKind, wrongPages, swallow, babble); f != nil {
		switch f.ill {
		case wrongNumber:
			r.Number += 1 + f.seed%3
		case wrongKind:
			r.Kind = RecordKind(1 + (uint64(r.Kind)+f.seed%7)%8)
		case wrongPages:
			r.Pages = []Page{{uint32(f.seed % 5), f.seed}, {uint32(7 + f.seed%1000), 3}}
		case swallow:
			return nil
		case babble:
			return []Record{{Kind: RecordKind(1 + f.seed%8), Number: r.Number, State: f.seed, Data: []byte("babble")}, r}
		}
	}
	return []Record{r}
}
