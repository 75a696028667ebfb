package keeper

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ft/drivers/asynclog"
	"ft/drivers/notify"
)

// process is one name: what to run, what runs, and what is held for the next start.
type process struct {
	name    string
	spec    Spec // for the next start
	state   State
	since   time.Time
	reason  string
	status  string
	starts  int
	lastEnd string
	nextAt  time.Time // in Waiting
	policy  restarts
	store   store
	stored  []string // the names in store, in the order in which they first came

	cur   *child
	preds []*child // dying, pushed aside by a successor

	forgetting bool          // deleted: forget it when it is gone
	forgotten  chan struct{} // closed then
}

// child is one start of a process.
type child struct {
	pid     int
	pidfd   *pidfd
	ident   string // what, beside the pid, tells it from any other process ever
	token   string // names it in its notifications
	started time.Time
	spec    Spec

	adopted  bool // outlived an earlier keeper
	restored bool // its descriptors are known to be complete
	adoptAt  time.Time

	signed   bool      // has given a sign of life
	lastSign time.Time // of life
	overdue  bool
	probedAt time.Time

	dyingSince time.Time // zero while it is well
	why        string    // it is dying
	word       string    // how it said that it is about to end
	replace    bool      // a requested restart: its end is no death
	storeErr   error     // of its last store, told with the next barrier

	ended chan struct{} // closed when it is gone
}

// setState is the only way a state changes.
func (k *keeper) setState(p *process, to State, reason string) {
	if p.state == to && p.reason == reason {
		return
	}
	k.log.Info("process", "name", p.name, "from", string(p.state), "to", string(to), "reason", reason)
	p.state, p.reason, p.since = to, reason, time.Now()
	k.upstream.text("%s", k.summary())
}

// summary is the keeper's line in `systemctl status`: how many are well, and who is
// not.
func (k *keeper) summary() string {
	running := 0
	others := map[string]string{}
	for name, p := range k.procs {
		if p.state == Running {
			running++
		} else {
			others[name] = string(p.state)
		}
	}
	if len(others) == 0 {
		return fmt.Sprintf("%d running", running)
	}
	return fmt.Sprintf("%d running; %s", running, sentences(others))
}

// mayStart says whether a process may be started now. During a clean stop only what
// has a face to take down is, during a forced one nothing.
func (k *keeper) mayStart(p *process) bool {
	select {
	case <-k.force:
		return false
	default:
		return !k.stopping || p.store.total() > 0
	}
}

// start starts the process; noticed is when the reason for it was seen.
func (k *keeper) start(p *process, noticed time.Time) {
	if !k.mayStart(p) {
		p.nextAt = noticed
		k.setState(p, Waiting, "the keeper is being stopped")
		return
	}
	p.policy.started()
	p.nextAt = time.Time{}
	p.status = ""
	c, gate, err := k.launch(p)
	if err != nil {
		p.lastEnd = "could not be started: " + err.Error()
		k.event(p, Event{Kind: EventEnded, Text: p.lastEnd})
		k.judge(p, time.Now())
		return
	}
	gap := time.Since(noticed)
	p.cur = c
	p.starts++
	k.setState(p, Starting, "")
	// The process waits at its gate: it is on record before it does anything. Where it
	// cannot be recorded it is let go all the same: a device that stands still is
	// worse than one that a second fault might find unguarded.
	k.save()
	_, _ = unix.Write(gate, []byte{1}) // if it has died already, the pidfd tells
	unix.Close(gate)
	go k.watch(p, c)
	k.event(p, Event{Kind: EventStarted, Pid: c.pid, GapUS: gap.Microseconds()})
}

