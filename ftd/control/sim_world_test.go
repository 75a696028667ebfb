package control

import (
	"fmt"
	"time"

	"ft/drivers"
)

// This file holds what happens to a simulated box: parts fail, go and return, drivers
// and ftd die, messages are late or lost, disks fill up, people change their minds.

// happen lets one thing happen. The weights make most runs mostly reasonable.
func (b *simBox) happen() {
	d := b.devices[b.pick(len(b.devices))]
	i := drivers.Side(b.pick(2))
	s := &d.sides[i]
	if b.pick(4) > 0 {
		b.writesDone()
	}
	if b.diskBad && b.pick(8) == 0 {
		b.diskBad = false
		b.tell("the state directory has room again")
	}
	switch n := b.pick(100); {
	case n < 22:
		b.deliver(d)
	case n < 40:
		b.work(d, b.pick(6) == 0)
	case n < 56:
		b.tellLater(d, i)
	case n < 62:
		b.pass([]time.Duration{time.Second, 5 * time.Second, 2 * time.Minute, time.Hour, 9 * time.Hour}[b.pick(5)])
	case n < 70:
		d.fail(b.now, i, b.pick(4) == 0, b.pick(3) == 0)
	case n < 73 && d.kind.returns && b.pick(2) == 0:
		b.tell("the cable of %s is pulled or put back", sideID(d, i))
		d.darken(b.now, i)
	case n < 73 && d.kind.machine && b.pick(2) == 0:
		b.guest(d, i)
	case n < 73:
		b.tell("the part of %s goes", sideID(d, i))
		if s.present {
			d.lose(b.now, i)
			if !d.kind.returns { // else only its driver looks
				b.uevents = append(b.uevents, DeviceVanished{ID: sideID(d, i)})
			}
		}
	case n < 77:
		if !s.present && !b.dark[d.kind.modules[i]] {
			b.returns(d, i)
		}
	case n < 78 && b.pick(2) == 0:
		b.power(d.kind.modules[i])
	case n < 80 && b.pick(2) == 0:
		b.dies(d)
	case n < 81:
		b.boot()
	case n < 82:
		b.diskBad = true
		b.tell("the state directory is full")
	case n < 83 && len(d.queue) > 0 && b.polls:
		b.tell("an event of %s is lost", d.name)
		d.queue = d.queue[1:]
	case n < 84 && len(d.calls) > 0 && b.pick(3) == 0:
		b.tell("a call to %s is lost", d.name)
		d.calls = d.calls[1:]
	case b.faulty && b.pick(4) > 0:
		b.work(d, false)
		d.fail(b.now, i, b.pick(6) == 0, false)
		b.deliver(d)
	default:
		b.admin(d, i)
	}
}

// deliver brings the next thing that is on its way from a driver to ftd.
func (b *simBox) deliver(d *simDriver) {
	switch {
	case len(b.uevents) > 0 && b.pick(2) == 0:
		ev := b.uevents[0]
		b.uevents = b.uevents[1:]
		b.step(ev)
	case len(d.results) > 0 && b.pick(2) == 0:
		res := d.results[0]
		d.results = d.results[1:]
		b.step(res)
	case d.alive && !d.connected:
		d.connected = true
		b.step(DriverConnected{d.name, d.status()})
	case d.connected && len(d.queue) > 0:
		ev := d.queue[0]
		d.queue = d.queue[1:]
		b.step(DriverReport{d.name, ev})
	case d.connected && b.polls:
		b.step(DriverStatus{d.name, d.status()})
	}
}

// work lets a driver carry out its next call.
func (b *simBox) work(d *simDriver, bad bool) {
	if len(d.calls) == 0 {
		return
	}
	a := d.calls[0]
	d.calls = d.calls[1:]
	if a.Kind == ActionSnapshot {
		if d.connected {
			b.step(DriverStatus{d.name, d.status()})
		}
		return
	}
	if a.Kind == ActionStop && !d.alive {
		d.takeDown()
		d.kept, d.gaveUp = false, false
		d.results = append(d.results, ActionResult{ID: a.ID, Outcome: OK})
		return
	}
	if !d.alive {
		d.results = append(d.results, ActionResult{ID: a.ID, Outcome: Failed, Sentence: "the driver is not there"})
		return
	}
	was := d.connected
	res := d.do(b.now, a, bad && !b.calm)
	if was && !d.alive && (a.ID == 0 || b.pick(2) == 0) {
		b.step(DriverLost{Device: d.name, Reason: "stopped"})
	}
	b.tell("%s does %d %s %d: %s %s", d.name, a.ID, a.Kind, a.Side, res.Outcome, res.Code)
	d.results = append(d.results, res)
}

