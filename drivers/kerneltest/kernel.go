package kerneltest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ft/drivers/debian"
	"ft/drivers/netns"
)

// Network names, in the environment, the network namespace (a path) through which Debian's
// mirror is reached, for test processes that are in another one.
const Network = "FT_KERNELTEST_NETWORK"

// Kernel names a kernel of Debian's for amd64.
type Kernel string

// Kernels. The older one has no TCX and no kfuncs that we use.
const (
	Linux612 Kernel = "6.12" // Debian 13, and the backports of Debian 12; the default
	Linux61  Kernel = "6.1"  // Debian 12
)

// suites are where a kernel is found as linux-image-amd64, the quickest to fetch first
// (the lists of backports are small).
var suites = map[Kernel][]string{
	Linux612: {"bookworm-backports", "trixie"},
	Linux61:  {"bookworm"},
}

const (
	metaName = "linux-image-amd64"
	fetchMax = 8 * time.Minute
)

// image is a kernel that has been fetched: the tree of its package.
type image struct {
	vmlinuz string
	modules string // its directory under lib/modules
}

// Cache is where kernels stay from one run to the next, and what else is fetched for guests.
func Cache() (string, error) {
	if dir := os.Getenv("FT_KERNELS"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no place for kernels (set FT_KERNELS to a directory): %w", err)
	}
	return filepath.Join(dir, "ft-kernels"), nil
}

// lock takes a lock of the cache, which ends with the process at the latest. Other test
// processes wait for it.
func lock(cache, name string) (unlock func(), err error) {
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(cache, name), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return func() { f.Close() }, nil
}

// find gives the kernel from the cache, or fetches it. say tells of what takes long.
func find(k Kernel, say func(format string, args ...any)) (image, error) {
	if k == "" {
		k = Linux612
	}
	if suites[k] == nil {
		return image{}, fmt.Errorf("there is no kernel %q to be tested on", k)
	}
	cache, err := Cache()
	if err != nil {
		return image{}, err
	}
	unlock, err := lock(cache, "fetch.lock")
	if err != nil {
		return image{}, fmt.Errorf("lock the cache of kernels: %w", err)
	}
	defer unlock()
	tree := filepath.Join(cache, "amd64-"+string(k))
	if _, err := os.Stat(tree); err == nil {
		return open(tree)
	}
	var missed []error
	for _, suite := range suites[k] {
		say("fetching %s of Debian %s into %s, once", metaName, suite, tree)
		err := netns.Do(os.Getenv(Network), func() error { return fetch(tree, suite) })
		if err == nil {
			return open(tree)
		}
		missed = append(missed, fmt.Errorf("fetch %s of Debian %s: %w", metaName, suite, err))
	}
	return image{}, errors.Join(missed...)
}

func open(tree string) (image, error) {
	kernels, _ := filepath.Glob(filepath.Join(tree, "boot/vmlinuz-*")) // the pattern is well formed
	if len(kernels) != 1 {
		return image{}, fmt.Errorf("%s has %d kernels: remove it, and it is fetched again", tree, len(kernels))
	}
	_, version, _ := strings.Cut(filepath.Base(kernels[0]), "-")
	for _, lib := range []string{"lib", "usr/lib"} {
		dir := filepath.Join(tree, lib, "modules", version)
		if _, err := os.Stat(dir); err == nil {
			return image{vmlinuz: kernels[0], modules: dir}, nil
		}
	}
	return image{}, fmt.Errorf("%s has no modules of %s: remove it, and it is fetched again", tree, version)
}

// fetch gets the package and puts its tree in place in one step, so that what is there is
// whole.
func fetch(tree, suite string) error {
	ctx, cancel := context.WithTimeout(context.Background(), fetchMax)
	defer cancel()
	work := tree + ".new"
	if err := os.RemoveAll(work); err != nil { // of a fetch that was killed
		return err
	}
	defer os.RemoveAll(work)
	apt, err := debian.Open(ctx, work, "amd64", suite)
	if err != nil {
		return err
	}
	needs, err := apt.Depends(ctx, metaName)
	if err != nil {
		return err
	}
	at := slices.IndexFunc(needs, func(name string) bool { return strings.HasPrefix(name, "linux-image-") })
	if at < 0 {
		return fmt.Errorf("%s depends on no kernel, only on %q", metaName, needs)
	}
	debs, err := apt.Download(ctx, needs[at])
	if err != nil {
		return err
	}
	unpacked := filepath.Join(work, "tree")
	if err := apt.Unpack(ctx, debs[0], unpacked); err != nil {
		return err
	}
	return os.Rename(unpacked, tree)
}
