package backend

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func openConsole(t *testing.T, cfg ConsoleConfig) *Console {
	t.Helper()
	c, err := OpenConsole(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func newConsole(t *testing.T) (*Console, ConsoleConfig, chan string) {
	t.Helper()
	dir, typed := t.TempDir(), make(chan string, 100)
	cfg := ConsoleConfig{
		Socket: filepath.Join(dir, "console.sock"), Log: filepath.Join(dir, "console.log"),
		Typed: func(p []byte) { typed <- string(p) },
	}
	return openConsole(t, cfg), cfg, typed
}

// watcher is somebody at the socket.
type watcher struct {
	*net.UnixConn
	t *testing.T
}

func watch(t *testing.T, cfg ConsoleConfig) watcher {
	t.Helper()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: cfg.Socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return watcher{c, t}
}

// until reads until what came ends in text, and returns all of it.
func (w watcher) until(text string) string {
	w.t.Helper()
	var all []byte
	buf := make([]byte, 4096)
	for !bytes.HasSuffix(all, []byte(text)) {
		n, err := w.Read(buf)
		all = append(all, buf[:n]...)
		if err != nil {
			w.t.Fatalf("waiting for %q, after %d bytes: %v", text, len(all), err)
		}
	}
	return string(all)
}

func (c *Console) say(text string) { _, _ = c.Write([]byte(text)) }

func TestConsoleShowsThePastAndThenWhatComes(t *testing.T) {
	c, cfg, _ := newConsole(t)
	c.say("booting\n")
	first := watch(t, cfg)
	if got := first.until("booting\n"); got != "booting\n" {
		t.Fatalf("the first sees %q", got)
	}
	c.say("login: ")
	first.until("login: ")
	second := watch(t, cfg)
	if got := second.until("login: "); got != "booting\nlogin: " {
		t.Fatalf("the second sees %q", got)
	}
	c.say("!")
	first.until("!")
	second.until("!")
}

func TestConsoleReplaysABoundedPast(t *testing.T) {
	c, cfg, _ := newConsole(t)
	c.say(strings.Repeat("x", 3*historySize))
	c.say(strings.Repeat("y", ConsoleReplay-3) + "end")
	if got := watch(t, cfg).until("end"); len(got) != ConsoleReplay || got[0] != 'y' {
		t.Fatalf("%d bytes are shown, beginning with %q", len(got), got[0])
	}
}

func TestConsoleTyping(t *testing.T) {
	_, cfg, typed := newConsole(t)
	a, b := watch(t, cfg), watch(t, cfg)
	for i, w := range []watcher{a, b} {
		text := fmt.Sprintf("from %d\r", i)
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		if got := <-typed; got != text {
			t.Fatalf("typed: %q, want %q", got, text)
		}
	}
}

// One who does not read costs nobody anything, and is told what he missed.
func TestConsoleWithASlowWatcher(t *testing.T) {
	c, cfg, _ := newConsole(t)
	slow, quick := watch(t, cfg), watch(t, cfg)
	c.say("begin\n")
	slow.until("begin\n")
	quick.until("begin\n")
	line := strings.Repeat("z", 1023) + "\n"
	for range 4 * historySize / len(line) {
		c.say(line) // does not block
	}
	c.say("end\n")
	if got := slow.until("end\n"); !strings.Contains(got, "bytes left out: this reader was too slow]") {
		t.Fatalf("the slow one was shown %d bytes and not told that some are missing", len(got))
	}
	if s := c.Stats(); s.Skipped == 0 || s.Written != uint64(len("begin\nend\n")+4*historySize) {
		t.Fatalf("counted: %+v", s)
	}
	quick.until("end\n") // it may have missed some too, or none
}

func TestConsoleWatchersComeAndGo(t *testing.T) {
	c, cfg, _ := newConsole(t)
	c.say("hello")
	var all []watcher
	for range watchersMax {
		w := watch(t, cfg)
		w.until("hello")
		all = append(all, w)
	}
	tooMany := watch(t, cfg)
	if got, err := io.ReadAll(tooMany); err != nil || !strings.Contains(string(got), "16 are watching this console already") {
		t.Fatalf("one too many is told %q (%v)", got, err)
	}
	all[3].Close()
	eventually(t, "a watcher who went is forgotten", func() bool { return c.Stats().Watchers == watchersMax-1 })
	watch(t, cfg).until("hello")
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !holds(); {
		if time.Now().After(deadline) {
			t.Fatalf("it is not so: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

func TestConsoleSocket(t *testing.T) {
	c, cfg, _ := newConsole(t)
	info, err := os.Stat(cfg.Socket)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("the socket is %v (%v)", info.Mode(), err)
	}
	c.say("hello")
	w := watch(t, cfg)
	w.until("hello")
	c.say("last words")
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(w); err != nil || string(got) != "last words" {
		t.Fatalf("at the end a watcher sees %q (%v)", got, err)
	}
	if _, err := os.Stat(cfg.Socket); !os.IsNotExist(err) {
		t.Fatalf("the socket is left: %v", err)
	}
	// A successor takes the socket over from one that was killed, or is still dying.
	first := openConsole(t, ConsoleConfig{Socket: cfg.Socket})
	first.say("first")
	second := openConsole(t, ConsoleConfig{Socket: cfg.Socket})
	second.say("second")
	watch(t, cfg).until("second")
	first.Close()
	watch(t, cfg).until("second")
}

// Close does not wait for one who does not read.
func TestConsoleCloseWithAWatcherWhoDoesNotRead(t *testing.T) {
	c, cfg, _ := newConsole(t)
	watch(t, cfg)
	c.say(strings.Repeat("x", historySize))
	closed := make(chan error)
	go func() { closed <- c.Close() }()
	select {
	case err := <-closed:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(patience):
		t.Fatal("Close waits for ever")
	}
}

func TestConsoleLogIsKeptOverARestart(t *testing.T) {
	c, cfg, _ := newConsole(t)
	c.say("first life\n")
	c.Close()
	c = openConsole(t, cfg)
	c.say("second life\n")
	if got := watch(t, cfg).until("second life\n"); got != "first life\nsecond life\n" {
		t.Fatalf("a watcher sees %q", got)
	}
	c.Close()
	if got, err := os.ReadFile(cfg.Log); err != nil || string(got) != "first life\nsecond life\n" {
		t.Fatalf("the log is %q (%v)", got, err)
	}
}

func TestConsoleLogIsTurnedOver(t *testing.T) {
	dir := t.TempDir()
	cfg := ConsoleConfig{Log: filepath.Join(dir, "console.log"), LogBytes: 8192}
	var want strings.Builder
	for life := range 10 {
		c := openConsole(t, cfg)
		text := fmt.Sprintf("%d%s\n", life, strings.Repeat("x", 1000))
		want.WriteString(text)
		c.say(text)
		c.Close()
	}
	now, _ := os.ReadFile(cfg.Log)
	before, _ := os.ReadFile(cfg.Log + ".1")
	if len(now) > 4096 || len(before) > 4096 || len(before) < 3000 {
		t.Fatalf("the log has %d bytes, the one before %d", len(now), len(before))
	}
	if all := string(before) + string(now); !strings.HasSuffix(want.String(), all) {
		t.Fatal("what is kept is not the end of what was written")
	}
}

// A log that cannot be written is no reason to stop a machine.
func TestConsoleLogThatFails(t *testing.T) {
	dir := t.TempDir()
	cfg := ConsoleConfig{Socket: filepath.Join(dir, "sock"), Log: filepath.Join(dir, "log"), LogBytes: 8192}
	c := openConsole(t, cfg)
	if err := os.Mkdir(cfg.Log+".1", 0o700); err != nil { // it cannot be turned over
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(cfg.Log+".1", "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w := watch(t, cfg)
	for range 10 {
		c.say(strings.Repeat("x", 1000))
		w.until("x")
	}
	c.say("end")
	w.until("end")
	eventually(t, "the log's error is told", func() bool { return c.Stats().LogError != "" })
	t.Log(c.Stats().LogError)
	if _, err := OpenConsole(ConsoleConfig{Log: t.TempDir()}); err == nil {
		t.Fatal("a directory is a log")
	}
}

func TestConsoleWriteAllocatesNothing(t *testing.T) {
	c := openConsole(t, ConsoleConfig{})
	p := []byte("a line of the guest's\n")
	if n := testing.AllocsPerRun(1000, func() { _, _ = c.Write(p) }); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}