// launch executes the process with everything that it inherits, and returns it with
// the writing end of its gate.
func (k *keeper) launch(p *process) (c *child, gate int, err error) {
	var random [16]byte
	if _, err := rand.Read(random[:]); err != nil {
		return nil, -1, fmt.Errorf("draw a token: %w", err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, -1, err
	}
	defer null.Close()
	out, err := asynclog.OpenFile(LogPath(k.o.RunDir, p.name))
	if err != nil {
		return nil, -1, err
	}
	defer out.Close()
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return nil, -1, fmt.Errorf("make the gate: %w", err)
	}
	defer unix.Close(pipe[0])

	files := []uintptr{null.Fd(), out.Fd(), out.Fd()}
	var names []string
	pass := func(name string, fd int) {
		files, names = append(files, uintptr(fd)), append(names, name)
	}
	for _, name := range p.stored {
		for _, fd := range p.store[name] {
			pass(name, fd)
		}
	}
	for _, pred := range p.preds {
		pass(notify.PredecessorName, pred.pidfd.fd)
	}
	pass(notify.GateName, pipe[0])

	c = &child{token: hex.EncodeToString(random[:]), spec: p.spec, restored: true, ended: make(chan struct{})}
	fd := -1
	c.pid, err = syscall.ForkExec(p.spec.Argv[0], p.spec.Argv, &syscall.ProcAttr{
		Dir: "/", Env: k.environment(p.spec, c.token, names), Files: files,
		// A session of its own: a Ctrl-C at the keeper's terminal is not for drivers.
		Sys: &syscall.SysProcAttr{Setsid: true, PidFD: &fd},
	})
	if err != nil {
		unix.Close(pipe[1])
		return nil, -1, fmt.Errorf("execute %s: %w", p.spec.Argv[0], err)
	}
	c.started = time.Now()
	c.lastSign = c.started
	if c.pidfd, err = newPidfd(fd); err == nil {
		c.ident, err = identify(fd, c.pid)
	}
	if err != nil {
		// It waits at the gate and has done nothing yet: it ends when that is closed.
		unix.Close(pipe[1])
		if c.pidfd != nil {
			c.pidfd.close()
		}
		_ = unix.Kill(c.pid, unix.SIGKILL)
		_ = retry(func() error { _, err := unix.Wait4(c.pid, nil, 0, nil); return err })
		return nil, -1, err
	}
	return c, pipe[1], nil
}

// ours are the variables that speak of the keeper itself and must not reach a process.
var ours = []string{notify.EnvSocket, notify.EnvToken, notify.EnvWatchdogUsec, notify.EnvWatchdogPid, notify.EnvListenFds, notify.EnvListenNames, notify.EnvListenPid, "INVOCATION_ID", "JOURNAL_STREAM"}

