package cpu

import (
	"fmt"
	"maps"
	"math/bits"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"ft/chipset/firmware"
	"ft/chipset/lockstep"
	"ft/chipset/rv64"
)

// kind is what there is to know of a fault beside its name.
type kind struct {
	takes   field // what may be said of it
	persist bool  // it lasts until it is cleared; the others happen once
}

// field is a set of an Injection's fields.
type field uint8

const (
	fieldRegister field = 1 << iota
	fieldCSR
	fieldAddress
	fieldBit
	fieldClass
)

const (
	flipRegister = "flip-register" // a bit of a register changes
	flipPC       = "flip-pc"       // a bit of the program counter changes
	flipCSR      = "flip-csr"      // a bit of a CSR changes
	flipMemory   = "flip-memory"   // a bit of memory changes
	stuck        = "stuck"         // a bit of a register keeps one value
	wrongResult  = "wrong-result"  // a class of operations has a wrong bit in its results, or branches the other way
	loseStore    = "lose-store"    // a store does not reach memory
	doubleStore  = "double-store"  // a store is done a second time, further on
	slow         = "slow"          // a quantum takes much more processor time
)

// BadCode is the name of the fault by which the translator makes code that no processor
// executes: the module crashes. One that interprets cannot have it.
const BadCode = "bad-code"

// A slow module uses slowTimes as much processor time, and slowLeast for a quantum at the
// least, which no module in order takes.
const (
	slowTimes = 20
	slowLeast = 200 * time.Millisecond
)

var kinds = map[string]kind{
	flipRegister: {takes: fieldRegister | fieldBit},
	flipPC:       {takes: fieldBit},
	flipCSR:      {takes: fieldCSR | fieldBit},
	flipMemory:   {takes: fieldAddress | fieldBit},
	stuck:        {takes: fieldRegister | fieldBit, persist: true},
	wrongResult:  {takes: fieldClass | fieldBit, persist: true},
	loseStore:    {},
	doubleStore:  {},
	slow:         {persist: true},
	BadCode:      {},
}

// Faults are the names of what can be injected into a module.
func Faults() []string { return slices.Sorted(maps.Keys(kinds)) }

// Classes are the names of the operations that wrong-result knows.
func Classes() []string { return slices.Clone(classes) }

// CSRs are the names of the registers that flip-csr knows.
func CSRs() (names []string) {
	for i := range rv64.StateWords {
		if rv64.CSRBits(i) != 0 {
			names = append(names, csrName(i))
		}
	}
	return names
}

func csrName(word int) string { return strings.ToLower(rv64.WordName(word)) }

// Persistent says whether a fault lasts until it is cleared, and so belongs to the slot that
// the module is in.
func Persistent(name string) bool { return kinds[name].persist }

// FlipAt is where in memory of so many bytes a fault flips a bit, if it does.
func FlipAt(inj lockstep.Injection, ram uint64) (off uint64, bit uint, ok bool) {
	f, err := settle(inj, ram)
	if err != nil || f.name != flipMemory {
		return 0, 0, false
	}
	return f.off, f.bit, true
}

// Validate says whether a module with so many bytes of memory can have a fault. Its errors are
// sentences for whoever asked for it.
func Validate(inj lockstep.Injection, ram uint64) error {
	_, err := settle(inj, ram)
	return err
}

// fault is an injection with everything settled.
type fault struct {
	name string
	kind kind
	step uint64

	register int    // 1…31 x, 32…63 f
	word     int    // of rv64.State
	off      uint64 // in RAM
	bit      uint
	high     bool // stuck at one
	class    string

	active   bool // its step has come
	reported bool
}

