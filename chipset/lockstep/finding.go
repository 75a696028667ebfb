package lockstep

import (
	"fmt"
	"slices"

	"github.com/cespare/xxhash/v2"
)

// finding says what was wrong with a side: the first answer that is another than the right
// result's, which a good side has come to.
func (c *Core) finding(s, good Side, result []uint64) Finding {
	t := c.trial
	if cs := t.damage[s]; cs != nil {
		return cs.Fault
	}
	var bad, right *answer
	i := firstDifference(t.first[s], result)
	if i == t.agreed {
		bad = &t.front[s]
	} else if i == len(result) { // it was right the first time
		run := sums(t.runs[s])
		if i = min(firstDifference(run, result), len(run)-1); i >= 0 {
			bad = &t.runs[s][i]
		}
	}
	switch {
	case len(t.runs[good]) > i && i >= 0 && slices.Equal(sums(t.runs[good]), result):
		right = &t.runs[good][i]
	case i == t.agreed && slices.Equal(t.first[good], result):
		right = &t.front[good]
	}
	f := Finding{Side: s, From: t.from, To: t.from, PC: t.pc}
	verb := t.asked[min(max(i, 0), len(t.asked)-1)].verb
	if bad != nil && right != nil {
		f.To = max(bad.record.Steps, right.record.Steps)
		f.Differs = differences(bad, right)
	}
	f.say(verb)
	return f
}

// findingBeginning says what is wrong with what a side stands at in the beginning.
func (c *Core) findingBeginning(s Side) Finding {
	t := c.trial
	bad, right := &t.front[s], &t.front[s.Other()]
	f := Finding{
		Side: s, Cause: "memory", Text: t.beginning(s), From: t.from, To: max(bad.record.Steps, right.record.Steps), PC: t.pc,
		Differs: differences(bad, right),
	}
	if t.asked[t.agreed].verb == Patrol {
		f.Cause = "patrol"
	}
	if pages := t.badPages(s); len(pages) > 0 {
		f.Page, f.HasPage = pages[0], true
	}
	return f
}

// say fills in the cause and the text, by the command at which it showed.
func (f *Finding) say(verb Verb) {
	other := f.Side.Other()
	switch verb {
	case Run:
		f.Cause, f.Text = "compare", fmt.Sprintf("it differed from %v between step %d and step %d", other, f.From, f.To)
	case Epoch:
		f.Cause, f.Text = "epoch", fmt.Sprintf("its memory or state differed from %v's at the end of an epoch, step %d", other, f.From)
	default:
		f.Cause, f.Text = "patrol", fmt.Sprintf("the patrol found its memory to differ from %v's", other)
	}
}

// firstDifference is where two lists differ, and the length of the second where they do not.
func firstDifference(a, b []uint64) int {
	for i := range b {
		if i >= len(a) || a[i] != b[i] {
			return i
		}
	}
	return len(b)
}

// differences are in what two answers to one command differ.
func differences(bad, good *answer) (list []Difference) {
	b, g := &bad.record, &good.record
	add := func(what string, bad, good uint64) {
		if bad != good {
			list = append(list, Difference{what, bad, good})
		}
	}
	add("steps", b.Steps, g.Steps)
	add("end of the quantum", uint64(b.Why), uint64(g.Why))
	add("fingerprint", b.Fingerprint, g.Fingerprint)
	add("registers' digest", b.State, g.State)
	add("pc", b.PC, g.PC)
	add("guest time", b.Time, g.Time)
	add("outputs", uint64(len(bad.outputs)), uint64(len(good.outputs)))
	for i := range min(len(bad.outputs), len(good.outputs)) {
		x, y := &bad.outputs[i], &good.outputs[i]
		add(fmt.Sprintf("output %d's slot", i), uint64(x.Slot), uint64(y.Slot))
		add(fmt.Sprintf("output %d's sector", i), x.Sector, y.Sector)
		add(fmt.Sprintf("output %d's length", i), x.Length+uint64(len(x.Data)), y.Length+uint64(len(y.Data)))
		add(fmt.Sprintf("output %d's data", i), xxhash.Sum64(x.Data), xxhash.Sum64(y.Data))
	}
	// Both lists are sorted by page.
	const pagesMax = 8
	for i, j := 0, 0; (i < len(b.Pages) || j < len(g.Pages)) && len(list) < pagesMax; {
		switch {
		case j == len(g.Pages) || i < len(b.Pages) && b.Pages[i].Index < g.Pages[j].Index:
			add(fmt.Sprintf("page %#x", b.Pages[i].Index), b.Pages[i].Digest, 0)
			i++
		case i == len(b.Pages) || g.Pages[j].Index < b.Pages[i].Index:
			add(fmt.Sprintf("page %#x", g.Pages[j].Index), 0, g.Pages[j].Digest)
			j++
		default:
			add(fmt.Sprintf("page %#x", b.Pages[i].Index), b.Pages[i].Digest, g.Pages[j].Digest)
			i, j = i+1, j+1
		}
	}
	return list
}
