package keeper

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"time"

	"ft/drivers"
	"ft/drivers/unixhttp"
)

// watchdogMax bounds a watchdog's period, in milliseconds.
const watchdogMax = 3600 * 1000

// errEnded is the answer while the keeper ends.
var errEnded = errors.New("the keeper has ended")

// mux is the keeper's socket.
func (k *keeper) mux() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("GET /processes", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, func() ([]Process, error) {
			return ask(k, func() ([]Process, error) {
				list := []Process{}
				for _, name := range k.names() {
					list = append(list, k.procs[name].info())
				}
				return list, nil
			})
		})
	})
	m.HandleFunc("GET /processes/{name}", k.verb(func(p *process) (Process, error) { return p.info(), nil }))
	m.HandleFunc("PUT /processes/{name}", k.put)
	m.HandleFunc("DELETE /processes/{name}", k.delete)
	m.HandleFunc("POST /processes/{name}/restart", k.verb(k.restart))
	m.HandleFunc("POST /processes/{name}/crash", k.verb(k.crash))
	m.HandleFunc("POST /processes/{name}/reset", k.verb(k.reset))
	m.HandleFunc("GET /about", func(w http.ResponseWriter, _ *http.Request) {
		unixhttp.Write(w, About{Version: k.o.Version, Pid: os.Getpid(), Since: k.since})
	})
	m.Handle("GET /events", k.events)
	m.HandleFunc("POST /stop", k.postStop)
	return m
}

// ask runs f in the loop and returns what it returns.
func ask[T any](k *keeper, f func() (T, error)) (T, error) {
	type result struct {
		v   T
		err error
	}
	ch := make(chan result, 1)
	k.post(func() {
		v, err := f()
		ch <- result{v, err}
	})
	select {
	case r := <-ch:
		return r.v, r.err
	case <-k.done:
		select {
		case r := <-ch: // it was the loop's last deed
			return r.v, r.err
		default:
			var none T
			return none, errEnded
		}
	}
}

func answer[T any](w http.ResponseWriter, f func() (T, error)) {
	v, err := f()
	switch {
	case errors.Is(err, unixhttp.ErrNotFound):
		unixhttp.WriteNotFound(w, err)
	case err != nil:
		unixhttp.WriteError(w, err)
	default:
		unixhttp.Write(w, v)
	}
}

// verb makes a handler of something done to a process in the loop.
func (k *keeper) verb(f func(*process) (Process, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		answer(w, func() (Process, error) {
			return ask(k, func() (Process, error) {
				p, err := k.find(r.PathValue("name"))
				if err != nil {
					return Process{}, err
				}
				return f(p)
			})
		})
	}
}

func (k *keeper) find(name string) (*process, error) {
	if p := k.procs[name]; p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("process %q: %w", name, unixhttp.ErrNotFound)
}

// put makes a process known, or its new specification, and starts it where it is to
// run and does not.
func (k *keeper) put(w http.ResponseWriter, r *http.Request) {
	var spec Spec
	if err := unixhttp.Read(w, r, &spec); err != nil {
		unixhttp.WriteBadRequest(w, err)
		return
	}
	name := r.PathValue("name")
	answer(w, func() (Process, error) {
		if err := checkSpec(name, spec); err != nil {
			return Process{}, err
		}
		return ask(k, func() (Process, error) { return k.accept(name, spec) })
	})
}

func checkSpec(name string, s Spec) error {
	switch {
	case !validName(name):
		return drivers.Refuse(RuleSpec, "%q cannot name a process: letters, digits and ._@- can, at most 64", name)
	case len(s.Argv) == 0 || !filepath.IsAbs(s.Argv[0]):
		return drivers.Refuse(RuleSpec, "%s: argv must begin with the absolute path of a program, not %q", name, s.Argv)
	case s.WatchdogMS < 0 || s.WatchdogMS > watchdogMax:
		return drivers.Refuse(RuleSpec, "%s: a watchdog of %d ms; 0 to %d are possible", name, s.WatchdogMS, watchdogMax)
	case s.Control != "" && !filepath.IsAbs(s.Control):
		return drivers.Refuse(RuleSpec, "%s: the control socket must be an absolute path, not %q", name, s.Control)
	}
	return nil
}