// environment is the keeper's own, the spec's, and the protocol's.
func (k *keeper) environment(s Spec, token string, names []string) []string {
	var env []string
	for _, kv := range os.Environ() {
		key, _, _ := strings.Cut(kv, "=")
		if _, replaced := s.Env[key]; !replaced && !slices.Contains(ours, key) {
			env = append(env, kv)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(s.Env)) {
		env = append(env, key+"="+s.Env[key])
	}
	env = append(env,
		notify.EnvSocket+"="+k.notifyPath(),
		notify.EnvToken+"="+token,
		notify.EnvListenFds+"="+strconv.Itoa(len(names)),
		notify.EnvListenNames+"="+strings.Join(names, ":"))
	if s.WatchdogMS > 0 {
		env = append(env, notify.EnvWatchdogUsec+"="+strconv.Itoa(s.WatchdogMS*1000))
	}
	return env
}

// watch waits for the end of a child and tells the loop.
func (k *keeper) watch(p *process, c *child) {
	if err := c.pidfd.wait(); err != nil {
		return // closed: it is no longer ours
	}
	noticed := time.Now()
	e := reap(c)
	k.post(func() { k.gone(p, c, e, noticed) })
}

// gone is the end of a child: none of its threads is left, and no I/O of theirs.
func (k *keeper) gone(p *process, c *child, e ending, noticed time.Time) {
	c.pidfd.close()
	defer close(c.ended) // after what follows from it
	if c != p.cur {
		p.preds = slices.DeleteFunc(p.preds, func(o *child) bool { return o == c })
		k.event(p, Event{Kind: EventFenced, Pid: c.pid, Text: e.text})
		k.save()
		k.forgetIfGone(p)
		return
	}
	p.cur = nil
	if c.why != "" {
		e.text += ", " + c.why
	}
	p.lastEnd = e.text
	k.event(p, Event{Kind: EventEnded, Pid: c.pid, Text: e.text})
	k.follow(p, c, e, noticed)
}

// follow decides what comes after the end of a child.
func (k *keeper) follow(p *process, c *child, e ending, noticed time.Time) {
	switch {
	case p.forgetting:
		k.forgetIfGone(p)
	case c.word == notify.ExitStopped || c.word == "" && e.exited(notify.CodeStopped):
		k.dropAll(p)
		k.setState(p, Stopped, "ended as it was asked to")
		k.event(p, Event{Kind: EventStopped, Pid: c.pid})
		k.save()
	case c.replace || c.word == notify.ExitHandOver || e.exited(notify.CodeHandOver):
		k.start(p, noticed)
	case e.exited(notify.CodeConfig):
		k.fail(p, "its configuration makes no sense to it: "+p.lastWords())
	default:
		k.judge(p, noticed)
	}
}

// judge applies the restart policy to a death.
func (k *keeper) judge(p *process, noticed time.Time) {
	v := p.policy.died(noticed)
	switch {
	case v.failed:
		k.fail(p, fmt.Sprintf("died early %d times in a row, last: %s", p.policy.early, p.lastWords()))
	case v.delay > 0:
		p.nextAt = noticed.Add(v.delay)
		k.setState(p, Waiting, fmt.Sprintf("died early %d times in a row, last: %s", p.policy.early, p.lastWords()))
		k.event(p, Event{Kind: EventDelayed, DelayMS: v.delay.Milliseconds(), Text: p.reason})
		k.save()
	default:
		k.start(p, noticed)
	}
}

// lastWords say how the last child ended, and the last status text that it sent.
func (p *process) lastWords() string {
	if p.status == "" {
		return p.lastEnd
	}
	return p.lastEnd + " (" + p.status + ")"
}

// fail ends the attempts. The descriptors are kept: what uses the face waits, and goes
// on when a person has mended it and says reset.
func (k *keeper) fail(p *process, why string) {
	k.setState(p, Failed, why)
	k.event(p, Event{Kind: EventFailed, Text: why})
	k.save()
}

// forgetIfGone ends a deletion when nothing of the process is left.
func (k *keeper) forgetIfGone(p *process) {
	if !p.forgetting || p.cur != nil || len(p.preds) > 0 {
		return
	}
	k.dropAll(p)
	delete(k.procs, p.name)
	k.save()
	k.event(p, Event{Kind: EventForgot})
	close(p.forgotten)
}

// info is the process as the API shows it.
func (p *process) info() Process {
	i := Process{
		Name: p.name, State: p.state, Since: p.since, Reason: p.reason, Status: p.status,
		Starts: p.starts, Early: p.policy.early, NextAt: p.nextAt, LastEnd: p.lastEnd,
		Descriptors: p.store.counts(), Spec: p.spec,
	}
	if c := p.cur; c != nil {
		i.Pid, i.Started, i.Adopted, i.Restored = c.pid, c.started, c.adopted, c.restored
		i.Outdated = outdated(c.pid, c.spec.Argv[0])
	}
	for _, c := range p.preds {
		i.Predecessors = append(i.Predecessors, c.pid)
	}
	return i
}

// event numbers a report, logs it and hands it to readers.
func (k *keeper) event(p *process, e Event) {
	k.seq++
	e.Seq, e.Time, e.Name = k.seq, time.Now(), p.name
	k.log.Info("event", "name", e.Name, "kind", string(e.Kind), "child", e.Pid, "text", e.Text)
	k.events.Add(e.Seq, e)
}
