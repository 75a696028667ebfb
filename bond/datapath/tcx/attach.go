package tcx

// How programs are put onto interfaces. Two ways, one behaviour: TCX links (Linux 6.6),
// which are pinned; or classifiers of a clsact qdisc, which stay by themselves.
//
// Others may have programs on the same NICs. On a NIC's ingress ours comes last, as it
// takes packets away; on a NIC's egress it comes first, so that the others see only what
// really leaves by that NIC; on the face's egress last.

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ft/drivers"
)

// attacher is one of the two ways.
type attacher interface {
	// attached says whether our program is on that interface, in this network namespace.
	attached(pl place, index int) (bool, error)
	// attach puts it there, or replaces what we have there, without a packet in between
	// that no program sees.
	attach(pl place, index int, p *ebpf.Program) error
	// detach takes it away. Nothing there, or no such interface, is no error.
	detach(pl place, index int) error
}

// links attaches by TCX.
type links struct{ key string }

func (links) attachType(pl place) ebpf.AttachType {
	if pl.ingress {
		return ebpf.AttachTCXIngress
	}
	return ebpf.AttachTCXEgress
}

// haveTCX asks the kernel without changing anything: no interface has the index 0.
func haveTCX(p *ebpf.Program) bool {
	l, err := link.AttachTCX(link.TCXOptions{Interface: 0, Program: p, Attach: ebpf.AttachTCXEgress})
	if err == nil {
		l.Close()
	}
	return !errors.Is(err, ebpf.ErrNotSupported)
}

func (ls links) attached(pl place, index int) (bool, error) {
	l, err := link.LoadPinnedLink(pinPath(ls.key, pl.name), nil)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("open the pinned link %s: %w", pl.name, err)
	}
	defer l.Close()
	return ls.isOn(l, pl, index)
}

// isOn asks the interface, not the link: a link knows an ifindex, which repeats across
// network namespaces. A link ends with its interface; but an interface that moves to
// another namespace takes it along, and is not ours for as long as it is there.
func (ls links) isOn(l link.Link, pl place, index int) (bool, error) {
	info, err := l.Info()
	if err != nil {
		return false, fmt.Errorf("ask for the link %s: %w", pl.name, err)
	}
	on, err := link.QueryPrograms(link.QueryOptions{Target: index, Attach: ls.attachType(pl)})
	if errors.Is(err, unix.ENODEV) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("ask which programs are on interface %d: %w", index, err)
	}
	for _, p := range on.Programs {
		if id, ok := p.LinkID(); ok && id == info.ID {
			return true, nil
		}
	}
	return false, nil
}

func (ls links) attach(pl place, index int, p *ebpf.Program) error {
	path := pinPath(ls.key, pl.name)
	if l, err := link.LoadPinnedLink(path, nil); err == nil {
		defer l.Close()
		if on, err := ls.isOn(l, pl, index); err == nil && on {
			if err := l.Update(p); err != nil {
				return fmt.Errorf("replace the program %s on interface %d: %w", pl.name, index, err)
			}
			return nil
		}
	}
	if err := dropLink(ls.key, pl); err != nil {
		return err
	}
	anchor := link.Tail()
	if pl.side.Valid() && !pl.ingress {
		anchor = link.Head()
	}
	l, err := link.AttachTCX(link.TCXOptions{Interface: index, Program: p, Attach: ls.attachType(pl), Anchor: anchor})
	if err != nil {
		return fmt.Errorf("attach the program %s to interface %d: %w", pl.name, index, err)
	}
	defer l.Close() // the pin holds it
	if err := l.Pin(path); err != nil {
		return fmt.Errorf("pin the program %s at %s: %w", pl.name, path, err)
	}
	return nil
}

func (ls links) detach(pl place, _ int) error { return dropLink(ls.key, pl) }

// dropLink takes a pinned link away from wherever it is attached, at once, even when
// another process holds it too.
func dropLink(key string, pl place) error {
	path := pinPath(key, pl.name)
	l, err := link.LoadPinnedLink(path, nil)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err == nil:
		defer l.Close()
		// A link whose interface is gone says ENOLINK, which is what we want.
		if err := l.Detach(); err != nil && !errors.Is(err, unix.ENOLINK) {
			return fmt.Errorf("detach the program %s: %w", pl.name, err)
		}
	}
	// What cannot be opened as a link is in our place all the same.
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("unpin %s: %w", path, err)
	}
	return nil
}

// classifiers attaches by clsact and cls_bpf in direct-action mode.
type classifiers struct {
	key string
	sm  *stateMap
}

// The place among an interface's other classifiers: a number that nobody takes by
// accident, before those that the kernel numbers itself (from 49152 on), after a person's.
const (
	classifierPriority = 0xf70
	classifierHandle   = 1
)

