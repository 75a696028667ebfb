package kerneltest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sys/unix"

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
	keyring   = "/usr/share/keyrings/debian-archive-keyring.gpg"
	anyMirror = "http://deb.debian.org/debian"
	metaName  = "linux-image-amd64"
	fetchMax  = 8 * time.Minute
)

// image is a kernel that has been fetched: the tree of its package.
type image struct {
	vmlinuz string
	modules string // its directory under lib/modules
}

// cacheDir is where kernels stay from one test to the next.
func cacheDir() (string, error) {
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
	cache, err := cacheDir()
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
		err := fetch(tree, suite)
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
	for _, tool := range []string{"apt-get", "apt-cache", "apt-config", "dpkg-deb"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%s is missing: kernels come from Debian packages (on another system, unpack Debian's %s into %s)", tool, metaName, tree)
		}
	}
	if _, err := os.Stat(keyring); err != nil {
		return fmt.Errorf("%s is missing, by which Debian's signatures are checked: install debian-archive-keyring", keyring)
	}
	work := tree + ".new"
	if err := os.RemoveAll(work); err != nil { // of a fetch that was killed
		return err
	}
	defer os.RemoveAll(work)
	a, err := newApt(work, suite)
	if err != nil {
		return err
	}
	deb, err := a.download(metaName)
	if err != nil {
		return err
	}
	unpacked := filepath.Join(work, "tree")
	if err := a.run(nil, "dpkg-deb", "-x", deb, unpacked); err != nil {
		return err
	}
	return os.Rename(unpacked, tree)
}

// apt is an apt of our own beside the system's: other sources, lists, cache and status.
type apt struct {
	dir    string
	config string
}

func newApt(dir, suite string) (*apt, error) {
	a := &apt{dir: dir, config: filepath.Join(dir, "apt.conf")}
	for _, d := range []string{"lists/partial", "cache/archives/partial", "none"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	// What says how to reach the network is the system's: proxies, retries, the age of a
	// mirror that is kept. Its other settings, hooks above all, are not.
	network, err := exec.Command("apt-config", "dump", "Acquire").Output()
	if err != nil {
		return nil, fmt.Errorf("apt-config dump: %w", err)
	}
	var conf bytes.Buffer
	for line := range bytes.Lines(network) {
		if !bytes.HasPrefix(line, []byte("Acquire::IndexTargets")) { // what to fetch beside the lists of packages
			conf.Write(line)
		}
	}
	for _, set := range [][2]string{
		{"Dir::Etc::parts", "none"}, {"Dir::Etc::main", "none/apt.conf"}, {"Dir::Etc::preferences", "none/preferences"},
		{"Dir::Etc::preferencesparts", "none"}, {"Dir::Etc::sourceparts", "none"}, {"Dir::Etc::sourcelist", "sources.list"},
		{"Dir::Etc::trusted", "none/trusted.gpg"}, {"Dir::Etc::trustedparts", "none"},
		{"Dir::State", "."}, {"Dir::State::lists", "lists"}, {"Dir::State::status", "status"},
		{"Dir::Cache", "cache"}, {"Dir::Cache::archives", "cache/archives"},
	} {
		fmt.Fprintf(&conf, "%s %q;\n", set[0], filepath.Join(dir, set[1]))
	}
	for _, set := range [][2]string{
		{"APT::Architecture", "amd64"}, {"Acquire::Languages", "none"},
		{"Acquire::AllowInsecureRepositories", "false"}, {"Acquire::AllowWeakRepositories", "false"},
		{"Acquire::AllowDowngradeToInsecureRepositories", "false"}, {"APT::Get::AllowUnauthenticated", "false"},
	} {
		fmt.Fprintf(&conf, "%s %q;\n", set[0], set[1])
	}
	conf.WriteString("#clear APT::Architectures;\nAPT::Architectures { \"amd64\"; };\n")
	if os.Geteuid() == 0 {
		// Else apt downloads as a user who cannot write here.
		conf.WriteString("APT::Sandbox::User \"root\";\n")
	}
	source := fmt.Sprintf("deb [arch=amd64 signed-by=%s] %s %s main\n", keyring, mirror(), suite)
	for name, text := range map[string][]byte{"apt.conf": conf.Bytes(), "sources.list": []byte(source), "status": nil} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// run runs a tool with our configuration; what it says goes into the error.
func (a *apt) run(out *bytes.Buffer, name string, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), fetchMax)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = a.dir
	cmd.Env = append(os.Environ(), "APT_CONFIG="+a.config, "LC_ALL=C")
	var said bytes.Buffer
	cmd.Stderr = &said
	if cmd.Stdout = out; out == nil {
		cmd.Stdout = &said
	}
	if err := netns.Do(os.Getenv(Network), cmd.Run); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(said.String()))
	}
	return nil
}

// depends finds the package of a version that the metapackage stands for.
var depends = regexp.MustCompile(`(?m)^ *Depends: (linux-image-[0-9]\S*)$`)

func (a *apt) download(meta string) (deb string, err error) {
	// Without the mode, an update that has fetched nothing is none that has failed.
	if err := a.run(nil, "apt-get", "-qq", "-o", "Acquire::Retries=3", "-o", "APT::Update::Error-Mode=any", "update"); err != nil {
		return "", err
	}
	var out bytes.Buffer
	if err := a.run(&out, "apt-cache", "depends", meta); err != nil {
		return "", err
	}
	found := depends.FindStringSubmatch(out.String())
	if found == nil {
		return "", fmt.Errorf("%s depends on no kernel: %s", meta, strings.TrimSpace(out.String()))
	}
	if err := a.run(nil, "apt-get", "-qq", "-o", "Acquire::Retries=3", "download", found[1]); err != nil {
		return "", err
	}
	debs, _ := filepath.Glob(filepath.Join(a.dir, found[1]+"_*.deb")) // the pattern is well formed
	if len(debs) != 1 {
		return "", fmt.Errorf("apt-get download %s left %d packages", found[1], len(debs))
	}
	return debs[0], nil
}

// sourceURI finds mirrors in sources.list and in deb822 files.
var sourceURI = regexp.MustCompile(`(?m)^(?:deb\s+(?:\[[^\]]*\]\s+)?|URIs:\s*)(\S+)`)

// mirror is the Debian mirror that this machine uses itself, or everyone's.
func mirror() string {
	files, _ := filepath.Glob("/etc/apt/sources.list.d/*") // the pattern is well formed
	for _, name := range append(files, "/etc/apt/sources.list") {
		if ext := filepath.Ext(name); ext != ".list" && ext != ".sources" {
			continue
		}
		text, err := os.ReadFile(name)
		if err != nil {
			continue // not there, or not ours to read
		}
		for _, m := range sourceURI.FindAllStringSubmatch(string(text), -1) {
			u, err := url.Parse(m[1])
			if err == nil && (u.Scheme == "http" || u.Scheme == "https") && strings.HasSuffix(strings.TrimSuffix(u.Path, "/"), "/debian") {
				return m[1]
			}
		}
	}
	return anyMirror
}
