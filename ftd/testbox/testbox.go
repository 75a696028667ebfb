// Package testbox makes a throw-away box on any Linux: sparse files as legs on loop
// devices, a network in namespaces (package network), and the same keeper and ftd that a
// real box runs, with drills allowed.
//
// What it makes outside its directory (processes, loop devices, network namespaces, pinned
// eBPF programs, the links in /dev/ft, the files of the run directory) goes with it, also what an earlier one left behind
// that was killed. It touches nothing that it cannot prove to be its own: processes
// by a mark in their environment, loop devices by their files, network namespaces by a
// mark in them, links by its record. What lies
// in the directory (the legs, ftd's state) stays for the next start.
//
// The way of things: this process is a small init (children.go) over the keeper and
// ftd, and follows ftd over the same API as ftctl to tell what happens.
package testbox

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"ft/chipset/engine"
	"ft/drivers/keeper"
	"ft/ftd/api"
	"ft/ftd/testbox/guest"
	"ft/ftd/testbox/network"
)

// Options of a box.
type Options struct {
	Dir    string        // legs, state, configuration, logs: made when missing
	Socket string        // ftd's; its directory is the run directory
	DevDir string        // where the faces' links appear; by default /dev/ft, or one of the socket's
	Guest  GuestKind     // GuestDebian when ""
	Engine engine.Choice // of the machine; "" for what a machine has by itself
	Out    io.Writer     // for the person who started it
	Log    *slog.Logger
}

const (
	goneCheck     = 20 * time.Millisecond
	killPatience  = 10 * time.Second
	ftdPatience   = 10 * time.Second
	busyRetry     = 2 * time.Second
	keeperAnswers = 20 * time.Second
	hashDigits    = 6 // of the socket's hash, in names of namespaces and of the faces' directory
)

// box is a running test box.
type box struct {
	Options
	runDir   string
	disks    []disk
	net      network.Names
	guest    guest.Guest // a zero Guest: there is no machine
	children *children
	keeper   *child
	ftd      *child
	signals  chan os.Signal
	interactive
}

// Run makes the box, runs it until SIGINT or SIGTERM, and removes it again.
func Run(o Options) error {
	err := within(o, func(b *box) error {
		err := b.withChildren(func() error {
			if _, err := b.cleanEarlier(); err != nil {
				return err
			}
			return b.refuseOthers()
		})
		if err != nil {
			return err
		}
		if err := b.makeGuest(); err != nil {
			return err
		}
		return b.withChildren(b.run)
	})
	if errors.Is(err, errStopped) {
		return nil
	}
	return err
}

// run is the box's life.
func (b *box) run() (err error) {
	if err := b.refuseOthers(); err != nil { // that have come meanwhile
		return err
	}
	defer func() {
		if rerr := b.remove(b.record(), true); rerr != nil {
			err = errors.Join(err, rerr)
			return
		}
		b.say("removed  processes, loop devices, network and links; left: the legs, with the data, and ftd's state in %s", b.Dir)
	}()
	if err := b.build(); err != nil {
		return err
	}
	return b.follow()
}

// Clean removes what an earlier box of the directory left behind that was killed, and
// starts none.
func Clean(o Options) error {
	return within(o, func(b *box) error {
		found := false
		err := b.withChildren(func() (err error) {
			found, err = b.cleanEarlier()
			return err
		})
		switch {
		case err != nil:
			return err
		case found:
			b.say("removed  what the earlier box left; the legs, with the data, and ftd's state stay in %s", b.Dir)
		default:
			b.say("clean    no box has left anything behind in or for %s", b.Dir)
		}
		_ = os.Remove(b.Dir) // only when it is empty: then it was made just now
		return nil
	})
}

// within runs f for a box that has its directory to itself.
func within(o Options, f func(*box) error) error {
	if os.Geteuid() != 0 {
		return errors.New("the test box makes loop devices, block devices and network namespaces: it must run as root (sudo)")
	}
	b, err := newBox(o)
	if err != nil {
		return err
	}
	unlock, err := lockDir(b.Dir)
	if err != nil {
		return err
	}
	defer unlock()
	signal.Notify(b.signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer signal.Stop(b.signals)
	// Who reads what is said may be gone (`… | tee log`, ended by the same Ctrl-C): the box
	// is still removed.
	signal.Ignore(unix.SIGPIPE)
	return f(b)
}

// withChildren runs f while this process is the parent of all that the box starts, and of
// nothing else.
func (b *box) withChildren(f func() error) (err error) {
	if b.children, err = newChildren(b.Log, append(os.Environ(), mark(b.Dir))); err != nil {
		return err
	}
	defer b.children.close()
	return f()
}

func newBox(o Options) (*box, error) {
	b := &box{Options: o, signals: make(chan os.Signal, 4), interactive: interactive{began: time.Now()}}
	var err error
	if b.Socket, err = filepath.Abs(o.Socket); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("make the box's directory: %w", err)
	}
	// The kernel names a loop device's file by its real path.
	if b.Dir, err = filepath.EvalSymlinks(o.Dir); err == nil {
		b.Dir, err = filepath.Abs(b.Dir)
	}
	if err != nil {
		return nil, fmt.Errorf("find the box's directory: %w", err)
	}
	if b.DevDir == "" {
		b.DevDir = devDir + suffix(b.Socket)
	}
	b.runDir = filepath.Dir(b.Socket)
	b.disks = disks(b.Dir)
	b.net = network.NamesWith(suffix(b.Socket))
	return b, nil
}

