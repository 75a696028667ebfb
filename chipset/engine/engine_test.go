package engine

import (
	"encoding/binary"
	"strings"
	"testing"

	"ft/chipset/rv64"
)

// counting is a hart with a loop.
func counting() *rv64.Hart {
	ram := make([]byte, 1<<20)
	for i, w := range []uint32{0x00150513, 0x00a5c5b3, 0xff9ff06f} { // addi a0,a0,1; xor a1,a1,a0; j .-8
		binary.LittleEndian.PutUint32(ram[4*i:], w)
	}
	return rv64.New(rv64.Config{RAM: ram, RAMBase: 0x8000_0000})
}

// TestEngines: all choices that the host has come to the same, also of a hart that is tested
// beside the machine's.
func TestEngines(t *testing.T) {
	want := counting()
	want.Run(100_000)
	for _, name := range Choices {
		kinds, err := Choice(name).Of()
		if err != nil {
			t.Logf("%s: %v", name, err)
			continue
		}
		for _, kind := range kinds {
			h, beside := counting(), counting()
			e, err := Attach(kind, h)
			if err != nil {
				t.Fatal(err)
			}
			h.Run(100_000)
			if err := e.Beside(beside, func() { beside.Run(100_000) }); err != nil {
				t.Error(err)
			}
			if h.State() != want.State() || beside.State() != want.State() {
				t.Errorf("%s, %s: the states differ", name, kind)
			}
			if s := e.Stats(); (s.NativeSteps > 50_000) != (kind == Translator) {
				t.Errorf("%s, %s: %d steps in machine code", name, kind, s.NativeSteps)
			}
			if err := e.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	if _, err := Choice("fast").Of(); err == nil || !strings.Contains(err.Error(), "unlike") {
		t.Errorf("an engine that there is not: %v", err)
	}
}

// TestPoison: bad code is a fault of the hart, with the guest's pc.
func TestPoison(t *testing.T) {
	h := counting()
	e, err := Attach(Translator, h)
	if err != nil {
		t.Skipf("no translator here: %v", err)
	}
	defer e.Close()
	h.Run(100_000)
	if !e.Poison() {
		t.Fatal("a translator translates nothing")
	}
	if _, why := h.Run(1_000_000); why != rv64.StopFault || h.Fault() == nil || !strings.Contains(h.Fault().Error(), "pc 0x8000000") {
		t.Errorf("it stopped for %v: %v", why, h.Fault())
	}
}
