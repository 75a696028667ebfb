package keeper

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ft/drivers"
	"ft/drivers/host"
)

// The clean stop of the box. Each driver is asked to take its face down, all at once
// and in rounds: a face that another process uses (a machine on a mirror) is refused
// in one round and free in the next. Processes that die meanwhile are restarted as
// ever, to be stopped properly. The keeper ends only when nothing is left that it
// would have to watch.

// stopAgain is the pause between two rounds while faces are in use.
const stopAgain = 500 * time.Millisecond

// target is a process to stop. What it reads of the child never changes.
type target struct {
	p   *process
	c   *child // nil: nothing that could be asked
	why error  // it must be waited for all the same
}

// postStop stops everything, or refuses and leaves everything running.
func (k *keeper) postStop(w http.ResponseWriter, r *http.Request) {
	force := r.FormValue("force") == "1"
	answer(w, func() (struct{}, error) {
		already, err := ask(k, func() (bool, error) {
			was := k.stopping
			k.stopping = true
			return was, nil
		})
		switch {
		case err != nil:
			return struct{}{}, err
		case already && !force:
			return struct{}{}, drivers.Refuse(RuleStopping, "the keeper is being stopped already")
		case already:
			return struct{}{}, k.hurry(r.Context())
		case force:
			return struct{}{}, k.stopByForce(r.Context())
		}
		return struct{}{}, k.stopOrRefuse()
	})
}

// stopOrRefuse goes on as long as each round stops something.
func (k *keeper) stopOrRefuse() error {
	var stopped []*process
	for {
		targets, err := ask(k, func() ([]target, error) { return k.targets(true), nil })
		if err != nil {
			return err
		}
		if len(targets) == 0 {
			return k.end()
		}
		done, busy := k.round(targets, drivers.Remove)
		stopped = append(stopped, done...)
		if len(done) > 0 {
			continue
		}
		_, err = ask(k, func() (struct{}, error) {
			k.stopping = false
			for _, p := range stopped {
				if p.cur == nil && p.state == Stopped {
					k.start(p, time.Now())
				}
			}
			return struct{}{}, nil
		})
		if err != nil {
			return err
		}
		return drivers.Refuse(drivers.RuleBusy, "not stopped, everything runs on: %s", sentences(busy))
	}
}

// stopWhenFree is the clean stop that a signal asks for: it waits while faces are in
// use, and says by whom, until it is forced. A stop over the socket that is under way
// goes first: it ends the keeper or is refused.
func (k *keeper) stopWhenFree() {
	mine := false
	for said := ""; ; {
		targets, err := ask(k, func() ([]target, error) {
			mine = mine || !k.stopping
			k.stopping = true
			return k.targets(true), nil
		})
		if err != nil {
			return
		}
		if mine && len(targets) == 0 {
			_ = k.end() // an error says that it has ended
			return
		}
		if mine {
			done, busy := k.round(targets, drivers.Remove)
			if text := sentences(busy); text != said && len(busy) > 0 {
				said = text
				k.upstream.text("waiting to stop: %s", text)
				k.log.Warn("waiting to stop; a second signal forces", "busy", text)
			}
			if len(done) > 0 {
				continue
			}
		}
		select {
		case <-k.force:
			_ = k.stopByForce(context.Background()) // it has logged why
			return
		case <-time.After(stopAgain):
		case <-k.done:
			return
		}
	}
}

// hurry forces a stop that is under way and waits for its end.
func (k *keeper) hurry(ctx context.Context) error {
	_, err := ask(k, func() (struct{}, error) {
		k.forceNow()
		return struct{}{}, nil
	})
	if err != nil {
		return nil // it has ended meanwhile
	}
	select {
	case <-k.quit:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the forced stop goes on: %w", ctx.Err())
	}
}

// forceNow runs in the loop.
func (k *keeper) forceNow() {
	select {
	case <-k.force:
	default:
		close(k.force)
	}
}

