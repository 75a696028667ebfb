package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"ft/bond"
	"ft/bond/bondtest"
	"ft/drivers"
	"ft/drivers/host"
)

// face is the name of every face that is measured.
const face = "net0"

// within bounds everything that is waited for, in an emulated guest too.
const within = 30 * time.Second

// subject is a face over the box's two NICs. One at a time is there. A method that fails
// ends the bench.
type subject interface {
	name() string
	up(probes time.Duration) // makes the face; probes is their interval, where there are any
	down()
	settle() drivers.Side // waits until both ports are in service, and says which carries the face
	change()              // makes the other port the active one
	back(s drivers.Side)  // a NIC has been made again
}

// mortal is a subject with a process that can be killed.
type mortal interface {
	kill()
	revive()
}

// driven is the face of a driver process, as in service but for the keeper: it is the
// bench that says when a process that was killed has a successor.
type driven struct {
	p        *program
	net      *bondtest.Net
	datapath string
	cfg      string // its file
	log      string
	cmd      *exec.Cmd // nil: none runs
	client   *host.Client
}

func newDriven(p *program, n *bondtest.Net, datapath string) *driven {
	d := &driven{p: p, net: n, datapath: datapath}
	p.Cleanup(func() {
		if d.cmd != nil {
			d.kill()
		}
	})
	return d
}

func (d *driven) name() string { return d.datapath }

// options are the defaults, but for what would only make the bench wait: ports come back
// sooner, and one that fails in every round is not held back for flapping.
func (d *driven) options(probes time.Duration) bond.Options {
	o := bond.Options{
		Datapath:  d.datapath,
		Addresses: []netip.Prefix{netip.MustParsePrefix(bondtest.BoxIP4 + "/24"), netip.MustParsePrefix(bondtest.BoxIP6 + "/64")},
		UpDelay:   50 * time.Millisecond,
		FlapMax:   1000,
	}
	if probes > 0 {
		o.Probe, o.ProbeInterval = []netip.Addr{netip.MustParseAddr(bondtest.PeerIP4)}, probes
	}
	return o
}

func (d *driven) up(probes time.Duration) {
	dir, err := os.MkdirTemp("", d.datapath+"-")
	d.p.must(err, "make a directory for the driver")
	options, err := json.Marshal(d.options(probes))
	d.p.must(err, "write the driver's options")
	cfg := drivers.Config{Kind: bond.Kind, Name: face, RunDir: filepath.Join(dir, "run"), StateDir: filepath.Join(dir, "state"), Options: options}
	for s := range cfg.Sides {
		cfg.Sides[s].Resource.Path = d.net.NIC(drivers.Side(s))
	}
	for _, sub := range []string{cfg.StateDir, filepath.Join(cfg.RunDir, "drivers")} {
		d.p.must(os.MkdirAll(sub, 0o700), "make a directory for the driver")
	}
	text, err := json.Marshal(cfg)
	d.p.must(err, "write the driver's configuration")
	d.cfg, d.log = filepath.Join(dir, "driver.json"), filepath.Join(dir, "log")
	d.p.must(os.WriteFile(d.cfg, text, 0o600), "write the driver's configuration")
	d.client = host.Dial(host.SocketPath(cfg.RunDir, face))
	d.revive()
	d.settle()
}

// revive starts a driver process, the first one or a successor, and does not wait for it.
func (d *driven) revive() {
	log, err := os.OpenFile(d.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	d.p.must(err, "open the driver's log")
	defer log.Close()
	cmd := exec.Command("/proc/self/exe", "-driver", d.cfg)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")} // of no service manager
	cmd.Stderr = log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	d.p.must(cmd.Start(), "start the driver")
	d.cmd = cmd
}

func (d *driven) kill() {
	d.p.must(d.cmd.Process.Kill(), "kill the driver")
	d.reap()
}

func (d *driven) reap() {
	var exit *exec.ExitError
	if err := d.cmd.Wait(); err != nil && !errors.As(err, &exit) {
		d.p.Fatalf("wait for the driver's end: %v", err)
	}
	d.cmd = nil
}

func (d *driven) down() {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	d.p.must(d.client.Stop(ctx, drivers.Remove), "stop the driver")
	d.reap()
}

func (d *driven) change() {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	d.p.must(d.client.Switch(ctx), "switch")
}

func (d *driven) back(drivers.Side) {}

func (d *driven) settle() (active drivers.Side) {
	active = drivers.Whole
	d.await("both ports to be in service", func(st drivers.Status) bool {
		for s, side := range st.Sides {
			if side.Active {
				active = drivers.Side(s)
			}
			// ftd's part: a new process serves from one port, and is told to take the other
			// in. It may refuse as long as that has no carrier.
			if side.State == drivers.Offline {
				_ = d.client.Attach(context.Background(), drivers.Side(s), drivers.Resource{})
			}
			// Where there are probes a port has a path, at first an unknown one.
			if _, probed := st.Stats["pci0"].(map[string]any)["path"]; probed && !strings.Contains(side.Note, "path good") {
				return false
			}
		}
		return st.State == drivers.FaceDuplex && active.Valid()
	})
	return active
}

// look is how often a driver is asked: not so often that it disturbs what is measured.
const look = 5 * time.Millisecond

func (d *driven) await(what string, holds func(drivers.Status) bool) {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	var last drivers.Status
	var problem error
	for ctx.Err() == nil {
		st, err := d.client.Status(ctx)
		if err == nil && st.Stats["datapath"] != nil && holds(st) {
			return
		}
		if ctx.Err() == nil {
			last, problem = st, err
			time.Sleep(look)
		}
	}
	d.p.Fatalf("waited %v for %s on the path %s: the driver says %+v (%v); its log ends with:\n%s", within, what, d.datapath, last, problem, tail(d.log))
}

// tail is the end of a file, for people.
func tail(path string) string {
	const most = 2000
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Sprint(err)
	}
	return string(text[max(0, len(text)-most):])
}
