package api

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"ft/drivers"
)

const soon = time.Minute

// reads reads as much as want is long, and compares.
func reads(t *testing.T, from io.Reader, want string) {
	t.Helper()
	if c, ok := from.(net.Conn); ok {
		_ = c.SetReadDeadline(time.Now().Add(soon))
	}
	got := make([]byte, len(want))
	if n, err := io.ReadFull(from, got); err != nil || string(got) != want {
		t.Fatalf("read %q (%v), want %q", got[:n], err, want)
	}
}

// ends waits for the end of a stream and returns what was read until then.
func ends(t *testing.T, from io.ReadCloser) string {
	t.Helper()
	late := time.AfterFunc(soon, func() { from.Close() })
	b, _ := io.ReadAll(from)
	if !late.Stop() {
		t.Fatalf("the stream does not end; so far: %q", b)
	}
	return string(b)
}

func write(t *testing.T, to io.Writer, text string) {
	t.Helper()
	if _, err := io.WriteString(to, text); err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, socket, id string, watch bool) (io.ReadWriteCloser, error) {
	t.Helper()
	c := NewClient(socket)
	t.Cleanup(c.Close)
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	t.Cleanup(cancel)
	return c.Console(ctx, id, watch)
}

func mustOpen(t *testing.T, socket string, watch bool) io.ReadWriteCloser {
	t.Helper()
	conn, err := open(t, socket, "guest", watch)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func TestAConsoleIsRawBytesBothWays(t *testing.T) {
	f := newFake(t)
	socket, _ := serve(t, f, testGroups)
	typing, watching := mustOpen(t, socket, false), mustOpen(t, socket, true)
	machine, second := <-f.machines, <-f.machines
	for _, m := range []net.Conn{machine, second} { // the driver sends to all of its watchers
		write(t, m, "[    0.0] Linux\r\n\x00\xff\x1b[1m")
	}
	reads(t, typing, "[    0.0] Linux\r\n\x00\xff\x1b[1m")
	reads(t, watching, "[    0.0] Linux\r\n\x00\xff\x1b[1m")
	write(t, typing, "ls\r\x03\x1d\x00")
	reads(t, machine, "ls\r\x03\x1d\x00")
	// It ends with the machine's process.
	machine.Close()
	if rest := ends(t, typing); rest != "" {
		t.Errorf("after the end came %q", rest)
	}
	// Or with the client.
	watching.Close()
	if rest := ends(t, second); rest != "" {
		t.Errorf("the machine was sent %q", rest)
	}
}

func TestAConsoleOutlastsTheTimeLimitsOfRequests(t *testing.T) {
	f := newFake(t)
	socket, _ := serve(t, f, testGroups)
	ctx, cancel := context.WithCancel(context.Background())
	conn, err := NewClient(socket).Console(ctx, "guest", false)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	cancel() // of the request that was answered
	machine := <-f.machines
	write(t, machine, "still there")
	reads(t, conn, "still there")
}

// A client that does not wait for the answer types ahead.
func TestWhatIsTypedAheadIsNotLost(t *testing.T) {
	f := newFake(t)
	socket, _ := serve(t, f, testGroups)
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	write(t, conn, "GET /v1/components/guest/console HTTP/1.1\r\nHost: ftd\r\nConnection: Upgrade\r\nUpgrade: ft-console\r\n\r\nroot\r")
	reads(t, <-f.machines, "root\r")
	reads(t, conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: ft-console\r\n\r\n")
}

// as opens a console with the credentials of another user.
func as(t *testing.T, socket string, gid int, path string) (*http.Response, net.Conn) {
	t.Helper()
	conn, err := dialAs(socket, 65534, gid, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(soon))
	req, err := http.NewRequest("GET", "http://ftd/v1/components/"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"ft-console"}}
	if err := req.Write(conn); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReaderSize(conn, 16), req) // no byte of what follows is read ahead that is not asked for
	if err != nil {
		t.Fatal(err)
	}
	return resp, conn
}

func TestWhoMayWatchAndWhoMayType(t *testing.T) {
	f := newFake(t)
	socket, _ := serve(t, f, testGroups)
	read, admin := gidOf(t, testGroups.read), gidOf(t, testGroups.admin)
	for _, c := range []struct {
		name        string
		gid         int
		watch, keys int
	}{
		{"an outsider", 65534, 403, 403},
		{"a reader", read, 101, 403},
		{"an admin", admin, 101, 101},
	} {
		for path, want := range map[string]int{"guest/console?mode=watch": c.watch, "guest/console": c.keys} {
			resp, _ := as(t, socket, c.gid, path)
			if resp.StatusCode != want {
				t.Errorf("%s, %s: %d, want %d", c.name, path, resp.StatusCode, want)
			}
			body, _ := io.ReadAll(io.LimitReader(resp.Body, map[bool]int64{true: 0, false: 4096}[want == 101]))
			if c.gid == read && want == 403 && !strings.Contains(string(body), "may watch the console of guest, not type on it: that is for root and the group operator; `ftctl console --read-only guest` watches") {
				t.Errorf("%s is told %s", c.name, body)
			}
		}
	}
}