func filterName(key string, pl place) string { return "ft " + key + " " + pl.name }

func parent(pl place) uint32 {
	if pl.ingress {
		return netlink.HANDLE_MIN_INGRESS
	}
	return netlink.HANDLE_MIN_EGRESS
}

// isGone says that an interface, or the qdisc on it, is not there.
func isGone(err error) bool {
	return errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL)
}

func (cs classifiers) attached(pl place, index int) (bool, error) {
	on, _, err := findFilter(cs.key, pl, index)
	return on, err
}

// findFilter finds our filter, and how many others are on the same hook.
func findFilter(key string, pl place, index int) (ours bool, others int, err error) {
	l, err := netlink.LinkByIndex(index)
	if errors.As(err, &netlink.LinkNotFoundError{}) || isGone(err) {
		return false, 0, nil
	}
	if err != nil {
		return false, 0, fmt.Errorf("find interface %d: %w", index, err)
	}
	filters, err := netlink.FilterList(l, parent(pl))
	if isGone(err) {
		return false, 0, nil
	}
	if err != nil {
		return false, 0, fmt.Errorf("list the classifiers of %s: %w", l.Attrs().Name, err)
	}
	for _, f := range filters {
		bf, ok := f.(*netlink.BpfFilter)
		if ok && bf.Priority == classifierPriority && bf.Handle == classifierHandle && bf.Name == filterName(key, pl) {
			ours = true
		} else {
			others++
		}
	}
	return ours, others, nil
}

func (cs classifiers) attach(pl place, index int, p *ebpf.Program) error {
	on, _, err := findFilter(cs.key, pl, index)
	if err != nil {
		return err
	}
	if !on {
		if err := cs.ensureClsact(pl.side, index); err != nil {
			return err
		}
	}
	f := filterOf(cs.key, pl, index)
	f.Fd, f.DirectAction = p.FD(), true
	add := netlink.FilterAdd // refuses to take the place of somebody else's
	if on {
		add = netlink.FilterReplace
	}
	if err := add(f); err != nil {
		return fmt.Errorf("attach the classifier %s to interface %d (priority %d): %w", pl.name, index, classifierPriority, err)
	}
	return nil
}

func filterOf(key string, pl place, index int) *netlink.BpfFilter {
	return &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: index, Parent: parent(pl), Handle: classifierHandle,
			Protocol: unix.ETH_P_ALL, Priority: classifierPriority},
		Name: filterName(key, pl),
	}
}

func clsact(index int) *netlink.Clsact {
	return &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Parent: netlink.HANDLE_CLSACT, Handle: netlink.MakeHandle(0xffff, 0)}}
}

func (cs classifiers) ensureClsact(s drivers.Side, index int) error {
	err := netlink.QdiscAdd(clsact(index))
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("add a clsact qdisc to interface %d: %w", index, err)
	}
	if s.Valid() {
		cs.sm.Flags |= flagClsactMade << s
	}
	return nil
}

func (cs classifiers) detach(pl place, index int) error {
	if err := detachClassifier(cs.key, pl, index, pl.side.Valid() && cs.sm.Flags&(flagClsactMade<<pl.side) != 0); err != nil {
		return err
	}
	return nil
}

// detachClassifier also removes the qdisc, when it was made by us and nobody uses it.
func detachClassifier(key string, pl place, index int, qdiscOurs bool) error {
	on, _, err := findFilter(key, pl, index)
	if err != nil {
		return err
	}
	if on {
		if err := netlink.FilterDel(filterOf(key, pl, index)); err != nil && !isGone(err) {
			return fmt.Errorf("remove the classifier %s from interface %d: %w", pl.name, index, err)
		}
	}
	if !qdiscOurs {
		return nil
	}
	for _, hook := range []place{nicIn[0], nicOut[0]} {
		if on, others, err := findFilter(key, hook, index); err != nil || on || others > 0 {
			return err
		}
	}
	if err := netlink.QdiscDel(clsact(index)); err != nil && !isGone(err) {
		return fmt.Errorf("remove the clsact qdisc from interface %d: %w", index, err)
	}
	return nil
}

// detachClassifiers takes all of them off the interfaces that a header names, where they
// are. What cannot be found here is in another network namespace, and stays.
func detachClassifiers(key string, h *header) {
	for _, pl := range places {
		index := int(h.Face)
		if pl.side.Valid() {
			index = int(h.Index[pl.side].Load())
		}
		if index != 0 {
			_ = detachClassifier(key, pl, index, pl.side.Valid() && h.Flags&(flagClsactMade<<pl.side) != 0)
		}
	}
}
