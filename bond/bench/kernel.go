package main

import (
	"errors"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ft/bond/bondtest"
	"ft/drivers"
)

// anchor is the face of the kernel's own bonding driver, as it is set up where nothing of
// ours is: active-backup, the carriers looked at every 100 ms, one gratuitous ARP after a
// failover. It has no look at paths: its ARP monitor excludes that at carriers.
type anchor struct {
	p    *program
	net  *bondtest.Net
	link netlink.Link
}

const miimon = 100 // ms

func (a *anchor) name() string { return "kernel bonding" }

// hasBonding says whether this kernel has the bonding driver.
func hasBonding() (bool, error) {
	la := netlink.NewLinkAttrs()
	la.Name = "benchtry"
	l := netlink.NewLinkBond(la)
	err := netlink.LinkAdd(l)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, netlink.LinkDel(l)
}

func (a *anchor) up(time.Duration) {
	la := netlink.NewLinkAttrs()
	la.Name = face
	l := netlink.NewLinkBond(la)
	l.Mode, l.Miimon, l.NumPeerNotif = netlink.BOND_MODE_ACTIVE_BACKUP, miimon, 1
	a.p.must(netlink.LinkAdd(l), "make the kernel's bond")
	a.link = l
	a.back(0)
	a.back(1)
	a.net.GiveAddresses(face)
	a.settle()
}

// back puts a NIC into the bond, which takes only those that are down.
func (a *anchor) back(s drivers.Side) {
	nic := a.nic(s)
	a.p.must(netlink.LinkSetDown(nic), "set %s down", a.net.NIC(s))
	a.p.must(netlink.LinkSetMaster(nic, a.link), "put %s into the kernel's bond", a.net.NIC(s))
}

func (a *anchor) nic(s drivers.Side) netlink.Link {
	l, err := netlink.LinkByName(a.net.NIC(s))
	a.p.must(err, "find %s", a.net.NIC(s))
	return l
}

func (a *anchor) down() {
	a.p.must(netlink.LinkDel(a.link), "remove the kernel's bond")
	for s := drivers.Side(0); s <= 1; s++ {
		a.p.must(netlink.LinkSetUp(a.nic(s)), "set %s up", a.net.NIC(s))
	}
}

func (a *anchor) settle() (active drivers.Side) {
	bondtest.WaitFor(a.p, "both ports of the kernel's bond are up", within, func() bool {
		active = drivers.Whole
		for s := drivers.Side(0); s <= 1; s++ {
			port, ok := a.nic(s).Attrs().Slave.(*netlink.BondSlave)
			if !ok || port.MiiStatus != netlink.BondLinkUp {
				return false
			}
			if port.State == netlink.BondStateActive {
				active = s
			}
		}
		return active.Valid()
	})
	return active
}

func (a *anchor) change() {
	l := netlink.NewLinkBond(*a.link.Attrs())
	l.ActiveSlave = a.nic(a.settle().Other()).Attrs().Index
	a.p.must(netlink.LinkModify(l), "switch the kernel's bond")
}
