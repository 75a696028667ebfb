package keeper

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ft/drivers"
	"ft/drivers/drivertest"
	"ft/drivers/host"
)

// The test binary plays all parts: run as "keeper" or "driver" it is that process.

const optionsEnv = "FT_TEST_KEEPER_OPTIONS"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "keeper":
			var o Options
			if err := json.Unmarshal([]byte(os.Getenv(optionsEnv)), &o); err != nil {
				panic(err)
			}
			if err := Run(context.Background(), o); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		case "driver":
			os.Exit(host.Run(context.Background(), os.Args[2], os.Args[3], os.Args[4]))
		}
	}
	os.Exit(m.Run())
}

// limit is how long a test waits for anything.
const limit = time.Minute

// box is a keeper process with its run directory.
type box struct {
	*testing.T
	dir string
	o   Options
	c   *Client
	cmd *exec.Cmd
	// env and files make the next start one by systemd.
	env   []string
	files []*os.File

	mu     sync.Mutex
	events []Event
}

// newBox makes a box without a keeper yet. All of its processes are gone after the
// test.
func newBox(t *testing.T) *box {
	t.Helper()
	b := &box{T: t, dir: t.TempDir()}
	b.o = Options{
		RunDir: b.dir, HealthyTime: 200 * time.Millisecond, Delays: []time.Duration{10 * time.Millisecond, 20 * time.Millisecond},
		FenceGrace: 300 * time.Millisecond, StopTimeout: 5 * time.Second,
	}
	b.c = Dial(SocketPath(b.dir))
	t.Cleanup(func() {
		killUnder(t, b.dir)
		b.checkLogs()
	})
	return b
}

// checkLogs fails the test for a data race in one of its processes, and shows the logs
// of a test that failed.
func (b *box) checkLogs() {
	logs, _ := filepath.Glob(filepath.Join(b.dir, "log", "*"))
	for _, path := range append(logs, filepath.Join(b.dir, "keeper.out")) {
		text, err := os.ReadFile(path)
		if strings.Contains(string(text), "DATA RACE") {
			b.Errorf("a data race in %s", path)
		}
		if err == nil && b.Failed() {
			b.Logf("%s:\n%s", path, text)
		}
	}
}

