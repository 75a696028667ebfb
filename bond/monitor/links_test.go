package monitor

import (
	"context"
	"fmt"
	"net"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"ft/bond/bondtest"
	"ft/bond/nic"
)

// mirrorTable is what an owner knows who believes what it is told.
type mirrorTable struct {
	t     *testing.T
	mu    sync.Mutex
	links map[int]nic.Link
	addrs map[int]int // how often they have changed
	told  int
	hold  sync.Mutex // held: the owner is busy
}

func newMirrorTable(t *testing.T) *mirrorTable {
	return &mirrorTable{t: t, links: map[int]nic.Link{}, addrs: map[int]int{}}
}

func (m *mirrorTable) events() Events {
	return Events{
		Link: func(l nic.Link, gone bool) {
			m.hold.Lock()
			defer m.hold.Unlock()
			m.mu.Lock()
			defer m.mu.Unlock()
			m.told++
			old, had := m.links[l.Index]
			switch {
			case gone && !had:
				m.t.Errorf("%s (%d) is gone, and nobody has told that it was there", l.Name, l.Index)
			case gone:
				delete(m.links, l.Index)
			case had && reflect.DeepEqual(old, l):
				m.t.Errorf("told what is known already: %+v", l)
			default:
				m.links[l.Index] = l
			}
		},
		Addr: func(index int) {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.addrs[index]++
		},
	}
}

func (m *mirrorTable) byName(name string) (nic.Link, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, l := range m.links {
		if l.Name == name {
			return l, true
		}
	}
	return nic.Link{}, false
}

func (m *mirrorTable) addresses(index int) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.addrs[index]
}

// agrees says whether the owner knows exactly what there is.
func (m *mirrorTable) agrees() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	all, err := netlink.LinkList()
	if err != nil {
		return err
	}
	if len(all) != len(m.links) {
		return fmt.Errorf("%d links are known, and there are %d", len(m.links), len(all))
	}
	for _, a := range all {
		now, err := nic.ByIndex(a.Attrs().Index)
		if err != nil {
			return err
		}
		if known := m.links[now.Index]; !reflect.DeepEqual(known, now) {
			return fmt.Errorf("known %+v, and it is %+v", known, now)
		}
	}
	return nil
}

func (m *mirrorTable) mustAgree() {
	m.t.Helper()
	var err error
	deadline := time.Now().Add(soon)
	for err = m.agrees(); err != nil && time.Now().Before(deadline); err = m.agrees() {
		time.Sleep(time.Millisecond)
	}
	if err != nil {
		m.t.Fatal(err)
	}
}

func watch(t *testing.T, m *mirrorTable, buffer int) *Links {
	t.Helper()
	w, err := watchLinks(t.Context(), quiet(t), m.events(), buffer)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w
}

func TestWatchSeesCarrierAndNIC(t *testing.T) {
	n := bondtest.New(t)
	eth0 := n.NIC(0)
	m := newMirrorTable(t)
	w := watch(t, m, receiveBufferBytes)
	first, there := m.byName(eth0)
	if !there {
		t.Fatal("WatchLinks has returned before it has told what there is")
	}
	m.mustAgree()

	n.PullCable(0)
	bondtest.WaitFor(t, "no carrier", soon, func() bool { l, _ := m.byName(eth0); return !l.Carrier && l.Up })
	n.ReturnCable(0)
	bondtest.WaitFor(t, "carrier", soon, func() bool { l, _ := m.byName(eth0); return l.Carrier })

	n.DeleteNIC(0)
	bondtest.WaitFor(t, "the NIC is gone", soon, func() bool { _, there := m.byName(eth0); return !there })
	n.MakeNIC(0)
	bondtest.WaitFor(t, "the NIC is back", soon, func() bool { l, there := m.byName(eth0); return there && l.Carrier })
	if again, _ := m.byName(eth0); again.Index == first.Index || again.MAC.String() != first.MAC.String() {
		t.Errorf("it was %+v and is %+v", first, again)
	}
	m.mustAgree()
	if st := w.Stats(); st.Overruns != 0 || st.Resyncs != 1 || st.Unreadable != 0 {
		t.Errorf("%+v", st)
	}
}

