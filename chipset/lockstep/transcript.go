package lockstep

// Transcript is what a module answers to a stream, for comparing. It takes all of its records.
type Transcript struct {
	answers []answer
	outputs []Record
	state   uint64 // from which it began
	pages   []Page // all that it was asked for outside the stream
}

// Add takes a record.
func (t *Transcript) Add(r *Record) {
	switch {
	case r.Kind == Loaded:
		t.state = r.State
	case r.Kind == Output:
		t.outputs = append(t.outputs, *r)
	case r.Kind == Patrolled && r.Number&requestBit != 0:
		t.pages = append(t.pages, r.Pages...)
	case r.Kind == Ran, r.Kind == Ended, r.Kind == Patrolled:
		a := answer{record: *r, outputs: t.outputs}
		a.sum = a.digest()
		t.answers = append(t.answers, answer{record: Record{Number: r.Number}, sum: a.sum})
		t.outputs = nil
	}
}

// Last is the number of the last command that was answered.
func (t *Transcript) Last() uint64 {
	if len(t.answers) == 0 {
		return 0
	}
	return t.answers[len(t.answers)-1].record.Number
}

// Sums are the answers' digests.
func (t *Transcript) Sums() []uint64 { return sums(t.answers) }

// Asks says how many answers a log of commands asks for that Sums has.
func Asks(log []Command) (n int) {
	for i := range log {
		if _, ok := askOf(&log[i]); ok {
			n++
		}
	}
	return n
}
