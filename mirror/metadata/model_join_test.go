package metadata

import "pgregory.net/rapid"

// The model of model_test.go: how legs come in, and a person's word.

// attach brings the other leg in: what Relate says is copied and no more, and then
// both must be the same.
func (m *model) attach() {
	s := m.alone()
	j := 1 - s
	if s < 0 || m.slots[j] == nil {
		return
	}
	serving, joiner := m.slots[s], m.slots[j]
	rel := RelBehindFull
	if joiner.made {
		rel = Relate(&serving.sb, &joiner.sb)
		if !rel.MayJoin() {
			m.logf("attach %d: %s", j, Explain("disk0", &serving.sb, &joiner.sb))
			if !m.maybe("overwrite") {
				return
			}
		}
	} else {
		m.blank(j)
	}
	m.logf("attach %d: %s", j, rel)
	m.seen["attach "+rel.String()]++
	if rel != RelEqual {
		m.record(s)
	}
	var lacks blockSet
	switch rel {
	case RelEqual:
		lacks = serving.intent
		m.step()
		joiner.intent = serving.intent
		for b, l := range lacks {
			if l {
				m.step()
				joiner.data[b] = serving.data[b]
			}
		}
		m.in[j] = true
		m.mustBeEqual(rel)
		return
	case RelBehind:
		lacks = m.missed
	default:
		for b := range lacks {
			lacks[b] = true
		}
		m.missed = lacks
		m.saveMissed(s)
		m.super(serving, func(sb *Superblock) { sb.MissedLeg, sb.MissedFrom = joiner.sb.Leg, joiner.sb.Generation })
	}
	keep := m.maybe("keep what it said") // of no meaning while it is resynced
	m.super(joiner, func(sb *Superblock) {
		sb.Syncing, sb.Clean = true, false
		if !keep {
			sb.InService, sb.History = 0, nil
		}
	})
	m.target = j
	for b, l := range lacks {
		if !l {
			continue
		}
		m.step()
		joiner.data[b] = serving.data[b]
		m.missed[b] = false
		switch rapid.IntRange(0, 9).Draw(m.t, "during the resync") {
		case 0:
			m.saveMissed(s)
		case 1:
			m.write(rapid.IntRange(0, modelBlocks-1).Draw(m.t, "block"))
		case 2:
			m.settle()
		case 3:
			m.logf("lose the target %d", j)
			m.target = -1
			return
		}
	}
	m.join(s, j, rel)
}

func (m *model) join(s, j int, rel Relation) {
	serving, joiner := m.slots[s], m.slots[j]
	m.mustBeEqual(rel)
	m.step()
	joiner.intent = serving.intent
	m.target = -1
	m.super(joiner, func(sb *Superblock) {
		sb.Generation, sb.History = serving.sb.Generation, serving.sb.Clone().History
		sb.InService, sb.Syncing, sb.MissedLeg, sb.MissedFrom = 3, false, serving.sb.Leg, Generation{}
	})
	m.in[j] = true
	switch rapid.IntRange(0, 9).Draw(m.t, "during the join") {
	case 0:
		if !m.vanishing {
			m.logf("lose the server %d in the join", s)
			m.in[s] = false
			m.missed = joiner.intent
			m.recordLoss(j)
			return
		}
	case 1: // the join is given up, the server goes on alone in its generation
		m.logf("lose the joiner %d in the join", j)
		m.in[j] = false
		m.missed = serving.intent
		return
	}
	m.super(serving, func(sb *Superblock) { sb.InService, sb.MissedLeg = 3, joiner.sb.Leg })
	if m.maybe("write before the witness") {
		m.write(rapid.IntRange(0, modelBlocks-1).Draw(m.t, "block"))
	}
	if m.alone() < 0 {
		m.witness(serving.sb.Generation, -1)
	}
	m.logf("joined %d", j)
}

func (m *model) mustBeEqual(rel Relation) {
	if m.slots[0].data != m.slots[1].data {
		m.failf("after copying what %q says, the legs hold %v and %v", rel, m.slots[0].data, m.slots[1].data)
	}
}

// resolve is a person's word that leg s is kept.
func (m *model) resolve(s int) {
	l := m.slots[s]
	if m.up || l == nil || !l.made {
		return
	}
	m.logf("resolve, keep %d", s)
	var over []Generation
	if o := m.slots[1-s]; o != nil && o.made {
		over = append(over, o.sb.Generation)
	}
	if m.w != nil {
		over = append(over, m.w.Generation)
	}
	for b := range m.acked {
		m.acked[b] = min(m.acked[b], l.data[b])
		delete(m.dead, l.data[b]) // wanted after all
	}
	m.goOn(s, func(sb *Superblock) { sb.Syncing, sb.MissedLeg = false, UUID{} }, over...)
	for _, slot := range m.all {
		for _, o := range slot {
			for b := range o.data {
				if o.data[b] > l.data[b] {
					m.dead[o.data[b]] = true
				}
			}
		}
	}
	m.acked = l.data
}
