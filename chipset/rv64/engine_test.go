package rv64

import (
	"flag"
	"testing"
)

// Which engine the tests' harts have: -engine translate gives every one machine code for each
// block that it comes to.
var engine = flag.String("engine", "interpret", "the engine that is tested: interpret or translate")

// AttachTranslator is set by what may import the translator (translate_test.go).
var AttachTranslator func(h *Hart, threshold int) (detach func() error, err error)

// giveEngine gives a hart the engine that is tested.
func giveEngine(t testing.TB, h *Hart, name string, threshold int) {
	t.Helper()
	switch name {
	case "interpret":
	case "translate":
		detach, err := AttachTranslator(h, threshold)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := detach(); err != nil {
				t.Error(err)
			}
		})
	default:
		t.Fatalf("there is no engine %q", name)
	}
}