// tellLater lets a driver's own work go on.
func (b *simBox) tellLater(d *simDriver, i drivers.Side) {
	if !d.alive {
		return
	}
	if s := &d.sides[i]; s.draining {
		s.draining = false
		d.emit(drivers.Event{Kind: drivers.EventDrained, Side: i, Time: b.now})
	}
	if b.calm || b.pick(8) > 0 {
		d.progress(b.now, i)
	}
}

// guest lets whoever is in a machine power it off, or its kernel panic.
func (b *simBox) guest(d *simDriver, i drivers.Side) {
	if d.serving() == 0 || !d.alive {
		return
	}
	switch b.pick(4) {
	case 0:
		b.tell("the memory of %s is dumped", sideID(d, i))
		d.dumps(b.now, i)
		return
	case 2:
		b.tell("the guest of %s reboots", d.name)
		d.reboots(b.now)
		return
	case 1:
		b.now = b.now.Add(time.Millisecond) // no two things happen at one time
		b.tell("the guest of %s powers it off", d.name)
		d.powerOff(b.now)
		return
	}
	b.tell("the kernel in %s panics, or goes on", d.name)
	d.panics(b.now, !d.halted)
}

// returns puts a part back, or another one in its place.
func (b *simBox) returns(d *simDriver, i drivers.Side) {
	s := &d.sides[i]
	s.present = true
	if b.pick(3) == 0 {
		s.part, s.fresh = b.newPart(), d.kind.returns || d.kind.machine && d.serving() == 0
	}
	if d.kind.returns {
		b.tell("there is a part %s in %s", s.part, sideID(d, i))
		d.found(b.now, i)
		return
	}
	if s.state == drivers.Removed {
		s.state = drivers.Offline // its driver does not look by itself
	}
	b.tell("there is a part %s in %s", s.part, sideID(d, i))
	ev := DeviceSeen{ID: sideID(d, i)}
	if b.pick(2) == 0 {
		ev.Identity = s.part
	}
	b.uevents = append(b.uevents, ev)
}

// power takes a module's power away, and with it all that it carries, or gives it back.
func (b *simBox) power(module string) {
	b.dark[module] = !b.dark[module]
	b.tell("the power of %s: %v", module, !b.dark[module])
	b.step(ModulePower{Module: module, On: !b.dark[module]})
	for _, d := range b.devices {
		for i := range d.sides {
			switch s := &d.sides[i]; {
			case d.kind.modules[i] != module:
			case b.dark[module] && s.present:
				d.lose(b.now, drivers.Side(i))
			case !b.dark[module] && !s.present:
				s.present = true
				if d.kind.returns {
					d.found(b.now, drivers.Side(i))
				} else if s.state == drivers.Removed {
					s.state = drivers.Offline
				}
				b.uevents = append(b.uevents, DeviceSeen{ID: sideID(d, drivers.Side(i)), Identity: s.part})
			case !b.dark[module]:
				b.uevents = append(b.uevents, DeviceSeen{ID: sideID(d, drivers.Side(i)), Identity: s.part})
			}
		}
	}
}

// dies kills a driver process; sometimes the keeper has had enough of it.
func (b *simBox) dies(d *simDriver) {
	switch {
	case d.alive:
		b.tell("the driver of %s dies", d.name)
		was := d.connected
		d.die(!b.calm && b.pick(6) == 0)
		if was {
			b.step(DriverLost{Device: d.name, Reason: "killed", GaveUp: d.gaveUp})
		}
	case d.kept && !d.gaveUp:
		d.start(b.now) // by the keeper
	}
}

// ticksMax is how many timers go off while time passes.
const ticksMax = 16

