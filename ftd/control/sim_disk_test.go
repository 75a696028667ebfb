package control

// This file plays the part of ftd's shell that keeps the contract of Result: what is written in
// which order, what waits for that, and what is lost when ftd is killed in between.
//
// Writes and answers go through one queue, as ftd's recorder has one; actions wait in a queue
// of their device for the write that they rest on. With ftd all of them go: what was not on
// disk has never been said, and has not been done.

// job is what waits for the disk: a write or an answer.
type job struct {
	write  *Action
	answer *Answer
}

// carryOut takes what a Step wants done.
func (b *simBox) carryOut(r Result) {
	// Most disks are quick; then nothing waits but by chance.
	slow := len(b.jobs) > 0 || b.slowDisk && b.pick(3) == 0
	for _, a := range r.Actions {
		if a.Kind != ActionTimer && a.Kind != ActionAlarm && a.Kind != ActionStart && (a.Kind != ActionPersist || len(r.Answers) > 0) {
			b.tell("  action %d %s %s %d after %d", a.ID, a.Kind, a.Device, a.Side, a.After)
		}
		switch a.Kind {
		case ActionPersist:
			b.jobs = append(b.jobs, job{write: &a})
		case ActionTimer:
			b.timer = a.At
		case ActionAlarm:
		default:
			b.held = append(b.held, a)
		}
	}
	for _, a := range r.Answers {
		b.jobs = append(b.jobs, job{answer: &a})
	}
	if slow {
		b.begin() // what rests on nothing
		return
	}
	b.write(len(b.jobs))
}

// write lets the disk do the next n jobs.
func (b *simBox) write(n int) {
	for ; n > 0 && len(b.jobs) > 0; n-- {
		j := b.jobs[0]
		b.jobs = b.jobs[1:]
		switch {
		case j.write != nil:
			res := ActionResult{ID: j.write.ID, Outcome: OK}
			if b.diskBad {
				res.Outcome, res.Sentence, b.failed[res.ID] = Failed, "no space left on device", true
				b.rules.forgetful = true
			} else {
				b.disk = *j.write.State
			}
			b.written = append(b.written, res)
		case !b.failed[j.answer.After]:
			a := *j.answer
			b.tell("  answer %s %s %s %s", a.Request, a.Status, a.Code, a.Sentence)
			b.rules.answered(a)
		}
	}
	b.begin()
}

// begin begins the actions that need not wait any more, those of one device in their order.
func (b *simBox) begin() {
	if len(b.held) == 0 {
		return
	}
	waiting := map[uint64]bool{}
	for _, j := range b.jobs {
		if j.write != nil {
			waiting[j.write.ID] = true
		}
	}
	blocked := map[string]bool{}
	kept := b.held[:0]
	for _, a := range b.held {
		switch {
		case blocked[a.Device] || waiting[a.After]:
			blocked[a.Device] = true
			kept = append(kept, a)
		case b.failed[a.After]:
			b.rules.dropped(a)
		default:
			b.do(a)
		}
	}
	b.held = kept
}

// do gives an action to whom it is for.
func (b *simBox) do(a Action) {
	d := b.device(a.Device)
	switch a.Kind {
	case ActionStart, ActionConfigure:
		d.config = a.Sides
		if a.Kind == ActionStart {
			if !d.alive {
				d.start(b.now)
			}
			d.gaveUp = false
			d.results = append(d.results, ActionResult{ID: a.ID, Outcome: OK})
		}
	case ActionAttach, ActionDetach, ActionStop, ActionSwitch, ActionSnapshot:
		d.calls = append(d.calls, a)
	}
}

// given is the state that was given out to be written last: what ftd goes by while it lives.
func (b *simBox) given() *Persistent {
	for i := len(b.jobs) - 1; i >= 0; i-- {
		if w := b.jobs[i].write; w != nil {
			return w.State
		}
	}
	return &b.disk
}

// writing is the state of a write that has not ended, nil when it has.
func (b *simBox) writing(id uint64) *Persistent {
	for _, j := range b.jobs {
		if j.write != nil && j.write.ID == id {
			return j.write.State
		}
	}
	return nil
}
