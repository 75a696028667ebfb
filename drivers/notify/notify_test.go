package notify

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

const limit = time.Minute

func text(s string) *string { return &s }

func TestMessagesSurviveTheWire(t *testing.T) {
	for _, m := range []Message{
		{},
		{Ready: true, Status: text("duplex, 3 % left"), Token: "abc"},
		{Watchdog: true},
		{Reloading: true},
		{Stopping: true, Exit: ExitHandOver},
		{Store: "fuse", Replace: true, NoPoll: true},
		{Remove: "disk0/fuse"},
		{Barrier: true},
		{Status: text("")},
	} {
		got, err := Parse(m.Encode())
		if err != nil || !cmp.Equal(got, m) {
			t.Errorf("%v: %s", err, cmp.Diff(m, got))
		}
	}
	m, err := Parse(Message{Status: text("a\nREADY=1\n" + strings.Repeat("ü", statusMax))}.Encode())
	if err != nil || m.Ready || len(*m.Status) > statusMax || !strings.HasPrefix(*m.Status, "a READY=1") {
		t.Errorf("a text of several lines became %+v, %v", m, err)
	}
	for _, bad := range []string{"FDSTORE=1", "FDSTORE=1\nFDNAME=a:b", "FDSTORE=1\nFDNAME=" + strings.Repeat("x", 129), "FDSTORE=1\nFDSTOREREMOVE=1\nFDNAME=a", "FDSTOREREMOVE=1\nFDNAME=a b"} {
		if m, err := Parse([]byte(bad)); err == nil || m.Store != "" || m.Remove != "" {
			t.Errorf("%q was taken as %+v", bad, m)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("READY=1\nSTATUS=x\nFDSTORE=1\nFDNAME=fuse\n"))
	f.Add([]byte("FDSTOREREMOVE=1\nFDNAME=fuse\nBARRIER=1"))
	f.Add([]byte("=\n\x00\nSTATUS=\xff\xfe"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Parse(b)
		if err != nil {
			return
		}
		again, err := Parse(m.Encode())
		if err != nil || (m.Status == nil) != (again.Status == nil) || m.Store != again.Store || m.Remove != again.Remove || m.Ready != again.Ready {
			t.Fatalf("%q: %+v, encoded and parsed again %+v, %v", b, m, again, err)
		}
	})
}

// listen makes a receiver that hands its packets to f.
func listen(t *testing.T, f func(Packet)) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	r, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			p, err := r.Receive()
			if err != nil {
				return
			}
			f(p)
		}
	}()
	t.Cleanup(func() { r.Close(); <-done })
	return path
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

func TestDescriptorsArriveWithTheirSender(t *testing.T) {
	got := make(chan Packet, 1)
	path := listen(t, func(p Packet) { got <- p })
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pipe[0])
	s := NewSender(path, "tok")
	if !s.Send(Message{Store: "pipe"}, pipe[1], pipe[1]) {
		t.Fatal("not sent")
	}
	unix.Close(pipe[1])
	p := <-got
	defer p.Close()
	if p.Err != nil || p.Pid != os.Getpid() || p.Uid != uint32(os.Getuid()) || p.Token != "tok" || p.Store != "pipe" || len(p.Fds) != 2 {
		t.Fatalf("received %+v", p)
	}
	for _, fd := range p.Fds {
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("descriptor %d would be inherited (%v)", fd, err)
		}
	}
	if _, err := unix.Write(p.Fds[1], []byte("x")); err != nil {
		t.Error(err)
	}
	if n, err := unix.Read(pipe[0], make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("what came is not the pipe: %d, %v", n, err)
	}
}

func TestMostDescriptorsFitOneMessage(t *testing.T) {
	got := make(chan Packet, 1)
	path := listen(t, func(p Packet) { got <- p })
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	fds := make([]int, FdsMax+1)
	for i := range fds {
		fds[i] = int(null.Fd())
	}
	s := NewSender(path, "")
	if s.Send(Message{Store: "x"}, fds...) {
		t.Error("more than the kernel's limit was sent")
	}
	if !s.Send(Message{Store: "x"}, fds[:FdsMax]...) {
		t.Fatal("not sent")
	}
	p := <-got
	defer p.Close()
	if p.Err != nil || len(p.Fds) != FdsMax {
		t.Errorf("%d descriptors arrived, %v", len(p.Fds), p.Err)
	}
}

