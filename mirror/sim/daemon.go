package sim

// ftd in the loop: in some seeds it is the real control core (ft/ftd/control) that decides
// which leg comes in and when, above the real engine, and ftd dies and starts again as it
// likes. This file plays its shell (what is written before what is done, what is lost with
// the process), and of the driver process what lies between a call of ftd's and the engine.
// It is the one import of this tree that points up, and only tests import this package.

import (
	"encoding/json"
	"errors"
	"fmt"
	"syscall"
	"time"

	"ft/drivers"
	"ft/ftd/control"
	"ft/mirror"
)

const diskName = "disk0"

// daemon is ftd, and the driver's ear for it.
type daemon struct {
	core    *control.Core // nil while ftd is down
	life    int
	powered bool // the keeper has been told to run the driver
	config  [2]bool
	disk    []byte // its state, on stable storage
	entry   uint64 // the last number of the event log
	jobs    []ftdJob
	writing bool
	held    []control.Action // that wait for a write
	timer   int
	arrives int64 // when the last message to it does: they keep their order

	connected bool
	out       [2]bool // legs that the driver must leave alone
	last      [2]string
	seq       uint64
	calls     []ftdCall
	calling   bool
	adopt     bool // the next driver follows one that died

	part     [2]int // which device is in the slot
	requests int
	downs    map[string]int // requests to take a leg out
	upAt     [2]int         // the last request to bring it in
	wishOut  [2]bool        // an admin took it out, and has heard that this is kept
	helped   int64
}

// ftdJob is what waits for the state directory: a write or an answer.
type ftdJob struct {
	write  *control.Action
	answer control.Answer
}

// ftdCall is a call to the driver, of one life of ftd.
type ftdCall struct {
	control.Action
	life int
}

func wall(now int64) time.Time { return time.Unix(1_700_000_000, now).UTC() }

// startSoon lets ftd start. boot: nothing runs yet.
func (d *daemon) startSoon(w *world, after int64, boot bool) {
	if boot {
		d.powered, d.adopt = false, false
		w.box.booting = false
	}
	life := d.life
	w.in(after, event{kind: evDo, do: func() {
		if d.life == life && d.core == nil {
			d.start(w, boot)
		}
	}})
}

func (d *daemon) start(w *world, boot bool) {
	w.tracef("ftd    starts")
	if w.stats.Ftds == 0 {
		w.stats.Controlled++
	}
	w.stats.Ftds++
	policy := control.MTBFAlways
	if w.p.mtbf == 1 {
		policy = control.MTBFThreshold
	}
	d.core = control.New(control.Config{Name: "box", MTBF: control.MTBFSettings{Policy: policy}})
	loaded := control.StateLoaded{LastSeq: d.entry}
	if d.disk != nil {
		if err := json.Unmarshal(d.disk, &loaded.State); err != nil {
			w.fail("the state of ftd cannot be read again: %v", err)
			return
		}
	}
	if boot {
		loaded.Booted = wall(w.now)
	}
	d.step(w, loaded)
	ev := control.DeviceConfigured{Kind: "disk", Name: diskName}
	for s, l := range w.legs {
		ev.Sides[s] = control.SideSpec{Resource: drivers.Resource{Path: fmt.Sprintf("/dev/leg%d", s)}, Absent: !l.present}
	}
	d.step(w, ev)
	d.connectSoon(w)
	d.lookLater(w)
}

// lookLater is the regular look at the driver's status.
func (d *daemon) lookLater(w *world) {
	life := d.life
	w.in(2*sec, event{kind: evDo, do: func() {
		if d.life != life || d.core == nil {
			return
		}
		if d.connected {
			d.step(w, control.DriverStatus{Device: diskName, Status: d.status(w)})
		}
		d.lookLater(w)
	}})
}

// die ends ftd: what was on its way to it, and from it, is lost; a write may have landed.
func (d *daemon) die(w *world) {
	if d.core != nil {
		w.tracef("ftd    dies")
	}
	if d.writing && w.chance(0.5) {
		d.store(w, d.jobs[0].write)
	}
	d.core, d.jobs, d.held, d.writing, d.connected = nil, nil, nil, false, false
	d.life++
	d.downs = nil
}

