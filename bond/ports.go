package bond

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"ft/bond/datapath"
	"ft/bond/monitor"
	"ft/bond/nic"
	"ft/drivers"
)

// This file puts the data path onto NICs as they come, and takes it off as they go.

// tryBind binds the NIC of a side if it is there, and tells the core. Under changeMu.
func (d *driver) tryBind(s drivers.Side) {
	spec := d.cfg.Sides[s].Resource.Path
	l, err := nic.Find(spec)
	if err != nil {
		why := spec + " is not there"
		if !errors.Is(err, nic.ErrNone) {
			why = err.Error()
		}
		d.step(Gone{Side: s, Why: why, At: time.Now()})
		return
	}
	if err := d.bind(s, l); err != nil {
		d.env.Log.Warn("the NIC cannot be used", "side", s, "nic", l.Name, "err", err)
		d.release(s)
		d.step(Gone{Side: s, Why: err.Error(), Unfit: true, At: time.Now()})
	}
}

// seeOut tells the core whether the NIC of a side that is out is there, and touches nothing.
func (d *driver) seeOut(s drivers.Side) {
	spec := d.cfg.Sides[s].Resource.Path
	if spec == "" {
		return
	}
	if l, err := nic.Find(spec); err == nil {
		d.step(Seen{Side: s, Name: l.Name})
		return
	}
	d.step(Gone{Side: s, Why: spec + " is not there", At: time.Now()})
}

// bind makes a NIC ready and puts the data path onto it. Under changeMu.
func (d *driver) bind(s drivers.Side, l nic.Link) error {
	want := d.wanted(d.faceMTU)
	enslaved := want.Enslaved
	if err := d.fit(s, l, enslaved); err != nil {
		return err
	}
	notes, err := d.book.Prepare(s, l, want)
	if err != nil {
		return err
	}
	mac := l.MAC
	if enslaved && len(l.PermMAC) > 0 {
		mac = l.PermMAC // it shows the face's
	}
	if err := d.path.SetPort(s, &datapath.Port{Index: l.Index, Name: l.Name, MAC: mac}); err != nil {
		return fmt.Errorf("put the data path onto %s: %w", l.Name, err)
	}
	if now, err := nic.ByIndex(l.Index); err == nil {
		l = now // up, and with the MTU of the face
	}
	d.mu.Lock()
	d.bound++
	d.ports[s] = bound{link: l, binding: d.bound, notes: notes, carrier: l.Carrier}
	d.mu.Unlock()
	d.syncFilters()
	if err := d.announce.SetPort(s, l.Index); err != nil {
		return fmt.Errorf("announcements through %s: %w", l.Name, err)
	}
	d.step(Seen{Side: s, Name: l.Name, Carrier: l.Carrier, Quality: quality(l.Name)})
	d.watchCarrier(s, l.Name)
	if len(d.opt.Probe) == 0 {
		return nil
	}
	p, err := monitor.StartProber(monitor.ProbeConfig{Side: s, Index: l.Index, Name: l.Name, MAC: mac,
		Targets: d.opt.Probe, Interval: d.opt.ProbeInterval, Misses: d.opt.ProbeMisses, Log: d.env.Log}, d.pathSeen)
	if err != nil {
		return fmt.Errorf("probes through %s: %w", l.Name, err)
	}
	d.mu.Lock()
	d.ports[s].prober = p
	d.mu.Unlock()
	return nil
}

// wanted is what a NIC is to be like, for a face with that MTU.
func (d *driver) wanted(mtu int) nic.Want {
	return nic.Want{FaceMAC: d.mac, MTU: mtu, Enslaved: d.path.Describe().Kind == datapath.Bonding}
}

// fit refuses a NIC that cannot carry the face, or carries something else.
func (d *driver) fit(s drivers.Side, l nic.Link, enslaved bool) error {
	d.mu.Lock()
	other := d.ports[s.Other()].link
	d.mu.Unlock()
	if other.Index == l.Index {
		return drivers.Refuse(drivers.RuleUnfit, "%s and %s name the same NIC (%s): each side needs one of its own",
			d.cfg.Sides[0].Resource.Path, d.cfg.Sides[1].Resource.Path, l.Name)
	}
	if enslaved && l.Master == d.path.Face() {
		return nil
	}
	return nic.Unfit(l, d.cfg.Name)
}

