package main

import (
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ft/drivers"
)

// The kernel tells of carriers in bursts that are a second apart (net/core/link_watch.c):
// who relies on its events hears of a pulled cable up to a second late when any link has
// flapped before. It makes an exception of links that stand on another one
// (linkwatch_urgent_event: ifindex and iflink differ), which it takes nearly every veth
// for; real NICs have none.

const (
	flapping  = "flapping" // the unrelated link, and its other end
	flapEnd   = "flapend"
	flapLead  = 100 * time.Millisecond
	burned    = "burned"
	alignMost = 10
)

// realNICs makes the NICs again, both ends of a cable under the same ifindex: so the
// kernel takes them for NICs that stand on nothing.
func (b *bench) realNICs() {
	b.net.DeleteNIC(0)
	b.net.DeleteNIC(1)
	for s := drivers.Side(0); s <= 1; s++ {
		for try := 0; ; try++ {
			b.net.MakeNIC(s)
			ahead := b.net.Index(b.net.NIC(s)) - b.portIndex(s)
			if ahead == 0 {
				break
			}
			if try == alignMost {
				b.p.Fatalf("%s and its other end do not get the same ifindex", b.net.NIC(s))
			}
			b.net.DeleteNIC(s)
			burn := func() { b.burn(max(ahead, -ahead)) }
			if ahead > 0 {
				b.net.InSwitch(burn)
			} else {
				burn()
			}
		}
	}
}

func (b *bench) portIndex(s drivers.Side) (index int) {
	b.net.InSwitch(func() {
		l, err := netlink.LinkByName(b.net.Port(s))
		if err != nil {
			b.p.Errorf("find %s: %v", b.net.Port(s), err)
			return
		}
		index = l.Attrs().Index
	})
	return index
}

// burn uses up ifindexes.
func (b *bench) burn(n int) {
	for range n {
		la := netlink.NewLinkAttrs()
		la.Name = burned
		l := &netlink.Bridge{LinkAttrs: la}
		if err := netlink.LinkAdd(l); err != nil {
			b.p.Errorf("use up an ifindex: %v", err)
			return
		}
		if err := netlink.LinkDel(l); err != nil {
			b.p.Errorf("use up an ifindex: %v", err)
			return
		}
	}
}

// flapUnrelated has a link of the peer's flap, which is nobody's here, and waits until
// the kernel has told of it.
func (b *bench) flapUnrelated() {
	b.net.InPeer(func() {
		l, err := netlink.LinkByName(flapping)
		if err != nil {
			la := netlink.NewLinkAttrs()
			la.Name = flapping
			if err = netlink.LinkAdd(&netlink.Veth{LinkAttrs: la, PeerName: flapEnd}); err == nil {
				l, err = netlink.LinkByName(flapping)
			}
		}
		var end netlink.Link
		if err == nil {
			end, err = netlink.LinkByName(flapEnd)
		}
		for _, set := range []func(netlink.Link) error{netlink.LinkSetUp, netlink.LinkSetDown, netlink.LinkSetUp} {
			if err == nil {
				err = netlink.LinkSetUp(l)
			}
			if err == nil {
				err = set(end)
			}
		}
		if err != nil {
			b.p.Errorf("have an unrelated link flap: %v", err)
		}
	})
	time.Sleep(flapLead)
}

// hearEvents measures, while there is no face, when one who listens to the kernel's events
// hears of a pulled cable after an unrelated link has flapped. (With a face there is also
// its poll, and the kernel brings its events up to date for each that asks.)
func (b *bench) hearEvents() {
	for range b.rounds {
		b.late = append(b.late, b.hearEvent(0))
	}
}

func (b *bench) hearEvent(s drivers.Side) time.Duration {
	index := b.net.Index(b.net.NIC(s))
	events, done := make(chan netlink.LinkUpdate, 64), make(chan struct{})
	b.p.must(netlink.LinkSubscribe(events, done), "listen to the kernel's events")
	b.flapUnrelated()
	b.net.PullCable(s)
	pulled := time.Now()
	limit := time.After(within)
	for heard := time.Duration(0); ; {
		select {
		case e, open := <-events:
			switch {
			case !open && heard == 0:
				b.p.Fatalf("the kernel's events ended before that of the pulled cable")
			case !open:
				return heard
			case heard == 0 && int(e.Index) == index && e.Attrs().RawFlags&unix.IFF_LOWER_UP == 0:
				heard = time.Since(pulled)
				b.net.ReturnCable(s)
				close(done) // and the channel is closed, when it has been emptied
			}
		case <-limit:
			b.p.Fatalf("the kernel has not told of a pulled cable, or its events do not end, within %v", within)
		}
	}
}