// validName says what can name a process: it becomes part of file names and, before a
// slash, of the names of descriptors at systemd. It is no regular expression because
// compiling one takes a millisecond of the start of every driver process.
func validName(name string) bool {
	for _, c := range []byte(name) {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("._@-", c) >= 0) {
			return false
		}
	}
	return name != "" && len(name) <= 64 && name[0] != '.' && name[0] != '-'
}

func (k *keeper) accept(name string, spec Spec) (Process, error) {
	if k.stopping {
		return Process{}, drivers.Refuse(RuleStopping, "%s is not started: the keeper is being stopped", name)
	}
	p := k.procs[name]
	switch {
	case p == nil && len(k.procs) >= processesMax:
		return Process{}, drivers.Refuse(RuleSpec, "%s would be one process too many: %d are kept", name, processesMax)
	case p == nil:
		p = k.newProcess(savedProcess{Name: name, Spec: spec, State: Waiting, Since: time.Now()})
		k.procs[name] = p
	case p.forgetting:
		return Process{}, drivers.Refuse(RuleRunning, "%s is being deleted and not gone yet; try again", name)
	default:
		if !reflect.DeepEqual(p.spec, spec) {
			p.spec = spec
		}
	}
	k.save() // what is to run is on record before it runs
	if p.state == Stopped || p.starts == 0 && p.cur == nil && p.state == Waiting && p.nextAt.IsZero() {
		p.policy.reset()
		k.start(p, time.Now())
	}
	return p.info(), nil
}

// delete forgets a process; with ?kill=1 it ends it before.
func (k *keeper) delete(w http.ResponseWriter, r *http.Request) {
	kill := r.FormValue("kill") == "1"
	answer(w, func() (struct{}, error) {
		p, err := ask(k, func() (*process, error) { return k.forget(r.PathValue("name"), kill) })
		if err != nil {
			return struct{}{}, err
		}
		ctx, cancel := context.WithTimeout(r.Context(), forgetTimeout)
		defer cancel()
		select {
		case <-p.forgotten:
			return struct{}{}, nil
		case <-k.done:
			return struct{}{}, errEnded
		case <-ctx.Done():
			return struct{}{}, drivers.Refuse(RuleRunning, "%s was killed but is not gone: something that it waits for hangs; it is forgotten when it is gone", p.name)
		}
	})
}

func (k *keeper) forget(name string, kill bool) (*process, error) {
	p, err := k.find(name)
	if err != nil {
		return nil, err
	}
	switch alive := p.cur != nil || len(p.preds) > 0; {
	case !kill && alive:
		return nil, drivers.Refuse(RuleRunning, "%s runs: stop it first, or delete it with kill", name)
	case !kill && p.store.total() > 0:
		return nil, drivers.Refuse(RuleRunning, "%s has left %d descriptors for a successor: its face would be lost; delete it with kill if it shall be", name, p.store.total())
	}
	p.forgetting = true
	k.save() // a restarted keeper must not start it again
	if p.cur != nil {
		k.kill(p, p.cur, "deleted")
	}
	k.forgetIfGone(p)
	return p, nil
}

// restart replaces what runs, or starts what does not.
func (k *keeper) restart(p *process) (Process, error) {
	switch c := p.cur; {
	case p.forgetting || k.stopping:
		return Process{}, drivers.Refuse(RuleStopping, "%s is not restarted: it is being stopped", p.name)
	case p.state == Stopped:
		return Process{}, drivers.Refuse(drivers.RuleState, "%s has been stopped; there is nothing to restart", p.name)
	case c == nil:
		k.start(p, time.Now())
	case c.dyingSince.IsZero() && !c.replace:
		k.replace(p, c)
	}
	return p.info(), nil
}

func (k *keeper) crash(p *process) (Process, error) {
	if p.cur == nil {
		return Process{}, drivers.Refuse(drivers.RuleState, "%s does not run: there is nothing to kill", p.name)
	}
	k.kill(p, p.cur, "killed by request (drill)")
	return p.info(), nil
}

// reset forgets early deaths and ends a wait.
func (k *keeper) reset(p *process) (Process, error) {
	if k.stopping {
		return Process{}, drivers.Refuse(RuleStopping, "%s is not started: the keeper is being stopped", p.name)
	}
	p.policy.reset()
	if p.cur == nil && (p.state == Failed || p.state == Waiting) {
		k.start(p, time.Now())
	}
	k.save()
	return p.info(), nil
}
