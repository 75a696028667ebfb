package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/user"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"ft/drivers"
)

func rawSetgroups(gids []uint32) syscall.Errno {
	var p unsafe.Pointer
	if len(gids) > 0 {
		p = unsafe.Pointer(&gids[0])
	}
	_, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(gids)), uintptr(p), 0)
	return errno
}

// Groups that every Debian has stand for ft and ftadm.
var testGroups = groups{read: "games", admin: "operator"}

func gidOf(t *testing.T, name string) int {
	t.Helper()
	g, err := user.LookupGroup(name)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(g.Gid)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// ask sends one request over a connection and returns status and body.
func ask(t *testing.T, conn net.Conn, method, path, body string) (int, string) {
	t.Helper()
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	req, err := http.NewRequest(method, "http://ftd"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if err := req.Write(conn); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, strings.TrimSpace(string(b))
}

func TestWhoMayDoWhat(t *testing.T) {
	f := newFake(t)
	socket, _ := serve(t, f, testGroups)
	read, admin := gidOf(t, testGroups.read), gidOf(t, testGroups.admin)
	many := make([]int, 200) // more than the first buffer for them holds
	for i := range many {
		many[i] = 70000 + i
	}
	cases := []struct {
		name         string
		uid, gid     int
		groups       []int
		look, change int
	}{
		{"root", 0, 0, nil, 200, 200},
		{"an outsider", 65534, 65534, nil, 403, 403},
		{"a reader by his main group", 65534, read, nil, 200, 403},
		{"a reader by another group", 65534, 65534, []int{65533, read}, 200, 403},
		{"an admin by his main group", 65534, admin, nil, 200, 200},
		{"an admin by another group", 65534, 65534, []int{admin}, 200, 200},
		{"an admin in many groups", 65534, 65534, append(many, admin), 200, 200},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			for _, r := range []struct {
				method, path string
				want         int
			}{
				{"GET", "/v1/status", c.look}, {"GET", "/metrics", c.look}, {"GET", "/v1/nothing", map[int]int{200: 404, 403: 403}[c.look]},
				{"POST", "/v1/components/disk0/bringup", c.change}, {"DELETE", "/v1/components/disk0", map[int]int{200: 405, 403: 403}[c.change]},
			} {
				conn, err := dialAs(socket, c.uid, c.gid, c.groups)
				if err != nil {
					t.Fatal(err)
				}
				got, body := ask(t, conn, r.method, r.path, "")
				if got != r.want {
					t.Errorf("%s %s: %d, want %d: %s", r.method, r.path, got, r.want, body)
				}
				if got == 403 && !(strings.Contains(body, `"code":"forbidden"`) && strings.Contains(body, testGroups.admin)) {
					t.Errorf("the refusal names no way out: %s", body)
				}
			}
		})
	}
	for _, c := range f.changes() {
		if c.By != "root" && c.By != "nobody" {
			t.Errorf("a change by %q", c.By)
		}
	}
	if n := len(f.changes()); n != 4 {
		t.Errorf("%d changes reached the daemon, want those of the 4 who may", n)
	}
}

