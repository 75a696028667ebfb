package port

import (
	"strings"
	"unicode"
)

// wordsMax bounds a module's last words, in bytes.
const wordsMax = 1024

// SayLast leaves why the module ends, for the chipset to tell. It is cut to wordsMax bytes.
func (m *Module) SayLast(text string) {
	n := copy(m.mem[offWords+8:offWords+8+wordsMax], text)
	m.mem.store(offWords, uint64(n))
}

// LastWords is what the module has said behind SayLast, "" for nothing. A module can write what
// it likes: what is not printable becomes a space.
func (c *Chipset) LastWords() string {
	n := min(c.mem.load(offWords), wordsMax)
	text := string(c.mem[offWords+8 : offWords+8+int(n)]) // a copy
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, text))
}