// settle draws what an injection does not say. Each thing is drawn, needed or not, so that
// saying one leaves the others as they are.
func settle(inj lockstep.Injection, ram uint64) (*fault, error) {
	k, ok := kinds[inj.Name]
	if !ok {
		return nil, fmt.Errorf("there is no fault %q for a CPU module: there are %s", inj.Name, strings.Join(Faults(), ", "))
	}
	for _, given := range []struct {
		field field
		is    bool
		name  string
	}{
		{fieldRegister, inj.Register != nil, "a register"}, {fieldCSR, inj.CSR != "", "a CSR"}, {fieldAddress, inj.Address != nil, "an address"},
		{fieldBit, inj.Bit != nil, "a bit"}, {fieldClass, inj.Class != "", "a class of operations"},
	} {
		if given.is && k.takes&given.field == 0 {
			return nil, fmt.Errorf("%s has nothing to do with %s: leave it out", inj.Name, given.name)
		}
	}
	r := rand.New(rand.NewPCG(inj.Seed, 0))
	f := &fault{name: inj.Name, kind: k, step: inj.Step}
	f.register = 1 + r.IntN(31)
	if f.name == stuck { // a0 to a5: others can keep a value for long
		f.register = 10 + f.register%6
	}
	f.word = drawWord(r)
	f.off = r.Uint64N(max(ram, 1))
	draw := r.Uint64()
	f.high = r.IntN(2) == 1
	f.class = classes[r.IntN(len(classes))]

	if inj.Register != nil {
		if f.register = *inj.Register; f.register < 1 || f.register > 63 {
			return nil, fmt.Errorf("there is no register %d: 1 to 31 are x1 to x31, 32 to 63 f0 to f31", f.register)
		}
	}
	if inj.CSR != "" {
		if f.word = wordOf(inj.CSR); f.word < 0 {
			return nil, fmt.Errorf("there is no CSR %q: there are %s", inj.CSR, strings.Join(CSRs(), ", "))
		}
	}
	if inj.Address != nil {
		if f.off = *inj.Address - firmware.RAMBase; f.off >= ram {
			return nil, fmt.Errorf("there is no memory at %#x: it is from %#x to %#x", *inj.Address, uint64(firmware.RAMBase), firmware.RAMBase+ram-1)
		}
	}
	if inj.Class != "" {
		if f.class = inj.Class; !slices.Contains(classes, f.class) {
			return nil, fmt.Errorf("there is no class of operations %q: there are %s", f.class, strings.Join(classes, ", "))
		}
	}
	return f, f.settleBit(inj.Bit, draw)
}

// settleBit takes a bit of those that there are, or draws one.
func (f *fault) settleBit(given *int, draw uint64) error {
	there, where := ^uint64(0), "a register"
	switch f.name {
	case flipPC:
		there, where = there&^1, "the pc"
	case flipCSR:
		there, where = rv64.CSRBits(f.word), csrName(f.word)
	case flipMemory:
		there, where = 0xff, "a byte of memory"
	}
	if given == nil {
		if f.name == stuck {
			there = 0xffff // as above
		}
		for range draw % uint64(bits.OnesCount64(there)) {
			there &= there - 1
		}
		f.bit = uint(bits.TrailingZeros64(there))
		return nil
	}
	if *given < 0 || *given > 63 || there>>*given&1 == 0 {
		return fmt.Errorf("%s has no bit %d: it has %s", where, *given, ranges(there))
	}
	f.bit = uint(*given)
	return nil
}

// ranges names the bits that are set.
func ranges(mask uint64) string {
	var parts []string
	for mask != 0 {
		first := bits.TrailingZeros64(mask)
		n := bits.TrailingZeros64(^(mask >> first))
		if n == 1 {
			parts = append(parts, fmt.Sprint(first))
		} else {
			parts = append(parts, fmt.Sprintf("%d to %d", first, first+n-1))
		}
		if first+n == 64 {
			break
		}
		mask = mask >> (first + n) << (first + n)
	}
	return strings.Join(parts, ", ")
}

func wordOf(csr string) int {
	for i := range rv64.StateWords {
		if rv64.CSRBits(i) != 0 && strings.EqualFold(rv64.WordName(i), csr) {
			return i
		}
	}
	return -1
}

// drawWord draws a CSR; of those of the memory protection none, which are most of them and
// rarely looked at.
func drawWord(r *rand.Rand) int {
	var words []int
	for i := range rv64.StateWords {
		if rv64.CSRBits(i) != 0 && !strings.HasPrefix(rv64.WordName(i), "Pmp") {
			words = append(words, i)
		}
	}
	return words[r.IntN(len(words))]
}
