package guest

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestCmdline(t *testing.T) {
	got := Cmdline(Address, Gateway)
	for _, word := range []string{"console=ttyS0", "panic=-1", "reboot=panic_warm", "ft.address=192.0.2.20/24", "ft.gateway=192.0.2.1"} {
		if !strings.Contains(" "+got+" ", " "+word+" ") {
			t.Errorf("%q lacks %s", got, word)
		}
	}
	if got := Cmdline(netip.Prefix{}, netip.Addr{}); strings.Contains(got, "ft.") {
		t.Errorf("a guest without a network: %q", got)
	}
}

// fetched is what a cache has after a fetch.
func fetched(t *testing.T, cache, recipe string) {
	t.Helper()
	dir := filepath.Join(cache, "debian")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"vmlinux": "kernel", "base.cpio": "base", "recipe": "6.12.1-riscv64\n" + recipe} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFetchedOnce(t *testing.T) {
	cache := t.TempDir()
	fetched(t, cache, recipe())
	t.Setenv("PATH", "") // no apt
	d, err := findDebian(t.Context(), cache, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	if d.version != "6.12.1-riscv64" || d.kernel != filepath.Join(cache, "debian/vmlinux") {
		t.Errorf("%+v", d)
	}
}

// TestAnotherRecipeIsFetchedAnew, and what is there stays when that fails.
func TestAnotherRecipeIsFetchedAnew(t *testing.T) {
	cache := t.TempDir()
	fetched(t, cache, "an older one")
	t.Setenv("PATH", "")
	if _, err := findDebian(t.Context(), cache, t.Logf); err == nil || !strings.Contains(err.Error(), "apt-get is missing") {
		t.Errorf("another recipe, without apt: %v", err)
	}
	left, err := os.ReadDir(cache)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range left {
		if e.Name() != "debian" && e.Name() != "fetch.lock" {
			t.Errorf("left behind: %s", e.Name())
		}
	}
}

func TestTwoDoNotFetchAtOnce(t *testing.T) {
	cache := t.TempDir()
	unlock, err := lock(t.Context(), filepath.Join(cache, "fetch.lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := findDebian(ctx, cache, t.Logf); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while another fetches: %v", err)
	}
}

// TestWithoutDebianTheGuestIsBare, and says why.
func TestWithoutDebianTheGuestIsBare(t *testing.T) {
	t.Setenv("PATH", "")
	dir := filepath.Join(t.TempDir(), "guest")
	g, err := Prepare(t.Context(), Options{Dir: dir, Say: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(g.Kernel)
	if err != nil || !bytes.HasPrefix(program, []byte("\x7fELF")) || g.Initrd != "" {
		t.Errorf("%+v: %v", g, err)
	}
	if !strings.Contains(g.Why, "apt-get is missing") && !strings.Contains(g.Why, "make build") {
		t.Errorf("why: %q", g.Why)
	}
}

func TestInterruptedPrepareMakesNothing(t *testing.T) {
	stopped := errors.New("Ctrl-C")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(stopped)
	dir := t.TempDir()
	if _, err := embedded(); err != nil {
		t.Skip(err) // nothing would be fetched
	}
	if g, err := Prepare(ctx, Options{Dir: dir, Say: t.Logf}); !errors.Is(err, stopped) {
		t.Errorf("%+v, %v", g, err)
	}
}

// TestInitrdIsBaseAndService: two archives, the second aligned as the kernel wants it.
func TestInitrdIsBaseAndService(t *testing.T) {
	dir := t.TempDir()
	base, initrd := filepath.Join(dir, "base.cpio"), filepath.Join(dir, "initrd")
	if err := os.WriteFile(base, []byte("base"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, service := range []string{"service one", "service two"} {
		if err := writeInitrd(initrd, base, []byte(service)); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(initrd)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(got, []byte("base070701")) || !bytes.Contains(got, []byte("init\x00")) || !bytes.Contains(got, []byte(service)) {
			t.Errorf("the initramfs is %q", got)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*.new")); left != nil {
		t.Errorf("left behind: %v", left)
	}
}
