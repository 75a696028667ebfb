package guest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"
)

// report is what the tests read of GET /status.
type report struct {
	Kernel     string `json:"kernel"`
	BootID     string `json:"boot_id"`
	Requests   uint64 `json:"requests"`
	Tainted    uint64 `json:"tainted"`
	Time       time.Time
	Complaints struct {
		Total int      `json:"total"`
		Lines []string `json:"lines"`
	} `json:"complaints"`
	Load struct {
		Running bool   `json:"running"`
		Errors  uint64 `json:"errors"`
		Kinds   []struct {
			Kind      string `json:"kind"`
			Rounds    uint64 `json:"rounds"`
			LastError string `json:"last_error"`
		} `json:"kinds"`
	} `json:"load"`
}

func (m *machine) status() report {
	m.t.Helper()
	var r report
	text := m.must("GET", "/status", "")
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		m.t.Fatalf("the status: %v\n%s", err, text)
	}
	return r
}

// quiet fails the test when the guest's kernel has complained.
func (m *machine) quiet() {
	m.t.Helper()
	if r := m.status(); r.Complaints.Total > 0 || r.Tainted != 0 {
		m.t.Errorf("the kernel complains, tainted %d:\n%s", r.Tainted, strings.Join(r.Complaints.Lines, "\n"))
	}
}

func sumOf(p string) string {
	sum := sha256.Sum256([]byte(p))
	return hex.EncodeToString(sum[:])
}

// TestKernelGuest is the guest as a user has it: service, console, load, clean end.
func TestKernelGuest(t *testing.T) {
	g, disk := debianGuest(t)
	m := start(t, g, disk)
	m.answers()

	for i := 1; i <= 3; i++ {
		if text := m.must("GET", "/", ""); !strings.HasPrefix(text, fmt.Sprintf("request %d\n", i)) {
			t.Errorf("request %d is answered %q", i, text)
		}
	}
	r := m.status()
	if r.Kernel != "Linux "+g.Version || r.Requests != 3 {
		t.Errorf("status: %q, %d requests", r.Kernel, r.Requests)
	}
	if off := time.Since(r.Time).Abs(); off > time.Minute {
		t.Errorf("the guest's clock is off by %v", off)
	}
	content := strings.Repeat("guest ", 100_000)
	m.must("PUT", "/files/big", content)
	if got := m.must("GET", "/files/big", ""); got != content {
		t.Errorf("a file of %d bytes came back as one of %d", len(content), len(got))
	}
	line := fmt.Sprintf("big %d %s\n", len(content), sumOf(content))
	if got := m.must("GET", "/sum", ""); got != fmt.Sprintf("%stotal: 1 files, %d bytes, sha256 %s\n", line, len(content), sumOf(line)) {
		t.Errorf("the sum is\n%s", got)
	}

	// A person at the console: a shell with job control on a terminal of its own.
	at := m.waitSays(0, "guest:~# ", 5*time.Minute)
	m.typed("echo $((6*7)) answers; sleep 1000\n")
	at = m.waitSays(at, "42 answers", 5*time.Minute)
	m.typed("\x03")
	at = m.waitSays(at, "guest:~# ", 5*time.Minute)
	m.typed("sha256sum < /data/files/big; exit\n")
	at = m.waitSays(at, sumOf(content), 5*time.Minute)
	m.waitSays(at, "guest:~# ", 5*time.Minute) // another shell

	m.must("POST", "/load?cpu=1&memory=16&fault=1&fork=1&disk=1&seconds=600", "")
	for deadline := time.Now().Add(10 * time.Minute); ; time.Sleep(time.Second) {
		busy := ""
		for _, k := range m.status().Load.Kinds {
			if k.LastError != "" {
				t.Fatalf("load %s: %s", k.Kind, k.LastError)
			}
			if k.Rounds == 0 {
				busy = k.Kind
			}
		}
		if busy == "" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("no round of %s has ended", busy)
		}
	}
	m.must("DELETE", "/load", "")
	m.quiet()

	m.typed("poweroff\n")
	m.waitEnds(5 * time.Minute)
	checkDisk(t, disk)
}

// acknowledged is what a service has said is on its disk.
type acknowledged struct {
	mu       sync.Mutex
	files    map[string]string // sum by name
	requests uint64
}

