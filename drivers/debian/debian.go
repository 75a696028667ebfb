// Package debian fetches Debian packages of any architecture and suite with an apt beside
// the system's, for kernels and small guests.
//
// Signatures are checked against Debian's archive keyring. The system's apt is asked only
// how the network is reached (proxies, mirrors, retries); its lists, cache, status and
// locks are not touched, and nothing is installed: packages are downloaded and unpacked.
package debian

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// anyMirror has all architectures and suites.
const anyMirror = "http://deb.debian.org/debian"

// killPatience is how long a tool that was ended may take to let its output go.
const killPatience = 5 * time.Second

// keyrings is Debian's keyring under the names that it has had.
var keyrings = []string{
	"/usr/share/keyrings/debian-archive-keyring.gpg",
	"/usr/share/keyrings/debian-archive-keyring.pgp",
}

// Apt is an apt of our own: other sources, lists, cache and status than the system's.
type Apt struct {
	dir    string
	suite  string
	mirror string
}

// Open makes an apt for an architecture and a suite in dir, which is made when missing and
// is the caller's to remove, and reads the lists of packages: from the mirror that this
// machine uses itself, or else from Debian's own. It blocks until that is done or ctx ends.
func Open(ctx context.Context, dir, arch, suite string) (*Apt, error) {
	return open(ctx, dir, arch, suite, mirrors())
}

func open(ctx context.Context, dir, arch, suite string, mirrors []string) (*Apt, error) {
	for _, tool := range []string{"apt-get", "apt-cache", "apt-config", "dpkg-deb"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, fmt.Errorf("%s is missing: Debian packages are fetched with Debian's own tools", tool)
		}
	}
	at := slices.IndexFunc(keyrings, func(name string) bool { _, err := os.Stat(name); return err == nil })
	if at < 0 {
		return nil, fmt.Errorf("%s is missing, by which Debian's signatures are checked: apt-get install debian-archive-keyring", keyrings[0])
	}
	a := &Apt{dir: dir, suite: suite}
	var missed []error
	for _, a.mirror = range mirrors {
		source := fmt.Sprintf("deb [arch=%s signed-by=%s] %s %s main\n", arch, keyrings[at], a.mirror, suite)
		if err := a.configure(ctx, arch, source); err != nil {
			return nil, fmt.Errorf("make an apt beside the system's in %s: %w", dir, err)
		}
		err := a.run(ctx, nil, "apt-get", "-qq", "update")
		if err == nil {
			return a, nil
		}
		missed = append(missed, fmt.Errorf("read the lists of Debian %s for %s from %s: %w", suite, arch, a.mirror, err))
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(missed...)
}

// configure writes our apt's configuration.
func (a *Apt) configure(ctx context.Context, arch, source string) error {
	for _, d := range []string{"lists/partial", "cache/archives/partial", "none"} {
		if err := os.MkdirAll(filepath.Join(a.dir, d), 0o755); err != nil {
			return err
		}
	}
	// What says how to reach the network is the system's: proxies, retries, the age of a
	// mirror that is kept. Its other settings, hooks above all, are not.
	network, err := exec.CommandContext(ctx, "apt-config", "dump", "Acquire").Output()
	if err != nil {
		return fmt.Errorf("apt-config dump: %w", err)
	}
	var conf bytes.Buffer
	for _, set := range [][2]string{{"Acquire::Retries", "3"}, {"Acquire::http::Timeout", "30"}, {"Acquire::https::Timeout", "30"}} {
		fmt.Fprintf(&conf, "%s %q;\n", set[0], set[1]) // before the system's, which overrides them
	}
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
		fmt.Fprintf(&conf, "%s %q;\n", set[0], filepath.Join(a.dir, set[1]))
	}
	for _, set := range [][2]string{
		{"APT::Architecture", arch}, {"Acquire::Languages", "none"},
		{"APT::Update::Error-Mode", "any"}, // else a mirror that is not reached is but a warning
		{"Acquire::AllowInsecureRepositories", "false"}, {"Acquire::AllowWeakRepositories", "false"},
		{"Acquire::AllowDowngradeToInsecureRepositories", "false"}, {"APT::Get::AllowUnauthenticated", "false"},
	} {
		fmt.Fprintf(&conf, "%s %q;\n", set[0], set[1])
	}
	fmt.Fprintf(&conf, "#clear APT::Architectures;\nAPT::Architectures { %q; };\n", arch)
	if os.Geteuid() == 0 {
		// Else apt downloads as a user who cannot write here.
		conf.WriteString("APT::Sandbox::User \"root\";\n")
	}
	for name, text := range map[string][]byte{"apt.conf": conf.Bytes(), "sources.list": []byte(source), "status": nil} {
		if err := os.WriteFile(filepath.Join(a.dir, name), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// run runs a tool with our configuration; what it says goes into the error.
func (a *Apt) run(ctx context.Context, out *bytes.Buffer, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = a.dir
	// Its own process group: Ctrl-C is for who called us, and a kill is for apt's children
	// as well.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = killPatience
	cmd.Env = append(os.Environ(), "APT_CONFIG="+filepath.Join(a.dir, "apt.conf"), "LC_ALL=C")
	var said bytes.Buffer
	cmd.Stderr = &said
	if cmd.Stdout = out; out == nil {
		cmd.Stdout = &said
	}
	err := cmd.Run()
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %w", name, context.Cause(ctx))
	case err != nil:
		return fmt.Errorf("%s: %w: %s", name, err, complaint(said.String()))
	}
	return nil
}

// complaint is what matters of what a tool has said: apt's errors, without the one that
// only says that there were others.
func complaint(said string) string {
	var all, errs []string
	for line := range strings.Lines(said) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		all = append(all, line)
		if text, ok := strings.CutPrefix(line, "E: "); ok && !strings.HasPrefix(text, "Some index files") {
			errs = append(errs, text)
		}
	}
	if len(errs) > 0 {
		all = errs
	}
	return strings.Join(slices.Compact(all), "; ")
}

