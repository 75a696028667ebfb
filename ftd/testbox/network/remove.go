package network

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ft/drivers/netns"
)

// User is a process in a namespace that has been removed: it keeps it alive, without a
// name and without links, until it leaves.
type User struct {
	Namespace string
	Pid       int
	Command   string
}

// Remove removes every namespace that carries the mark of the owner. recorded are names
// that the owner was about to use: of these also a file is removed onto which no
// namespace was mounted any more. It returns the processes that are still inside.
func Remove(owner string, recorded ...string) ([]User, error) {
	mine, err := Of(owner)
	if err != nil {
		return nil, err
	}
	var users []User
	var errs []error
	for _, name := range mine {
		inside, err := removeNamespace(name)
		users = append(users, inside...)
		errs = append(errs, err)
	}
	for _, name := range recorded {
		if !slices.Contains(mine, name) {
			errs = append(errs, removeEmptyFile(name))
		}
	}
	return users, errors.Join(errs...)
}

// Of lists the names of the namespaces that carry the mark of an owner.
func Of(owner string) ([]string, error) {
	entries, err := os.ReadDir(namesDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for network namespaces: %w", err)
	}
	var names []string
	for _, e := range entries {
		mark, err := markIn(e.Name())
		if err != nil {
			return nil, err
		}
		if mark == markOf(owner) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// dumpTries is how often a list is asked for that changes while it is read: a link goes by
// itself some time after its other end went with another namespace.
const dumpTries = 20

// allLinks lists links, all of them.
func allLinks(list func() ([]netlink.Link, error)) (links []netlink.Link, err error) {
	for range dumpTries {
		if links, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return links, err
}

// removeNamespace takes the links out of a namespace, so that none outlives its name with
// a process inside, and takes the name away.
func removeNamespace(name string) ([]User, error) {
	ns, err := open(name)
	if err != nil {
		return nil, err
	}
	defer ns.close()
	var errs []error
	links, err := allLinks(ns.handle.LinkList)
	errs = append(errs, err)
	for _, l := range links {
		switch l.Type() {
		case "veth", "bridge":
		default:
			continue // they go with what they are made over, or with the namespace
		}
		if err := ns.handle.LinkDel(l); err != nil && !errors.Is(err, unix.ENODEV) { // its other end has taken it along
			errs = append(errs, fmt.Errorf("delete %s: %w", l.Attrs().Name, err))
		}
	}
	users, err := usersOf(name, ns.fd)
	errs = append(errs, err)
	if err := unix.Unmount(netns.Path(name), unix.MNT_DETACH); err != nil {
		errs = append(errs, fmt.Errorf("unmount it: %w", err))
	} else if err := os.Remove(netns.Path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return users, fmt.Errorf("remove the network namespace %s: %w", name, err)
	}
	return users, nil
}

// removeEmptyFile removes what a crash between the making of a name and the mount has
// left.
func removeEmptyFile(name string) error {
	ns, err := open(name)
	if err == nil {
		ns.close()
		return nil // a namespace, and not the owner's
	}
	if !errors.Is(err, errNoNamespace) {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	if st, err := os.Lstat(netns.Path(name)); err != nil || !st.Mode().IsRegular() || st.Size() != 0 {
		return nil
	}
	if err := os.Remove(netns.Path(name)); err != nil {
		return fmt.Errorf("remove the unfinished network namespace %s: %w", name, err)
	}
	return nil
}

// usersOf finds the processes in a namespace.
func usersOf(name string, fd int) ([]User, error) {
	var want unix.Stat_t
	if err := unix.Fstat(fd, &want); err != nil {
		return nil, fmt.Errorf("look for processes in it: %w", err)
	}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var users []User
	for _, dir := range dirs {
		var st unix.Stat_t
		if err := unix.Stat(dir+"/ns/net", &st); err != nil || st.Dev != want.Dev || st.Ino != want.Ino {
			continue // gone, a zombie, or elsewhere
		}
		pid, _ := strconv.Atoi(filepath.Base(dir))
		comm, _ := os.ReadFile(dir + "/comm")
		users = append(users, User{name, pid, string(bytes.TrimSpace(comm))})
	}
	return users, nil
}
