package guest

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
)

const (
	arch     = "riscv64"
	suite    = "trixie"
	kernel   = "linux-image-riscv64" // depends on the package of a version
	fetchMax = 15 * time.Minute
)

// userSpace are the packages beside the kernel: a shell, and what makes and repairs ext4
// with the libraries that it is linked to (Debian has no static mke2fs).
var userSpace = []string{
	"busybox-static", "e2fsprogs", "libext2fs2t64", "libcom-err2", "libblkid1", "libuuid1", "libc6",
}

// drivers are the kernel's modules for the guest's machine, in the order of loading; what
// they depend on comes before each. ext4 finds its checksums by an alias, which the
// kernel would ask modprobe for.
var drivers = []string{"virtio_mmio", "virtio_blk", "virtio_net", "crc32c_generic", "ext4"}

// recipe tells what base.cpio was made of and how; another recipe fetches anew.
func recipe() string {
	return fmt.Sprintf("1 %s %s %s\n%s\n%s\n", arch, suite, kernel, strings.Join(userSpace, " "), strings.Join(drivers, " "))
}

// distribution is what is there of Debian.
type distribution struct {
	kernel  string // path of the raw Image
	base    string // path of the initramfs without the service
	version string
}

// findDebian gives what a cache has, or fetches it. Others that fetch into the same cache
// are waited for.
func findDebian(ctx context.Context, cache string, say func(string, ...any)) (distribution, error) {
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return distribution{}, fmt.Errorf("make a place for Debian's kernel: %w", err)
	}
	unlock, err := lock(ctx, filepath.Join(cache, "fetch.lock"))
	if err != nil {
		return distribution{}, fmt.Errorf("wait for others that fetch Debian's kernel: %w", err)
	}
	defer unlock()
	dir := filepath.Join(cache, "debian")
	if d, err := openDebian(dir); err == nil {
		return d, nil
	}
	say("fetching Debian's kernel for %s (%s, about 120 MB) into %s, once", arch, suite, dir)
	ctx, cancel := context.WithTimeoutCause(ctx, fetchMax, fmt.Errorf("it took longer than %v", fetchMax))
	defer cancel()
	if err := fetch(ctx, dir); err != nil {
		return distribution{}, fmt.Errorf("fetch Debian's kernel for %s: %w; it is tried again at the next start (the mirror and the proxy are those of this computer's apt)", arch, err)
	}
	return openDebian(dir)
}

// lock takes a lock that ends with the process at the latest.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, err
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			f.Close()
			return nil, context.Cause(ctx)
		}
	}
}

func openDebian(dir string) (distribution, error) {
	text, err := os.ReadFile(filepath.Join(dir, "recipe"))
	if err != nil {
		return distribution{}, err
	}
	version, made, _ := strings.Cut(string(text), "\n")
	if made != recipe() {
		return distribution{}, fmt.Errorf("%s was made by another recipe", dir)
	}
	return distribution{filepath.Join(dir, "vmlinux"), filepath.Join(dir, "base.cpio"), version}, nil
}

// fetch puts all of it into place in one step, so that what is there is whole.
func fetch(ctx context.Context, dir string) error {
	work := dir + ".new"
	if err := os.RemoveAll(work); err != nil { // of a fetch that was killed
		return err
	}
	defer os.RemoveAll(work)
	apt, err := debian.Open(ctx, filepath.Join(work, "apt"), arch, suite)
	if err != nil {
		return err
	}
	needs, err := apt.Depends(ctx, kernel)
	if err != nil {
		return err
	}
	at := slices.IndexFunc(needs, func(name string) bool { return strings.HasPrefix(name, "linux-image-") })
	if at < 0 {
		return fmt.Errorf("%s depends on no kernel, only on %q", kernel, needs)
	}
	debs, err := apt.Download(ctx, append([]string{needs[at]}, userSpace...)...)
	if err != nil {
		return err
	}
	root := filepath.Join(work, "root")
	for _, deb := range debs {
		if err := apt.Unpack(ctx, deb, root); err != nil {
			return fmt.Errorf("unpack %s: %w", filepath.Base(deb), err)
		}
	}
	result := filepath.Join(work, "debian")
	version := strings.TrimPrefix(needs[at], "linux-image-")
	if err := assemble(root, version, result); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil { // of another recipe
		return err
	}
	return os.Rename(result, dir)
}

// assemble makes what is kept out of the unpacked packages.
func assemble(root, version, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(root, "boot/vmlinux-"+version), filepath.Join(dir, "vmlinux")); err != nil {
		return fmt.Errorf("find the kernel %s: %w", version, err)
	}
	if err := writeBase(filepath.Join(dir, "base.cpio"), root, version); err != nil {
		return fmt.Errorf("make an initramfs of Debian's packages: %w", err)
	}
	return os.WriteFile(filepath.Join(dir, "recipe"), []byte(version+"\n"+recipe()), 0o644)
}