// Depends are the names of the packages that a package depends on, without those that
// have alternatives.
func (a *Apt) Depends(ctx context.Context, name string) ([]string, error) {
	var out bytes.Buffer
	if err := a.run(ctx, &out, "apt-cache", "depends", name); err != nil {
		return nil, fmt.Errorf("ask what %s of Debian %s depends on: %w", name, a.suite, err)
	}
	var names []string
	for line := range strings.Lines(out.String()) {
		if on, ok := strings.CutPrefix(line, "  Depends: "); ok {
			names = append(names, strings.TrimSpace(on))
		}
	}
	return names, nil
}

// Download fetches packages and returns their files, in the order of the names.
func (a *Apt) Download(ctx context.Context, names ...string) ([]string, error) {
	if err := a.run(ctx, nil, "apt-get", append([]string{"-qq", "download"}, names...)...); err != nil {
		return nil, fmt.Errorf("download from Debian %s at %s: %w", a.suite, a.mirror, err)
	}
	var files []string
	for _, name := range names {
		debs, _ := filepath.Glob(filepath.Join(a.dir, name+"_*.deb")) // the pattern is well formed
		if len(debs) != 1 {
			return nil, fmt.Errorf("apt-get download %s left %d packages", name, len(debs))
		}
		files = append(files, debs[0])
	}
	return files, nil
}

// Unpack puts the content of a package's file under root, without running anything of it.
func (a *Apt) Unpack(ctx context.Context, deb, root string) error {
	return a.run(ctx, nil, "dpkg-deb", "-x", deb, root)
}

// mirrors are the Debian mirrors to be tried: the one that this machine uses itself, which
// may lack an architecture, and everyone's.
func mirrors() []string {
	files, _ := filepath.Glob("/etc/apt/sources.list.d/*") // the pattern is well formed
	for _, name := range append(files, "/etc/apt/sources.list") {
		if ext := filepath.Ext(name); ext != ".list" && ext != ".sources" {
			continue
		}
		text, err := os.ReadFile(name)
		if err != nil {
			continue // not there, or not ours to read
		}
		if own := mirrorIn(string(text)); own != "" {
			return slices.Compact([]string{own, anyMirror})
		}
	}
	return []string{anyMirror}
}

// mirrorIn finds a Debian mirror in the text of a sources.list or a deb822 file.
func mirrorIn(text string) string {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		for _, kind := range []string{"deb ", "URIs:"} {
			words, ok := strings.CutPrefix(line, kind)
			if !ok {
				continue
			}
			if _, after, ok := strings.Cut(words, "]"); ok {
				words = after // options: deb [arch=…] http://…
			}
			for _, word := range strings.Fields(words) {
				u, err := url.Parse(word)
				if err == nil && (u.Scheme == "http" || u.Scheme == "https") && strings.HasSuffix(strings.TrimSuffix(u.Path, "/"), "/debian") {
					return strings.TrimSuffix(word, "/")
				}
			}
		}
	}
	return ""
}