func quality(name string) int {
	sp, err := nic.LinkSpeed(name)
	if err != nil {
		return 0
	}
	q := sp.Mbit * 2
	if sp.Full {
		q++
	}
	return q
}

// watchCarrier has the poll look at a port in the best way that the data path knows.
func (d *driver) watchCarrier(s drivers.Side, name string) {
	if p, ok := d.path.(datapath.Looker); ok {
		if look, ok := p.Look(s); ok {
			d.poller.WatchDirect(s, name, look)
			return
		}
	}
	d.poller.Watch(s, name)
}

// unwatch ends what looks at a port. Under changeMu, not under mu: it waits for threads
// that may be in a callback.
func (d *driver) unwatch(s drivers.Side) {
	d.poller.Watch(s, "")
	d.mu.Lock()
	p := d.ports[s].prober
	d.ports[s].prober = nil
	d.mu.Unlock()
	if p != nil {
		p.Close()
		st := p.Stats()
		d.mu.Lock()
		d.counts.probesSent[s] += st.Sent
		d.counts.probesAnswered[s] += st.Answered
		d.counts.foreign[s] += st.Foreign
		d.mu.Unlock()
	}
}

// release takes the data path off a port. Under changeMu.
func (d *driver) release(s drivers.Side) {
	d.unwatch(s)
	if err := d.announce.SetPort(s, 0); err != nil {
		d.env.Log.Warn("a port is let go", "side", s, "err", err)
	}
	d.mu.Lock()
	d.ports[s] = bound{drill: d.ports[s].drill} // before the NIC is seen to leave
	d.mu.Unlock()
	if err := d.path.SetPort(s, nil); err != nil {
		d.env.Log.Warn("take the data path off a port", "side", s, "err", err)
	}
}

// awaitCarrier waits until one of the sides has a carrier, or there is none that could.
func (d *driver) awaitCarrier(ctx context.Context, limit time.Duration, sides ...drivers.Side) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		d.mu.Lock()
		hope, stir := false, d.stir
		for _, s := range sides {
			if p := &d.ports[s]; p.carrier && p.link.Index != 0 {
				d.mu.Unlock()
				return
			} else if p.link.Index != 0 {
				hope = true
			}
		}
		d.mu.Unlock()
		if !hope {
			return
		}
		select {
		case <-stir:
		case <-ctx.Done():
			return
		}
	}
}

// Attach takes a port in. Its tests are reported by events.
func (d *driver) Attach(ctx context.Context, s drivers.Side, res drivers.Resource) error {
	if !s.Valid() {
		return drivers.Refuse(drivers.RuleState, "%s has the sides 0 and 1", d.cfg.Name)
	}
	d.changeMu.Lock()
	defer d.changeMu.Unlock()
	if d.isStopped() {
		return drivers.Refuse(drivers.RuleState, "%s is being stopped", d.cfg.Name)
	}
	if res.Path != "" && res.Path != d.cfg.Sides[s].Resource.Path {
		return drivers.Refuse(drivers.RuleState, "pci%d/%s is %s here, not %s: the driver reads its NICs at its start", s, d.cfg.Name, d.cfg.Sides[s].Resource.Path, res.Path)
	}
	if d.cfg.Sides[s].Resource.Path == "" {
		return drivers.Refuse(drivers.RuleState, "pci%d/%s: no NIC is configured there", s, d.cfg.Name)
	}
	d.cfg.Sides[s].Out = false
	if d.boundIndex(s) == 0 {
		d.tryBind(s)
		d.awaitCarrier(ctx, startCarrier, s)
	}
	return d.step(AttachAsked{Side: s})
}

func (d *driver) boundIndex(s drivers.Side) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ports[s].link.Index
}

// Detach takes a port out and gives the NIC back as it was.
func (d *driver) Detach(_ context.Context, s drivers.Side, why drivers.Reason) (drivers.Drain, error) {
	if !s.Valid() {
		return nil, drivers.Refuse(drivers.RuleState, "%s has the sides 0 and 1", d.cfg.Name)
	}
	d.changeMu.Lock()
	defer d.changeMu.Unlock()
	if err := d.step(DetachAsked{Side: s, Reason: why}); err != nil {
		return nil, err
	}
	d.cfg.Sides[s].Out = true
	d.release(s)
	if err := d.book.Restore(s); err != nil {
		d.env.Log.Warn("the NIC is out, but not as it was before", "side", s, "err", err)
	}
	drained := make(chan struct{})
	close(drained) // the kernel has no packet of ours for it any more
	return drained, nil
}

