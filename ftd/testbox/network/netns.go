package network

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	nshandle "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"ft/drivers/netns"
)

// namesDir has a file for each named namespace, onto which the namespace is mounted
// (ip-netns(8), NETNS_RUN_DIR).
var namesDir = netns.Path("")

// The mark of a namespace's owner, in the alias of its loopback interface.
const (
	markPrefix = "ft-testbox "
	markMax    = 255 // IFALIASZ (linux/if.h) less the terminating zero
)

func markOf(owner string) string {
	m := markPrefix + owner
	if len(m) > markMax {
		return fmt.Sprintf("%ssha256:%x", markPrefix, sha256.Sum256([]byte(owner)))
	}
	return m
}

// Taken says that a namespace of a name is there, and is not to be touched.
type Taken struct {
	Name  string
	Owner string // the directory of the test box that has made it; "" when none has
}

func (t *Taken) Error() string {
	if t.Owner == "" {
		return fmt.Sprintf("the network namespace %s is there already, and no test box has made it: remove it (`ip netns del %[1]s`), or give this box another --socket: it then takes other names", t.Name)
	}
	return fmt.Sprintf("the network namespace %s belongs to the test box in %s: end that one first (Ctrl-C in its terminal, or `ftd --testbox %[2]s --clean` when it was killed), or give this box another --socket", t.Name, t.Owner)
}

// free returns *Taken unless there is nothing of that name.
func free(name string) error {
	_, err := os.Lstat(netns.Path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for a network namespace %s: %w", name, err)
	}
	mark, err := markIn(name)
	if err != nil {
		return err
	}
	owner, _ := strings.CutPrefix(mark, markPrefix)
	return &Taken{name, owner}
}

// markIn reads the mark of a named namespace: "" when it carries none, or when there is
// only a file of that name.
func markIn(name string) (string, error) {
	ns, err := open(name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errNoNamespace) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer ns.close()
	lo, err := ns.handle.LinkByName("lo")
	if err != nil {
		return "", fmt.Errorf("look whose the network namespace %s is: %w", name, err)
	}
	if alias := lo.Attrs().Alias; strings.HasPrefix(alias, markPrefix) {
		return alias, nil
	}
	return "", nil
}

// namespace is an open one.
type namespace struct {
	name   string
	fd     int
	handle *netlink.Handle // its sockets are of that namespace
}

var errNoNamespace = errors.New("that file is no network namespace")

func open(name string) (*namespace, error) {
	fd, err := unix.Open(netns.Path(name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the network namespace %s: %w", name, err)
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil || st.Type != unix.NSFS_MAGIC {
		unix.Close(fd)
		return nil, fmt.Errorf("open %s: %w", netns.Path(name), errors.Join(errNoNamespace, err))
	}
	h, err := netlink.NewHandleAt(nshandle.NsHandle(fd), unix.NETLINK_ROUTE)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("speak to the network namespace %s: %w", name, unsupported(err))
	}
	return &namespace{name, fd, h}, nil
}

func (ns *namespace) close() {
	ns.handle.Close()
	unix.Close(ns.fd)
}

// addNamespace makes a namespace, marks it, and gives it its name, in this order.
// settings are files under /proc/sys/net with their values.
func addNamespace(name, mark string, settings []string) error {
	if err := prepareNames(); err != nil {
		return err
	}
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and not unlocked: the thread ends with this goroutine
		result <- makeHere(name, mark, settings)
	}()
	return <-result
}

// makeHere makes a namespace the calling thread's, and gives it its name.
func makeHere(name, mark string, settings []string) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("unshare: %w", unsupported(err))
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find its loopback interface: %w", err)
	}
	if err := netlink.LinkSetAlias(lo, mark); err != nil {
		return fmt.Errorf("mark it by the alias of its loopback interface: %w", err)
	}
	for _, s := range settings {
		file, value, _ := strings.Cut(s, "=")
		err := os.WriteFile("/proc/sys/net/"+file, []byte(value), 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // a kernel without IPv6 has it off
			return err
		}
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("take its loopback interface up: %w", err)
	}
	return mountName(name)
}

// mountName gives the calling thread's namespace a name.
func mountName(name string) error {
	f, err := os.OpenFile(netns.Path(name), os.O_RDONLY|os.O_CREATE|os.O_EXCL, 0)
	if errors.Is(err, fs.ErrExist) { // somebody was faster
		if taken := free(name); taken != nil {
			return taken
		}
	}
	if err != nil {
		return err
	}
	f.Close()
	if err := unix.Mount("/proc/thread-self/ns/net", netns.Path(name), "none", unix.MS_BIND, ""); err != nil {
		_ = os.Remove(netns.Path(name))
		return fmt.Errorf("mount it on %s: %w", netns.Path(name), unsupported(err))
	}
	return nil
}

var preparing sync.Mutex

// prepareNames makes the directory of the names a shared mount point, as `ip netns add`
// does and under its lock: a name that is taken away then goes in all mount namespaces.
// It is the machine's from then on and stays.
func prepareNames() error {
	preparing.Lock() // flock does not keep out threads of one process that share the file
	defer preparing.Unlock()
	if err := os.MkdirAll(namesDir, 0o755); err != nil {
		return err
	}
	dir, err := os.Open(namesDir)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", namesDir, err)
	}
	err = unix.Mount("", namesDir, "none", unix.MS_SHARED|unix.MS_REC, "")
	if errors.Is(err, unix.EINVAL) { // no mount point yet
		if err = unix.Mount(namesDir, namesDir, "none", unix.MS_BIND|unix.MS_REC, ""); err == nil {
			err = unix.Mount("", namesDir, "none", unix.MS_SHARED|unix.MS_REC, "")
		}
	}
	if err != nil {
		return fmt.Errorf("make %s a shared mount point: %w", namesDir, unsupported(err))
	}
	return nil
}