// pass lets time pass, and stops at the timer.
func (b *simBox) pass(dur time.Duration) {
	b.writesDone()
	if dur >= time.Hour || dur >= time.Minute && b.pick(8) > 0 {
		b.quieten() // what takes a moment is over by then
	}
	if dur >= time.Minute {
		for _, d := range b.devices {
			d.calls = nil // their time is over
		}
	}
	until := b.now.Add(dur)
	// Hours of tries once a minute all look alike: then the clock jumps, as that of a computer
	// does that was asleep.
	for n := 0; n < ticksMax && !b.timer.IsZero() && !b.timer.After(until); n++ {
		b.now = b.timer
		b.step(Tick{})
		b.writesDone()
		if dur >= time.Hour {
			b.quieten()
		}
	}
	if until.After(b.now) {
		b.now = until
	}
	if !b.timer.IsZero() && !b.timer.After(b.now) {
		b.step(Tick{})
	}
}

// quieten lets everything that is on its way arrive.
func (b *simBox) quieten() {
	for n := 0; n < 20; n++ {
		for _, d := range b.devices {
			b.work(d, false)
			if len(d.queue)+len(d.results)+len(b.uevents) > 0 || d.alive && !d.connected {
				b.deliver(d)
			}
		}
	}
}

// admin lets a person ask for something.
func (b *simBox) admin(d *simDriver, i drivers.Side) {
	b.requests++
	req := Request{ID: fmt.Sprintf("r%d", b.requests), By: "root"}
	target := sideID(d, i)
	switch b.pick(8) {
	case 0:
		target = d.name
	case 1, 2:
		target = d.kind.modules[i]
	}
	risk := func(r string) string {
		if b.pick(5) == 0 {
			return r
		}
		return ""
	}
	switch n := b.pick(16); {
	case d.kind.machine && b.pick(3) == 0:
		if n < 8 {
			b.step(StartMachine{req, d.name})
		} else {
			b.step(StopMachine{req, d.name})
		}
	case n < 6:
		b.step(BringUp{req, target, risk(drivers.RiskOverwrite)})
	case n < 11:
		b.step(BringDown{req, target, risk(drivers.RiskLastSide)})
	case n == 11:
		b.step(SwitchActive{req, target})
	case n == 12:
		b.step(SetBringup{req, []BringupPolicy{BringupAuto, BringupDefer}[b.pick(2)]})
	case n == 13:
		b.step(ClearMTBF{req, target})
	default:
		b.step(SetMTBF{req, target, MTBFSettings{
			Policy:    []MTBFPolicy{MTBFThreshold, MTBFAlways, MTBFNever, MTBFThreshold, ""}[b.pick(5)],
			MinFaults: b.pick(5), Threshold: time.Duration(b.pick(30)) * time.Hour,
		}, b.pick(4) == 0})
	}
}

// warm lets a box that has just started come up, so that what happens next happens to a
// good one. By policy defer it stays on one side.
func (b *simBox) warm() {
	for n := 0; n < 16; n++ {
		for _, d := range b.devices {
			b.writesDone()
			b.deliver(d)
			b.work(d, false)
			b.tellLater(d, drivers.Side(n%2))
		}
	}
}

// settle lets everything that is on its way arrive, and time pass, with nothing more
// going wrong.
func (b *simBox) settle() {
	b.calm, b.diskBad = true, false
	b.tell("nothing goes wrong from here on")
	for _, module := range moduleIDs {
		if b.dark[module] {
			b.power(module)
		}
	}
	for _, d := range b.devices {
		for i := range d.sides {
			if !d.sides[i].present {
				b.returns(d, drivers.Side(i))
			}
			if d.sides[i].dark {
				d.darken(b.now, drivers.Side(i))
			}
		}
	}
	for round := 0; round < 25; round++ {
		for n := 0; n < 12; n++ {
			for _, d := range b.devices {
				b.writesDone()
				if !d.alive {
					b.dies(d)
				}
				if n == 0 || len(d.queue)+len(d.results)+len(b.uevents) > 0 || d.alive && !d.connected {
					b.deliver(d)
				}
				b.work(d, false)
				b.tellLater(d, drivers.Side(n%2))
			}
		}
		b.pass(30 * time.Second)
	}
}
