package debian

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestMirrorIsTheMachinesOwn(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"deb822":         {"Types: deb\nURIs: http://mirror.example/debian/\nSuites: trixie\n", "http://mirror.example/debian"},
		"one line":       {"deb http://mirror.example/debian trixie main\n", "http://mirror.example/debian"},
		"with options":   {"deb [arch=amd64 signed-by=/x.gpg] https://mirror.example/pub/debian trixie main", "https://mirror.example/pub/debian"},
		"several":        {"URIs: http://mirror.example/debian-security http://mirror.example/debian", "http://mirror.example/debian"},
		"a comment":      {"# URIs: http://mirror.example/debian\n", ""},
		"security alone": {"URIs: http://security.debian.org/debian-security\n", ""},
		"not Debian":     {"deb http://archive.example/ubuntu noble main", ""},
		"a disc":         {"deb cdrom:[Debian 13]/ trixie main\ndeb file:/srv/debian trixie main", ""},
	} {
		if got := mirrorIn(c.text); got != c.want {
			t.Errorf("%s: mirror %q, want %q", name, got, c.want)
		}
	}
}

// needApt skips where there is no apt, as on other distributions.
func needApt(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("apt-get"); err != nil {
		t.Skip("this machine has no apt")
	}
}

// TestUnsignedArchiveIsRefused: whoever can put words into the network's mouth cannot put
// a kernel into a guest.
func TestUnsignedArchiveIsRefused(t *testing.T) {
	needApt(t)
	archive := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/debian/dists/trixie/Release" {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write([]byte("Origin: Debian\nSuite: stable\nCodename: trixie\nArchitectures: riscv64\nComponents: main\nDate: Sat, 15 Nov 2025 10:00:00 UTC\nSHA256:\n"))
	}))
	defer archive.Close()
	_, err := open(context.Background(), t.TempDir(), "riscv64", "trixie", []string{archive.URL + "/debian"})
	if err == nil || !strings.Contains(err.Error(), "not signed") {
		t.Errorf("an archive without a signature: %v", err)
	}
}

// TestUnreachableMirrorIsSaid also when apt itself would only warn.
func TestUnreachableMirrorIsSaid(t *testing.T) {
	needApt(t)
	archive := httptest.NewServer(http.NotFoundHandler())
	gone := archive.URL + "/debian"
	archive.Close()
	_, err := open(context.Background(), t.TempDir(), "riscv64", "trixie", []string{gone})
	if err == nil || !strings.Contains(err.Error(), gone) || !strings.Contains(err.Error(), "Debian trixie for riscv64") {
		t.Errorf("a mirror that is not there: %v", err)
	}
}

// TestSilentMirrorIsGivenUp when the caller's time is over.
func TestSilentMirrorIsGivenUp(t *testing.T) {
	needApt(t)
	release := make(chan struct{})
	archive := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer archive.Close()
	defer close(release)
	late := errors.New("out of patience")
	ctx, cancel := context.WithTimeoutCause(context.Background(), time.Second, late)
	defer cancel()
	_, err := open(ctx, t.TempDir(), "riscv64", "trixie", []string{archive.URL + "/debian", "http://second.invalid/debian"})
	if !errors.Is(err, late) || strings.Contains(err.Error(), "second.invalid") {
		t.Errorf("a mirror that does not answer: %v", err)
	}
}

// TestSystemAptStays: what our apt reads and writes is in its own directory.
func TestSystemAptStays(t *testing.T) {
	needApt(t)
	dir := t.TempDir()
	a := &Apt{dir: dir}
	if err := a.configure(context.Background(), "riscv64", "deb http://mirror.example/debian trixie main\n"); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("apt-config", "dump")
	cmd.Env = append(os.Environ(), "APT_CONFIG="+filepath.Join(dir, "apt.conf"))
	dump, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(dump)) {
		key, value, _ := strings.Cut(strings.TrimSuffix(strings.TrimSpace(line), ";"), " ")
		value = strings.Trim(value, `"`)
		switch key {
		case "Dir::State", "Dir::State::lists", "Dir::State::status", "Dir::Cache", "Dir::Cache::archives",
			"Dir::Etc::sourcelist", "Dir::Etc::sourceparts", "Dir::Etc::parts", "Dir::Etc::main", "Dir::Etc::trustedparts":
			if !strings.HasPrefix(value+"/", dir+"/") {
				t.Errorf("%s is %s, outside %s", key, value, dir)
			}
		case "APT::Architecture", "APT::Architectures::":
			if value != "riscv64" {
				t.Errorf("%s is %s", key, value)
			}
		}
	}
	if hook := "APT::Update::Post-Invoke"; strings.Contains(string(dump), hook+"::") {
		t.Errorf("the system's %s would be run", hook)
	}
}

func TestComplaintIsWhatMatters(t *testing.T) {
	for said, want := range map[string]string{
		"W: slow\nE: Failed to fetch http://x/InRelease  Could not connect\nE: Some index files failed to download. They have been ignored, or old ones used instead.\n": "Failed to fetch http://x/InRelease  Could not connect",
		"dpkg-deb: error: not a Debian archive\n\n": "dpkg-deb: error: not a Debian archive",
		"": "",
	} {
		if got := complaint(said); got != want {
			t.Errorf("%q becomes %q, want %q", said, got, want)
		}
	}
}
