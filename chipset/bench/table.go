package main

import (
	"fmt"
	"slices"
	"strings"
)

// series are figures of one kind, round by round.
type series []float64

// median is the upper one of two.
func (s series) median() float64 { return slices.Sorted(slices.Values(s))[len(s)/2] }

// row is a row of a table: what each computer reached in each round, and how the last one
// of them, which the row is about, compares.
type row struct {
	name, unit string
	units      []string // of each computer's figures, where they differ
	cells      []series
	ratios     series
	least      string
	remark     string
}

func newRow(name, unit string) *row { return &row{name: name, unit: unit} }

// add adds the figure of a computer in one more round.
func (r *row) add(computer int, figure float64) {
	for len(r.cells) <= computer {
		r.cells = append(r.cells, nil)
	}
	r.cells[computer] = append(r.cells[computer], figure)
}

// ratio is that of two computers' figures in the latest round.
func (r *row) ratio(of, to int) float64 {
	latest := func(i int) float64 { return r.cells[i][len(r.cells[i])-1] }
	return latest(of) / latest(to)
}

// compare adds a round's ratio.
func (r *row) compare(ratio float64) { r.ratios = append(r.ratios, ratio) }

const (
	nameWidth = 34
	cellWidth = 13
)

// head is the first line of a table.
func head(what string, computers ...string) string {
	return plainHead(what, computers...) + fmt.Sprintf(" %7s %11s  %s", "ratio", "of rounds", "at least")
}

// plainHead is the first line of a table that compares nothing.
func plainHead(what string, columns ...string) string {
	var line strings.Builder
	fmt.Fprintf(&line, "%-*s", nameWidth, what)
	for _, c := range columns {
		fmt.Fprintf(&line, " %*s", cellWidth, c)
	}
	return line.String()
}

// String has the medians; the ratio is the median of the rounds' ratios.
func (r *row) String() string {
	var line strings.Builder
	fmt.Fprintf(&line, "%-*s", nameWidth, r.name)
	for i, c := range r.cells {
		unit := r.unit
		if r.units != nil {
			unit = r.units[i]
		}
		shown := "-"
		if len(c) > 0 {
			shown = strings.TrimRight(figure(c.median())+" "+unit, " ")
		}
		fmt.Fprintf(&line, " %*s", cellWidth, shown)
	}
	switch {
	case r.ratios != nil:
		fmt.Fprintf(&line, " %7.3f %11s  %-15s", r.ratios.median(), fmt.Sprintf("%.2f-%.2f", slices.Min(r.ratios), slices.Max(r.ratios)), r.least)
	case r.least != "":
		fmt.Fprintf(&line, " %7s %11s  %-15s", "", "", r.least)
	}
	if r.remark != "" {
		fmt.Fprintf(&line, "  (%s)", r.remark)
	}
	return strings.TrimRight(line.String(), " ")
}

// figure shows a number with at least three digits.
func figure(x float64) string {
	switch {
	case x >= 100 || x <= -100:
		return fmt.Sprintf("%.0f", x)
	case x >= 10 || x <= -10:
		return fmt.Sprintf("%.1f", x)
	case x >= 1 || x <= -1:
		return fmt.Sprintf("%.2f", x)
	}
	return fmt.Sprintf("%.3f", x)
}
