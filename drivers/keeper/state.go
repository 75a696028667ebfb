package keeper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"ft/drivers/host"
	"ft/drivers/notify"
)

// The state file is the memory of a keeper that was killed: what to run and what runs.
// It is replaced as a whole before what it says is acted on. It need not outlive the
// machine, so it is not flushed to a disk.

// saved is the state file.
type saved struct {
	Boot      string         `json:"boot"` // pids mean nothing after another one
	Processes []savedProcess `json:"processes"`
}

type savedProcess struct {
	Name    string       `json:"name"`
	Spec    Spec         `json:"spec"`
	State   State        `json:"state"`
	Since   time.Time    `json:"since"`
	Reason  string       `json:"reason,omitempty"`
	LastEnd string       `json:"last_end,omitempty"`
	Starts  int          `json:"starts"`
	NextAt  time.Time    `json:"next_at"`
	Early   int          `json:"early"`
	ReadyAt time.Time    `json:"ready_at"`
	Forget  bool         `json:"forget,omitempty"` // deleted, but not gone
	Child   *savedChild  `json:"child,omitempty"`
	Preds   []savedChild `json:"predecessors,omitempty"`
}

type savedChild struct {
	Pid     int       `json:"pid"`
	Ident   string    `json:"ident"`
	Token   string    `json:"token"`
	Started time.Time `json:"started"`
	Spec    Spec      `json:"spec"`
	Word    string    `json:"word,omitempty"`
	Replace bool      `json:"replace,omitempty"`
}

func (k *keeper) statePath() string { return filepath.Join(k.o.RunDir, "keeper.json") }

// save writes the state file. Where that fails the keeper goes on, says so, and tries
// again at each tick: stopping to restart drivers would be worse.
func (k *keeper) save() {
	var s saved
	for _, name := range k.names() {
		s.Processes = append(s.Processes, k.procs[name].saved())
	}
	err := k.write(s)
	if (err != nil) != k.unsaved {
		k.unsaved = err != nil
		if err != nil {
			k.log.Error("the state cannot be saved: a restarted keeper would not find what is started now", "err", err)
		} else {
			k.log.Info("the state is saved again")
		}
	}
}

func (k *keeper) write(s saved) error {
	var err error
	if s.Boot, err = bootID(); err != nil {
		return err
	}
	b, err := json.MarshalIndent(s, "", "\t")
	if err != nil {
		return fmt.Errorf("encode the state: %w", err)
	}
	tmp := k.statePath() + ".new"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, k.statePath())
}

func (p *process) saved() savedProcess {
	s := savedProcess{
		Name: p.name, Spec: p.spec, State: p.state, Since: p.since, Reason: p.reason, LastEnd: p.lastEnd,
		Starts: p.starts, NextAt: p.nextAt, Early: p.policy.early, ReadyAt: p.policy.readyAt,
		Forget: p.forgetting,
	}
	if p.cur != nil {
		c := p.cur.saved()
		s.Child = &c
	}
	for _, c := range p.preds {
		s.Preds = append(s.Preds, c.saved())
	}
	return s
}

func (c *child) saved() savedChild {
	return savedChild{c.pid, c.ident, c.token, c.started, c.spec, c.word, c.replace}
}

func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return string(b), err
}

// load reads the state file; there is none after a clean stop, and one of an earlier
// boot says nothing.
func (k *keeper) load() (saved, error) {
	var s saved
	b, err := os.ReadFile(k.statePath())
	if errors.Is(err, os.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return s, fmt.Errorf("the state of the keeper before: %w", err)
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("the state of the keeper before, %s: %w; processes that it started may run: end them, then remove the file", k.statePath(), err)
	}
	boot, err := bootID()
	if err != nil {
		return s, err
	}
	if s.Boot != boot {
		return saved{}, nil
	}
	return s, nil
}

