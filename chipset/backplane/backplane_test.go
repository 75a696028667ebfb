package backplane

import (
	"testing"

	"ft/chipset/lockstep"
)

func TestAModuleAnswers(t *testing.T) {
	m := start(t, Config{Side: 1, CPU: -1})
	const n = 1000
	for i := range uint64(n) {
		m.run(i + 1)
	}
	for i := range uint64(n) {
		if r := m.record(i + 1); r.Kind != lockstep.Ran || r.Steps != (i+1)*10 {
			t.Fatalf("answer %d: %+v", i+1, r)
		}
	}
	if got := m.Passed(); got != n {
		t.Errorf("%d records passed, want %d", got, n)
	}
}
