package programs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"ft/chipset/programs/plan"
	"ft/drivers/debian"
	"ft/drivers/initramfs"
)

// distribution is where the guest's programs come from.
type distribution struct {
	name     string   // of its directory in the cache
	packages []string // with all that they need to run
	source   string   // of this package, too, unpacked into /source
}

var shortDistribution = distribution{
	name: "short",
	packages: []string{
		"busybox-static", "libc6", "openssl", "libssl3t64", "libzstd1", "zlib1g",
		"sqlite3", "libsqlite3-0", "libreadline8t64", "libtinfo6",
	},
}

var wholeDistribution = distribution{
	name: "whole",
	packages: append(slices.Clip(shortDistribution.packages),
		"python3.13-minimal", "libpython3.13-minimal", "libpython3.13-stdlib", "libpython3.13-testsuite",
		"libexpat1", "libbz2-1.0", "libffi8", "liblzma5", "libuuid1", "libgcc-s1",
	),
	source: "busybox",
}

const (
	arch     = "riscv64"
	suite    = "trixie"
	fetchMax = 15 * time.Minute
)

// recipe tells what a root was made of; another recipe fetches anew.
func (d *distribution) recipe() string {
	return fmt.Sprintf("1 %s %s %s %s\n", arch, suite, strings.Join(d.packages, " "), d.source)
}

// find gives the root of the unpacked packages from the cache, or fetches them. Nobody else
// may use the cache meanwhile.
func (d *distribution) find(t *testing.T, cache string) (root string, err error) {
	dir := filepath.Join(cache, "programs-"+arch+"-"+d.name)
	root = filepath.Join(dir, "root")
	if text, err := os.ReadFile(filepath.Join(dir, "recipe")); err == nil && string(text) == d.recipe() {
		return root, nil
	}
	t.Logf("fetching %d packages of Debian %s for %s into %s, once", len(d.packages), suite, arch, dir)
	ctx, cancel := context.WithTimeoutCause(t.Context(), fetchMax, fmt.Errorf("it took longer than %v", fetchMax))
	defer cancel()
	if err := d.fetch(ctx, dir); err != nil {
		return "", fmt.Errorf("fetch Debian's programs: %w", err)
	}
	return root, nil
}

// fetch puts all of it into place in one step, so that what is there is whole.
func (d *distribution) fetch(ctx context.Context, dir string) error {
	work := dir + ".new"
	if err := os.RemoveAll(work); err != nil { // of a fetch that was killed
		return err
	}
	defer os.RemoveAll(work)
	apt, err := debian.Open(ctx, filepath.Join(work, "apt"), arch, suite)
	if err != nil {
		return err
	}
	debs, err := apt.Download(ctx, d.packages...)
	if err != nil {
		return err
	}
	made := filepath.Join(work, "made")
	if err := os.MkdirAll(made, 0o755); err != nil {
		return err
	}
	for _, deb := range debs {
		if err := apt.Unpack(ctx, deb, filepath.Join(made, "root")); err != nil {
			return fmt.Errorf("unpack %s: %w", filepath.Base(deb), err)
		}
	}
	if d.source != "" {
		files, err := apt.Source(ctx, d.source)
		if err != nil {
			return err
		}
		if err := unpackSource(ctx, files, filepath.Join(made, "root/source")); err != nil {
			return fmt.Errorf("unpack the source of %s: %w", d.source, err)
		}
	}
	if err := os.WriteFile(filepath.Join(made, "recipe"), []byte(d.recipe()), 0o644); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil { // of another recipe
		return err
	}
	return os.Rename(made, dir)
}

// unpackSource unpacks the archives of a source package (dsc(5), format 3.0 (quilt)) into
// one directory: upstream's without its top directory, and Debian's debian/.
func unpackSource(ctx context.Context, files []string, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, f := range files {
		args := []string{"-C", dir, "--no-same-owner", "-xf", f}
		switch {
		case strings.Contains(f, ".orig.tar."):
			args = append(args, "--strip-components=1")
		case !strings.Contains(f, ".debian.tar."):
			continue
		}
		if out, err := exec.CommandContext(ctx, "tar", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("tar: %w: %s", err, out)
		}
	}
	return nil
}

// unneeded is what the guest has no use for: documentation, and the larger part of two
// trees of tests.
var unneeded = regexp.MustCompile(`^usr/share/|^etc/|^source/(?:archival|docs|editors|networking|scripts|.*\.c$)|/__pycache__$|` +
	`^usr/lib/python3[^/]*/(?:idlelib|lib2to3|ensurepip|pydoc_data|tkinter|turtledemo)$|` +
	`/test/(?:cjkencodings|test_asyncio|test_tkinter|test_email|test_importlib|test_tools|wheeldata|archivetestdata|audiodata|tkinterdata|xmltestdata)$`)

// pack writes the initramfs: programs, files of ours, init and its plan.
func pack(t *testing.T, path, root string, files map[string][]byte, commands []plan.Command) {
	t.Helper()
	text, err := json.Marshal(plan.Plan{Commands: commands})
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	a := initramfs.NewArchive(f)
	a.Char("/dev/console", 5, 1) // without it the kernel starts init without standard files
	a.MergeUsr()
	a.Bytes("/etc/passwd", 0o644, []byte("root:x:0:0:root:/tmp:/bin/sh\n"))
	a.Bytes("/etc/group", 0o644, []byte("root:x:0:\n"))
	for _, at := range []string{"/bin/sh", "/usr/bin/python3"} {
		a.Link(initramfs.Merged(at), map[string]string{"sh": "busybox", "python3": "python3.13"}[filepath.Base(at)])
	}
	a.File("/init", goBuild(t, "build", "ft/chipset/programs/init"))
	a.Bytes(plan.File, 0o644, text)
	for at, data := range files {
		a.Bytes(at, 0o755, data)
	}
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		at, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		switch {
		case unneeded.MatchString(at) && d.IsDir():
			return filepath.SkipDir
		case unneeded.MatchString(at):
			return nil
		case d.Type().IsRegular():
			a.File(initramfs.Merged("/"+at), path)
		case d.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			a.Link(initramfs.Merged("/"+at), target)
		}
		return nil
	})
	if err := errors.Join(err, a.Close(), f.Close()); err != nil {
		t.Fatalf("pack the guest: %v", err)
	}
}

// goBuild compiles for the guest: with "build" a program, with "test" the tests of a
// package.
func goBuild(t *testing.T, verb, pkg string) (binary string) {
	t.Helper()
	binary = filepath.Join(t.TempDir(), "program")
	args := []string{"build"}
	if verb == "test" {
		args = []string{"test", "-c", "-vet=off"}
	}
	args = append(args, "-buildvcs=false", "-trimpath", "-ldflags=-s -w", "-o", binary, pkg)
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	return binary
}
