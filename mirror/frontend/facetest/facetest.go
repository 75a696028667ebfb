// Package facetest tries a frontend of the mirror with a process of its own, which can be
// killed, over a file: for the frontends that need another kernel, in a guest.
package facetest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"ft/drivers/kerneltest"
	"ft/mirror/frontend"
)

// The server is a process of its own, which can be killed: the test binary, told by the
// environment to be one.
const (
	serverMode = "FT_FACE_SERVER" // create or adopt
	serverFile = "FT_FACE_FILE"
	testBytes  = 64 << 20
)

// Kind is a frontend.
type Kind struct {
	Create func(g frontend.Geometry, serve func(frontend.Queue)) (frontend.Face, error)
	// Adopt is given the block device that was there, open.
	Adopt func(g frontend.Geometry, device int, serve func(frontend.Queue)) (frontend.Face, error)
	// Stall is how long a request may stand still when the process dies.
	Stall time.Duration
	// Left says whether a device is still there that should be gone.
	Left func() bool
	// Have says why this kernel does not have the frontend.
	Have func() error
}

// Main is the TestMain of a package that tests a kind.
func (k Kind) Main(m *testing.M) {
	if mode := os.Getenv(serverMode); mode != "" {
		if err := k.serveFile(mode, os.Getenv(serverFile)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// serveFile serves a file until standard input ends, then takes the face down.
func (k Kind) serveFile(mode, path string) error {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	g := frontend.Geometry{Name: "disk0", Size: testBytes, LogicalBlock: 512, PhysicalBlock: 4096}
	ended := make(chan error, 1)
	serve := func(q frontend.Queue) { go func() { ended <- serveQueue(q, file) }() }
	var f frontend.Face
	if mode == "adopt" {
		f, err = k.Adopt(g, 3, serve)
		unix.Close(3)
	} else {
		f, err = k.Create(g, serve)
	}
	if err != nil {
		return err
	}
	fmt.Println(f.Device())
	bufio.NewReader(os.Stdin).ReadString('\n')
	return errors.Join(f.Close(), <-ended)
}

func serveQueue(q frontend.Queue, file *os.File) error {
	runtime.LockOSThread()
	fds := []unix.PollFd{{Fd: int32(q.Fd()), Events: unix.POLLIN}}
	for {
		unix.Poll(fds, 1000)
		var got []*frontend.Request
		err := q.Receive(func(r *frontend.Request) { got = append(got, r) })
		for _, r := range got {
			var err error
			switch r.Op {
			case frontend.Read:
				_, err = file.ReadAt(r.Data, r.Off)
			case frontend.Write:
				_, err = file.WriteAt(r.Data, r.Off)
			case frontend.Zero:
				err = unix.Fallocate(int(file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, r.Off, r.Len)
			}
			if err != nil {
				r.Err = syscall.EIO
			}
			q.Reply(r)
			q.Free(r)
		}
		if errors.Is(err, frontend.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// server is such a process.
type server struct {
	k      Kind
	t      *testing.T
	file   string
	cmd    *exec.Cmd
	end    func() error
	dev    string
	device *os.File
}

func newServer(t *testing.T, k Kind) *server {
	t.Helper()
	if err := k.Have(); err != nil && kerneltest.InGuest() {
		t.Fatal(err)
	} else if err != nil {
		t.Skipf("%v: a test in a guest runs this", err)
	}
	s := &server{k: k, t: t, file: filepath.Join(t.TempDir(), "disk")}
	if err := os.WriteFile(s.file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(s.file, testBytes); err != nil {
		t.Fatal(err)
	}
	s.start("create")
	t.Cleanup(s.stop)
	return s
}

func (s *server) start(mode string) {
	s.t.Helper()
	s.cmd = exec.Command("/proc/self/exe")
	s.cmd.Env = append(os.Environ(), serverMode+"="+mode, serverFile+"="+s.file)
	s.cmd.Stderr = os.Stderr
	if s.device != nil {
		s.cmd.ExtraFiles = []*os.File{s.device}
	}
	in, err := s.cmd.StdinPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.end = in.Close
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		s.t.Fatalf("the server does not come up: %v", err)
	}
	if s.dev = strings.TrimSpace(line); s.device != nil {
		return
	}
	// The keeper's part.
	if s.device, err = os.Open(s.dev); err != nil {
		s.t.Fatal(err)
	}
}

func (s *server) kill() {
	s.cmd.Process.Kill()
	s.cmd.Wait()
	s.cmd = nil
}

func (s *server) stop() {
	if s.cmd == nil {
		return
	}
	s.device.Close()
	s.end()
	if err := s.cmd.Wait(); err != nil {
		s.t.Errorf("the server: %v", err)
	}
	s.cmd = nil
	if s.k.Left() {
		s.t.Error("the device is still there")
	}
}

func aligned(n int) []byte {
	b := make([]byte, n+4096)
	skip := int(-uintptr(unsafe.Pointer(&b[0])) & 4095)
	return b[skip : skip+n]
}

// FileSystem: the face carries ext4, with discards.
func (k Kind) FileSystem(t *testing.T) {
	s := newServer(t, k)
	if out, err := exec.Command("mkfs.ext4", "-q", s.dev).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v: %s", err, out)
	}
	dir := t.TempDir()
	content := make([]byte, 9<<20)
	rand.NewChaCha8([32]byte{1}).Read(content)
	for round := range 2 {
		if err := unix.Mount(s.dev, dir, "ext4", 0, "discard"); err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(dir, fmt.Sprint("file", round))
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Error(err)
		}
		if err := os.Remove(filepath.Join(dir, "file0")); err != nil && round == 0 {
			t.Error(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "file0"), content, 0o600); err != nil {
			t.Error(err)
		}
		if err := unix.Unmount(dir, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount(s.dev, dir, "ext4", 0, ""); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"file0", "file1"} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := unix.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
}

// Survives: the face's process is killed under load. Requests wait for a successor, and what
// the dead process had taken is asked of it again.
func (k Kind) Survives(t *testing.T) {
	s := newServer(t, k)
	fd, err := unix.Open(s.dev, unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	const writers = 4
	stop, ended := make(chan struct{}), make(chan error, writers)
	var rounds [writers]int
	for w := range writers {
		go func() {
			out, in := aligned(64<<10), aligned(64<<10)
			rnd := rand.NewChaCha8([32]byte{byte(w)})
			for ; ; rounds[w]++ {
				select {
				case <-stop:
					ended <- nil
					return
				default:
				}
				rnd.Read(out)
				off := int64(w)<<20 + int64(rounds[w]%8)*128<<10
				if _, err := unix.Pwrite(fd, out, off); err != nil {
					ended <- fmt.Errorf("write in round %d: %w", rounds[w], err)
					return
				}
				if _, err := unix.Pread(fd, in, off); err != nil || !bytes.Equal(in, out) {
					ended <- fmt.Errorf("read in round %d: %w, or not what was written", rounds[w], err)
					return
				}
			}
		}()
	}
	for range 3 {
		time.Sleep(time.Second)
		s.kill()
		began := time.Now()
		s.start("adopt")
		t.Logf("adopted after %v", time.Since(began).Round(time.Millisecond))
		time.Sleep(time.Second + 2*k.Stall)
	}
	close(stop)
	for range writers {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	t.Logf("rounds: %v", rounds)
}