// write puts files and counts requests until the guest is gone.
func (a *acknowledged) write(m *machine, writer int, r *rand.Rand) {
	for i := 0; ; i++ {
		name := fmt.Sprintf("w%d-%d", writer, r.IntN(20))
		content := strings.Repeat(fmt.Sprintf("%d %d %d ", writer, i, r.Uint64()), 1+r.IntN(3000))
		a.mu.Lock()
		delete(a.files, name) // from now on it is the old one or the new one
		a.mu.Unlock()
		status, _, err := m.ask("PUT", "/files/"+name, strings.NewReader(content))
		if err != nil || status/100 != 2 {
			return
		}
		a.mu.Lock()
		a.files[name] = sumOf(content)
		a.mu.Unlock()
		status, text, err := m.ask("GET", "/", nil)
		if err != nil || status != 200 {
			return
		}
		var n uint64
		if _, err := fmt.Sscanf(text, "request %d\n", &n); err != nil {
			return
		}
		a.mu.Lock()
		a.requests = max(a.requests, n)
		a.mu.Unlock()
	}
}

// check compares with what is there after a crash.
func (a *acknowledged) check(m *machine) {
	m.t.Helper()
	is := map[string]string{}
	for line := range strings.Lines(m.must("GET", "/sum", "")) {
		var name, sum string
		var size int64
		if _, err := fmt.Sscanf(line, "%s %d %s\n", &name, &size, &sum); err == nil {
			is[name] = sum
		}
	}
	for name, sum := range a.files {
		if is[name] != sum {
			m.t.Errorf("the file %s has the sum %q, acknowledged was %s", name, is[name], sum)
		}
	}
	var n uint64
	if _, err := fmt.Sscanf(m.must("GET", "/", ""), "request %d\n", &n); err != nil || n <= a.requests {
		m.t.Errorf("request %d after %d: %v", n, a.requests, err)
	}
	a.requests = n
}

// TestKernelGuestIsKilled: what was acknowledged is there after any end, and the file
// system is whole.
func TestKernelGuestIsKilled(t *testing.T) {
	g, disk := debianGuest(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	acks := &acknowledged{files: map[string]string{}}
	for round, end := range []string{"kill", "panic", "kill", "poweroff"} {
		m := start(t, g, disk)
		m.answers()
		if round > 0 {
			acks.check(m)
		}
		m.quiet()
		before := acks.requests
		var writers sync.WaitGroup
		for w := range 3 {
			writers.Go(func() { acks.write(m, w, rand.New(rand.NewPCG(seed, uint64(round*10+w)))) })
		}
		enough := before + 10 + uint64(rand.New(rand.NewPCG(seed, uint64(round))).IntN(40))
		for m.status().Requests < enough {
			time.Sleep(20 * time.Millisecond)
		}
		switch end {
		case "kill":
			m.kill()
		case "panic":
			m.must("POST", "/panic", "")
			m.waitEnds(5 * time.Minute)
			m.waitSays(0, "Kernel panic - not syncing: sysrq triggered crash", 0)
		case "poweroff":
			m.must("POST", "/poweroff", "")
			m.waitEnds(5 * time.Minute)
		}
		writers.Wait()
		t.Logf("round %d: %d files and %d requests were acknowledged before the %s", round, len(acks.files), acks.requests, end)
	}
	checkDisk(t, disk)
	m := start(t, g, disk)
	m.answers()
	acks.check(m)
}

// TestKernelBareMetal: the program that stands in for Debian's kernel.
func TestKernelBareMetal(t *testing.T) {
	own(t)
	g, err := PrepareBare(Options{Dir: t.TempDir()}, "there is no network")
	if err != nil {
		t.Fatal(err)
	}
	m := start(t, g, "")
	at := m.waitSays(0, "built into ftd", 5*time.Minute)
	at = m.waitSays(at, "1 s\r\n2 s\r\n", 5*time.Minute)
	m.typed("hello\r")
	at = m.waitSays(at, "hello\r\n", 5*time.Minute)
	m.waitSays(at, " s\r\n", 5*time.Minute)
	m.waitSays(0, "\n10 s\r\n", 5*time.Minute) // two digits
}
