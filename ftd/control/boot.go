package control

import (
	"fmt"
	"slices"
	"time"

	"ft/drivers"
)

// This file measures a boot: how long after the start each face served, and how long until
// both its sides did; the same for the box. That is written in the event log, in sentences
// with numbers beside them ("boot_ms"), and kept over restarts of ftd, which are no boots: the
// faces stay up meanwhile. What a boot does is the same as always (mayAttach: one side first,
// the other when the face is up); nothing here decides anything.
//
// A boot is over when the box is duplex, or when nothing of it is to be waited for: by policy
// defer the other sides wait for an admin, and what is out by a word or has been removed comes
// in when somebody says so. After bootLong what still comes is no part of it any more.

// bootLong is the longest boot.
const bootLong = time.Hour

// Boot is what is known of the last boot of the box. It is kept on disk.
type Boot struct {
	Started  time.Time  `json:"started"`             // when ftd began with no driver running
	ServesMS *int64     `json:"serves_ms,omitempty"` // from then until every face served that was wanted
	DuplexMS *int64     `json:"duplex_ms,omitempty"` // until every face had two sides
	Faces    []BootFace `json:"faces"`               // in the order in which they served
	Over     bool       `json:"over,omitempty"`      // nothing more is measured
}

// BootFace is one face in a boot.
type BootFace struct {
	ID       string `json:"id"`
	ServesMS int64  `json:"serves_ms"`
	DuplexMS *int64 `json:"duplex_ms,omitempty"`
}

func (b *Boot) clone() *Boot {
	if b == nil {
		return nil
	}
	n := *b
	n.Faces = slices.Clone(b.Faces)
	return &n
}

// face finds a face that has served, nil if it has not.
func (b *Boot) face(id string) *BootFace {
	for i := range b.Faces {
		if b.Faces[i].ID == id {
			return &b.Faces[i]
		}
	}
	return nil
}

// watchBoot notes what the last change has brought. Called when faces have been derived.
func (c *Core) watchBoot() {
	b := c.boot
	if b == nil || b.Over || !c.loaded {
		return
	}
	took := c.now.Sub(b.Started)
	if took > bootLong {
		b.Over, c.dirty = true, true
		return
	}
	serving, duplex := c.bootFaces(took)
	if b.ServesMS == nil && serving {
		b.ServesMS = c.bootNote(c.cfg.Name, "serves", took, "every face that is wanted is up")
	}
	if b.ServesMS != nil && duplex {
		b.DuplexMS = c.bootNote(c.cfg.Name, "duplex", took, "every face has two good sides")
	}
	if b.DuplexMS != nil || b.ServesMS != nil && c.bringup() == BringupDefer {
		b.Over, c.dirty = true, true
	}
}

// bootFaces notes faces that have come to serve, or to be duplex, and says whether all that
// are wanted do.
func (c *Core) bootFaces(took time.Duration) (serving, duplex bool) {
	b := c.boot
	serving, duplex = true, true
	n := 0
	for _, d := range c.devices {
		if !d.wanted() {
			continue // an admin, or its guest, has it down
		}
		n++
		face := b.face(d.name)
		if face == nil && d.face.state != drivers.FaceDown {
			ms := c.bootNote(d.name, "serves", took, d.face.reason)
			b.Faces = append(b.Faces, BootFace{ID: d.name, ServesMS: *ms})
			face = &b.Faces[len(b.Faces)-1]
		}
		if face != nil && face.DuplexMS == nil && d.face.state == drivers.FaceDuplex {
			if face.ServesMS == took.Milliseconds() {
				ms := face.ServesMS // both sides were found good
				face.DuplexMS = &ms
			} else {
				face.DuplexMS = c.bootNote(d.name, "duplex", took, d.face.reason)
			}
		}
		serving = serving && face != nil
		duplex = duplex && d.face.state == drivers.FaceDuplex
	}
	return serving && n > 0, duplex && n > 0
}

// bootNote logs a step of the boot, and returns its time.
func (c *Core) bootNote(id, what string, took time.Duration, why string) *int64 {
	ms := took.Milliseconds()
	c.dirty = true
	c.noteOn(id, Info, fmt.Sprintf("%s %s after %s: %s", id, what, seconds(took), why), map[string]any{"boot": what, "boot_ms": ms})
	return &ms
}

// seconds writes 0.4 s, 21 s, 3:05 min.
func seconds(d time.Duration) string {
	if d < 10*time.Second {
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return short(d)
}
