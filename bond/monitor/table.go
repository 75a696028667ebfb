package monitor

import (
	"bytes"
	"maps"
	"reflect"
	"slices"

	"ft/bond/nic"
)

// table is all links and addresses as they were last reported. It turns reports into
// differences: no change comes out that changes nothing.
type table struct {
	links map[int]nic.Link
	addrs map[int]map[address]uint32 // by link; the value is the address's flags
}

// change is one difference, to be told to the owner.
type change struct {
	index int
	link  nic.Link // as it is, or as it was when it is gone
	gone  bool
	addrs bool // the link's addresses have changed, and not the link
}

func newTable() table {
	return table{links: map[int]nic.Link{}, addrs: map[int]map[address]uint32{}}
}

// apply takes one report in.
func (t *table) apply(m message) []change {
	switch m.kind {
	case linkIs:
		old, had := t.links[m.index]
		t.links[m.index] = m.link
		return compare(old, had, m.link)
	case linkGone:
		return t.remove(m.index)
	case addrIs:
		of := t.addrs[m.index]
		if of == nil {
			of = map[address]uint32{}
			t.addrs[m.index] = of
		}
		if flags, had := of[m.addr]; had && flags == m.flags {
			return nil
		}
		of[m.addr] = m.flags
		return []change{{index: m.index, addrs: true}}
	case addrGone:
		of := t.addrs[m.index]
		if _, had := of[m.addr]; !had {
			return nil
		}
		delete(of, m.addr)
		if len(of) == 0 {
			delete(t.addrs, m.index)
		}
		return []change{{index: m.index, addrs: true}}
	}
	return nil
}

// remove forgets a link and what it had.
func (t *table) remove(index int) (out []change) {
	if len(t.addrs[index]) > 0 {
		out = append(out, change{index: index, addrs: true})
	}
	delete(t.addrs, index)
	if l, had := t.links[index]; had {
		delete(t.links, index)
		out = append(out, change{index: index, link: l, gone: true})
	}
	return out
}

// replace makes t equal to next and returns the differences: what is gone first, so that
// a NIC that was taken out and put back is never seen twice at once.
func (t *table) replace(next table) (out []change) {
	for _, i := range slices.Sorted(maps.Keys(t.links)) {
		if _, there := next.links[i]; !there {
			out = append(out, t.remove(i)...)
		}
	}
	for _, i := range slices.Sorted(maps.Keys(next.links)) {
		old, had := t.links[i]
		out = append(out, compare(old, had, next.links[i])...)
	}
	changed := map[int]bool{}
	for i, of := range next.addrs {
		changed[i] = !maps.Equal(of, t.addrs[i])
	}
	for i := range t.addrs {
		if _, there := next.addrs[i]; !there {
			changed[i] = true
		}
	}
	for _, i := range slices.Sorted(maps.Keys(changed)) {
		if changed[i] {
			out = append(out, change{index: i, addrs: true})
		}
	}
	*t = next
	return out
}

func compare(old nic.Link, had bool, now nic.Link) []change {
	is := change{index: now.Index, link: now}
	switch {
	case !had:
		return []change{is}
	case old.Kind != now.Kind || len(old.PermMAC) > 0 && len(now.PermMAC) > 0 && !bytes.Equal(old.PermMAC, now.PermMAC):
		// Another device has got the number of one that went unseen.
		return []change{{index: old.Index, link: old, gone: true}, is}
	case reflect.DeepEqual(old, now):
		return nil
	}
	return []change{is}
}
