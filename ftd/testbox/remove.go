package testbox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"ft/bond"
	"ft/bond/datapath/tcx"
	"ft/drivers"
	"ft/drivers/keeper"
	"ft/ftd/testbox/network"
)

// cleanEarlier removes what an earlier box of this directory left behind: one that
// was killed, or whose computer lost power. found says that there was one.
func (b *box) cleanEarlier() (found bool, err error) {
	r, err := readRecord(b.Dir)
	if err != nil {
		return false, err
	}
	if r == nil {
		// The directory may have been emptied under a box; its network says whose it is.
		marked, err := network.Of(b.Dir)
		if err != nil || len(marked) == 0 {
			return false, err
		}
		return true, b.removeNetwork(record{})
	}
	return true, b.cleanRecorded(*r)
}

func (b *box) cleanRecorded(r record) error {
	left, err := processesOf(b.Dir)
	if err != nil {
		return err
	}
	b.say("cleaning up after an earlier box (%d of its processes still run)", len(left))
	if _, err := killAll(b.Dir, killPatience, roleControl); err != nil {
		return err
	}
	answers := listenerPid(keeper.SocketPath(r.RunDir))
	switch {
	case answers != 0 && !slices.Contains(left, process{answers, roleKeeper}):
		// Somebody else has the run directory by now; nothing there is ours.
		return b.remove(r, false)
	case answers == 0 && slices.ContainsFunc(left, func(p process) bool { return p.role == roleDriver }):
		// The keeper is gone, the drivers are not: one of our own finds them, and can take
		// the faces down in order.
		if _, err := killAll(b.Dir, killPatience, roleKeeper); err != nil {
			return err
		}
		if err := b.startKeeper(r.RunDir); err != nil {
			return err
		}
	}
	return b.remove(r, true)
}

// listenerPid is the process that listens on a unix socket, as the kernel noted it
// (SO_PEERCRED, unix(7)); 0 when nobody does.
func listenerPid(path string) int {
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err != nil {
		return 0
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0
	}
	pid := 0
	_ = raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(cred.Pid)
		}
	})
	return pid
}

// remove takes everything away that lies outside the box's directory. Faces that are
// in use are waited for, with their users named; a second signal forces. ours says that
// the run directory is the box's own: the keeper that answers there and its files.
func (b *box) remove(r record, ours bool) error {
	if b.ftd != nil {
		b.children.stop(b.ftd, ftdPatience) // it leaves the faces up
		b.ftd = nil
	}
	if ours {
		if err := b.stopFaces(r.RunDir); err != nil {
			return err
		}
	}
	if b.keeper != nil {
		b.children.stop(b.keeper, ftdPatience)
		b.keeper = nil
	}
	hung, err := killAll(b.Dir, killPatience, roleControl, roleKeeper, roleDriver)
	if err != nil {
		return err
	}
	for _, p := range hung {
		b.say("left     %s (pid %d): it hangs in the kernel and goes when its I/O ends", p.role, p.pid)
	}
	var errs []error
	var files []string
	for _, d := range b.disks {
		files = append(files, d.legs[0], d.legs[1])
		errs = append(errs, removeLink(filepath.Join(r.DevDir, d.name)))
	}
	_ = os.Remove(r.DevDir) // only when it is empty
	loops, err := loopsOver(files...)
	errs = append(errs, err)
	for node, file := range loops {
		err := detachLoop(node, file)
		if err != nil && !ours {
			// The box that has the run directory now has found this one's drivers there.
			b.say("left     %s, over %s: %v", node, filepath.Base(file), err)
			err = nil
		}
		errs = append(errs, err)
	}
	errs = append(errs, b.removeNetwork(r))
	if ours {
		errs = append(errs, removeRunFiles(r.RunDir))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("the box is not removed entirely: %w", err)
	}
	if err := os.Remove(filepath.Join(b.Dir, recordName)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("forget the box that was removed: %w", err)
	}
	return nil
}

// removeNetwork removes the namespaces that carry the box's mark, and what was pinned for
// the faces in them. The driver that lived in one is gone by now.
func (b *box) removeNetwork(r record) error {
	users, err := network.Remove(b.Dir, r.Namespaces...)
	for _, u := range users {
		b.say("left     %s (pid %d) is in the network namespace %s, which has nothing in it any more and goes with it", u.Command, u.Pid, u.Namespace)
	}
	errs := []error{err}
	for _, name := range r.NICs {
		errs = append(errs, tcx.Unpin(bond.Key(r.RunDir, name)))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove the box's network: %w", err)
	}
	return nil
}

// stopFaces asks the keeper to take all faces down and end.
func (b *box) stopFaces(runDir string) error {
	k := keeper.Dial(keeper.SocketPath(runDir))
	deadline := time.Now().Add(keeperAnswers)
	said := ""
	force := false
	for {
		err := b.askStop(k, force)
		var refused *drivers.Refused
		switch {
		case err == nil:
			return nil
		case errors.Is(err, keeper.ErrUnreachable):
			if b.keeper == nil || time.Now().After(deadline) {
				return nil // nobody to ask: what is left is killed
			}
		case errors.As(err, &refused) && refused.Code == drivers.RuleBusy:
			if err.Error() != said {
				said = err.Error()
				b.say("waiting  %s", said)
				b.say("         it ends when that is over; Ctrl-C once more ends it now, with I/O errors for the users")
			}
		case force:
			b.say("forcing  the faces do not go in order: %v; their processes are killed", err)
			return nil
		default:
			return fmt.Errorf("take the faces down: %w", err)
		}
		select {
		case <-b.signals:
			force = true
			b.say("forcing")
		case <-time.After(busyRetry):
		}
	}
}

func (b *box) askStop(k *keeper.Client, force bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	return k.Stop(ctx, force)
}

// removeLink removes a face's link, unless it leads to a loop device that is alive:
// then it is another box's.
func removeLink(link string) error {
	target, err := os.Readlink(link)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove the link %s: %w", link, err)
	}
	if backingOf(target) != "" {
		return nil
	}
	if err := os.Remove(link); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the link %s: %w", link, err)
	}
	return nil
}

// removeRunFiles removes what the daemon, the keeper and the drivers keep in a run
// directory, and the directory itself when nothing else is in it.
func removeRunFiles(runDir string) error {
	var errs []error
	for _, name := range []string{"ftd.sock", "ftd.lock", "ftd.json", "power.json", "drivers", "bond", "console", "log"} {
		errs = append(errs, os.RemoveAll(filepath.Join(runDir, name)))
	}
	keepers, err := filepath.Glob(filepath.Join(runDir, "keeper*"))
	errs = append(errs, err)
	for _, path := range keepers {
		errs = append(errs, os.RemoveAll(path))
	}
	_ = os.Remove(runDir) // only when it is empty
	return errors.Join(errs...)
}