// killUnder kills every process that has dir in its arguments or environment.
func killUnder(t *testing.T, dir string) {
	for deadline := time.Now().Add(limit); ; {
		left := 0
		procs, _ := filepath.Glob("/proc/[0-9]*")
		for _, proc := range procs {
			args, _ := os.ReadFile(proc + "/cmdline")
			env, _ := os.ReadFile(proc + "/environ")
			if pid, _ := strconv.Atoi(filepath.Base(proc)); pid != os.Getpid() && strings.Contains(string(args)+string(env), dir) {
				left++
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
		if left == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("%d processes of the test are left", left)
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// start starts the keeper and follows its events.
func (b *box) start() {
	b.Helper()
	opts, err := json.Marshal(b.o)
	if err != nil {
		b.Fatal(err)
	}
	out, err := os.OpenFile(filepath.Join(b.dir, "keeper.out"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		b.Fatal(err)
	}
	defer out.Close()
	b.cmd = exec.Command(os.Args[0], "keeper")
	b.cmd.Env = append(append(os.Environ(), optionsEnv+"="+string(opts)), b.env...)
	b.cmd.Stdout, b.cmd.Stderr, b.cmd.ExtraFiles = out, out, b.files
	if len(b.env) > 0 { // LISTEN_PID is the pid after the exec
		b.cmd.Path = "/bin/sh"
		b.cmd.Args = []string{"sh", "-c", `LISTEN_PID=$$ exec "$0" keeper`, os.Args[0]}
	}
	if err := b.cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.eventually("the keeper answers", func() bool {
		_, err := b.c.Processes(b.Context())
		return err == nil
	})
	following := make(chan struct{})
	b.mu.Lock()
	b.events = nil
	b.mu.Unlock()
	go func() {
		once := sync.OnceFunc(func() { close(following) })
		_ = b.c.Events(b.Context(), Cursor{}, true, func(i Item) error {
			b.mu.Lock()
			defer b.mu.Unlock()
			if i.Record != nil {
				b.events = append(b.events, *i.Record)
			}
			if i.Current {
				once()
			}
			return nil
		})
	}()
	<-following
}

// kill kills the keeper, and only it.
func (b *box) kill() {
	b.Helper()
	if err := b.cmd.Process.Kill(); err != nil {
		b.Fatal(err)
	}
	_ = b.cmd.Wait()
}

// ended waits for the keeper to end by itself.
func (b *box) ended() error {
	b.Helper()
	done := make(chan error, 1)
	go func() { done <- b.cmd.Wait() }()
	select {
	case err := <-done:
		return err
	case <-time.After(limit):
		b.Fatal("the keeper does not end")
		return nil
	}
}

func (b *box) eventually(what string, ok func() bool) {
	b.Helper()
	for deadline := time.Now().Add(limit); !ok(); {
		if time.Now().After(deadline) {
			b.Fatalf("not within %v: %s", limit, what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// saw waits for an event of a process that match accepts.
func (b *box) saw(name string, kind EventKind, match func(Event) bool) Event {
	b.Helper()
	var found Event
	b.eventually(fmt.Sprintf("event %s of %s", kind, name), func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, e := range b.events {
			if e.Name == name && e.Kind == kind && (match == nil || match(e)) {
				found = e
				return true
			}
		}
		return false
	})
	return found
}

// spec writes a configuration for the memory driver and says how to run it.
func (b *box) spec(name string, opts drivertest.Options) Spec {
	b.Helper()
	raw, err := json.Marshal(opts)
	if err != nil {
		b.Fatal(err)
	}
	cfg, err := json.Marshal(drivers.Config{Kind: drivertest.Kind, Name: name, RunDir: b.dir, Options: raw})
	if err != nil {
		b.Fatal(err)
	}
	path := filepath.Join(b.dir, name+".json")
	if err := os.WriteFile(path, cfg, 0o600); err != nil {
		b.Fatal(err)
	}
	return Spec{
		Argv:    []string{os.Args[0], "driver", drivertest.Kind, name, path},
		Control: host.SocketPath(b.dir, name),
	}
}

// put runs a driver and waits until it serves.
func (b *box) put(name string, spec Spec) Process {
	b.Helper()
	if _, err := b.c.Put(b.Context(), name, spec); err != nil {
		b.Fatal(err)
	}
	return b.running(name, 0)
}

// running waits until a process other than the one with pid not serves.
func (b *box) running(name string, not int) Process {
	b.Helper()
	var p Process
	b.eventually(name+" runs", func() bool {
		var err error
		p, err = b.c.Process(b.Context(), name)
		return err == nil && p.State == Running && p.Pid != not
	})
	return p
}

func (b *box) process(name string) Process {
	b.Helper()
	p, err := b.c.Process(b.Context(), name)
	if err != nil {
		b.Fatal(err)
	}
	return p
}

func (b *box) driver(name string) *host.Client { return host.Dial(host.SocketPath(b.dir, name)) }

func (b *box) status(name string) drivers.Status {
	b.Helper()
	st, err := b.driver(name).Status(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	return st
}

// write puts a text into the face, which only a successor that adopts can read.
func (b *box) write(name, text string) {
	b.Helper()
	if err := b.driver(name).Command(b.Context(), "write", map[string]string{"text": text}, nil); err != nil {
		b.Fatal(err)
	}
}

// wantFace checks that the face is the one that was written to.
func (b *box) wantFace(name, text string) {
	b.Helper()
	if st := b.status(name); st.Face != text {
		b.Errorf("%s has the face %q after %v starts, want %q: it was not adopted", name, st.Face, st.Stats["starts"], text)
	}
}

// alive says whether a process runs: one that only waits to be reaped does not.
func alive(pid int) bool {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return !readable(fd)
}