func TestAnOutsiderCannotLockOthersOut(t *testing.T) {
	socket, _ := serve(t, newFake(t), testGroups)
	for range connsPerUIDMax {
		conn, err := dialAs(socket, 65534, 65534, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	conn, err := dialAs(socket, 65534, 65534, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var e Error
	if err := json.NewDecoder(resp.Body).Decode(&e); err != nil || resp.StatusCode != 503 || e.Code != CodeBusyServer {
		t.Errorf("one too many: %d %+v %v", resp.StatusCode, e, err)
	}
	c := NewClient(socket)
	defer c.Close()
	if _, err := c.Status(t.Context()); err != nil {
		t.Errorf("root is locked out: %v", err)
	}
}

func TestRequests(t *testing.T) {
	f := newFake(t)
	f.answer = func(c Change) (Outcome, error) {
		switch {
		case c.ID == "disk9":
			return Outcome{}, fmt.Errorf("core: %w", &NoSuchComponent{c.ID})
		case c.Verb == Bringdown && c.AcceptRisk == "":
			return Outcome{}, fmt.Errorf("core: %w", drivers.Refuse(drivers.RuleLastSide, "it is the last"))
		case c.Verb == Switch:
			return Outcome{}, errors.New("the driver does not answer")
		}
		return Outcome{Text: string(c.Verb) + " " + c.ID, Seq: 7}, nil
	}
	socket, _ := serve(t, f, testGroups)
	cases := []struct {
		method, path, body string
		code               int
		want               string
	}{
		{"GET", "/v1/version", "", 200, `{"version":"v1","go":"go","keeper":{"version":"v0","go":"","pid":7},"outdated":["disk0"]}`},
		{"POST", "/v1/components/pci1/disk0/bringup", "", 200, `{"text":"bringup pci1/disk0","seq":7}`},
		{"POST", "/v1/components/pci1/disk0/bringup", `{"accept_risk":"overwrite"}`, 200, `{"text":"bringup pci1/disk0","seq":7}`},
		{"POST", "/v1/components/pci1%2Fdisk0/bringdown", `{"accept_risk":"last-side"}`, 200, `{"text":"bringdown pci1/disk0","seq":7}`},
		{"POST", "/v1/components/disk0/resolve", `{"keep":"pci0/disk0"}`, 200, `{"text":"resolve disk0","seq":7}`},
		{"POST", "/v1/components/disk0/inject", `{"fault":"slow","args":["20"]}`, 200, `{"text":"inject disk0","seq":7}`},
		{"POST", "/v1/components/disk9/bringup", "", 404, `{"code":"not-found","sentence":"there is no component \"disk9\" on this box; ` + "`ftctl ls`" + ` lists them"}`},
		{"GET", "/v1/components/pci1/disk9", "", 404, `{"code":"not-found","sentence":"there is no component \"pci1/disk9\" on this box; ` + "`ftctl ls`" + ` lists them"}`},
		{"POST", "/v1/components/disk0/bringdown", "", 409, `{"code":"last-side","sentence":"it is the last","refused":true}`},
		{"POST", "/v1/components/disk0/switch", "", 500, `{"code":"failed","sentence":"the driver does not answer"}`},
		{"POST", "/v1/components/disk0/bringup", `{"accept_risk":"last-side"}`, 400, `{"code":"bad-request","sentence":"bringup knows no risk \"last-side\"; the one to accept is \"overwrite\""}`},
		{"POST", "/v1/components/disk0/inject", `{}`, 400, `{"code":"bad-request","sentence":"inject needs a fault: {\"fault\": \"hang\"}"}`},
		{"POST", "/v1/components/disk0/resolve", "", 400, `{"code":"bad-request","sentence":"resolve needs the side whose data stays: {\"keep\": \"pci0\"}"}`},
		{"POST", "/v1/components/guest/dump", `{"out":"core"}`, 400, `{"code":"bad-request","sentence":"a dump goes to a file on the box: \"core\" is no absolute path"}`},
		{"POST", "/v1/components/guest/dump", `{"side":"cpu1/guest","out":"/var/tmp/core"}`, 200, `{"text":"dump guest","seq":7}`},
		{"POST", "/v1/components/disk0/explode", "", 400, `{"code":"bad-request","sentence":"there is no verb \"explode\" for a component; there are bringup, bringdown, switch, machine, dump, priority, scrub, replace, reads, mtbf, policy, reload, resolve and inject"}`},
		{"POST", "/v1/components/disk0", "", 400, `{"code":"bad-request","sentence":"POST /v1/components/ID/VERB: the verb is missing"}`},
		{"POST", "/v1/components/disk0/bringup", `{"accept_rusk":""}`, 400, `{"code":"bad-request","sentence":"the request's body is not the JSON of a change: json: unknown field \"accept_rusk\""}`},
		{"POST", "/v1/components/disk0/bringup", `{"keep":"` + strings.Repeat("x", bodyBytesMax) + `"}`, 400, `{"code":"bad-request","sentence":"the request's body cannot be read: http: request body too large"}`},
		{"GET", "/v1/events?since=x", "", 400, `{"code":"bad-request","sentence":"since=x: a number is meant, that of the last event already seen"}`},
		{"GET", "/v1/components/disk0/bringup", "", 405, `{"code":"not-allowed","sentence":"/v1/components/disk0/bringup takes POST, not GET"}`},
		{"POST", "/v1/status", "", 405, `{"code":"not-allowed","sentence":"/v1/status takes GET and HEAD, not POST"}`},
		{"GET", "/v1/components//mtbf", "", 404, `{"code":"not-found","sentence":"ftd has no \"/v1/components//mtbf\": a path has no empty parts, and none that are dots"}`},
		{"POST", "/v1/components/box/reload", "", 200, `{"text":"reload box","seq":7}`},
		{"GET", "/v2/status", "", 404, `{"code":"not-found","sentence":"ftd has no GET /v2/status; the API is described in ARCHITECTURE.md"}`},
	}
	for _, c := range cases {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		code, body := ask(t, conn, c.method, c.path, c.body)
		if code != c.code || body != c.want {
			t.Errorf("%s %s %.60s: %d\n got %s\nwant %d\n     %s", c.method, c.path, c.body, code, body, c.code, c.want)
		}
	}
	want := Change{Verb: Resolve, ID: "disk0", By: "root", Keep: "pci0"}
	if d := cmp.Diff(want, f.changes()[3]); d != "" {
		t.Errorf("what reached the daemon (-want +got)\n%s", d)
	}
}

func TestTheClientReadsWhatTheServerWrites(t *testing.T) {
	f := newFake(t)
	socket, _ := serve(t, f, testGroups)
	c := NewClient(socket)
	defer c.Close()
	if _, err := f.log.Append(Event{ID: "pci1/disk0", To: "offline"}, Event{ID: "pci1/net0"}, Event{ID: "disk0"}); err != nil {
		t.Fatal(err)
	}
	st, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := f.status
	want.Devices[0].Stats = map[string]any{"reads": 12.0, "legs": map[string]any{"write_errors": 3.0}, "name": "x"}
	if d := cmp.Diff(want, st); d != "" {
		t.Errorf("status (-want +got)\n%s", d)
	}
	list, err := c.Components(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, x := range list {
		ids = append(ids, x.Kind+" "+x.ID+" "+x.State)
	}
	if d := cmp.Diff([]string{"system rack7 simplex", "module pci0 simplex", "module pci1 offline", "device disk0 simplex", "side pci0/disk0 simplex", "side pci1/disk0 offline", "device net0 duplex", "side pci0/net0 duplex", "side pci1/net0 duplex"}, ids); d != "" {
		t.Errorf("components (-want +got)\n%s", d)
	}
	for id, want := range map[string]string{
		"pci1/disk0": "side pci1/disk0 [pci1/disk0]", "pci1": "module pci1 [pci1/disk0 pci1/net0]",
		"disk0": "device disk0 [pci1/disk0 disk0]", "box": "system box [pci1/disk0 pci1/net0 disk0]", "rack7": "system box [pci1/disk0 pci1/net0 disk0]",
	} {
		x, err := c.Component(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		var about []string
		for _, e := range x.Events {
			about = append(about, e.ID)
		}
		if got := fmt.Sprint(x.Kind, " ", x.Detail["about"], " ", about); got != want {
			t.Errorf("%s: %s, want %s", id, got, want)
		}
	}
}

func TestTheClientSaysWhyFtdIsNotThere(t *testing.T) {
	dir := t.TempDir()
	ask := func(socket string) *Error {
		c := NewClient(socket)
		defer c.Close()
		_, err := c.Status(t.Context())
		var e *Error
		if !errors.As(err, &e) {
			t.Fatalf("%T %v", err, err)
		}
		return e
	}
	if e := ask(dir + "/none"); e.Code != CodeUnreachable || !strings.Contains(e.Sentence, "`ftd --socket "+dir+"/none`") {
		t.Errorf("no socket: %+v", e)
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: dir + "/dead", Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false)
	ln.Close()
	if e := ask(dir + "/dead"); e.Code != CodeUnreachable || !strings.Contains(e.Sentence, "nobody listens") {
		t.Errorf("dead socket: %+v", e)
	}
	other := http.Server{Handler: http.NotFoundHandler()}
	ln, err = net.ListenUnix("unix", &net.UnixAddr{Name: dir + "/other", Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	go other.Serve(ln)
	defer other.Close()
	if e := ask(dir + "/other"); e.Code != CodeProtocol || !strings.Contains(e.Sentence, "is not ftd") {
		t.Errorf("somebody else's socket: %+v", e)
	}
}

// A daemon that dies in the middle of a change leaves it open whether it was done.
func TestTheClientSaysWhenFtdDiesUnderAChange(t *testing.T) {
	socket := t.TempDir() + "/ftd.sock"
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = bufio.NewReader(conn).ReadString('\n')
			conn.Close()
		}
	}()
	c := NewClient(socket)
	defer c.Close()
	_, err = c.Change(t.Context(), Change{Verb: Bringdown, ID: "pci1"})
	var e *Error
	if !errors.As(err, &e) || e.Code != CodeUnreachable || !strings.Contains(e.Sentence, "whether it was done") {
		t.Errorf("%v", err)
	}
}

// Whatever the bytes: no panic, every answer but a success is a code and a sentence, and an
// outsider is told nothing and changes nothing.
func FuzzRequest(f *testing.F) {
	f.Add("POST", "/v1/components/pci1/disk0/bringup", []byte(`{"accept_risk":"overwrite"}`))
	f.Add("POST", "/v1/components/disk0/inject", []byte(`{"fault":"slow","args":["1","2"]}`))
	f.Add("POST", "/v1/components//x/../resolve", []byte(`{"keep":"pci0"}`))
	f.Add("GET", "/v1/events?since=18446744073709551615&follow=0", []byte(nil))
	f.Add("GET", "/v1/components/%2e%2e", []byte("x"))
	f.Add("POST", "/v1/components/pci1/bringdown", []byte(`{} {}`))
	f.Add("HEAD", "/metrics", []byte(nil))
	b := newFake(f)
	s := NewServer(b, Version{}, nil)
	s.log = discardLog
	s.stopping = context.Background()
	h := s.routes()
	f.Fuzz(func(t *testing.T, method, path string, body []byte) {
		if strings.Contains(path, "follow") && !strings.Contains(path, "follow=0") {
			return // goes on for ever, as it should
		}
		req, err := http.NewRequest(method, "http://ftd"+path, bytes.NewReader(body))
		if err != nil {
			return
		}
		b.mu.Lock()
		b.asked = nil
		b.mu.Unlock()
		outside := &answer{header: http.Header{}, code: 200}
		h.ServeHTTP(outside, req.WithContext(context.WithValue(t.Context(), peerKey{}, peer{uid: 65534, gids: []uint32{65534}})))
		if outside.code != http.StatusForbidden || len(b.changes()) > 0 {
			t.Fatalf("%s %q of an outsider: %d %q, and %d changes", method, path, outside.code, outside.body.String(), len(b.changes()))
		}
		req.Body = io.NopCloser(bytes.NewReader(body))
		w := &answer{header: http.Header{}, code: 200}
		h.ServeHTTP(w, req.WithContext(context.WithValue(t.Context(), peerKey{}, peer{})))
		if w.code == 200 || w.code == 301 || w.code == 307 || w.code == 308 { // the mux cleans paths by redirection
			return
		}
		var e Error
		if err := json.Unmarshal(w.body.Bytes(), &e); err != nil || e.Code == "" || e.Sentence == "" {
			t.Fatalf("%s %q: %d %q", method, path, w.code, w.body.String())
		}
		for _, c := range b.changes() {
			if c.ID == "" || c.check() != nil {
				t.Fatalf("reached the daemon: %+v", c)
			}
		}
	})
}
