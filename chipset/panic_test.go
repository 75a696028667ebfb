package chipset

import (
	"strings"
	"testing"
)

func TestPanicIsSeen(t *testing.T) {
	const text = "[    1.0] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)\r\n[    1.1] CPU: 0\n"
	for cut := range len(text) {
		var w panicWatch
		var lines []string
		for _, part := range []string{"boot\n", text[:cut], text[cut:]} {
			if line, found := w.look([]byte(part)); found {
				lines = append(lines, line)
			}
		}
		if len(lines) != 1 || lines[0] != "Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)" {
			t.Fatalf("cut at %d: %q", cut, lines)
		}
	}
}

func TestPanicWatchIsBounded(t *testing.T) {
	var w panicWatch
	for range 100 {
		if _, found := w.look([]byte(strings.Repeat("x", 1000))); found {
			t.Fatal("a panic in nothing")
		}
	}
	if len(w.line) > lineMax {
		t.Errorf("%d bytes are kept", len(w.line))
	}
	if _, found := w.look([]byte("\nKernel panic - not syncing: late\n")); !found {
		t.Error("not seen behind a long line")
	}
}
