package control

import (
	"strings"

	"ft/drivers"
)

// This file holds what the ruleBook knows of people's words: what they have been told was
// accepted, done, refused or taken back.

// answered takes over what people have been told: words that were accepted hold.
func (r *ruleBook) answered(a Answer) {
	ask := r.asked[a.Request]
	if ask == nil {
		return
	}
	if ask.final {
		r.fail("a second final answer to %s: %s %s", a.Request, a.Status, a.Sentence)
	}
	taken := a.Status == AnswerAccepted || a.Status == AnswerDone && !ask.accepted
	_, up := ask.ev.(BringUp)
	if !ask.accepted && (a.Status == AnswerFailed || a.Status == AnswerRefused && up && a.Code != RulePersist) {
		r.unknown(ask.ev) // it was accepted, and that answer went with a write that failed
	}
	ask.accepted, ask.final = true, a.Final()
	defer r.undone(a)
	if a.Status == AnswerDone {
		r.checkKept(ask)
	}
	target, word := "", In
	switch ev := ask.ev.(type) {
	case BringUp:
		target = ev.Target
	case BringDown:
		target, word = ev.Target, Out
	case ClearMTBF:
		if a.Status == AnswerDone {
			for _, s := range r.named(ev.Target) {
				r.part(s.part).clear(ask.at)
			}
		}
		return
	case SetBringup:
		if a.Status == AnswerDone && ev.Policy == BringupAuto {
			for _, s := range r.sides {
				s.may = true
			}
		}
		return
	default:
		return
	}
	for _, s := range r.named(target) {
		switch {
		case taken && ask.at.After(s.wordAt):
			s.word, s.wordBy, s.wordAt = word, a.Request, ask.at
			if word == In {
				s.may, s.risk = true, s.risk && s.riskAt.After(ask.at)
				if p := r.part(s.part); p.broken {
					p.broken, p.forgivenR, p.forgivenD = false, upTo(p.real, ask.at), upTo(p.drill, ask.at)
				}
			}
		}
	}
}

// unknown: nobody can say any more what is wanted of the sides that a request names.
func (r *ruleBook) unknown(ev Event) {
	target := ""
	switch ev := ev.(type) {
	case BringUp:
		target = ev.Target
	case BringDown:
		target = ev.Target
	}
	for _, s := range r.named(target) {
		_, up := ev.(BringUp)
		s.word, s.wordBy, s.may = "", "", s.may || up
	}
}

// undone takes back what an answer says was not done after all: at once, and again when
// whoever asked is told, who may have been told last that it was accepted.
func (r *ruleBook) undone(a Answer) {
	if a.Status != AnswerRefused && !strings.Contains(a.Sentence, " stays in, for ") {
		return
	}
	r.takenBack(a.Request)
	if ask := r.asked[a.Request]; ask != nil && a.Code == drivers.RuleBusy {
		r.unknown(ask.ev) // a stop that was not carried out has undone the words before it
	}
}

// takenBack: a request was refused after it had been accepted, so that nobody knows what
// is wanted.
func (r *ruleBook) takenBack(request string) {
	for _, s := range r.sides {
		if s.wordBy == request {
			s.word = ""
		}
	}
}