// takeOver goes on where a keeper before this one was killed: it finds the processes
// again, takes the descriptors that systemd kept, asks the processes for theirs, and
// treats as dead whatever ended meanwhile.
func (k *keeper) takeOver(inherited map[string][]int) error {
	s, err := k.load()
	if err != nil {
		return err
	}
	for _, sp := range s.Processes {
		k.procs[sp.Name] = k.newProcess(sp)
	}
	for name, fds := range inherited {
		owner, descriptor, _ := splitUpstream(name)
		p := k.procs[owner]
		if p == nil || notify.CheckName(descriptor) != nil {
			k.log.Warn("systemd kept a descriptor of a process that is not known", "name", name)
			closeAll(fds)
			k.upstream.send(notify.Message{Remove: name})
			continue
		}
		if p.store == nil {
			p.store = store{}
		}
		p.store[descriptor] = fds
		p.stored = append(p.stored, descriptor)
	}
	for i := range s.Processes {
		k.resume(k.procs[s.Processes[i].Name], s.Processes[i])
	}
	k.save()
	return nil
}

func (k *keeper) newProcess(sp savedProcess) *process {
	return &process{
		name: sp.Name, spec: sp.Spec, state: sp.State, since: sp.Since, reason: sp.Reason, lastEnd: sp.LastEnd,
		starts: sp.Starts, nextAt: sp.NextAt, forgetting: sp.Forget, forgotten: make(chan struct{}),
		policy: restarts{
			healthyTime: k.o.HealthyTime, delays: k.o.Delays, earlyMax: k.o.EarlyMax,
			early: sp.Early, readyAt: sp.ReadyAt,
		},
	}
}

// resume finds the children of a process again.
func (k *keeper) resume(p *process, sp savedProcess) {
	for _, sc := range sp.Preds {
		if c := adopt(sc); c != nil {
			c.dyingSince = time.Now()
			p.preds = append(p.preds, c)
			go k.watch(p, c)
		}
	}
	if sp.Child == nil {
		k.forgetIfGone(p)
		return
	}
	c := adopt(*sp.Child)
	if c == nil {
		p.lastEnd = "ended while no keeper watched it"
		k.event(p, Event{Kind: EventEnded, Pid: sp.Child.Pid, Text: p.lastEnd})
		gone := &child{pid: sp.Child.Pid, word: sp.Child.Word, replace: sp.Child.Replace}
		k.follow(p, gone, ending{text: p.lastEnd}, time.Now())
		return
	}
	p.cur = c
	if p.state == Dying {
		k.setState(p, Starting, "found again by a restarted keeper")
		if !p.policy.readyAt.IsZero() {
			k.setState(p, Running, "found again by a restarted keeper")
		}
	}
	k.event(p, Event{Kind: EventAdopted, Pid: c.pid})
	go k.watch(p, c)
	if p.forgetting {
		k.kill(p, c, "deleted")
		return
	}
	if c.spec.Control != "" {
		go k.restore(p, c)
	}
}

// adopt makes a child of a record if that very process still runs.
func adopt(sc savedChild) *child {
	fd := reopen(sc.Pid, sc.Ident)
	if fd == nil {
		return nil
	}
	now := time.Now()
	return &child{
		pid: sc.Pid, pidfd: fd, ident: sc.Ident, token: sc.Token, started: sc.Started, spec: sc.Spec,
		word: sc.Word, replace: sc.Replace, adopted: true, adoptAt: now, signed: true, lastSign: now,
		ended: make(chan struct{}),
	}
}

// restore asks a process that outlived its keeper for its descriptors, until it has
// handed them over or is given up.
func (k *keeper) restore(p *process, c *child) {
	ctx, cancel := context.WithTimeout(context.Background(), restoreTimeout)
	defer cancel()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		_, err := host.Dial(c.spec.Control).Restore(ctx)
		if err == nil {
			k.post(func() {
				c.restored = true
				k.event(p, Event{Kind: EventNote, Pid: c.pid, Text: fmt.Sprintf("handed over %d descriptors", p.store.total())})
			})
			return
		}
		select {
		case <-again.C:
			continue
		case <-k.done:
			return
		case <-ctx.Done():
		}
		k.post(func() {
			k.event(p, Event{Kind: EventNote, Pid: c.pid, Text: fmt.Sprintf("did not hand over its descriptors: %v; if it dies now, its face does", err)})
		})
		return
	}
}