func (d *daemon) store(w *world, a *control.Action) {
	b, err := json.Marshal(a.State)
	if err != nil {
		w.fail("the state of ftd cannot be written: %v", err)
	}
	d.disk = b
}

// step gives the core an event, and carries out what it wants done.
func (d *daemon) step(w *world, ev control.Event) {
	if d.core == nil || w.err != nil {
		return
	}
	r := d.core.Step(wall(w.now), ev)
	for _, e := range r.Entries {
		d.entry = max(d.entry, e.Seq)
		if w.tracing() {
			w.tracef("log    %s %s→%s %s", e.ID, e.From, e.To, e.Reason)
		}
	}
	for _, a := range r.Answers {
		if s, down := d.downs[a.Request]; down && a.Status == control.AnswerRefused {
			d.wishOut[s] = false // it could not be: the wish is taken back
		}
	}
	for _, a := range r.Actions {
		switch a.Kind {
		case control.ActionPersist:
			d.jobs = append(d.jobs, ftdJob{write: &a})
		case control.ActionTimer:
			d.wake(w, a.At)
		case control.ActionAlarm:
		default:
			if a.Kind == control.ActionAttach && d.wishOut[a.Side] {
				w.fail("the control core brings in leg %d, which an admin took out", a.Side)
				return
			}
			d.held = append(d.held, a)
		}
	}
	for _, a := range r.Answers {
		d.jobs = append(d.jobs, ftdJob{answer: a})
	}
	w.fold(uint64(len(r.Actions))<<32 ^ d.entry)
	d.pump(w)
}

// wake is the core's timer.
func (d *daemon) wake(w *world, at time.Time) {
	d.timer++
	if at.IsZero() {
		return
	}
	n, life := d.timer, d.life
	w.in(max(0, at.Sub(wall(w.now)).Nanoseconds()), event{kind: evDo, do: func() {
		if n == d.timer && life == d.life {
			d.step(w, control.Tick{})
		}
	}})
}

// pump writes what is to be written, one after the other, and begins what waited for it.
func (d *daemon) pump(w *world) {
	for !d.writing && len(d.jobs) > 0 {
		if j := d.jobs[0]; j.write == nil {
			d.jobs = d.jobs[1:]
			d.answered(w, j.answer)
			continue
		}
		d.writing = true
		life := d.life
		w.in(w.spread(ms/2, 20*ms), event{kind: evDo, do: func() {
			if d.life != life {
				return
			}
			a := d.jobs[0].write
			d.store(w, a)
			d.jobs, d.writing = d.jobs[1:], false
			d.step(w, control.ActionResult{ID: a.ID, Outcome: control.OK})
			d.pump(w)
		}})
	}
	d.begin(w)
}

// begin begins what waits for no write, in its order.
func (d *daemon) begin(w *world) {
	for len(d.held) > 0 {
		a := d.held[0]
		for _, j := range d.jobs {
			if j.write != nil && j.write.ID == a.After {
				return
			}
		}
		d.held = d.held[1:]
		d.act(w, a)
	}
}

// act gives an action to whom it is for.
func (d *daemon) act(w *world, a control.Action) {
	if w.tracing() {
		w.tracef("ftd    %s %s %d", a.Kind, a.Device, a.Side)
	}
	switch a.Kind {
	case control.ActionStart, control.ActionConfigure:
		d.config = [2]bool{a.Sides[0].Out, a.Sides[1].Out}
		if a.Kind == control.ActionStart {
			d.powered = true
			if w.box.eng == nil {
				w.scheduleBoot()
			}
			d.result(w, ftdCall{a, d.life}, nil)
			d.connectSoon(w)
		}
	case control.ActionAttach, control.ActionDetach, control.ActionStop, control.ActionSwitch, control.ActionSnapshot:
		c := ftdCall{a, d.life}
		if w.box.eng == nil {
			d.result(w, c, errors.New("the driver is not there"))
			return
		}
		d.calls = append(d.calls, c)
		d.nextCall(w)
	}
}

