package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"ft/drivers"
	"ft/drivers/host"
)

// driven is a driver process, as in service but for the keeper.
type driven struct {
	cmd    *exec.Cmd
	client *host.Client
	log    string // its file
	news   *news  // nil: nobody follows it
}

// startDriver starts one in a directory of its own and does not wait for it. space is the
// network namespace that it lives in, "" for this process's own.
func startDriver(dir string, cfg drivers.Config, options any, space string) (*driven, error) {
	cfg.RunDir, cfg.StateDir, cfg.DevDir = filepath.Join(dir, "run"), filepath.Join(dir, "state"), filepath.Join(dir, "dev")
	for _, sub := range []string{cfg.StateDir, filepath.Join(cfg.RunDir, "drivers")} {
		if err := os.MkdirAll(sub, 0o700); err != nil {
			return nil, err
		}
	}
	var err error
	if cfg.Options, err = json.Marshal(options); err != nil {
		return nil, err
	}
	text, err := json.Marshal(cfg)
	if err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "driver.json")
	if err := os.WriteFile(config, text, 0o600); err != nil {
		return nil, err
	}
	d := &driven{client: host.Dial(host.SocketPath(cfg.RunDir, cfg.Name)), log: filepath.Join(dir, "log")}
	log, err := os.Create(d.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	d.cmd = exec.Command("/proc/self/exe", "-driver", config, "-netns", space)
	d.cmd.Env = []string{"PATH=" + os.Getenv("PATH")} // of no service manager
	d.cmd.Stderr = log
	return d, start(d.cmd)
}

// start starts a process that is killed with this one. It is called by the main goroutine,
// which has the main thread for itself (package netns): the kernel kills a process with the
// thread that started it (prctl(2), PR_SET_PDEATHSIG).
func start(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", filepath.Base(cmd.Path), err)
	}
	return nil
}

// await polls the driver's status until it is as wanted.
func (d *driven) await(what string, wanted func(drivers.Status) bool) (drivers.Status, error) {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	for {
		st, err := d.client.Status(ctx)
		if err == nil && wanted(st) {
			return st, nil
		}
		if ctx.Err() != nil {
			return st, fmt.Errorf("waiting for %s: the driver says %s %s (%v); its log ends with:\n%s", what, st.State, st.Reason, err, tail(d.log))
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// stop ends the driver and waits for its process.
func (d *driven) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	if d.news != nil {
		d.news.end()
	}
	err := d.client.Stop(ctx, drivers.Remove)
	if err != nil {
		err = errors.Join(fmt.Errorf("stop a driver: %w", err), d.cmd.Process.Kill())
	}
	var exit *exec.ExitError
	if ended := d.cmd.Wait(); !errors.As(ended, &exit) {
		err = errors.Join(err, ended)
	}
	return err
}

// tail is the end of a file, for people.
func tail(path string) string {
	const most = 2000
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-most):])
}

// attach takes a side in.
func (d *driven) attach(s drivers.Side, risk string) error {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	return d.client.Attach(ctx, s, drivers.Resource{AcceptRisk: risk})
}
