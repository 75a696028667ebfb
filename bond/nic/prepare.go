package nic

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"slices"

	"golang.org/x/sys/unix"

	"ft/drivers"
)

// A knob may bring another one into being (see knobs), which the next pass then finds.
const passesMax = 3

// Prepare makes a NIC ready to carry the face: silent by itself, deaf to nothing that the
// face wants, up. It writes down what it changes before it does, and changes nothing that
// is right. Notes say what this NIC cannot do and what that costs.
//
// A *drivers.Refused means that the NIC cannot carry this face at all. It is as it was
// then; one that was prepared before goes on as it is. ErrNone: it is gone.
func (b *Book) Prepare(s drivers.Side, l Link, w Want) (notes []string, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !s.Valid() {
		return nil, fmt.Errorf("prepare %s: there is no side %d", l.Name, s)
	}
	if l, err = ByIndex(l.Index); err != nil {
		return nil, err
	}
	if err := refuse(l, w); err != nil {
		return nil, err
	}
	defer func() {
		notes = append(b.notes, notes...)
		b.notes = nil
	}()
	if b.sides[s.Other()].is(l, b.netns) { // the sides have changed places
		b.sides[0], b.sides[1] = b.sides[1], b.sides[0]
	}
	anew := !b.sides[s].is(l, b.netns)
	if anew {
		// The one before may still be there, and no port any more.
		if err := b.restore(s); err != nil {
			notes = append(notes, err.Error())
		}
		b.sides[s] = &record{Netns: b.netns, Index: l.Index}
		if len(l.PermMAC) > 0 {
			b.sides[s].PermMAC = l.PermMAC.String()
		}
	}
	rec := b.sides[s]
	rec.Name = l.Name

	// The filter comes first, so that the NIC never takes the face's packets half.
	if !w.Enslaved && len(w.FaceMAC) > 0 {
		filters, err := unicastFilters()
		if err != nil {
			return notes, err
		}
		refused, err := b.admit(rec, l, filters[l.Index], []net.HardwareAddr{w.FaceMAC})
		if err == nil && refused != nil {
			notes = append(notes, refusedNote(l, refused))
			err = b.turn(rec, l, knobAll, on)
		}
		if err != nil {
			return notes, err
		}
	}
	turned, err := b.turnAll(rec, l.Index, w)
	if refused := (*drivers.Refused)(nil); anew && errors.As(err, &refused) {
		if rerr := b.restore(s); rerr != nil {
			err = errors.Join(err, rerr)
		}
	}
	return append(notes, turned...), err
}

// refuse is for NICs that can never carry the face.
func refuse(l Link, w Want) error {
	if w.Enslaved {
		return nil
	}
	if l.MaxMTU > 0 && w.MTU > l.MaxMTU {
		return unfit("%s can take an MTU of at most %d, and the bond's face has %d: set mtu = %d for the bond, or put a NIC in that can take more", l.Name, l.MaxMTU, w.MTU, l.MaxMTU)
	}
	if len(w.FaceMAC) > 0 && bytes.Equal(l.MAC, w.FaceMAC) {
		return unfit("%s has the MAC %s, which is the face's: the two must differ, give the bond another mac, or none to let it have one of its own", l.Name, l.MAC)
	}
	return nil
}

