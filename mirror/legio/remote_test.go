package legio

// Legs that are NBD servers: nbdkit and qemu-nbd.

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ft/drivers"
	"ft/mirror/nbd"
)

const remoteBytes = 64 << 20

// nbdServer is a server process on a unix socket.
type nbdServer struct {
	t      *testing.T
	socket string
	argv   []string
	cmd    *exec.Cmd
}

// nbdkit starts nbdkit with a plugin and its arguments on a socket of its own.
func nbdkit(t *testing.T, args ...string) *nbdServer {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "nbd.sock")
	return serveNBD(t, socket, append([]string{"nbdkit", "-f", "--exit-with-parent", "-U", socket}, args...)...)
}

func serveNBD(t *testing.T, socket string, argv ...string) *nbdServer {
	t.Helper()
	if _, err := exec.LookPath(argv[0]); err != nil {
		t.Skipf("%s is not there (.ci/needs test installs it)", argv[0])
	}
	s := &nbdServer{t: t, socket: socket, argv: argv}
	s.start()
	t.Cleanup(s.kill)
	return s
}

func (s *nbdServer) uri() string { return "nbd+unix:///?socket=" + s.socket }

// start starts the server and waits until it listens.
func (s *nbdServer) start() {
	s.t.Helper()
	os.Remove(s.socket)
	s.cmd = exec.CommandContext(context.Background(), s.argv[0], s.argv[1:]...)
	s.cmd.Stderr = s.t.Output()
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	// Without connecting: nbdkit 1.32 now and then ends when a client hangs up.
	remoteAwait(s.t, "the server to listen", func() bool {
		sockets, _ := os.ReadFile("/proc/net/unix")
		for line := range strings.Lines(string(sockets)) {
			f := strings.Fields(line)
			if len(f) == 8 && f[3] == "00010000" && f[7] == s.socket { // __SO_ACCEPTCON
				return true
			}
		}
		return false
	})
}

func (s *nbdServer) kill() {
	if s.cmd != nil {
		s.cmd.Process.Signal(syscall.SIGCONT)
		s.cmd.Process.Kill()
		s.cmd.Wait()
		s.cmd = nil
	}
}

func remoteAwait(t *testing.T, what string, is func() bool) {
	t.Helper()
	for until := time.Now().Add(30 * time.Second); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("not in 30 s: %s", what)
		}
	}
}

// remoteLeg opens a leg with a ring.
type remoteLeg struct {
	t    *testing.T
	leg  *Leg
	ring *Ring
}

func openRemoteLeg(t *testing.T, uri string, o OpenOptions) *remoteLeg {
	t.Helper()
	leg, err := Open(uri, o)
	if err != nil {
		t.Fatal(err)
	}
	ring, err := NewRing(RingEntries)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		leg.Close()
		<-leg.Closed()
		ring.Close()
	})
	return &remoteLeg{t, leg, ring}
}

// begin submits IOs. wait hands n back.
func (r *remoteLeg) begin(ios ...*IO) { r.ring.Submit(ios, [3]*Leg{r.leg, r.leg}) }

func (r *remoteLeg) wait(n int) []*IO {
	r.t.Helper()
	var done []*IO
	for until := time.Now().Add(30 * time.Second); len(done) < n; {
		r.ring.Reap(func(io *IO) { done = append(done, io) })
		if len(done) < n && time.Now().After(until) {
			r.t.Fatalf("%d of %d IOs came back in 30 s", len(done), n)
		}
		if len(done) < n {
			unix.Poll([]unix.PollFd{{Fd: int32(r.ring.Fd()), Events: unix.POLLIN}}, 100)
		}
	}
	return done
}

func (r *remoteLeg) run(ios ...*IO) {
	r.t.Helper()
	r.begin(ios...)
	for _, io := range r.wait(len(ios)) {
		if io.Err != 0 {
			r.t.Errorf("%v at %d: %v", io.Op, io.Off, io.Err)
		}
	}
}