// stopByForce takes faces down that are in use, kills what does not end, and returns
// when all is gone. A process that cannot end keeps the keeper: a later one must know
// that it may still write.
func (k *keeper) stopByForce(ctx context.Context) error {
	targets, err := ask(k, func() ([]target, error) {
		k.forceNow() // nothing is started any more
		return k.targets(false), nil
	})
	if err != nil {
		return err
	}
	if _, busy := k.round(targets, drivers.RemoveForce); len(busy) > 0 {
		k.log.Warn("killed: not stopped by force either", "busy", sentences(busy))
	}
	for said := ""; ; {
		left, err := ask(k, func() (map[string]string, error) { return k.killAll(), nil })
		if err != nil {
			return err
		}
		if len(left) == 0 {
			return k.end()
		}
		if text := sentences(left); text != said {
			said = text
			k.upstream.text("waiting for processes that cannot end: %s", text)
			k.log.Warn("waiting for processes to be gone", "left", text)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the forced stop goes on, these are not gone: %s", sentences(left))
		case <-k.done:
			return errEnded
		case <-time.After(tickEvery):
		}
	}
}

// killAll runs in the loop. It returns what is not gone.
func (k *keeper) killAll() map[string]string {
	left := map[string]string{}
	for name, p := range k.procs {
		if c := p.cur; c != nil {
			p.forgetting = true
			if c.dyingSince.IsZero() {
				k.kill(p, c, "forced stop")
			}
			left[name] = fmt.Sprintf("process %d is not gone", c.pid)
		}
		for _, c := range p.preds {
			left[name] = fmt.Sprintf("process %d cannot end", c.pid)
		}
	}
	return left
}

// targets are the processes that a stop must wait for: those that run and, with
// waiting, those that are about to be restarted with a face to take down.
//
// It runs in the loop.
func (k *keeper) targets(waiting bool) []target {
	var ts []target
	for _, name := range k.names() {
		switch p := k.procs[name]; {
		case p.cur != nil:
			ts = append(ts, target{p: p, c: p.cur})
		case len(p.preds) > 0:
			ts = append(ts, target{p: p, why: fmt.Errorf("process %d cannot end: something that it waits for hangs", p.preds[0].pid)})
		case waiting && p.state == Waiting && p.store.total() > 0:
			ts = append(ts, target{p: p, why: errors.New("it has died and is restarted first, to be stopped properly")})
		}
	}
	return ts
}

// round asks all targets at once. It returns those that are gone, and why the others
// are not.
func (k *keeper) round(targets []target, mode drivers.StopMode) (done []*process, busy map[string]string) {
	ctx, cancel := context.WithTimeout(context.Background(), k.o.StopTimeout)
	defer cancel()
	busy = map[string]string{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, t := range targets {
		wg.Go(func() {
			err := k.stopOne(ctx, t, mode)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				busy[t.p.name] = err.Error()
			} else {
				done = append(done, t.p)
			}
		})
	}
	wg.Wait()
	return done, busy
}

// stopOne stops a process and waits until it is gone.
func (k *keeper) stopOne(ctx context.Context, t target, mode drivers.StopMode) error {
	if t.c == nil {
		return t.why
	}
	if t.c.spec.Control == "" {
		k.post(func() {
			if t.p.cur == t.c {
				k.signal(t.p, t.c, unix.SIGTERM)
			}
		})
	} else if err := host.Dial(t.c.spec.Control).Stop(ctx, mode); err != nil {
		return err
	}
	select {
	case <-t.c.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("process %d was asked to stop but is not gone after %v", t.c.pid, k.o.StopTimeout)
	case <-k.done:
		return errEnded
	}
}

// end closes what is still held, for processes that had failed, and lets the loop end.
func (k *keeper) end() error {
	_, err := ask(k, func() (struct{}, error) {
		if k.leaving {
			return struct{}{}, errEnded
		}
		for _, p := range k.procs {
			k.dropAll(p)
		}
		close(k.quit)
		return struct{}{}, nil
	})
	return err
}

// sentences joins reasons by name.
func sentences(by map[string]string) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(by)) {
		parts = append(parts, name+": "+by[name])
	}
	return strings.Join(parts, "; ")
}
