package integration_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ft/drivers/kerneltest"
	"ft/drivers/netns"
	"ft/ftd/testbox/network"
)

// guestPatience is for a boot on a busy computer: 2.2 G steps.
const guestPatience = 5 * time.Minute

// peer is someone on the box's network who asks the guest.
type peer struct {
	b    *throwaway
	http *http.Client
}

func (b *throwaway) peer() *peer {
	b.t.Helper()
	spaces, err := network.Of(filepath.Join(b.dir, "box"))
	if err != nil {
		b.t.Fatal(err)
	}
	name := ""
	for _, s := range spaces {
		if strings.Contains(s, "peer") {
			name = s
		}
	}
	// A socket stays in the namespace of the thread that made it.
	dial := func(_ context.Context, kind, address string) (conn net.Conn, err error) {
		nerr := netns.Do(name, func() error {
			conn, err = net.DialTimeout(kind, address, 5*time.Second)
			return err
		})
		return conn, nerr
	}
	return &peer{b, &http.Client{Timeout: time.Minute, Transport: &http.Transport{DialContext: dial}}}
}

func (p *peer) ask(method, path, body string) (string, error) {
	r, err := http.NewRequest(method, "http://192.0.2.20"+path, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	answer, err := p.http.Do(r)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode/100 != 2 {
		err = fmt.Errorf("%s: %s", answer.Status, text)
	}
	return string(text), err
}

func (p *peer) must(method, path, body string) string {
	p.b.t.Helper()
	text, err := p.ask(method, path, body)
	if err != nil {
		p.b.t.Fatalf("%s %s: %v", method, path, err)
	}
	return text
}

// requests is how many the guest has counted.
func (p *peer) requests() (n int) {
	p.b.t.Helper()
	if text := p.must("GET", "/", ""); !strings.HasPrefix(text, "request ") {
		p.b.t.Fatalf("the guest answers %q", text)
	} else if _, err := fmt.Sscanf(text, "request %d\n", &n); err != nil {
		p.b.t.Fatal(err)
	}
	return n
}

// TestKernelGuestOnTheBox: Debian's kernel on the machine, its disk on the mirror, its NIC on
// the bond. Legs and cables go and come, the machine's process is killed, and what the
// guest has acknowledged is there.
func TestKernelGuestOnTheBox(t *testing.T) {
	cache, done := kerneltest.Own(t, map[string]string{"e2fsck": "e2fsprogs", "xz": "xz-utils", "apt-get": "apt"})
	defer done()
	t.Setenv("FT_KERNELS", cache)
	b := newThrowaway(t)
	b.guest = "debian"
	b.start()
	if said := b.out.String(); strings.Contains(said, "not Debian's kernel") {
		kerneltest.Missing(t, said[strings.Index(said, "not Debian's"):][:200])
	}
	await(t, guestPatience, "the guest's service to answer", func() bool {
		return strings.Contains(b.out.String(), "its service answers at http://192.0.2.20/")
	})
	p := b.peer()
	counted := p.requests()

	content := strings.Repeat("kept ", 50_000)
	sum := sha256.Sum256([]byte(content))
	want := hex.EncodeToString(sum[:])
	put := func(name string) {
		t.Helper()
		if got := p.must("PUT", "/files/"+name, content); got != fmt.Sprintf("%s %d %s\n", name, len(content), want) {
			t.Errorf("storing %s is answered %q", name, got)
		}
	}
	put("duplex")
	b.do("inject", "pci1/disk1", "vanish")
	put("on-pci0")
	b.do("inject", "pci1/disk1", "return")
	b.wait("disk1", "duplex")
	b.do("inject", "pci0/disk1", "vanish")
	put("on-pci1")
	b.do("inject", "pci0/net0", "cable-pull")
	put("through-pci1")
	b.do("inject", "pci0/net0", "cable-return")
	b.do("inject", "pci0/disk1", "return")
	b.wait("disk1", "duplex")

	// A power cut for the guest: its machine is started again, its journal replayed.
	pid := b.processOf("guest").Pid
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	await(t, guestPatience, "the guest to be back", func() bool {
		_, err := p.ask("GET", "/status", "")
		return err == nil && b.processOf("guest").Pid != pid
	})
	listing := p.must("GET", "/sum", "")
	for _, name := range []string{"duplex", "on-pci0", "on-pci1", "through-pci1"} {
		if !strings.Contains(listing, name+" ") || !strings.Contains(listing, want) {
			t.Errorf("%s is not there as it was stored:\n%s", name, listing)
		}
	}
	if now := p.requests(); now <= counted {
		t.Errorf("request %d after %d", now, counted)
	}
	if st := p.must("GET", "/status", ""); !strings.Contains(st, `"total": 0`) {
		t.Errorf("the guest's kernel complains: %s", st)
	}
	p.must("POST", "/poweroff", "")
	b.wait("cpu0/guest", "offline")

	b.signal(unix.SIGINT)
	b.ends()
	for _, leg := range []string{"disk1-pci0.img", "disk1-pci1.img"} {
		if out, err := exec.Command("e2fsck", "-f", "-n", filepath.Join(b.dir, "box", leg)).CombinedOutput(); err != nil {
			t.Errorf("e2fsck of %s: %v\n%s", leg, err, out)
		}
	}
	if _, err := os.Stat(filepath.Join(b.dir, "run")); err == nil {
		t.Error("the run directory is left")
	}
}