// TestFloodNeverBlocks fills the socket of a receiver that does not read.
func TestFloodNeverBlocks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	r, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	s := NewSender(path, "")
	const n = 1000
	var slowest time.Duration
	sent := 0
	for range n {
		t0 := time.Now()
		if s.Send(Message{Watchdog: true}) {
			sent++
		}
		slowest = max(slowest, time.Since(t0))
	}
	if slowest > 30*time.Second { // on a machine that has much else to do
		t.Errorf("a message took %v", slowest)
	}
	if sent == 0 || sent == n || s.Drops() != uint64(n-sent) {
		t.Errorf("%d of %d sent, %d counted as dropped", sent, n, s.Drops())
	}
	t.Logf("%d datagrams fit", sent)

	// Confirm gives up at its deadline …
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.Confirm(ctx, Message{Store: "x"}, 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("confirmed by nobody: %v", err)
	}
	// … and gets through when the receiver wakes.
	go func() {
		for {
			p, err := r.Receive()
			if err != nil {
				return
			}
			p.Close()
		}
	}()
	if err := s.Confirm(within(t), Message{Store: "x"}, 0); err != nil {
		t.Errorf("not confirmed by a receiver that reads: %v", err)
	}
}

// answering answers barriers like the keeper does.
func answering(t *testing.T, answer func(n int) string) string {
	n := 0
	return listen(t, func(p Packet) {
		defer p.Close()
		if p.Barrier {
			n++
			_, _ = unix.Write(p.Fds[0], []byte(answer(n)))
		}
	})
}

func TestConfirmBringsTheAnswerBack(t *testing.T) {
	path := answering(t, func(int) string { return "too many descriptors\n" })
	if err := NewSender(path, "tok").Confirm(within(t), Message{Store: "x"}, 0); err == nil || err.Error() != "too many descriptors" {
		t.Errorf("got %v", err)
	}
	// A keeper that ends with the message in hand has confirmed nothing: the barrier's
	// descriptor is closed with it, unanswered. The next one answers.
	asked := 0
	path = answering(t, func(n int) string { asked = n; return []string{"", "ok\n"}[min(n, 2)-1] })
	if err := NewSender(path, "tok").Confirm(within(t), Message{Store: "x"}, 0); err != nil || asked != 2 {
		t.Errorf("got %v after asking %d times, want twice", err, asked)
	}
	// systemd only closes it.
	path = answering(t, func(int) string { return "" })
	if err := NewSender(path, "").Confirm(within(t), Message{Store: "x"}, 0); err != nil {
		t.Errorf("got %v", err)
	}
}

func TestConfirmWaitsForAReceiverThatRestarts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	s := NewSender(path, "tok")
	done := make(chan error, 1)
	go func() { done <- s.Confirm(within(t), Message{Store: "x"}, 0) }()
	r, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	go func() {
		for {
			p, err := r.Receive()
			if err != nil {
				return
			}
			if p.Barrier {
				_, _ = unix.Write(p.Fds[0], []byte("ok\n"))
			}
			p.Close()
		}
	}()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestNobodyWatches(t *testing.T) {
	s := NewSender("", "")
	if !s.Send(Message{Ready: true}) || s.Confirm(t.Context(), Message{Ready: true}) != nil || s.Drops() != 0 {
		t.Error("a sender that nobody watches has errors")
	}
}

func TestInheritTakesOnlyWhatIsOurs(t *testing.T) {
	pid := strconv.Itoa(os.Getpid())
	for name, c := range map[string]struct {
		fds, names, pid, token string
		want                   int
		fail                   bool
	}{
		"nothing":                  {},
		"another process's":        {fds: "1", names: "a", pid: "1"},
		"left over in a shell":     {fds: "1", names: "a"},
		"no number":                {fds: "many", names: "a", pid: pid, fail: true},
		"more names":               {fds: "1", names: "a:b", pid: pid, fail: true},
		"keeper's, no names":       {fds: "1", token: "t", fail: true},
		"keeper's, none":           {fds: "0", token: "t"},
		"a descriptor that is not": {fds: "1000", names: strings.Repeat(":", 999), pid: pid, fail: true},
	} {
		t.Run(name, func(t *testing.T) {
			for k, v := range map[string]string{EnvListenFds: c.fds, EnvListenNames: c.names, EnvListenPid: c.pid, EnvToken: c.token} {
				t.Setenv(k, v)
				if v == "" {
					os.Unsetenv(k)
				}
			}
			fds, err := Inherit()
			if (err != nil) != c.fail || len(fds) != c.want {
				t.Errorf("got %v, %v", fds, err)
			}
			if os.Getenv(EnvListenFds) != "" {
				t.Error("the environment is left for children")
			}
		})
	}
}

func TestGateStaysShutWhenTheKeeperDies(t *testing.T) {
	for what, open := range map[string]bool{"opened": true, "the keeper died": false} {
		var pipe [2]int
		if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		if open {
			if _, err := unix.Write(pipe[1], []byte{1}); err != nil {
				t.Fatal(err)
			}
		}
		unix.Close(pipe[1])
		fds := map[string][]int{GateName: {pipe[0]}, "face": {9}}
		err := Gate(fds)
		if open != (err == nil) || !open && !errors.Is(err, ErrNotLetGo) {
			t.Errorf("%s: %v", what, err)
		}
		if len(fds) != 1 {
			t.Errorf("%s: the gate is left among the descriptors", what)
		}
	}
}
