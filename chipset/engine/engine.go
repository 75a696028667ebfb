// Package engine says what executes the harts of a machine's CPU modules, and gives a hart its
// engine.
//
// Which engine a module has stays with its place: one that is replaced comes back with the
// same. Engines retire the same steps with the same fingerprints (package rv64), so modules
// with different ones run in lockstep, which checks one against the other at every step. What
// is made to be believed, a referee or the right half of a search for the first differing step,
// has the interpreter, which is the reference.
package engine

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"ft/chipset/rv64"
	"ft/chipset/rv64/translate"
)

// Choice is what ft.toml and `ftd run-elf` say.
type Choice string

// Choices.
const (
	Auto      Choice = "auto" // the fastest engine that there is on this host
	Interpret Choice = "interpret"
	Translate Choice = "translate"
	Unlike    Choice = "unlike" // one module interprets, the other one translates
)

// Choices are all of them, the default first.
var Choices = []string{string(Auto), string(Interpret), string(Translate), string(Unlike)}

// Kind is an engine.
type Kind string

// Kinds.
const (
	Interpreter Kind = "interpret"
	Translator  Kind = "translate"
)

// rule takes a kind apart that has a rule of the translator made wrong, as drills have it
// (Broken).
func (k Kind) rule() (Kind, string) {
	kind, rule, _ := strings.Cut(string(k), "!")
	return Kind(kind), rule
}

// Broken is a translator with one of its rules made deliberately wrong. Only binaries built
// with the tag ftdrill know any.
func Broken(rule string) Kind { return Translator + Kind("!"+rule) }

// autoTranslates says that auto takes the translator where there is one. It waits for the
// translator to have run a million random programs and whole boots beside the interpreter
// without a difference (chipset/rv64/unlike).
const autoTranslates = false

// Of are the engines of the two places. The error says what this host lacks, and the way out.
func (c Choice) Of() (kinds [2]Kind, err error) {
	missing := translate.Supported()
	switch c {
	case Auto, "":
		if autoTranslates && missing == nil {
			return [2]Kind{Translator, Translator}, nil
		}
		return [2]Kind{Interpreter, Interpreter}, nil
	case Interpret:
		return [2]Kind{Interpreter, Interpreter}, nil
	case Translate:
		kinds = [2]Kind{Translator, Translator}
	case Unlike:
		kinds = [2]Kind{Interpreter, Translator}
	default:
		return kinds, fmt.Errorf("there is no engine %q: there are %s", c, strings.Join(Choices, ", "))
	}
	if missing != nil {
		return kinds, fmt.Errorf("engine %q is not to be had on this computer: %w", c, missing)
	}
	return kinds, nil
}

// Valid says whether there is such a choice, on this host or another.
func (c Choice) Valid() bool { return slices.Contains(Choices, string(c)) }

// Engine is what runs one hart.
type Engine struct {
	kind Kind
	rule string
	t    *translate.Translator // nil: the interpreter
	// spare is for a hart that is tested beside the machine's: when there is one, the process
	// can make no memory any more that could be executed (chipset/inside, confine).
	spare *translate.Code
}

// spareBytes is far more than the programs of a self-test take.
const spareBytes = 1 << 20

// Attach gives a hart its engine, between runs. Until Close it may be used as before.
func Attach(k Kind, h *rv64.Hart) (*Engine, error) {
	k, rule := k.rule()
	e := &Engine{kind: k, rule: rule}
	switch k {
	case Interpreter, "":
		e.kind = Interpreter
		return e, nil
	case Translator:
		t, err := translate.Attach(h, translate.Options{BreakRule: rule})
		if err != nil {
			return nil, err
		}
		e.t = t
		if e.spare, err = translate.NewCode(spareBytes); err != nil {
			_ = t.Close()
			return nil, err
		}
		return e, nil
	}
	return nil, fmt.Errorf("there is no engine %q", k)
}

// Kind is which one it is.
func (e *Engine) Kind() Kind { return e.kind }

// Stats are what a translator has done; zero for the interpreter.
func (e *Engine) Stats() translate.Stats {
	if e.t == nil {
		return translate.Stats{}
	}
	return e.t.Stats()
}

// Beside runs f with another hart that has the same engine, one at a time.
func (e *Engine) Beside(h *rv64.Hart, f func()) error {
	if e.t == nil {
		f()
		return nil
	}
	t, err := translate.Attach(h, translate.Options{Code: e.spare, Threshold: 1, BreakRule: e.rule})
	if err != nil {
		return err
	}
	f()
	return t.Close()
}

// Poison makes the next code that is translated crash, and says whether there will be any.
func (e *Engine) Poison() bool {
	if e.t == nil {
		return false
	}
	e.t.Poison()
	return true
}

// Close gives back what the engine holds. The hart interprets then.
func (e *Engine) Close() error {
	if e.t == nil {
		return nil
	}
	return errors.Join(e.t.Close(), e.spare.Close())
}
