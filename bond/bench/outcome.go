package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// outcome is what one failover did to a stream.
type outcome struct {
	lost  int
	gap   time.Duration // the longest, 0 when nothing was lost
	twice int           // arrivals of what had arrived before
	rate  float64       // datagrams a second that the sender managed
}

// outcomes are those of one subject in all rounds; nil where it cannot take part.
type outcomes []outcome

// lost and gap are median and worst.
func (o outcomes) lost() (middle, worst int) {
	return spread(o, func(x outcome) int { return x.lost })
}

func (o outcomes) gap() (middle, worst time.Duration) {
	return spread(o, func(x outcome) time.Duration { return x.gap })
}

func spread[T cmp.Ordered](o outcomes, of func(outcome) T) (middle, worst T) {
	if len(o) == 0 {
		return middle, worst
	}
	var all []T
	for _, x := range o {
		all = append(all, of(x))
	}
	return median(all), slices.Max(all)
}

// median is the upper one of two.
func median[T cmp.Ordered](x []T) T {
	s := slices.Sorted(slices.Values(x))
	return s[len(s)/2]
}

// String is a cell of the table: the gap in ms and the datagrams lost.
func (o outcomes) String() string {
	if o == nil {
		return "-"
	}
	gap, worstGap := o.gap()
	lost, worstLost := o.lost()
	ms := func(d time.Duration) string {
		if d >= 100*time.Millisecond {
			return fmt.Sprintf("%.0f", d.Seconds()*1000)
		}
		return fmt.Sprintf("%.1f", d.Seconds()*1000)
	}
	return fmt.Sprintf("%s (%s)  %d (%d)", ms(gap), ms(worstGap), lost, worstLost)
}

// fewer says by how much we lose less than the kernel's bonding does.
func fewer(theirs, ours outcomes) string {
	if theirs == nil || ours == nil {
		return "-"
	}
	a, _ := theirs.lost()
	b, _ := ours.lost()
	switch {
	case b == 0 && a == 0:
		return "none"
	case b == 0:
		return fmt.Sprintf("> %d x", a)
	}
	return fmt.Sprintf("%.1f x", float64(a)/float64(b))
}

// remarks are what no reader of a scenario's rows should miss.
func remarks(rows [][]outcomes, subjects []subject) (all []string) {
	slowest := float64(rate)
	for _, row := range rows {
		for i, o := range row {
			twice := 0
			for _, x := range o {
				twice += x.twice
				slowest = min(slowest, x.rate)
			}
			if twice > 0 {
				all = append(all, fmt.Sprintf("%d DATAGRAMS CAME TWICE on the path %s", twice, subjects[i].name()))
			}
		}
	}
	if slowest < 0.9*rate {
		all = append(all, fmt.Sprintf("a sender managed only %.1f kHz", slowest/1000))
	}
	return all
}

// ratios are of the same thing measured in turn on the anchor and on the face.
type ratios struct{ anchor, face, ratio []float64 }

func (r *ratios) add(anchor, face, ratio float64) {
	r.anchor, r.face, r.ratio = append(r.anchor, anchor), append(r.face, face), append(r.ratio, ratio)
}

// line is a row of the table: medians, and how far the ratios of the rounds are apart.
func (r *ratios) line(name, unit string, scale, least, aim float64) string {
	goal := func(x float64) string {
		if x == 0 {
			return "-"
		}
		return fmt.Sprintf("%.2f", x)
	}
	return strings.TrimRight(fmt.Sprintf("%-38s %14s %14s %7.3f  %11s %9s %5s", name,
		fmt.Sprintf("%.4g %s", median(r.anchor)*scale, unit), fmt.Sprintf("%.4g %s", median(r.face)*scale, unit), median(r.ratio),
		fmt.Sprintf("%.2f-%.2f", slices.Min(r.ratio), slices.Max(r.ratio)), goal(least), goal(aim)), " ")
}
