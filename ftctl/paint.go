package main

import (
	"strings"
	"unicode/utf8"
)

// Colours, as ANSI "select graphic rendition" parameters (ECMA-48 8.3.117).
const (
	plain  = ""
	green  = "32"
	yellow = "33"
	red    = "31;1"
	grey   = "90"
)

// stateColours say how much a state wants to be looked at.
var stateColours = map[string]string{
	"duplex": green, "syncing": yellow, "simplex": yellow, "diagnostics": yellow, "dumping": yellow,
	"down": red, "shot": red, "broken": red,
	"offline": grey, "removed": grey, "empty": grey,
}

// paint colours text where the output is a terminal.
func (a *app) paint(colour, text string) string {
	if !a.colour || colour == plain || text == "" {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

// column pads text to a width in characters, with at least one space, and then
// colours it, so that escapes do not count.
func (a *app) column(width int, colour, text string) string {
	pad := max(1, width-utf8.RuneCountInString(text))
	return a.paint(colour, text) + strings.Repeat(" ", pad)
}

// table writes rows in aligned columns; the last one is not padded.
func (a *app) table(rows [][]string, colour func(row, col int, text string) string) string {
	var width []int
	for _, r := range rows {
		for i, cell := range r {
			if i == len(width) {
				width = append(width, 0)
			}
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	for n, r := range rows {
		last := len(r) - 1
		for last > 0 && r[last] == "" {
			last--
		}
		for i, cell := range r[:last+1] {
			if i == last {
				b.WriteString(a.paint(colour(n, i, cell), cell))
				break
			}
			b.WriteString(a.column(width[i]+2, colour(n, i, cell), cell))
		}
		b.WriteByte('\n')
	}
	return b.String()
}
