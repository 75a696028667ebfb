package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ft/drivers"
	"ft/ftd/uevent"
	"ft/mirror/legio"
	"ft/mirror/nbd"
)

const (
	// presencePoll is the net below the kernel's events: files have none, and events can
	// get lost.
	presencePoll = 2 * time.Second
	// sysDevBlock has a directory for each block device by number.
	sysDevBlock = "/sys/dev/block"
	// remotePollMax is how seldom an NBD server that does not answer is asked, and remoteAsk
	// how long it may take to answer.
	remotePollMax = 15 * time.Second
	remoteAsk     = time.Second
)

// presence is what lies at a leg's path at one moment. Two that differ in their medium
// are different things, even when the path never was empty in between.
type presence struct {
	present  bool
	why      string // when absent: what is wrong, for the log
	medium   string // device number and disk sequence number, or a file's inode
	identity string // as the driver would name the part, where that is known
}

// watch is the look-out for one leg.
type watch struct {
	mu   sync.Mutex // guards path and now
	path string
	now  presence
	// changed is told what was and what is.
	changed func(ctx context.Context, was, is presence)
	kick    chan struct{}
}

func newWatch(path string, changed func(ctx context.Context, was, is presence)) *watch {
	return &watch{path: path, now: look(path), changed: changed, kick: make(chan struct{}, 1)}
}

// where is the path, which changes when the leg is replaced.
func (w *watch) where() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.path
}

// move makes it the look-out for another path, and says what is there.
func (w *watch) move(path string) presence {
	is := look(path)
	w.mu.Lock()
	w.path, w.now = path, is
	w.mu.Unlock()
	w.lookNow()
	return is
}

// seen notes what is at a path, and says what was; false: the leg is not there any more.
func (w *watch) seen(path string, is presence) (was presence, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.path != path {
		return presence{}, false
	}
	was, w.now = w.now, is
	return was, true
}

// runAny is run, or runRemote for as long as the leg is an NBD server's.
func (w *watch) runAny(ctx context.Context, state func() drivers.State) {
	for ctx.Err() == nil {
		if nbd.IsAddress(w.where()) {
			w.runRemote(ctx, state)
		} else {
			w.run(ctx)
		}
	}
}

// run looks whenever it is kicked, and every presencePoll, until ctx ends. Each leg has
// a goroutine of its own: a path on a file system that hangs holds up no other leg.
func (w *watch) run(ctx context.Context) {
	tick := time.NewTicker(presencePoll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.kick:
		case <-tick.C:
		}
		path := w.where()
		if nbd.IsAddress(path) {
			return
		}
		is := look(path)
		was, ok := w.seen(path, is)
		if !ok {
			continue
		}
		if was.present != is.present || was.medium != is.medium {
			w.changed(ctx, was, is)
		}
	}
}

// runRemote is run for the export of an NBD server, of which no kernel tells anything. A
// server that is in use is left alone: it may serve one client at a time, and the driver
// notices its end first. One that is not is asked, less and less often, and when it answers
// it has appeared; also when it did before, if the side still counts as removed: it may have
// been away for so short a time that only the driver noticed. state is the side's.
func (w *watch) runRemote(ctx context.Context, state func() drivers.State) {
	pause := presencePoll
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.kick:
		case <-time.After(pause):
		}
		path := w.where()
		if !nbd.IsAddress(path) {
			return
		}
		now := state()
		if now.InService() || now == drivers.Syncing || now == drivers.Diagnostics {
			// Should the driver lose it, it is as if it had been absent until it answers.
			w.seen(path, presence{})
			pause = presencePoll
			continue
		}
		is := lookRemote(path)
		was, ok := w.seen(path, is)
		if !ok {
			continue
		}
		pause = min(2*pause, remotePollMax)
		switch {
		case is.present && !was.present:
			pause = presencePoll
			w.changed(ctx, was, is)
		case is.present && now == drivers.Removed:
			w.changed(ctx, presence{}, is)
		case !is.present && was.present:
			w.changed(ctx, was, is)
		}
	}
}

// lookRemote asks an NBD server.
func lookRemote(address string) presence {
	if _, err := legio.AskRemote(address, remoteAsk); err != nil {
		return presence{why: fmt.Sprintf("%s does not answer: %v", address, err)}
	}
	return presence{present: true, medium: address, identity: legio.IdentityAt(address)}
}

// lookNow makes the watch look without waiting for its turn.
func (w *watch) lookNow() {
	select {
	case w.kick <- struct{}{}:
	default: // it is about to look
	}
}

// look says what lies at a path. It opens nothing: opening a device that hangs would
// hang, and reading one could wake it.
func look(path string) presence {
	if nbd.IsAddress(path) {
		return lookRemote(path)
	}
	var st unix.Stat_t
	err := unix.Stat(path, &st) // follows by-id links
	for errors.Is(err, unix.EINTR) {
		err = unix.Stat(path, &st)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return presence{why: path + " is gone"}
	}
	if err != nil {
		return presence{why: fmt.Sprintf("%s cannot be looked at: %v", path, err)}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return presence{present: true, medium: fmt.Sprintf("file %d:%d", st.Dev, st.Ino), identity: legio.IdentityAt(path)}
	}
	dir := filepath.Join(sysDevBlock, fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)))
	switch size := attribute(dir, "size"); size {
	case "":
		return presence{why: path + " is the name of a device that is gone"}
	case "0":
		return presence{why: path + " has nothing in it"}
	}
	return presence{present: true,
		medium:   fmt.Sprintf("block %d:%d %s", unix.Major(st.Rdev), unix.Minor(st.Rdev), attribute(dir, "diskseq")),
		identity: legio.IdentityAt(path)}
}

func attribute(dir, name string) string {
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// watchUevents has the watches look whenever the kernel reports anything about block
// devices, until ctx ends. Without the event socket the poll alone serves.
func watchUevents(ctx context.Context, log *slog.Logger, lookAll func()) {
	for ctx.Err() == nil {
		l, err := uevent.Listen("block")
		if err == nil {
			lookAll() // what happened before the socket was open
			err = l.Run(ctx, func(uevent.Event) { lookAll() })
		}
		if err != nil {
			log.Warn("device events are not received, paths are looked at every two seconds", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(presencePoll):
		}
	}
}