// Switch makes the standby the active port.
func (d *driver) Switch(context.Context) error { return d.step(SwitchAsked{To: datapath.None}) }

// linkSeen is called by the watcher of links.
func (d *driver) linkSeen(l nic.Link, gone bool) {
	// A NIC that has gone is acted on at once; all else can wait its turn.
	for s := range d.ports {
		side := drivers.Side(s)
		d.mu.Lock()
		index, binding := d.ports[s].link.Index, d.ports[s].binding
		d.mu.Unlock()
		if index == 0 || index != l.Index {
			continue
		}
		switch {
		case gone:
			d.nicGone(side, time.Now())
		case !nic.Matches(d.cfg.Sides[s].Resource.Path, l):
			d.step(Gone{Side: side, Why: fmt.Sprintf("%s has got another name: %s", d.cfg.Sides[s].Resource.Path, l.Name), At: time.Now()})
			d.letGo(side)
		case d.takenAway(l):
			d.lostToOther(side, l, binding)
		case !l.Carrier:
			d.poller.LookNow() // the kernel's word may be old: when it is not, it comes before the poll's turn
		}
		return
	}
	d.do(func() { d.linkChanged(l, gone) })
}

// takenAway says whether the NIC of a port of the kernel's bond is not in it now.
func (d *driver) takenAway(l nic.Link) bool {
	if l.Master == d.path.Face() || d.path.Describe().Kind != datapath.Bonding {
		return false
	}
	now, err := nic.ByIndex(l.Index) // what was told may be old
	return err == nil && now.Master != d.path.Face()
}

// lostToOther acts on a NIC that somebody has taken out of the kernel's bond: it carries
// nothing until it is in it again, which bringing the side down is there to prevent.
func (d *driver) lostToOther(s drivers.Side, l nic.Link, binding uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stopped || d.ports[s].binding != binding || d.ports[s].link.Index != l.Index {
		return // it was us
	}
	_ = d.stepLocked(Gone{Side: s, Why: l.Name + " was taken out of " + d.cfg.Name + " by somebody", At: time.Now()})
	d.letGoLocked(s)
}

// letGo has a port's NIC let go of that is of no use any more, if it is still bound then.
func (d *driver) letGo(s drivers.Side) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.letGoLocked(s)
}

func (d *driver) letGoLocked(s drivers.Side) {
	binding := d.ports[s].binding
	d.do(func() {
		d.mu.Lock()
		same := d.ports[s].binding == binding && d.ports[s].link.Index != 0
		d.mu.Unlock()
		if !same {
			return // there is another already, perhaps under the same ifindex
		}
		d.release(s)
		if !d.cfg.Sides[s].Out {
			d.tryBind(s)
		}
	})
}

// linkChanged looks at what has happened to other links. On the maintenance goroutine.
func (d *driver) linkChanged(l nic.Link, gone bool) {
	switch {
	case l.Index == d.path.Face():
		d.faceChanged(gone)
		return
	case l.Parent == d.path.Face():
		d.announce.Refresh()
		d.syncFilters()
		return
	case gone:
		return
	}
	for s := range d.cfg.Sides {
		side, c := drivers.Side(s), d.cfg.Sides[s]
		switch {
		case c.Resource.Path == "" || !nic.Matches(c.Resource.Path, l):
		case c.Out:
			d.seeOut(side)
		case d.boundIndex(side) == 0:
			d.tryBind(side)
		}
	}
}

// faceChanged follows what an admin does to the face. What counts is how it is now: the
// word of it may be old, and of what we did ourselves since.
func (d *driver) faceChanged(gone bool) {
	l, err := nic.ByIndex(d.path.Face())
	if gone || errors.Is(err, nic.ErrNone) {
		d.env.Fatal(fmt.Errorf("%s was deleted by somebody: it is made again", d.cfg.Name))
		return
	}
	if err != nil {
		d.env.Log.Warn("a change of the face", "err", err)
		return
	}
	if l.MTU != d.faceMTU {
		d.followMTU(l.MTU)
	}
	if len(l.MAC) > 0 && !slices.Equal(l.MAC, d.mac) {
		if k, ok := d.path.(datapath.MACKeeper); ok {
			kept, err := k.KeepMAC()
			if kept {
				return // and another event says so
			}
			if err != nil {
				d.env.Log.Warn("the kernel may have given the face another MAC", "mac", l.MAC, "err", err)
			}
		}
		d.env.Fatal(fmt.Errorf("%s has got the MAC %s: its data path is made anew with it", d.cfg.Name, l.MAC))
		return
	}
	d.announce.Refresh()
	d.syncFilters()
}

