package chipset

import "bytes"

// panicText is how a Linux kernel begins its last words (kernel/panic.c).
const panicText = "Kernel panic - not syncing: "

// panicWatch looks for them in what a console shows.
type panicWatch struct {
	line []byte // the present line, up to lineMax bytes of it
}

const lineMax = 512

// look returns the line of a panic once it has been written whole.
func (w *panicWatch) look(p []byte) (line string, found bool) {
	for len(p) > 0 {
		part, rest, ended := bytes.Cut(p, []byte{'\n'})
		w.line = append(w.line, part[:min(len(part), lineMax-len(w.line))]...)
		p = rest
		if !ended {
			break
		}
		if at := bytes.Index(w.line, []byte(panicText)); at >= 0 {
			line, found = string(bytes.TrimRight(w.line[at:], "\r")), true
		}
		w.line = w.line[:0]
	}
	return line, found
}
