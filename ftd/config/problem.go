package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Problem is one mistake: where it is, what it is, and the way out of it.
type Problem struct {
	File   string
	Line   int    // from 1
	Device string // that it is about, "" for the file or the box as a whole
	What   string
	WayOut string
	// Absent: a leg or a NIC is not there at present, or a file that a machine starts from
	// is not there or not fit. That refuses a new box, but is no reason not to start one
	// that has run before.
	Absent bool
	// Advice: it works, but is worth a thought.
	Advice bool
}

func (p Problem) Error() string {
	return fmt.Sprintf("%s:%d: %s; %s", p.File, p.Line, p.What, p.WayOut)
}

// problemsShown bounds the message of a file that is wrong throughout.
const problemsShown = 20

// Problems are the mistakes of a file, in the order of their lines.
type Problems []Problem

func (ps Problems) Error() string {
	var b strings.Builder
	for i, p := range ps {
		if i == problemsShown {
			fmt.Fprintf(&b, "\n%s: and %d more", p.File, len(ps)-i)
			break
		}
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(p.Error())
	}
	return b.String()
}

func (ps Problems) sorted() Problems {
	slices.SortStableFunc(ps, func(a, b Problem) int { return cmp.Compare(a.Line, b.Line) })
	return ps
}

// nearest is the known word that an unknown one was probably meant to be, or "".
func nearest(word string, known []string) string {
	best, bestDistance := "", max(1, min(3, len(word)/3))+1
	for _, k := range known {
		if d := distance(strings.ToLower(word), k); d < bestDistance {
			best, bestDistance = k, d
		}
	}
	return best
}

// distance is the number of letters to insert, delete, replace or swap with their
// neighbour (optimal string alignment). Words longer than any key are far away.
func distance(a, b string) int {
	const wordMax = 64
	if len(a) > wordMax || len(b) > wordMax {
		return wordMax
	}
	var d [wordMax + 1][wordMax + 1]int
	for i := 0; i <= len(a); i++ {
		for j := 0; j <= len(b); j++ {
			switch {
			case i == 0 || j == 0:
				d[i][j] = i + j
				continue
			case a[i-1] == b[j-1]:
				d[i][j] = d[i-1][j-1]
				continue
			}
			d[i][j] = 1 + min(d[i-1][j], d[i][j-1], d[i-1][j-1])
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d[i][j] = min(d[i][j], d[i-2][j-2]+1)
			}
		}
	}
	return d[len(a)][len(b)]
}
