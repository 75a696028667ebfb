package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"ft/drivers/keeper"
	"ft/ftd/control"
)

const (
	keeperRetryMin = 50 * time.Millisecond
	keeperRetryMax = 5 * time.Second
	keeperPatience = 10 * time.Second // for a keeper that was just started to answer
)

// keeperLink follows the keeper, and starts one where nobody else does (systemd's
// ft-keeper.service, the test box).
type keeperLink struct {
	runDir string
	client *keeper.Client
	start  bool // start a keeper when none answers
	log    *slog.Logger
	device func(name string) *device // nil: not one of ours
	post   func(context.Context, control.Event) error
	// stranger is told of processes that the configuration does not know.
	stranger func(keeper.Process)

	found  chan struct{} // closed when a keeper has answered
	cursor keeper.Cursor
	live   bool // what comes now happens now
}

// run follows the keeper until ctx ends.
func (k *keeperLink) run(ctx context.Context) {
	wait := keeperRetryMin
	for ctx.Err() == nil {
		began := time.Now()
		err := k.client.Events(ctx, k.cursor, true, func(it keeper.Item) error { return k.item(ctx, it) })
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, keeper.ErrUnreachable) && k.start {
			if err := k.launch(ctx); err != nil {
				k.log.Error("start a keeper", "error", err)
			}
		} else if err != nil && !errors.Is(err, keeper.ErrUnreachable) {
			k.log.Warn("the keeper", "error", err)
		}
		if time.Since(began) > keeperRetryMax {
			wait = keeperRetryMin
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
		wait = min(2*wait, keeperRetryMax)
	}
}

// item is one line of the keeper's events. Those from before ftd was there say nothing
// about now; the list of processes does.
func (k *keeperLink) item(ctx context.Context, it keeper.Item) error {
	if it.Instance != k.cursor.Instance {
		k.live = false // another keeper: it tells its past first
	}
	k.cursor = it.Cursor()
	switch {
	case it.Current || it.Gap:
		k.live = true
		err := k.look(ctx)
		select {
		case <-k.found:
		default:
			close(k.found)
		}
		return err
	case it.Record != nil && k.live:
		return k.event(ctx, *it.Record)
	}
	return nil
}

func (k *keeperLink) event(ctx context.Context, ev keeper.Event) error {
	k.log.Info("keeper", "process", ev.Name, "event", ev.Kind, "pid", ev.Pid, "text", ev.Text)
	d := k.device(ev.Name)
	if d == nil {
		return nil
	}
	switch ev.Kind {
	case keeper.EventDying, keeper.EventEnded:
		d.peer.ended(ev.Pid)
	case keeper.EventStarted, keeper.EventReady, keeper.EventAdopted:
		d.peer.started(ev.Pid)
		d.kick()
	case keeper.EventFailed:
		return k.post(ctx, gaveUp(ev.Name, ev.Text))
	case keeper.EventStopped:
		return k.post(ctx, control.DriverLost{Device: ev.Name, Reason: "it was stopped", Stopped: true})
	}
	return nil
}

// look reads what the keeper runs.
func (k *keeperLink) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, keeperPatience)
	defer cancel()
	ps, err := k.client.Processes(ctx)
	if err != nil {
		return fmt.Errorf("ask the keeper what it runs: %w", err)
	}
	for _, p := range ps {
		switch d := k.device(p.Name); {
		case d == nil:
			k.stranger(p)
		case p.State == keeper.Failed:
			if err := k.post(ctx, gaveUp(p.Name, p.Reason)); err != nil {
				return err
			}
		default:
			d.kick()
		}
	}
	return nil
}

func gaveUp(name, why string) control.DriverLost {
	if why == "" {
		why = "its driver process died too often"
	}
	return control.DriverLost{Device: name, Reason: why, GaveUp: true}
}

// launch starts a keeper that outlives ftd: a session of its own, its own log. It is
// ftd's child only so far as its end is noticed and it is reaped.
func (k *keeperLink) launch(ctx context.Context) error {
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find ftd's own binary: %w", err)
	}
	logPath := filepath.Join(k.runDir, "log", "keeper.log")
	if err := os.MkdirAll(filepath.Dir(logPath), 0o755); err != nil {
		return fmt.Errorf("make the keeper's log: %w", err)
	}
	out, err := os.OpenFile(logPath, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return fmt.Errorf("make the keeper's log: %w", err)
	}
	defer out.Close()
	cmd := exec.Command(exe, "keeper", "--run", k.runDir)
	cmd.Dir = "/" // so that it keeps no file system busy
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s keeper: %w", exe, err)
	}
	k.log.Info("started a keeper", "pid", cmd.Process.Pid, "log", logPath)
	go func() { // ends with the keeper, or with ftd
		err := cmd.Wait()
		k.log.Warn("the keeper that ftd started has ended", "how", fmt.Sprint(err))
	}()
	return k.await(ctx)
}

// await waits until the keeper answers, so that no second one is started meanwhile.
func (k *keeperLink) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, keeperPatience)
	defer cancel()
	for {
		_, err := k.client.Processes(ctx)
		if err == nil || !errors.Is(err, keeper.ErrUnreachable) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("a keeper was started and does not answer after %s: %s says why", keeperPatience, filepath.Join(k.runDir, "log", "keeper.log"))
		case <-time.After(keeperRetryMin):
		}
	}
}
