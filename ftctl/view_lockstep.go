package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// This file says what `ftctl show` has to say of a machine's two CPU modules: how they run in
// lockstep, their links to the devices, and what was wrong with them.

// lockstep writes what is known of the modules and returns the rest.
func (f *facts) lockstep(stats map[string]any) map[string]any {
	rest := maps.Clone(stats)
	take := func(key string) map[string]any {
		m, ok := rest[key].(map[string]any)
		if ok {
			delete(rest, key)
		}
		return m
	}
	f.compared(take("lockstep"))
	f.links(take("links"))
	var pids []string
	modules := take("modules")
	for _, id := range slices.Sorted(maps.Keys(modules)) {
		pids = append(pids, id+" pid "+text(modules[id]))
	}
	f.add("modules", "%s", strings.Join(pids, ", "))
	for _, id := range []string{"cpu0", "cpu1"} {
		key := id + "_last_fault"
		f.add(id+" fault", "%s", text(rest[key]))
		delete(rest, key)
	}
	return rest
}

// compared writes what the modules have been compared in, and how the last join went.
func (f *facts) compared(lockstep map[string]any) {
	rest := maps.Clone(lockstep)
	counted := func(key, words string) string {
		n := text(rest[key])
		delete(rest, key)
		if n == "" {
			return ""
		}
		return n + " " + words
	}
	milli := func(key, words string) string {
		v, ok := rest[key].(float64)
		delete(rest, key)
		if !ok {
			return ""
		}
		return fmt.Sprintf(words, humanMicros(v*1000))
	}
	phase := text(rest["phase"])
	delete(rest, "phase")
	f.add("lockstep", "%s", joined(", ", phase, counted("quanta", "quanta"), counted("compared", "compared"), counted("epochs", "epochs")))
	f.add("exchanged", "%s", joined(", ", counted("outputs", "outputs"), counted("inputs", "inputs")))
	f.add("differences", "%s", joined(", ", counted("differences", "in all"), counted("repaired", "repaired")))
	f.add("patrol", "%s", joined(", ", counted("patrol_passes", "passes"), counted("patrol_pages", "pages compared")))
	joins := counted("joins", "joins")
	last := joined(", ", milli("blackout_ms", "the guest stood for %s"), milli("brownout_ms", "memory was copied for %s"),
		counted("copy_rounds", "rounds"))
	if slowed, _ := rest["throttled_ms"].(float64); slowed > 0 {
		last = joined(", ", last, milli("throttled_ms", "the guest was slowed for %s"))
	}
	delete(rest, "throttled_ms")
	if strings.HasPrefix(joins, "0 ") {
		last = ""
	}
	f.add("joins", "%s", joined("; the last: ", joins, last))
	f.tree("lockstep ", rest)
}

// links writes a table: cpu0-pci0  on, 1200 passed, 0 refused
func (f *facts) links(links map[string]any) {
	for _, id := range slices.Sorted(maps.Keys(links)) {
		l, ok := links[id].(map[string]any)
		if !ok {
			f.add("link "+id, "%s", text(links[id]))
			continue
		}
		f.add("link "+id, "%-3s  %8s passed  %6s refused", text(l["state"]), text(l["passed"]), text(l["refused"]))
	}
}
