package control

import (
	"fmt"
	"strings"

	"ft/drivers"
)

// This file holds what is peculiar to modules: what is pulled, fails and is replaced as one,
// and carries sides of several devices. How one is taken out as a whole stands in
// module_down.go.

// module is what is pulled as one.
type module struct {
	id    string
	sides []*side
	dark  string // why it is without power, "" when it is not
	mark[drivers.State]
}

func (c *Core) module(id string) *module {
	for i := range c.modules {
		if c.modules[i].id == id {
			return &c.modules[i]
		}
	}
	return nil
}

func (c *Core) moduleOf(s *side) *module {
	if m := c.module(s.dev.kind.modules[s.index]); m != nil {
		return m
	}
	panic("control: a side without a module: " + s.id)
}

// all says whether something holds for everything that is configured in the module; not when
// nothing is.
func (m *module) all(is func(*side) bool) bool {
	n := 0
	for _, s := range m.sides {
		if s.state == drivers.Empty {
			continue
		}
		if n++; !is(s) {
			return false
		}
	}
	return n > 0
}

// gone says that nothing of what the module carried is there any more. Of one that carries a
// single part nobody can tell whether the part was pulled or the module, unless it is that
// part, as a CPU module is.
func (m *module) gone() bool {
	return m.carries() > 1 && m.all(func(s *side) bool { return s.state == drivers.Removed })
}

// away says that it is without power, or that nothing of it is there. Without power what its
// drivers still have goes in a moment.
func (m *module) away() bool { return m.dark != "" || m.gone() }

// wantedOut says that all of it is out by the word of an admin.
func (m *module) wantedOut() bool {
	return m.all(func(s *side) bool { return s.target.out() && s.target.By == ByAdmin && !s.target.Whole })
}

// carries is how many configured sides it has.
func (m *module) carries() (n int) {
	for _, s := range m.sides {
		if s.state != drivers.Empty {
			n++
		}
	}
	return n
}

// pulled is the reason of a module that has lost everything.
const pulled = "all that it carries is gone: the module was pulled or has lost its power"

// becomeModule derives the state of a module: the worst of its sides.
func (c *Core) becomeModule(m *module) {
	if len(m.sides) == 0 {
		return
	}
	to, reason, known := drivers.Empty, m.sides[0].reason, true
	for _, s := range m.sides {
		known = known && s.dev.face.settled
	}
find:
	for _, state := range worst {
		for _, s := range m.sides {
			if s.state == state {
				to, reason = state, s.id+": "+s.reason
				break find
			}
		}
	}
	switch {
	case m.dark != "":
		reason = m.dark
	case m.gone():
		reason = pulled
	}
	severity := Info
	if to != drivers.Duplex && m.state == drivers.Duplex {
		severity = Warning
	}
	if (reason == pulled || m.dark != "") && m.reason != reason && m.state == to && to == drivers.Removed {
		// One part after the other, or all that was left: now it is the module.
		c.noteOn(m.id, map[bool]Severity{true: Info, false: Warning}[m.wantedOut()], reason, nil)
	}
	become(c, &m.mark, m.id, to, reason, severity, known)
}

// proposePower takes the news that a module has lost its power, or has it again. All that it
// carries goes at once, which is no fault of any of it. What is in it comes back when it is
// seen (DeviceSeen): power alone says nothing about that.
func (c *Core) proposePower(p *proposal, ev ModulePower) {
	m := c.module(ev.Module)
	switch {
	case m == nil:
		c.noteOn(ev.Module, Warning, fmt.Sprintf("news of the power of %q, which is no module: ignored", ev.Module), nil)
		return
	case ev.On == (m.dark == ""):
		return // nothing new
	case ev.On:
		p.then = func() {
			m.dark, m.reason = "", pulled // until what is in it is seen
			c.changes++
			c.noteOn(m.id, Info, m.id+" has its power again", nil)
		}
		return
	}
	why := orElse(ev.Reason, m.id+" has lost its power")
	p.then = func() {
		m.dark = why
		c.changes++
	}
	for _, s := range m.sides {
		if s.state == drivers.Empty {
			continue
		}
		n := p.at(s)
		if s.pulled = true; s.present {
			c.gone(n, s)
		}
		n.hold = hold{} // nothing is tried without power
		if !withDriver(n.state) {
			n.state, n.reason = drivers.Removed, why
		} // else its driver sees for itself, at once
	}
}

// noPower refuses to bring in what is in modules without power, where that is all that is
// asked for.
func noPower(c *Core, p *proposal) string {
	dark := ""
	for _, s := range p.sides {
		m := c.moduleOf(s)
		if p.at(s).target.out() || m.dark == "" {
			return ""
		}
		dark = m.id
	}
	if dark == "" {
		return ""
	}
	return fmt.Sprintf("%s has no power: ftctl inject %s power-on gives it back", dark, dark)
}

// moduleVerdict is about a module that is gone, or that an admin took out: then no part of it
// need be named. ok is false when its state has to be told part by part.
func (c *Core) moduleVerdict(m *module) (verdict, action string, ok bool) {
	bringup := "ftctl bringup " + m.id
	word := m.wantedOut()
	if m.away() {
		verdict = m.id + " is gone: it was pulled, or has lost its power"
		action = fmt.Sprintf("put %s back: what it carries then comes in by itself", m.id)
		if m.dark != "" {
			verdict = m.dark
			action = fmt.Sprintf("a drill took its power: ftctl inject %s power-on gives it back", m.id)
		}
		switch {
		case word && m.dark == "":
			action = fmt.Sprintf("put %s back, then: %s", m.id, bringup)
		case word:
			action += ", then: " + bringup
		case c.bringup() == BringupDefer && m.dark == "" && m.all(func(s *side) bool { return !s.dev.kind.returns }):
			action = fmt.Sprintf("put %s back, then: %s", m.id, bringup)
		}
		return verdict, action, true
	}
	if word && m.carries() > 1 && m.all(func(s *side) bool { return !withDriver(s.state) && s.state != drivers.Broken }) {
		last := m.sides[0]
		for _, s := range m.sides {
			if s.state != drivers.Empty && s.target.Since.After(last.target.Since) {
				last = s
			}
		}
		return fmt.Sprintf("%s is out of service: %s", m.id, last.target.Reason), bringup + " when the work on it is done", true
	}
	return "", "", false
}

// listed names what a module carries.
func (m *module) listed() string {
	var names []string
	for _, s := range m.sides {
		if s.state != drivers.Empty {
			names = append(names, s.id)
		}
	}
	switch n := len(names); n {
	case 0:
		return ""
	case 1:
		return names[0]
	default:
		return strings.Join(names[:n-1], ", ") + " and " + names[n-1]
	}
}
