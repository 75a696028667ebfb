package tcx

// Pins: what keeps a path alive without a process. Under <bpffs>/ft/KEY/ lie the state
// map and one link for each place where a program is attached; a link holds its program.
// bpffs allows no dots in names.

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"syscall"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"ft/bond/datapath"
)

// bpffs is where the BPF file system is, or is to be, mounted. Tests have their own.
var bpffs = "/sys/fs/bpf"

// hostMounts is the mount namespace in which a mount stays. Tests take their own.
var hostMounts = "/proc/1/ns/mnt"

const (
	statePin    = "state"
	newStatePin = "state_new" // while programs of another layout are being replaced
)

var keys = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

func pinDir(key string) string        { return filepath.Join(bpffs, "ft", key) }
func pinPath(key, name string) string { return filepath.Join(pinDir(key), name) }

// mountTurn is how long another process that mounts it is waited for; it takes microseconds.
const mountTurn = time.Second

// mountBPFFS mounts the BPF file system where nobody has done it yet (systemd does at boot).
// Only one process does: a second mount would hide what is pinned on the first.
func mountBPFFS() error {
	if done, err := isBPFFS(); done || err != nil {
		return err
	}
	parent, err := unix.Open(filepath.Dir(bpffs), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("lock %s, to mount the BPF file system in it: %w", filepath.Dir(bpffs), err)
	}
	defer unix.Close(parent)
	// Anybody may lock it for any time: who is late goes on all the same.
	for late := time.Now().Add(mountTurn); unix.Flock(parent, unix.LOCK_EX|unix.LOCK_NB) != nil && time.Now().Before(late); {
		time.Sleep(time.Millisecond)
	}
	if done, err := isBPFFS(); done || err != nil {
		return err
	}
	// In a mount namespace of our own, the mount and all pins would end with this process.
	own, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return fmt.Errorf("which mount namespace this is: %w", err)
	}
	// (Where the first process may not be looked at, nothing speaks against ours.)
	if host, err := os.Readlink(hostMounts); err == nil && host != own {
		return fmt.Errorf("no BPF file system at %s, and this process has a mount namespace of its own, with which it would vanish: mount it outside (mount -t bpf bpf %s)", bpffs, bpffs)
	}
	if err := unix.Mount("bpf", bpffs, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
		return fmt.Errorf("mount the BPF file system at %s: %w", bpffs, err)
	}
	return nil
}

func isBPFFS() (bool, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(bpffs, &st); err != nil {
		return false, fmt.Errorf("look at %s: %w: pinned programs need the BPF file system (CONFIG_BPF_SYSCALL)", bpffs, err)
	}
	return st.Type == unix.BPF_FS_MAGIC, nil
}

// Pins are the keys of all paths that have something pinned, whoever drives them and
// whatever network namespace they are in: for a command that cleans up after a crash.
func Pins() ([]string, error) {
	dir := filepath.Join(bpffs, "ft")
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list pinned paths: %w", err)
	}
	var all []string
	for _, e := range entries {
		if e.IsDir() && keys.MatchString(e.Name()) {
			all = append(all, e.Name())
		}
	}
	sort.Strings(all)
	return all, nil
}

// Unpin takes what a path has pinned away, and with that its programs off the face and the
// NICs, in any network namespace. The face itself stays (it ends with its namespace, or
// `ip link del`), and so do classifiers of a path that had to do without TCX, where they
// are not in the calling process's namespace. A key that has nothing pinned is no error.
func Unpin(key string) error {
	if !keys.MatchString(key) {
		return fmt.Errorf("%q is no key of a path", key)
	}
	if m, err := ebpf.LoadPinnedMap(pinPath(key, statePin), nil); err == nil {
		if old, err := readHeader(m); err == nil && old.Flags&flagClassifier != 0 {
			detachClassifiers(key, old)
		}
		m.Close()
	}
	var errs []error
	for _, pl := range places {
		errs = append(errs, dropLink(key, pl))
	}
	for _, name := range []string{statePin, newStatePin} {
		if err := os.Remove(pinPath(key, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("unpin the state of %s: %w", key, err))
		}
	}
	if err := os.Remove(pinDir(key)); err != nil && !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, fmt.Errorf("remove the pins of %s: %w", key, err))
	}
	// The last one takes the common directory along.
	if err := os.Remove(filepath.Dir(pinDir(key))); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENOTEMPTY) {
		errs = append(errs, fmt.Errorf("remove the directory of all pins: %w", err))
	}
	return errors.Join(errs...)
}

var errForeign = errors.New("the pinned map is no state of a bond's path")

// isForeign says that what is pinned in a place is not what belongs there: the kernel had
// nothing against opening it.
func isForeign(err error) bool {
	var errno syscall.Errno
	return err != nil && !errors.As(err, &errno)
}

// readHeader copies the header out of a pinned map, of whatever layout.
func readHeader(m *ebpf.Map) (*header, error) {
	if m.Type() != ebpf.Array || m.KeySize() != 4 || m.ValueSize() < headerSize {
		return nil, errForeign
	}
	value, err := m.LookupBytes(uint32(0))
	if err != nil {
		return nil, fmt.Errorf("read the pinned state: %w", err)
	}
	h := new(header)
	copy(unsafe.Slice((*byte)(unsafe.Pointer(h)), headerSize), value)
	if h.Magic != magic {
		return nil, errForeign
	}
	return h, nil
}

func checkKey(spec datapath.Spec) error {
	if !keys.MatchString(spec.Key) {
		return fmt.Errorf("the key %q of %s: letters, digits, - and _ only, 64 at most", spec.Key, spec.Face)
	}
	return nil
}