// tell brings something to ftd after a while, in order.
func (d *daemon) tell(w *world, life int, ev control.Event) {
	d.arrives = max(d.arrives+1, w.now+w.spread(ms/10, 2*ms))
	w.in(d.arrives-w.now, event{kind: evDo, do: func() {
		if d.life == life {
			d.step(w, ev)
		}
	}})
}

func (d *daemon) result(w *world, c ftdCall, err error) {
	if !c.WantsResult() {
		return
	}
	r := control.ActionResult{ID: c.ID, Outcome: control.OK}
	var refused *drivers.Refused
	switch {
	case errors.As(err, &refused):
		r.Outcome, r.Code, r.Sentence = control.Refused, refused.Code, refused.Sentence
	case err != nil:
		r.Outcome, r.Sentence = control.Failed, err.Error()
	}
	d.tell(w, c.life, r)
}

// answered: an admin hears. What he took out and was told of stays out.
func (d *daemon) answered(w *world, a control.Answer) {
	w.stats.Answers++
	w.tracef("answer %s %s %s %s", a.Request, a.Status, a.Code, a.Sentence)
	s, down := d.downs[a.Request]
	if !down || a.Status != control.AnswerAccepted && a.Status != control.AnswerDone {
		return
	}
	var n int
	if _, err := fmt.Sscanf(a.Request, "r%d", &n); err == nil && n > d.upAt[s] {
		d.wishOut[s] = true
	}
}

// nextCall lets the driver carry out the next call, one at a time.
func (d *daemon) nextCall(w *world) {
	if d.calling || len(d.calls) == 0 {
		return
	}
	d.calling = true
	w.in(w.spread(ms/10, 5*ms), event{kind: evDo, life: w.box.life, do: func() {
		c := d.calls[0]
		d.calls = d.calls[1:]
		d.carryOut(w, c)
	}})
}

func (d *daemon) callEnds(w *world, c ftdCall, err error) {
	if w.err != nil {
		return
	}
	d.calling = false
	d.result(w, c, err)
	d.nextCall(w)
}

// carryOut is the driver's part of a call.
func (d *daemon) carryOut(w *world, c ftdCall) {
	switch c.Kind {
	case control.ActionAttach:
		d.callEnds(w, c, d.attach(w, c))
	case control.ActionDetach:
		d.detach(w, c)
	case control.ActionSnapshot:
		if d.core != nil && d.life == c.life {
			d.step(w, control.DriverStatus{Device: diskName, Status: d.status(w)})
		}
		d.callEnds(w, c, nil)
	default:
		d.callEnds(w, c, fmt.Errorf("%s is not played", c.Kind))
	}
}

func (d *daemon) attach(w *world, c ftdCall) error {
	b, s, l := &w.box, int(c.Side), w.legs[c.Side]
	switch {
	case b.stopping:
		return drivers.Refuse(drivers.RuleState, "the disk is being stopped")
	case b.served[s]:
		return nil
	case !l.present:
		return drivers.Refuse(mirror.RuleAbsent, "leg %d is not there", s)
	case l.hung || b.zombies[s] > 0 || len(l.ops) > 0:
		return drivers.Refuse(drivers.RuleBusy, "leg %d hangs", s)
	}
	d.out[s] = false
	d.emit(w, drivers.Event{Kind: drivers.EventSide, Side: c.Side, To: drivers.Diagnostics.String()})
	err := w.bringIn(s, c.Resource.AcceptRisk)
	if w.err != nil {
		return nil
	}
	if err != nil {
		d.emit(w, drivers.Event{Kind: drivers.EventSide, Side: c.Side, To: b.eng.Snapshot().Sides[s].State.String(), Reason: err.Error()})
	}
	return err
}

// syncWithin is how long the flush before a planned detach may take.
const syncWithin = 15 * sec

func (d *daemon) detach(w *world, c ftdCall) {
	b, life, done := &w.box, w.box.life, false
	now := func() {
		if done || life != b.life || b.eng == nil {
			return
		}
		done = true
		err := b.eng.Detach(c.Side, c.Reason)
		w.tracef("detach leg %d: %v", c.Side, err)
		if err == nil {
			d.out[c.Side], b.served[c.Side] = true, false
		} else if w.err == nil {
			w.expectRefusal("detach", err)
		}
		d.callEnds(w, c, err)
	}
	if b.inSince[0] < 0 || b.inSince[1] < 0 {
		now()
		return
	}
	b.eng.Sync(func(syscall.Errno) { w.in(1, event{kind: evDo, do: now}) })
	w.in(syncWithin, event{kind: evDo, do: now})
}