func TestWatchSeesAddressesAndChildren(t *testing.T) {
	n := bondtest.New(t)
	eth0 := n.Index(n.NIC(0))
	m := newMirrorTable(t)
	watch(t, m, receiveBufferBytes)

	// The kernel's own link-local address may still be under way: only ours is waited for.
	before := m.addresses(eth0)
	n.GiveAddresses(n.NIC(0))
	bondtest.WaitFor(t, "two addresses more", soon, func() bool { return m.addresses(eth0) >= before+2 })

	child := &netlink.Macvlan{LinkAttrs: netlink.LinkAttrs{Name: "child", ParentIndex: eth0, HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 9}}, Mode: netlink.MACVLAN_MODE_BRIDGE}
	if err := netlink.LinkAdd(child); err != nil {
		t.Fatal(err)
	}
	bondtest.WaitFor(t, "the child", soon, func() bool {
		l, there := m.byName("child")
		return there && l.Kind == "macvlan" && l.Parent == eth0 && l.MAC.String() == "02:00:00:00:00:09"
	})
	// A port that leaves a bridge is reported as a deleted link, of another family.
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br7"}}
	if err := netlink.LinkAdd(bridge); err != nil {
		t.Fatal(err)
	}
	defer netlink.LinkDel(bridge)
	port, err := netlink.LinkByName(n.NIC(1))
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetMaster(port, bridge); err != nil {
		t.Fatal(err)
	}
	bondtest.WaitFor(t, "eth1 is in the bridge", soon, func() bool { l, _ := m.byName(n.NIC(1)); return l.Master == bridge.Index })
	if err := netlink.LinkSetNoMaster(port); err != nil {
		t.Fatal(err)
	}
	bondtest.WaitFor(t, "eth1 has left it", soon, func() bool { l, there := m.byName(n.NIC(1)); return there && l.Master == 0 })
	m.mustAgree()
	n.DeleteNIC(0) // and the child with it
	bondtest.WaitFor(t, "both are gone", soon, func() bool { _, there := m.byName("child"); return !there })
	m.mustAgree()
}

// The owner is busy, and the kernel has room for hardly a message: what is lost is read
// again, and told as differences.
func TestWatchAfterOverrun(t *testing.T) {
	n := bondtest.New(t)
	m := newMirrorTable(t)
	w := watch(t, m, 4096)
	m.mustAgree()
	before, _ := m.byName(n.NIC(0))
	beforeAddrs := m.addresses(n.Index(n.NIC(1)))
	overruns := w.Stats().Overruns

	// One thread floods while the owner sleeps over it.
	m.hold.Lock()
	eth1, err := netlink.LinkByName(n.NIC(1))
	if err != nil {
		m.hold.Unlock()
		t.Fatal(err)
	}
	func() {
		defer m.hold.Unlock()
		for i := range 100 {
			if err := netlink.LinkSetAlias(eth1, fmt.Sprintf("change %d", i)); err != nil {
				t.Error(err)
				return
			}
		}
		// The differences that matter are among the lost.
		n.DeleteNIC(0)
		n.MakeNIC(0)
		n.GiveAddresses(n.NIC(1))
		n.PullCable(1)
	}()

	bondtest.WaitFor(t, "the overrun is seen", soon, func() bool { return w.Stats().Overruns > overruns })
	bondtest.WaitFor(t, "the new eth0 is told", soon, func() bool {
		l, there := m.byName(n.NIC(0))
		return there && l.Index != before.Index
	})
	bondtest.WaitFor(t, "the lost carrier is told", soon, func() bool { l, _ := m.byName(n.NIC(1)); return !l.Carrier })
	bondtest.WaitFor(t, "the addresses are told", soon, func() bool { return m.addresses(n.Index(n.NIC(1))) > beforeAddrs })
	m.mustAgree()

	// And what comes afterwards is told again.
	n.ReturnCable(1)
	bondtest.WaitFor(t, "carrier", soon, func() bool { l, _ := m.byName(n.NIC(1)); return l.Carrier })
	m.mustAgree()
}

// A flood that the watch has to live with for as long as it lasts.
func TestWatchInAFlood(t *testing.T) {
	n := bondtest.New(t)
	m := newMirrorTable(t)
	w := watch(t, m, 4096)
	ctx, cancel := context.WithCancel(t.Context())
	var flood sync.WaitGroup
	defer flood.Wait()
	defer cancel()
	eth1, err := netlink.LinkByName(n.NIC(1))
	if err != nil {
		t.Fatal(err)
	}
	for which := range 2 {
		flood.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				if err := netlink.LinkSetAlias(eth1, fmt.Sprintf("flood %d %d", which, i)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	flood.Go(func() {
		dev := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "flood"}}
		for ctx.Err() == nil {
			if err := netlink.LinkAdd(dev); err != nil {
				t.Error(err)
				return
			}
			if err := netlink.LinkDel(dev); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for range 3 {
		n.PullCable(0)
		bondtest.WaitFor(t, "no carrier", soon, func() bool { l, _ := m.byName(n.NIC(0)); return !l.Carrier })
		n.ReturnCable(0)
		bondtest.WaitFor(t, "carrier", soon, func() bool { l, _ := m.byName(n.NIC(0)); return l.Carrier })
	}
	cancel()
	flood.Wait()
	m.mustAgree()
	t.Logf("%+v", w.Stats())
}

func TestWatchEnds(t *testing.T) {
	bondtest.New(t)
	m := newMirrorTable(t)
	ctx, cancel := context.WithCancel(t.Context())
	w, err := WatchLinks(ctx, quiet(t), m.events())
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	select {
	case <-w.done:
	case <-time.After(soon):
		t.Fatal("the watch goes on after the end of its context")
	}
	w.Close()
	w.Close()
	if _, err := WatchLinks(ctx, quiet(t), m.events()); err == nil {
		t.Error("a watch begins with a context that has ended")
	}
}
