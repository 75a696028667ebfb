package integration_test

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"flag"
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

// guestSoak is longer by hand: go test ./ftd/integration -run TestKernelGuestOnTheBox -guest.soak 1h -timeout 2h
var guestSoak = flag.Duration("guest.soak", 20*time.Second, "how long the guest is under load")

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

// boot is which start of the guest's kernel answers.
func (p *peer) boot() string {
	p.b.t.Helper()
	var st struct {
		BootID string `json:"boot_id"`
	}
	if err := json.Unmarshal([]byte(p.must("GET", "/status", "")), &st); err != nil {
		p.b.t.Fatal(err)
	}
	return st.BootID
}

// quiet fails the test when the guest's kernel has complained.
func (p *peer) quiet() {
	p.b.t.Helper()
	var st struct {
		Tainted    uint64
		Complaints struct {
			Total int
			Lines []string
		}
	}
	if err := json.Unmarshal([]byte(p.must("GET", "/status", "")), &st); err != nil {
		p.b.t.Fatal(err)
	}
	if st.Complaints.Total > 0 || st.Tainted != 0 {
		p.b.t.Errorf("the guest's kernel complains, tainted %d:\n%s", st.Tainted, strings.Join(st.Complaints.Lines, "\n"))
	}
}

// soak has the guest compute, fork, fault and use its disk, and the network beside it. All
// of it is checked, by the guest or here.
func (p *peer) soak(d time.Duration) {
	p.b.t.Helper()
	p.must("POST", fmt.Sprintf("/load?cpu=1&memory=16&fault=1&fork=2&disk=2&seconds=%d", int(d.Seconds())), "")
	sent, rounds := 0, 0
	for end := time.Now().Add(d); time.Now().Before(end) && !p.b.t.Failed(); rounds++ {
		bytes, seed := 1<<20, uint64(rounds)
		if got := p.must("GET", fmt.Sprintf("/stream?bytes=%d&seed=%d", bytes, seed), ""); got != pattern(bytes, seed) {
			p.b.t.Errorf("a stream of %d bytes with seed %d came as another of %d", bytes, seed, len(got))
		}
		body := pattern(bytes, ^seed)
		want := fmt.Sprintf("%d bytes, sha256 %x\n", bytes, sha256.Sum256([]byte(body)))
		if got := p.must("POST", "/stream", body); got != want {
			p.b.t.Errorf("a stream was taken for %q, and not %q", got, want)
		}
		sent += 2 * bytes
	}
	var load struct {
		Errors uint64
		Kinds  []struct {
			Kind, LastError string
			Rounds          uint64
		}
	}
	if err := json.Unmarshal([]byte(p.must("DELETE", "/load", "")), &load); err != nil {
		p.b.t.Fatal(err)
	}
	if load.Errors > 0 {
		p.b.t.Errorf("the load has found errors: %+v", load)
	}
	p.b.t.Logf("%v of load: %+v, %d bytes over the network", d, load.Kinds, sent)
	p.quiet()
}

// pattern is what the guest streams: words of SplitMix64, each of its place.
func pattern(bytes int, seed uint64) string {
	out := make([]byte, 0, bytes)
	for at := uint64(0); len(out) < bytes; at += 8 {
		n := seed + at + 0x9E3779B97F4A7C15
		n = (n ^ n>>30) * 0xBF58476D1CE4E5B9
		n = (n ^ n>>27) * 0x94D049BB133111EB
		out = binary.LittleEndian.AppendUint64(out, n^n>>31)
	}
	return string(out[:bytes])
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
	b.wait("guest", "duplex")
	b.do("inject", "cpu0/guest", "kill")
	put("on-cpu1")
	b.sees("cpu0/guest", "shot")
	b.do("inject", "pci0/net0", "cable-return")
	b.do("inject", "pci0/disk1", "return")
	b.wait("disk1", "duplex")
	b.wait("guest", "duplex")

	p.soak(*guestSoak)

	// The process around its CPU modules is killed: the next one takes them over, and the guest
	// does not notice.
	began := p.boot()
	pid := b.processOf("guest").Pid
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	await(t, guestPatience, "the guest to answer again", func() bool {
		_, err := p.ask("GET", "/status", "")
		return err == nil && b.processOf("guest").Pid != pid
	})
	if p.boot() != began {
		t.Error("the guest was started anew")
	}

	// A power cut for the guest: its machine is started again, its journal replayed.
	b.do("machine", "reset", "guest")
	await(t, guestPatience, "the guest to be back", func() bool {
		said, err := p.ask("GET", "/status", "")
		return err == nil && !strings.Contains(said, began)
	})
	listing := p.must("GET", "/sum", "")
	for _, name := range []string{"duplex", "on-pci0", "on-pci1", "through-pci1", "on-cpu1"} {
		if !strings.Contains(listing, name+" ") || !strings.Contains(listing, want) {
			t.Errorf("%s is not there as it was stored:\n%s", name, listing)
		}
	}
	if now := p.requests(); now <= counted {
		t.Errorf("request %d after %d", now, counted)
	}
	p.quiet()
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