// newDriver: a driver process begins.
func (d *daemon) newDriver() {
	d.out, d.seq, d.calls, d.calling, d.connected = d.config, 0, nil, false, false
	d.last = [2]string{drivers.Removed.String(), drivers.Removed.String()}
}

// adopts: the driver serves. The partner, if it was in service when the process before died,
// it takes back in by itself.
func (d *daemon) adopts(w *world) {
	b := &w.box
	if d.adopt {
		for s, l := range w.legs {
			if b.inSince[s] >= 0 || b.inSince[1-s] < 0 || d.out[s] || b.hide[s] || !w.mayCome(s) {
				continue
			}
			if g := w.inspect(l); g.Image != nil && g.Image.Super.InService == 3 && !g.Image.Super.Syncing {
				_ = w.attach(s, "")
			}
		}
	}
	d.connectSoon(w)
}

// connectSoon lets ftd and the driver find each other.
func (d *daemon) connectSoon(w *world) {
	life := d.life
	w.in(w.spread(ms, 10*ms), event{kind: evDo, life: w.box.life, do: func() {
		if d.life == life && d.core != nil && w.box.eng != nil && !d.connected {
			d.connected = true
			d.step(w, control.DriverConnected{Device: diskName, Status: d.status(w)})
		}
	}})
}

// driverDied: the keeper starts another one, which adopts.
func (d *daemon) driverDied(w *world) {
	if !w.p.control {
		return
	}
	if d.connected {
		d.tell(w, d.life, control.DriverLost{Device: diskName, Reason: "killed"})
	}
	d.connected, d.calls, d.calling, d.adopt = false, nil, false, true
}

// emit is how the driver reports what the engine says.
func (d *daemon) emit(w *world, ev drivers.Event) {
	if !w.p.control {
		return
	}
	if ev.Kind == drivers.EventSide && ev.Side.Valid() {
		from := d.last[ev.Side]
		if from == ev.To && ev.Reason == "" {
			return
		}
		if ev.To == drivers.Duplex.String() && from != drivers.Syncing.String() && from != drivers.Simplex.String() && from != ev.To {
			d.report(w, drivers.Event{Kind: drivers.EventSide, Side: ev.Side, From: from, To: drivers.Syncing.String(), Reason: "nothing was missed"})
			from = drivers.Syncing.String()
		}
		ev.From = from
		d.last[ev.Side] = ev.To
		if ev.Fault != "" {
			ev.Identity = d.serial(int(ev.Side))
		}
	}
	d.report(w, ev)
}

func (d *daemon) report(w *world, ev drivers.Event) {
	d.seq++
	ev.Seq, ev.Time = d.seq, wall(w.now)
	if !d.connected {
		return
	}
	life, process := d.life, w.box.life
	d.arrives = max(d.arrives+1, w.now+w.spread(ms/10, 2*ms))
	w.in(d.arrives-w.now, event{kind: evDo, life: process, do: func() {
		if d.life == life {
			d.step(w, control.DriverReport{Device: diskName, Event: ev})
		}
	}})
}

func (d *daemon) serial(s int) string { return fmt.Sprintf("serial-%d-%d", s, d.part[s]) }

// status is a snapshot, as the driver gives it.
func (d *daemon) status(w *world) drivers.Status {
	x := w.box.eng.Snapshot()
	st := drivers.Status{Kind: mirror.Kind, Name: diskName, State: x.Face, Reason: x.Reason, Pid: w.box.life, Seq: d.seq, Face: "/dev/ft/" + diskName}
	for s := range st.Sides {
		y := &x.Sides[s]
		st.Sides[s] = drivers.SideStatus{State: y.State, Reason: y.Reason, Since: wall(w.now - int64(y.Since)),
			Draining: y.Draining || w.box.zombies[s] > 0, Progress: y.Progress, Active: y.State.InService()}
		if w.box.served[s] {
			st.Sides[s].Resource.Identity = d.serial(s)
		}
	}
	return st
}