// devDir is where the faces of the box on the default socket have their links.
const devDir = "/dev/ft"

// suffix is of the names that belong to the whole computer. The box on the default socket
// has the plain ones. One on another socket may run beside it: its names have that
// socket's hash.
func suffix(socket string) string {
	if socket == api.DefaultSocket {
		return ""
	}
	return fmt.Sprintf("-%x", sha256.Sum256([]byte(socket)))[:1+hashDigits]
}

// lockDir keeps a second test box off the directory.
func lockDir(dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("lock the box's directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("a test box runs on %s already; stop it first (Ctrl-C in its terminal), or give this one another directory", dir)
		}
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return func() { f.Close() }, nil
}

// refuseOthers sees to it that nobody else uses the run directory: another ftd, or a
// keeper that is not one of ours (ours have been ended before).
func (b *box) refuseOthers() error {
	if err := os.MkdirAll(b.runDir, 0o755); err != nil {
		return fmt.Errorf("make the run directory: %w", err)
	}
	lock, err := api.LockRunDir(b.runDir)
	if err != nil {
		return err
	}
	if err := lock.Release(); err != nil { // it is for ftd, our child
		return fmt.Errorf("release the run directory: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if _, err := keeper.Dial(keeper.SocketPath(b.runDir)).Processes(ctx); !errors.Is(err, keeper.ErrUnreachable) {
		return fmt.Errorf("a keeper that this test box did not start answers in %s: stop it first (`systemctl stop ft-keeper`), or give this box another --socket", b.runDir)
	}
	return nil
}

// build makes the network and the legs, and starts the processes.
func (b *box) build() error {
	if err := b.record().write(b.Dir); err != nil {
		return err
	}
	if err := b.makeNetwork(); err != nil {
		return err
	}
	for i := range b.disks {
		d := &b.disks[i]
		for side, file := range d.legs {
			if err := makeLeg(file, LegBytes); err != nil {
				return err
			}
			node, err := attachLoop(file)
			if err != nil {
				return err
			}
			d.node[side] = node
			b.say("leg      %s on %s", filepath.Base(file), node)
		}
	}
	config := filepath.Join(b.Dir, "ft.toml")
	if err := writeConfig(config, b.page(), b.disks, b.net, b.guest); err != nil {
		return err
	}
	if err := b.startKeeper(b.runDir); err != nil {
		return err
	}
	var err error
	b.ftd, err = b.children.keep("ftd", filepath.Join(b.Dir, "ftd.log"), []string{"ftd",
		"--config", config, "--socket", b.Socket, "--state", filepath.Join(b.Dir, "state"),
		"--dev-dir", b.DevDir, "--no-keeper"}, b.died("ftd"))
	return err
}

// record is what this box is about to make.
func (b *box) record() record {
	r := record{RunDir: b.runDir, DevDir: b.DevDir}
	if b.net.Box != "" {
		r.Namespaces, r.NICs = []string{b.net.Box, b.net.Switch, b.net.Peer}, []string{nicName}
	}
	for _, d := range b.disks {
		r.Faces = append(r.Faces, d.name)
	}
	return r
}

// makeNetwork makes the network, where the kernel can. Where it cannot the box has no
// network, and no NIC.
func (b *box) makeNetwork() error {
	err := network.Make(b.net, b.Dir)
	if errors.Is(err, network.ErrUnsupported) {
		b.say("network  none, and no %s: %v", nicName, err)
		r := b.record()
		b.net = network.Names{}
		return b.removeNetwork(r)
	}
	if err != nil {
		return fmt.Errorf("make the box's network: %w", err)
	}
	b.say("network  %s, %s and %s", b.net.Box, b.net.Switch, b.net.Peer)
	return nil
}

func (b *box) startKeeper(runDir string) (err error) {
	b.keeper, err = b.children.keep("keeper", filepath.Join(b.Dir, "keeper.log"),
		[]string{"ftd", "keeper", "--run", runDir}, b.died("the keeper"))
	return err
}

func (b *box) died(name string) func(string) {
	return func(how string) { b.say("%s %s; it is started again", name, how) }
}