// turnAll turns every knob that does not stand where it shall.
func (b *Book) turnAll(rec *record, index int, w Want) (notes []string, err error) {
	stuck := map[string]bool{}
	giveUp := func(l Link, k knob, err error) {
		stuck[k.name] = true
		notes = append(notes, fmt.Sprintf("%s: %s cannot be set (%v): %s", l.Name, k.name, err, k.cost))
	}
	values := w.values()
	for pass := 1; ; pass++ {
		l, err := ByIndex(index)
		if err != nil {
			return notes, err
		}
		d, err := look(l)
		if err != nil {
			return notes, err
		}
		var todo []knob
		for _, k := range knobs {
			want, wanted := values[k.name]
			if !wanted || stuck[k.name] {
				continue
			}
			now, ok, err := k.get(d)
			if err != nil {
				giveUp(l, k, err)
			} else if ok && rec.plan(k.name, now, want) {
				todo = append(todo, k)
			}
		}
		// The bonding driver takes only NICs that are down, sets them up, and leaves them down.
		if w.Enslaved && l.Master == 0 {
			rec.plan(knobUp, flag(l.Up), flag(!l.Up))
		}
		if err := b.save(); err != nil {
			return notes, err
		}
		if len(todo) == 0 {
			return notes, nil
		}
		for _, k := range todo {
			err := errors.New("the kernel says that it is, and it is not")
			if pass < passesMax {
				b.step("set " + k.name)
				err = k.set(d, values[k.name])
			}
			switch {
			case err == nil:
			case k.name == knobMTU && errors.Is(err, unix.EINVAL):
				return notes, mtuRefused(l, w.MTU)
			case k.cost == "" || errors.Is(err, unix.ENODEV):
				return notes, fmt.Errorf("prepare %s: set %s to %s: %w", l.Name, k.name, values[k.name], gone(err))
			default:
				giveUp(l, k, err)
			}
		}
		if pass == passesMax {
			return notes, nil
		}
	}
}

func mtuRefused(l Link, mtu int) error {
	return unfit("%s cannot take an MTU of %d, which the bond's face has (it has %d now): set mtu for the bond to what it can take, or put another NIC in", l.Name, mtu, l.MTU)
}

// turn turns one knob, and writes it down before.
func (b *Book) turn(rec *record, l Link, name, want string) error {
	k, _ := knobNamed(name)
	d := device{Link: l}
	now, ok, err := k.get(d)
	if err != nil || !ok {
		return fmt.Errorf("read %s of %s: %w", name, l.Name, err)
	}
	turn := rec.plan(name, now, want)
	if err := b.save(); err != nil || !turn {
		return err
	}
	b.step("set " + name)
	if err := k.set(d, want); err != nil {
		return fmt.Errorf("set %s of %s to %s: %w", name, l.Name, want, gone(err))
	}
	return nil
}

// Restore puts a side's NIC back as it was: what still is as we set it, and only that. It
// is a success when the NIC is gone. What could not be put back stays in the book, and
// the next Restore tries it again.
func (b *Book) Restore(s drivers.Side) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !s.Valid() {
		return fmt.Errorf("put a NIC back as it was: there is no side %d", s)
	}
	return b.restore(s)
}

func (b *Book) restore(s drivers.Side) error {
	rec := b.sides[s]
	if rec == nil {
		return nil
	}
	l, err := ByIndex(rec.Index)
	if err == nil && rec.is(l, b.netns) {
		if err = b.putBack(rec, l); err != nil {
			if _, now := ByIndex(rec.Index); errors.Is(now, ErrNone) {
				err = now // it went away under our hands
			}
		}
	}
	if err != nil && !errors.Is(err, ErrNone) {
		return fmt.Errorf("put %s back as it was: %w", rec.Name, errors.Join(err, b.save()))
	}
	b.sides[s] = nil
	return b.save()
}

func (b *Book) putBack(rec *record, l Link) error {
	d, err := look(l)
	if err != nil {
		return err
	}
	// The filter goes while the NIC is still up: the kernel ends the promiscuity of one
	// that cannot filter by itself only then (__dev_set_rx_mode() in net/core/dev.c).
	failed := []error{b.dismiss(rec, l, rec.Filters)}
	for _, k := range slices.Backward(knobs) {
		failed = append(failed, b.release(rec, d, k))
	}
	return errors.Join(failed...)
}

// release puts one knob back, if it still stands where we put it, and forgets it. The
// caller saves the book.
func (b *Book) release(rec *record, d device, k knob) error {
	c, changed := rec.Changed[k.name]
	if !changed {
		return nil
	}
	now, ok, err := k.get(d)
	if err != nil {
		return fmt.Errorf("read %s: %w", k.name, err)
	}
	if ok && now != c.Original && slices.Contains(c.Ours, now) {
		b.step("put back " + k.name)
		if err := k.set(d, c.Original); err != nil {
			return fmt.Errorf("set %s to %s again: %w", k.name, c.Original, gone(err))
		}
	}
	delete(rec.Changed, k.name)
	return nil
}

// unfit refuses a NIC.
func unfit(format string, args ...any) error {
	return drivers.Refuse(drivers.RuleUnfit, format, args...)
}
