package control

import (
	"sort"
	"time"
)

// This file holds what survives ftd: what people have said (targets, policies) and
// what happened to the parts (fault histories). States are not in it: they are the
// drivers' to know, and are read from them again.
//
// Rule 6: a change here is on disk before anything that rests on it is done. The core
// gives one ActionPersist before such actions and marks them with After.

// PersistentVersion is the version of the format that this code writes.
const PersistentVersion = 1

// Persistent is the whole of it, as JSON in the state directory.
type Persistent struct {
	Version  int                     `json:"version"`
	Bringup  BringupPolicy           `json:"bringup,omitempty"` // as an admin set it; "": by configuration
	Targets  map[string]Target       `json:"targets"`           // by side id; sides that nobody said anything about are left out
	Settings map[string]MTBFSettings `json:"mtbf_settings"`     // by side id
	History  map[string]History      `json:"mtbf_history"`      // by identity
	Parts    map[string]string       `json:"parts"`             // by side id: the identity of what was in it last
	Boot     *Boot                   `json:"boot,omitempty"`    // the last one
}

// Target says where a side is wanted, and why. It is a person's word, or the verdict on
// a part; nothing but a person or a new part turns a verdict round.
type Target struct {
	Direction Direction `json:"direction"`
	By        Author    `json:"by"`
	Who       string    `json:"who,omitempty"` // the admin
	Since     time.Time `json:"since"`
	// Risk is the risk that the admin named: an unfinished bringdown of a last side
	// goes on after a restart of ftd, an ordinary one never becomes one.
	Risk string `json:"risk,omitempty"`
	// Whole: the device was taken down as a whole, face and process with it. A side that
	// was out before keeps the target that it had.
	Whole bool `json:"whole,omitempty"`
	// Broken: the part was judged to have failed too often, or failed its test. Identity
	// is that part, where known: another one is not bound by the verdict.
	Broken   bool   `json:"broken,omitempty"`
	Identity string `json:"identity,omitempty"`
	Reason   string `json:"reason,omitempty"`
}

// byConfig is the target of a side that nobody has said anything about.
var byConfig = Target{Direction: In, By: ByConfig}

// out says whether the side is wanted out.
func (t Target) out() bool { return t.Direction == Out }

// notWhole is the target of a side whose device was not taken down after all.
func (t Target) notWhole() Target {
	if t.Broken {
		return Target{Direction: Out, By: ByFault, Since: t.Since, Broken: true, Identity: t.Identity, Reason: t.Reason}
	}
	return byConfig
}

// newPart is the target after another part has taken the place of the one before: a
// verdict is lifted, an admin's word stands.
func (t Target) newPart() Target {
	if t.By == ByFault {
		return byConfig
	}
	t.Broken, t.Identity = false, ""
	return t
}

// snapshot collects what is to be written.
func (c *Core) snapshot() *Persistent {
	p := &Persistent{
		Version:  PersistentVersion,
		Bringup:  c.bringupSet,
		Boot:     c.boot.clone(),
		Targets:  map[string]Target{},
		Settings: map[string]MTBFSettings{},
		History:  map[string]History{},
		Parts:    map[string]string{},
	}
	for id, t := range c.strangers {
		p.Targets[id] = t
	}
	for id, identity := range c.parts {
		p.Parts[id] = identity
	}
	for _, d := range c.devices {
		for i := range d.sides {
			if s := &d.sides[i]; s.target != byConfig {
				p.Targets[s.id] = s.target
			}
		}
	}
	for id, set := range c.settings {
		p.Settings[id] = set
	}
	for identity, h := range c.history {
		p.History[identity] = h.clone()
	}
	return p
}

// load takes over what a predecessor wrote.
func (c *Core) load(ev StateLoaded) {
	c.loaded = true
	c.seq = max(c.seq, ev.LastSeq)
	c.bringupSet = ev.State.Bringup
	for id, t := range ev.State.Targets {
		c.strangers[id] = t
	}
	for id, set := range ev.State.Settings {
		c.settings[id] = set
	}
	for id, identity := range ev.State.Parts {
		c.parts[id] = identity
	}
	for identity, h := range ev.State.History {
		h := h.clone()
		c.history[identity] = &h
	}
	c.boot = ev.State.Boot.clone()
	if c.resumed = ev.Booted.IsZero(); !c.resumed {
		c.boot = &Boot{Started: ev.Booted, Faces: []BootFace{}}
	}
	c.saved = ev.State
	c.dirty = ev.State.Version != PersistentVersion
}

// savedTarget is what is on disk about a side.
func (c *Core) savedTarget(id string) Target { return c.saved.target(id) }

// writtenTarget is what will be on disk about a side when the last write is done.
func (c *Core) writtenTarget(id string) Target {
	if n := len(c.writes); n > 0 {
		return c.writes[n-1].state.target(id)
	}
	return c.saved.target(id)
}

func (p *Persistent) target(id string) Target {
	if t, ok := p.Targets[id]; ok {
		return t
	}
	return byConfig
}

// pruneHistory forgets the parts that were heard of longest ago, beyond historyParts,
// so that a box where parts come and go does not grow. Parts in use are kept.
func (c *Core) pruneHistory() {
	if len(c.history) <= historyParts {
		return
	}
	used := map[string]bool{}
	for _, d := range c.devices {
		for i := range d.sides {
			used[d.sides[i].historyKey()] = true
		}
	}
	var idle []string
	for identity := range c.history {
		if !used[identity] {
			idle = append(idle, identity)
		}
	}
	sort.Slice(idle, func(i, j int) bool {
		a, b := c.history[idle[i]].lastHeard(), c.history[idle[j]].lastHeard()
		if !a.Equal(b) {
			return a.Before(b)
		}
		return idle[i] < idle[j]
	})
	for _, identity := range idle {
		if len(c.history) <= historyParts {
			return
		}
		delete(c.history, identity)
	}
}
