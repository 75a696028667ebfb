package fuseloop

// Faces in processes of their own, to be killed. The test binary starts itself again as
// the server; the test is the keeper of its descriptors and of the disk's memory.

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ft/mirror/frontend"
)

const serverEnv = "FUSELOOP_TEST_SERVER"

// Descriptors of a server process.
const (
	serverSocket = 3
	serverDisk   = 4
	serverFirst  = 5 // what it adopts
)

// order is what a server is told.
type order struct {
	Geometry frontend.Geometry
	Adopt    []string // names of the descriptors from serverFirst on; nil: create
}

// report is what it tells when it serves, with its descriptors.
type report struct {
	Err    string
	Device string
	Names  []string
}

// TestMain makes the test binary a server when it is started as one.
func TestMain(m *testing.M) {
	if text := os.Getenv(serverEnv); text != "" {
		var o order
		if err := json.Unmarshal([]byte(text), &o); err != nil {
			panic(err)
		}
		serverMain(o)
	}
	os.Exit(m.Run())
}

func serverMain(o order) {
	file := os.NewFile(serverSocket, "keeper")
	conn, err := net.FileConn(file)
	if err != nil {
		panic(err)
	}
	keeper := conn.(*net.UnixConn)
	f, err := serverFace(o)
	var rep report
	var fds []int
	if err != nil {
		rep.Err = err.Error()
	} else {
		rep.Device = f.Device()
		for _, name := range []string{descriptorsLoop, descriptorsFuse} {
			for _, fd := range f.Descriptors()[name] {
				rep.Names, fds = append(rep.Names, name), append(fds, fd)
			}
		}
	}
	text, _ := json.Marshal(rep)
	if _, _, err := keeper.WriteMsgUnix(text, unix.UnixRights(fds...), nil); err != nil {
		panic(err)
	}
	if err != nil {
		os.Exit(1)
	}
	disk, err := openRAMDisk(serverDisk, o.Geometry.Size)
	if err != nil {
		panic(err)
	}
	l := serve(f, late(disk))
	// The end of the keeper, or a word from it, is the end of the face.
	_, _ = keeper.Read(make([]byte, 1))
	if err := f.Close(); err != nil {
		panic(err)
	}
	if err := l.wait(); err != nil {
		panic(err)
	}
	os.Exit(0)
}

func serverFace(o order) (*Face, error) {
	if o.Adopt == nil {
		return Create(o.Geometry, Options{})
	}
	fds := map[string][]int{}
	for i, name := range o.Adopt {
		fds[name] = append(fds[name], serverFirst+i)
	}
	return Adopt(o.Geometry, fds, Options{})
}

// late answers half a millisecond later, from a thread that is not the queue's, so that
// there are requests in flight when the process is killed.
func late(d *ramDisk) func(*frontend.Request) {
	var mu sync.Mutex
	var held []*frontend.Request
	answer := func() {
		mu.Lock()
		due := held
		held = nil
		mu.Unlock()
		for _, r := range due {
			atOnce(d)(r)
		}
	}
	return func(r *frontend.Request) {
		mu.Lock()
		defer mu.Unlock()
		if held = append(held, r); len(held) == 1 {
			time.AfterFunc(500*time.Microsecond, answer)
		}
	}
}

// server is a server process.
type server struct {
	cmd    *exec.Cmd
	socket *net.UnixConn
	device string
	names  []string
	fds    []int // the keeper's copies
	bound  binding
}

// startServer starts a server of the disk, that creates its face, or adopts that of
// a dead one, whose descriptors are not needed any more then.
func startServer(t testing.TB, g frontend.Geometry, memfd int, adopt *server) *server {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "")
	ours := os.NewFile(uintptr(pair[0]), "")
	conn, err := net.FileConn(ours)
	if err != nil {
		t.Fatal(err)
	}
	_ = ours.Close()
	o := order{Geometry: g}
	s := &server{cmd: exec.Command("/proc/self/exe"), socket: conn.(*net.UnixConn)}
	s.cmd.Stderr = os.Stderr
	s.cmd.ExtraFiles = []*os.File{theirs, dupFile(t, memfd)}
	if adopt != nil {
		o.Adopt = adopt.names
		for _, fd := range adopt.fds {
			s.cmd.ExtraFiles = append(s.cmd.ExtraFiles, dupFile(t, fd))
		}
	}
	text, _ := json.Marshal(o)
	s.cmd.Env = append(os.Environ(), serverEnv+"="+string(text))
	err = s.cmd.Start()
	for _, f := range s.cmd.ExtraFiles {
		_ = f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.kill(); s.forget(); _ = s.socket.Close() })
	if err := s.receiveReport(); err != nil {
		t.Fatal(err)
	}
	guard(t, loopDevice{fd: s.fds[0]})
	s.bound = bindingOf(t, s.device)
	if adopt != nil {
		adopt.forget()
	}
	return s
}

func dupFile(t testing.TB, fd int) *os.File {
	t.Helper()
	d, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(d), "")
}

func (s *server) receiveReport() error {
	_ = s.socket.SetReadDeadline(time.Now().Add(patience))
	text, oob := make([]byte, 4096), make([]byte, 4096)
	n, oobn, _, _, err := s.socket.ReadMsgUnix(text, oob)
	if err != nil {
		return fmt.Errorf("the server's report: %w", err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return err
	}
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return err
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
		}
		s.fds = append(s.fds, fds...)
	}
	var rep report
	if err := json.Unmarshal(text[:n], &rep); err != nil {
		return err
	}
	if rep.Err != "" {
		return fmt.Errorf("the server: %s", rep.Err)
	}
	s.device, s.names = rep.Device, rep.Names
	return nil
}

// kill kills the process and waits until it is gone.
func (s *server) kill() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}

// forget closes the keeper's copies of the descriptors, the loop device's, the first,
// last.
func (s *server) forget() {
	slices.Reverse(s.fds)
	closeAll(s.fds...)
	s.fds = nil
}

// close has the server take its face down.
func (s *server) close(t testing.TB) {
	t.Helper()
	s.forget()
	if _, err := s.socket.Write([]byte{0}); err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Wait(); err != nil {
		t.Errorf("the server ended with %v", err)
	}
}

// binding is a loop device in the state of having our file under it. Its number may be
// another's a moment later.
type binding struct {
	sysfs string
	seq   string // diskseq, which is new with each file
}

func bindingOf(t testing.TB, device string) binding {
	t.Helper()
	b := binding{sysfs: "/sys/block/" + filepath.Base(device)}
	seq, err := os.ReadFile(b.sysfs + "/diskseq")
	if err != nil {
		t.Fatal(err)
	}
	b.seq = string(seq)
	return b
}

func (b binding) there() bool {
	_, err := os.Stat(b.sysfs + "/loop")
	seq, _ := os.ReadFile(b.sysfs + "/diskseq")
	return err == nil && string(seq) == b.seq
}

// expectFree waits until the loop device has let go.
func (b binding) expectFree(t testing.TB) {
	t.Helper()
	eventually(t, b.sysfs+" is free again", func() bool { return !b.there() })
}