// followMTU gives the NICs the MTU that the face was given, or the face its old one back.
func (d *driver) followMTU(mtu int) {
	d.mu.Lock()
	was, links := d.faceMTU, [2]nic.Link{d.ports[0].link, d.ports[1].link}
	d.mu.Unlock()
	set := func(mtu int) error {
		var errs []error
		for s, l := range links {
			if l.Index == 0 {
				continue
			}
			// Not the MTU alone: with one that is too small for IPv6 the kernel forgets that the
			// NIC is to speak none. (Where its bonding driver has the NIC, that has set the MTU.)
			if _, err := d.book.Prepare(drivers.Side(s), l, d.wanted(mtu)); err != nil && !errors.Is(err, nic.ErrNone) {
				errs = append(errs, err)
			}
		}
		return errors.Join(errs...)
	}
	failed := set(mtu)
	if failed == nil {
		d.mu.Lock()
		d.faceMTU = mtu
		d.mu.Unlock()
		d.note(datapath.None, fmt.Sprintf("the MTU is %d now, on %s and its NICs", mtu, d.cfg.Name), nil)
		return
	}
	if err := errors.Join(set(was), nic.SetMTU(d.path.Face(), was)); err != nil {
		d.env.Log.Error("the MTU", "wanted", was, "err", err)
	}
	d.note(datapath.None, fmt.Sprintf("%s cannot have the MTU %d (%v): it is %d again", d.cfg.Name, mtu, failed, was), nil)
}

// addrSeen is called by the watcher of addresses.
func (d *driver) addrSeen(int) {
	d.announce.Refresh()
	d.do(d.readAddresses)
}

// readAddresses keeps the face's addresses for people.
func (d *driver) readAddresses() {
	list, err := nic.Addresses(d.path.Face())
	if err != nil {
		return
	}
	text := make([]string, 0, len(list))
	for _, a := range list {
		text = append(text, a.String())
	}
	d.mu.Lock()
	d.addrs = text
	d.mu.Unlock()
}

func (d *driver) syncFilters() {
	d.mu.Lock()
	indexes := [2]int{d.ports[0].link.Index, d.ports[1].link.Index}
	d.mu.Unlock()
	if err := d.book.SyncFilters(d.path.Face(), d.mac, indexes); err != nil {
		d.env.Log.Warn("the NICs' address filters", "err", err)
	}
}

// do gives a job to the maintenance goroutine. When it has too many the next look at
// everything makes up for what is dropped.
func (d *driver) do(job func()) {
	select {
	case d.jobs <- job:
	default:
		d.env.Log.Warn("too many changes of links at once: one is left to the next look at all of them")
	}
}

// maintain runs jobs, and looks now and then at what no event tells.
func (d *driver) maintain() {
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	turned := time.NewTicker(turnEvery)
	defer turned.Stop()
	for {
		select {
		case <-d.ctx.Done():
			return
		case job := <-d.jobs:
			d.locked(job)
		case <-turned.C:
			d.lookForTurn()
		case <-look.C:
			d.locked(d.lookAgain)
		}
	}
}

func (d *driver) locked(job func()) {
	d.changeMu.Lock()
	defer d.changeMu.Unlock()
	if !d.isStopped() {
		job()
	}
}

// lookAgain is the net below the events. Under changeMu.
func (d *driver) lookAgain() {
	d.syncFilters()
	for s := range d.cfg.Sides {
		side := drivers.Side(s)
		if c := d.cfg.Sides[s]; c.Resource.Path != "" && !c.Out && d.boundIndex(side) == 0 && d.parked[s] == nil {
			if l, err := nic.Find(c.Resource.Path); err == nil {
				d.linkChanged(l, false)
			}
		}
	}
}
