package nic

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ft/drivers"
)

// The NICs keep their own MACs. The face's, and those of macvlan, macvtap and VLAN links
// on it, are in the NICs' filters, of both NICs at all times: a failover changes nothing
// here. Entries belong to the kernel, not to this process.

// SyncFilters gives the NICs that carry the face (by ifindex, 0 for none; prepared
// before) what the face itself takes: its MAC and those that its own filter has. It takes
// away only what it has put there. A face that takes all frames, as in a bridge of
// virtual machines, makes the NICs take all.
func (b *Book) SyncFilters(face int, faceMAC net.HardwareAddr, ports [2]int) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	fl, err := ByIndex(face)
	if err != nil {
		return fmt.Errorf("read the address filter of the face: %w", err)
	}
	filters, err := unicastFilters()
	if err != nil {
		return fmt.Errorf("read the address filter of %s: %w", fl.Name, err)
	}
	macs := slices.Clone(filters[face])
	all := takesAll(fl, macs)
	if len(faceMAC) > 0 {
		macs = append(macs, faceMAC)
	}
	var failed []error
	for s, index := range ports {
		if index <= 0 {
			continue
		}
		l, err := ByIndex(index)
		switch {
		case errors.Is(err, ErrNone): // it has gone, and its filter with it
		case err != nil:
			failed = append(failed, err)
		case l.Master == face: // the kernel's bonding driver looks after it
		default:
			if err := b.syncPort(drivers.Side(s), l, filters[index], macs, all); err != nil {
				failed = append(failed, fmt.Errorf("set the address filter of %s: %w", l.Name, err))
			}
		}
	}
	return errors.Join(failed...)
}

// takesAll says whether somebody wants all frames of the face. A veth cannot filter by
// itself, so that the kernel counts the presence of a filter as one who wants all.
func takesAll(face Link, filter []net.HardwareAddr) bool {
	watchers := face.Watchers
	if face.Kind == "veth" && len(filter) > 0 {
		watchers--
	}
	return watchers > 0
}

func (b *Book) syncPort(s drivers.Side, l Link, present, macs []net.HardwareAddr, all bool) error {
	rec := b.sides[s]
	if !rec.is(l, b.netns) {
		return errors.New("it has not been prepared")
	}
	refused, err := b.admit(rec, l, present, macs)
	if refused != nil && !l.Promisc {
		b.notes = append(b.notes, refusedNote(l, refused))
	}
	if err == nil {
		err = b.dismiss(rec, l, slices.DeleteFunc(slices.Clone(rec.Filters), func(f string) bool {
			return slices.ContainsFunc(macs, func(m net.HardwareAddr) bool { return m.String() == f })
		}))
	}
	switch {
	case err != nil:
	case all || refused != nil:
		err = b.turn(rec, l, knobAll, on)
	default:
		k, _ := knobNamed(knobAll)
		err = b.release(rec, device{Link: l}, k)
	}
	return errors.Join(err, b.save())
}

func refusedNote(l Link, refused error) string {
	return fmt.Sprintf("%s takes no more entries in its address filter (%v): it is promiscuous instead, and this box must look at every frame on its cable", l.Name, refused)
}

// admit puts MACs into a NIC's filter and writes down which of them were not there
// before. refused says that the NIC does not take some of them.
func (b *Book) admit(rec *record, l Link, present, macs []net.HardwareAddr) (refused, err error) {
	var missing []net.HardwareAddr
	for _, m := range macs {
		same := func(p net.HardwareAddr) bool { return bytes.Equal(p, m) }
		if same(l.MAC) || slices.ContainsFunc(present, same) || slices.ContainsFunc(missing, same) {
			continue
		}
		missing = append(missing, m)
		if f := m.String(); !slices.Contains(rec.Filters, f) {
			rec.Filters = append(rec.Filters, f)
		}
	}
	if err := b.save(); err != nil {
		return nil, err
	}
	for _, m := range missing {
		b.step("admit " + m.String())
		err := netlink.NeighAdd(filterEntry(l.Index, m))
		if err == nil {
			continue
		}
		// Not ours after all: somebody was faster, or it was refused.
		rec.Filters = slices.DeleteFunc(rec.Filters, func(f string) bool { return f == m.String() })
		switch {
		case errors.Is(err, unix.EEXIST):
		case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSPC):
			refused = err
		default:
			return refused, fmt.Errorf("put %s into the address filter of %s: %w", m, l.Name, errors.Join(gone(err), b.save()))
		}
	}
	return refused, b.save()
}

// dismiss takes MACs that we have put there out of a NIC's filter again, and forgets
// them. The caller saves the book.
func (b *Book) dismiss(rec *record, l Link, macs []string) error {
	var failed []error
	for _, f := range slices.Clone(macs) {
		mac, err := net.ParseMAC(f)
		if err == nil {
			b.step("dismiss " + f)
			err = netlink.NeighDel(filterEntry(l.Index, mac))
		}
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENODEV) {
			failed = append(failed, fmt.Errorf("take %s out of the address filter of %s: %w", f, l.Name, err))
			continue
		}
		rec.Filters = slices.DeleteFunc(rec.Filters, func(g string) bool { return g == f })
	}
	return errors.Join(failed...)
}