func remoteBuf(n int, seed byte) []byte {
	b := alignedBytes(n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

func TestRemoteLegCarriesIO(t *testing.T) {
	file := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, make([]byte, remoteBytes), 0o600); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "q.sock")
	for name, s := range map[string]*nbdServer{
		"nbdkit":                    nbdkit(t, "memory", "64M"),
		"nbdkit without zeroes":     nbdkit(t, "--filter=nozero", "memory", "64M"),
		"nbdkit, small requests":    nbdkit(t, "--filter=blocksize-policy", "memory", "64M", "blocksize-minimum=4096", "blocksize-preferred=4096", "blocksize-maximum=65536", "blocksize-error-policy=error"),
		"nbdkit, zeroes that fail":  nbdkit(t, "--filter=error", "memory", "64M", "error-zero=EINVAL", "error-zero-rate=100%"),
		"nbdkit one after another":  nbdkit(t, "--filter=noparallel", "memory", "64M", "serialize=all-requests"),
		"nbdkit with random delays": nbdkit(t, "--filter=delay", "memory", "64M", "rdelay=3ms", "wdelay=2ms"),
		"qemu-nbd":                  serveNBD(t, socket, "qemu-nbd", "-t", "-k", socket, "-f", "raw", "-e", "4", "--discard=unmap", file),
	} {
		t.Run(name, func(t *testing.T) {
			r := openRemoteLeg(t, s.uri(), OpenOptions{})
			if r.leg.Bytes != remoteBytes || r.leg.LogicalBlock > 4096 || r.leg.Identity() != s.uri() {
				t.Errorf("%d bytes in blocks of %d, %s", r.leg.Bytes, r.leg.LogicalBlock, r.leg.Identity())
			}
			const n = 300 // more than the leg has under way at once
			var writes, reads []*IO
			content := remoteBuf(n*8192, 1)
			for i := range int64(n) {
				writes = append(writes, &IO{Op: Write, Off: i * 16384, Len: 8192, Buf: content[i*8192 : (i+1)*8192]})
				reads = append(reads, &IO{Op: Read, Off: i * 16384, Len: 8192, Buf: alignedBytes(8192)})
			}
			r.run(writes...)
			r.run(&IO{Op: Flush})
			r.run(reads...)
			for i, io := range reads {
				if !bytes.Equal(io.Buf, content[i*8192:(i+1)*8192]) {
					t.Fatalf("read %d is not what was written", i)
				}
			}
			large := remoteBuf(1<<20, 2)
			r.run(&IO{Op: Write, Off: 32 << 20, Len: 1 << 20, Buf: large})
			r.run(&IO{Op: Zero, Off: 0, Len: 20 << 20}, &IO{Op: Zero, Off: 32<<20 + 4096, Len: 8192})
			clear(large[4096 : 4096+8192])
			back := alignedBytes(1 << 20)
			r.run(&IO{Op: Read, Off: 32 << 20, Len: 1 << 20, Buf: back})
			if !bytes.Equal(back, large) {
				t.Error("a range in between was not zeroed, or more than that")
			}
			for off := int64(0); off < 20<<20; off += 1 << 20 {
				r.run(&IO{Op: Read, Off: off, Len: 1 << 20, Buf: back})
				if !bytes.Equal(back, make([]byte, 1<<20)) {
					t.Fatalf("not zeroed at %d", off)
				}
			}
			if _, err := r.leg.WriteAt([]byte(strings.Repeat("x", 4096)), remoteBytes-4096); err != nil {
				t.Error(err)
			}
			b := make([]byte, 10)
			if _, err := r.leg.ReadAt(b, remoteBytes-11); err != nil || string(b) != "xxxxxxxxxx" {
				t.Errorf("%q %v", b, err)
			}
			if err := r.leg.Sync(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestRemoteLegErrorsAreOfTheRequest(t *testing.T) {
	s := nbdkit(t, "--filter=error", "memory", "64M", "error-pwrite=EIO", "error-pwrite-rate=100%")
	r := openRemoteLeg(t, s.uri(), OpenOptions{})
	w := &IO{Op: Write, Len: 4096, Buf: alignedBytes(4096)}
	r.begin(w)
	if r.wait(1); w.Err != syscall.EIO || r.leg.Gone() {
		t.Errorf("%v, gone %v", w.Err, r.leg.Gone())
	}
	r.run(&IO{Op: Read, Len: 4096, Buf: alignedBytes(4096)})
}

func TestRemoteLegThatIsNotFitIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		uri  string
		want OpenKind
		says string
	}{
		"nobody":        {"nbd+unix:///?socket=" + filepath.Join(t.TempDir(), "none"), KindAbsent, "no server answers there"},
		"read-only":     {nbdkit(t, "-r", "memory", "64M").uri(), KindUnfit, "read-only"},
		"too small":     {nbdkit(t, "memory", "1M").uri(), KindUnfit, "at least"},
		"no such name":  {strings.Replace(nbdkit(t, "--filter=exportname", "memory", "64M", "exportname-strict=true", "exportname=a").uri(), "?", "b?", 1), KindUnfit, "does not let us"},
		"no address":    {"nbd:x", KindUnfit, "do not belong"},
		"no NBD server": {silentServer(t), KindAbsent, "in time"},
	} {
		leg, err := Open(c.uri, OpenOptions{MinBytes: 16 << 20, Deadline: 2 * time.Second})
		if leg != nil || !isKind(err, c.want) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// silentServer listens and says nothing.
func silentServer(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "silent")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return "nbd+unix:///?socket=" + path
}

// What was under way when the server died comes back with ENODEV, all of it, and the leg is
// gone. As the process is known to be dead, a new one is used at once.
func TestRemoteLegWhoseServerIsKilledIsGone(t *testing.T) {
	s := nbdkit(t, "--filter=delay", "memory", "64M", "wdelay=60", "rdelay=60")
	fence := NewFence(time.Hour)
	r := openRemoteLeg(t, s.uri(), OpenOptions{Fence: fence})
	for i := range int64(8) {
		r.begin(&IO{Op: Write, Off: i * 4096, Len: 4096, Buf: alignedBytes(4096)}, &IO{Op: Read, Off: i * 4096, Len: 4096, Buf: alignedBytes(4096)})
	}
	remoteAwait(t, "the requests to be under way", func() bool { n, _ := r.leg.Inflight(); return n == 16 })
	s.kill()
	for _, io := range r.wait(16) {
		if io.Err != syscall.ENODEV {
			t.Errorf("%v: %v", io.Op, io.Err)
		}
	}
	if !r.leg.Gone() {
		t.Error("the leg is not gone")
	}
	r.begin(&IO{Op: Flush})
	if io := r.wait(1)[0]; io.Err != syscall.ENODEV {
		t.Errorf("a flush on a connection that has ended: %v", io.Err)
	}
	r.leg.Close()
	s.start()
	openRemoteLeg(t, s.uri(), OpenOptions{Fence: fence})
}

// A server that lives may still carry out what it was sent: the slot waits.
func TestRemoteLegIsFencedWhileWritesMayStillLand(t *testing.T) {
	s := nbdkit(t, "memory", "64M")
	proxy := newProxy(t, s.socket)
	fence := NewFence(700 * time.Millisecond)
	r := openRemoteLeg(t, proxy.uri(), OpenOptions{Fence: fence})
	r.run(&IO{Op: Write, Len: 4096, Buf: alignedBytes(4096)})
	proxy.cut() // nothing is under way: nothing is in doubt
	remoteAwait(t, "the leg to be gone", r.leg.Gone)
	r = openRemoteLeg(t, proxy.uri(), OpenOptions{Fence: fence})
	proxy.hold()
	r.begin(&IO{Op: Write, Len: 4096, Buf: alignedBytes(4096)})
	remoteAwait(t, "the write to be under way", func() bool { n, _ := r.leg.Inflight(); return n == 1 })
	remoteAwait(t, "the proxy to have it", func() bool { return proxy.got() > nbd.RequestBytes })
	proxy.cut()
	if io := r.wait(1)[0]; io.Err != syscall.ENODEV {
		t.Errorf("%v", io.Err)
	}
	began := time.Now()
	for {
		leg, err := Open(proxy.uri(), OpenOptions{Fence: fence})
		if err == nil {
			leg.Close()
			break
		}
		if !Waits(err) || !strings.Contains(err.Error(), "1 writes were under way") {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	if waited := time.Since(began); waited < fence.Quiet {
		t.Errorf("let in after %v", waited)
	}
}

func TestRemoteLegHangsAndRecovers(t *testing.T) {
	s := nbdkit(t, "memory", "64M")
	r := openRemoteLeg(t, s.uri(), OpenOptions{Deadline: 300 * time.Millisecond})
	s.cmd.Process.Signal(syscall.SIGSTOP)
	remoteAwait(t, "the server to stand still", func() bool {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
		return bytes.Contains(b, []byte(") T "))
	})
	if err := r.leg.Sync(); !Hung(err) {
		t.Errorf("%v", err)
	}
	if r.leg.Gone() || r.leg.Quiet() {
		t.Error("a server that stands still is neither gone nor quiet")
	}
	s.cmd.Process.Signal(syscall.SIGCONT)
	remoteAwait(t, "the leg to be quiet", r.leg.Quiet)
	r.run(&IO{Op: Flush})
}

func TestRemoteLegKnowsForeignData(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "disk")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	os.Truncate(file, remoteBytes)
	s := nbdkit(t, "file", file)
	r := openRemoteLeg(t, s.uri(), OpenOptions{})
	if found, err := r.leg.Foreign(10 * time.Second); found != "" || err != nil {
		t.Errorf("%q %v", found, err)
	}
	if out, err := exec.Command("mkfs.ext4", "-q", "-L", "home", file).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if found, err := r.leg.Foreign(10 * time.Second); found != "ext4 file system (label home)" || err != nil {
		t.Errorf("%q %v", found, err)
	}
}

func TestRemoteLegFaults(t *testing.T) {
	s := nbdkit(t, "memory", "64M")
	faults := NewFaults()
	r := openRemoteLeg(t, s.uri(), OpenOptions{Faults: faults})
	read := func() syscall.Errno {
		r.begin(&IO{Op: Read, Len: 4096, Buf: alignedBytes(4096)})
		return r.wait(1)[0].Err
	}
	for fault, want := range map[string]syscall.Errno{"read-error": syscall.EIO, "vanish": syscall.ENODEV} {
		if err := faults.Inject(drivers.Fault{Name: fault}); err != nil {
			t.Fatal(err)
		}
		if got := read(); got != want {
			t.Errorf("%s: %v", fault, got)
		}
		faults.Inject(drivers.Fault{Name: "clear"})
	}
	if err := faults.Inject(drivers.Fault{Name: "corrupt", Args: []string{"8192"}}); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1)
	if _, err := r.leg.ReadAt(b, 8192); err != nil || b[0] != 1 {
		t.Errorf("%x %v", b, err)
	}
}

// What was answered comes back also where the connection broke while the rest of what was sent
// with it was still going out.
func TestRemoteLegHandsBackWhatWasAnsweredWhileTheConnectionBroke(t *testing.T) {
	ring, err := NewRing(RingEntries)
	if err != nil {
		t.Fatal(err)
	}
	defer ring.Close()
	ours, server := net.Pipe()
	r := &remote{leg: &Leg{}, conn: ours, piece: 4096, process: -1, export: nbd.Export{Flags: nbd.FlagSendFlush}}
	r.more.L = &r.mu
	for _, x := range []*IO{{Op: Flush}, {Op: Write, Len: 4096, Buf: remoteBuf(4096, 1)}} { // one batch
		x.os.ring = ring
		r.submit(x)
	}
	received := make(chan error, 1)
	r.sending.Add(1)
	go r.send()
	go func() { received <- r.receive() }()
	go r.see(received)
	if _, err := io.ReadFull(server, make([]byte, nbd.RequestBytes)); err != nil {
		t.Fatal(err)
	}
	if _, err := server.Write(nbd.AppendSimpleReply(nil, 0, 0)); err != nil {
		t.Fatal(err)
	}
	server.Close()
	for _, x := range (&remoteLeg{t: t, ring: ring}).wait(2) {
		if x.Err != syscall.ENODEV {
			t.Errorf("%v: %v", x.Op, x.Err)
		}
	}
}