// vanished and seen are the kernel's words on a device; replaced: another one is there.
func (d *daemon) vanished(w *world, s int) {
	if d.core != nil {
		d.tell(w, d.life, control.DeviceVanished{ID: sideName(s), Reason: "it has gone"})
	}
}

func (d *daemon) seen(w *world, s int) {
	if d.core != nil {
		d.tell(w, d.life, control.DeviceSeen{ID: sideName(s), Identity: d.serial(s)})
	}
}

func (d *daemon) replaced(w *world, s int) {
	d.vanished(w, s)
	d.part[s]++
	d.seen(w, s)
}

// quiet: I/O of a dead driver has ended.
func (d *daemon) quiet(w *world, s int) {
	if w.box.eng != nil && w.box.zombies[s] == 0 {
		d.emit(w, drivers.Event{Kind: drivers.EventDrained, Side: drivers.Side(s)})
	}
}

func sideName(s int) string { return [...]string{"pci0/", "pci1/"}[s] + diskName }

// What admins ask ftd for.

func (w *world) chaosFtd() {
	if w.p.control {
		w.do("kill-ftd", nil)
	}
}

func (w *world) doKillFtd(step) {
	if w.p.control && w.ftd.core != nil {
		w.ftd.die(w)
		w.ftd.startSoon(w, w.spread(5*ms, 500*ms), false)
	}
}

func (w *world) chaosBringUp() {
	if !w.p.control {
		return
	}
	arg := map[string]int64{"leg": w.plan.Int64N(2)}
	if w.box.overwrite[arg["leg"]] {
		arg["risk"] = 1 // he has read why it was refused
	}
	w.do("bringup", arg)
}

func (d *daemon) request() control.Request {
	d.requests++
	return control.Request{ID: fmt.Sprintf("r%d", d.requests), By: "root"}
}

func (w *world) doBringUp(x step) {
	d, s := &w.ftd, x.leg()
	if !w.p.control || d.core == nil {
		return
	}
	ask := control.BringUp{Request: d.request(), Target: sideName(s)}
	if x.arg["risk"] != 0 && w.box.overwrite[s] {
		ask.AcceptRisk = drivers.RiskOverwrite
	}
	d.upAt[s], d.wishOut[s] = d.requests, false
	d.step(w, ask)
}

func (w *world) doBringDown(x step) {
	d, s := &w.ftd, x.leg()
	if !w.p.control || d.core == nil {
		return
	}
	ask := control.BringDown{Request: d.request(), Target: sideName(s)}
	if x.arg["risk"] != 0 {
		ask.AcceptRisk = drivers.RiskLastSide
	}
	if d.downs == nil {
		d.downs = map[string]int{}
	}
	d.downs[ask.ID] = s
	d.step(w, ask)
}

// Limits of an admin's patience once all is well again.
const (
	byItself  = 150 * sec // what failed must come back without him
	helpAgain = 10 * sec
)

// keepHelping has the admin look now and then until the disk is in duplex, also where no
// driver runs because he has taken out all that it could serve.
func (d *daemon) keepHelping(w *world) {
	w.in(helpAgain, event{kind: evDo, do: func() {
		if w.err == nil && !w.duplex() {
			d.help(w)
			d.keepHelping(w)
		}
	}})
}

// help is an admin who wants the disk in duplex, at the end of a run: he brings up what he
// took out, what is broken, and what was refused.
func (d *daemon) help(w *world) {
	if !w.settling || d.core == nil || w.now < d.helped+helpAgain {
		return
	}
	d.helped = w.now
	for s := range w.legs {
		if st := w.box.state[s]; st.InService() || st == drivers.Syncing || w.err != nil {
			continue
		}
		if d.wishOut[s] || w.box.overwrite[s] || d.out[s] || w.now > w.settleAt+byItself {
			w.doBringUp(step{arg: map[string]int64{"leg": int64(s), "risk": 1}})
		}
	}
}