func TestTheKeysOfAWatcherAreRefusedWithASentence(t *testing.T) {
	f := newFake(t)
	socket, _ := serve(t, f, testGroups)
	_, conn := as(t, socket, gidOf(t, testGroups.read), "guest/console?mode=watch")
	machine := <-f.machines
	write(t, conn, "reboot\r")
	if got := ends(t, machine); got != "" {
		t.Errorf("the machine got %q", got)
	}
	if said := ends(t, conn); !strings.Contains(said, "may watch the console of guest, not type on it") {
		t.Errorf("the watcher was told %q", said)
	}
	// Who might type, and asked only to watch, is held to that.
	mine := mustOpen(t, socket, true)
	machine = <-f.machines
	write(t, mine, "x")
	if got, said := ends(t, machine), ends(t, mine); got != "" || !strings.Contains(said, "this session only watches") {
		t.Errorf("the machine got %q, root was told %q", got, said)
	}
}

func TestNotEverythingHasAConsole(t *testing.T) {
	f := newFake(t)
	socket, _ := serve(t, f, testGroups)
	_, err := open(t, socket, "disk0", false)
	var e *Error
	if !errors.As(err, &e) || e.Code != "no-machine" || !e.Refused || e.Sentence != "disk0 is no machine" {
		t.Errorf("disk0: %v", err)
	}
	if _, err = open(t, socket, "nobody", false); !errors.As(err, &e) || e.Code != CodeNotFound {
		t.Errorf("nobody: %v", err)
	}
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	if code, body := ask(t, conn, "GET", "/v1/components/guest/console", ""); code != 400 || !strings.Contains(body, "`Upgrade: ft-console`, as `ftctl console` does") {
		t.Errorf("without an upgrade: %d %s", code, body)
	}
}

func TestSessionsAreLimited(t *testing.T) {
	f := newFake(t)
	socket, _ := serve(t, f, testGroups)
	var watchers []io.ReadWriteCloser
	for range consoleWatchersMax {
		watchers = append(watchers, mustOpen(t, socket, true))
	}
	var e *Error
	if _, err := open(t, socket, "guest", true); !errors.As(err, &e) || e.Code != CodeBusyServer || !strings.Contains(e.Sentence, fmt.Sprintf("%d sessions are watching on the console of guest already", consoleWatchersMax)) {
		t.Fatalf("one more watcher: %v", err)
	}
	mustOpen(t, socket, false) // they keep nobody from typing
	watchers[0].Close()
	for deadline := time.Now().Add(soon); ; {
		conn, err := open(t, socket, "guest", true)
		if err == nil {
			conn.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("a place that was left is not free: %v", err)
		}
	}
}

// A client that is stopped takes nothing. It loses its session, and the driver is not held up
// by it for longer than that.
func TestAClientThatDoesNotReadIsLetGo(t *testing.T) {
	f := newFake(t)
	socket, _ := serveWith(t, f, func(s *Server) { s.groups, s.consoles.stuck = testGroups, 50*time.Millisecond })
	mustOpen(t, socket, true)
	machine := <-f.machines
	_ = machine.SetWriteDeadline(time.Now().Add(soon))
	for {
		if _, err := machine.Write(make([]byte, 64<<10)); err != nil {
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				t.Error("the driver is held up for as long as the client sleeps")
			}
			return
		}
	}
}

func TestConsolesEndWithTheServer(t *testing.T) {
	f := newFake(t)
	socket, stop := serve(t, f, testGroups)
	conn := mustOpen(t, socket, false)
	machine := <-f.machines
	stop()
	if rest := ends(t, conn) + ends(t, machine); rest != "" {
		t.Errorf("came %q", rest)
	}
}

func TestTheVerbMachine(t *testing.T) {
	f := newFake(t)
	socket, _ := serve(t, f, testGroups)
	for body, want := range map[string]int{`{"action":"start"}`: 200, `{"action":"stop"}`: 200, `{"action":"reset"}`: 200, `{"action":"pause"}`: 400, ``: 400} {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		if code, answer := ask(t, conn, "POST", "/v1/components/guest/machine", body); code != want {
			t.Errorf("%s: %d %s", body, code, answer)
		}
	}
	f.answer = func(Change) (Outcome, error) {
		return Outcome{}, drivers.Refuse(drivers.RuleState, "guest is off")
	}
	c := NewClient(socket)
	defer c.Close()
	_, err := c.Change(context.Background(), Change{Verb: Machine, ID: "guest", Action: MachineReset})
	var e *Error
	if !errors.As(err, &e) || !e.Refused || e.Sentence != "guest is off" {
		t.Errorf("refused: %v", err)
	}
	asked := f.changes()
	if last := asked[len(asked)-1]; last.Verb != Machine || last.ID != "guest" || last.Action != MachineReset || last.By != "root" {
		t.Errorf("the backend was asked %+v", last)
	}
}
