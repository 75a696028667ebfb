package api

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ft/drivers"
	"ft/ftd/eventlog"
)

// fake is a Backend with a fixed status that notes what it is asked.
type fake struct {
	status Status
	log    *eventlog.Log

	mu       sync.Mutex
	asked    []Change
	answer   func(Change) (Outcome, error)
	machines chan net.Conn // the other ends of consoles that were opened
}

func (f *fake) Status() Status { return f.status }

func (f *fake) Detail(_ context.Context, id string) map[string]any {
	return map[string]any{"about": id}
}

// FaultHistories knows one part.
func (f *fake) FaultHistories(id string) ([]FaultHistory, bool) {
	if id != "pci0/disk0" {
		return nil, false
	}
	return []FaultHistory{{ID: id, Part: "SN-1", Verdict: "good: no fault counts against it", Action: "none"}}, true
}

func (f *fake) Others(context.Context) (*Version, []string) {
	return &Version{Version: "v0", Pid: 7}, []string{"disk0"}
}

func (f *fake) Events() *eventlog.Log { return f.log }

func (f *fake) Change(_ context.Context, c Change) (Outcome, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, c)
	if f.answer != nil {
		return f.answer(c)
	}
	return Outcome{Text: "done", Seq: 1}, nil
}

// Console has one machine, guest. What is connected to comes out of machines.
func (f *fake) Console(_ context.Context, id string) (net.Conn, error) {
	if id == "nobody" {
		return nil, &NoSuchComponent{id}
	}
	if id != "guest" {
		return nil, drivers.Refuse("no-machine", "%s is no machine", id)
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "console")
		if ends[i], err = net.FileConn(file); err != nil {
			return nil, err
		}
		file.Close()
	}
	f.machines <- ends[1]
	return ends[0], nil
}

func (f *fake) changes() []Change {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]Change(nil), f.asked...)
}

func newFake(t testing.TB) *fake {
	t.Helper()
	log, err := eventlog.Open(t.TempDir(), 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	return &fake{log: log, machines: make(chan net.Conn, 64), status: Status{
		System:  SystemStatus{Name: "rack7", State: drivers.FaceSimplex, Verdict: "a leg is gone", Seq: 41},
		Modules: []ModuleStatus{{ID: "pci0", State: drivers.Simplex}, {ID: "pci1", State: drivers.Offline, SafeToPull: true}},
		Devices: []DeviceStatus{{ID: "disk0", Kind: "disk", State: drivers.FaceSimplex, Face: "/dev/ft/disk0",
			Stats: map[string]any{"reads": uint64(12), "legs": map[string]any{"write_errors": 3.0}, "name": "x"},
			Sides: []SideStatus{
				{ID: "pci0/disk0", State: drivers.Simplex, Resource: "/dev/loop0"},
				{ID: "pci1/disk0", State: drivers.Offline, SafeToPull: true, Resource: "/dev/loop1",
					Progress: &Progress{What: "resync", Percent: 50, RateBytes: 7}}},
		}, {ID: "net0", Kind: "nic", State: drivers.FaceDuplex, Face: "net0",
			Stats: map[string]any{"failovers": 3.0, "addresses": []any{"192.0.2.10/24"}, "mac": "02:46:54:00:00:01",
				"last_failover": map[string]any{"from": "eth1", "gap_us": 230.0},
				"pci0":          map[string]any{"probes_sent": 99.0, "carrier": true}, "pci1": map[string]any{"probes_sent": 98.0}},
			Sides: []SideStatus{
				{ID: "pci0/net0", State: drivers.Duplex, Resource: "eth0", Active: true},
				{ID: "pci1/net0", State: drivers.Duplex, Resource: "eth1"}},
		}},
	}}
}

// serve runs a server on a socket that everyone can reach, until the test ends.
func serve(t *testing.T, f *fake, g groups) (socket string, stop func()) {
	t.Helper()
	return serveWith(t, f, func(s *Server) { s.groups = g })
}

// serveWith lets a test change the server before it runs.
func serveWith(t *testing.T, f *fake, change func(*Server)) (socket string, stop func()) {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil { // TempDir's parent is its own, and closed
		t.Fatal(err)
	}
	socket = filepath.Join(dir, "ftd.sock")
	ln, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(f, Version{Version: "v1", Go: "go"}, slog.New(slog.DiscardHandler))
	change(s)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, ln) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(time.Minute):
			t.Error("the server does not stop")
		}
	})
	t.Cleanup(stop)
	return socket, stop
}

// dialAs connects with the credentials of another user. Raw system calls change those
// of one thread only, and the thread ends with the goroutine that is locked to it.
func dialAs(socket string, uid, gid int, groups []int) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread()
		conn, err := dialAsOnThread(socket, uid, gid, groups)
		done <- result{conn, err}
	}()
	r := <-done
	return r.conn, r.err
}

func dialAsOnThread(socket string, uid, gid int, groups []int) (net.Conn, error) {
	gids := make([]uint32, len(groups)+1)
	for i, g := range groups {
		gids[i] = uint32(g)
	}
	if errno := rawSetgroups(gids[:len(groups)]); errno != 0 {
		return nil, errno
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, uintptr(gid), uintptr(gid), uintptr(gid)); errno != 0 {
		return nil, errno
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); errno != 0 {
		return nil, errno
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "test")
	defer file.Close()
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: socket}); err != nil {
		return nil, err
	}
	return net.FileConn(file)
}
