package backplane

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ft/chipset/lockstep"
)

// A chipset process that dies, and what its successor finds.

const mortalRole = "mortal-chipset"

// mortalSent is what the mortal chipset had sent.
const mortalSent = 20

// mortalChipset starts a module, hands its descriptors out, and works until it is killed.
func mortalChipset() int {
	inbox := NewInbox()
	m, err := Start(Config{Side: 1, CPU: -1, MemoryBytes: 4 << 20, Log: os.Stderr, Inbox: inbox, Patience: 20 * time.Second})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	m.RAM()[4711] = 42
	for n := range uint64(mortalSent) {
		if err := m.Send(&lockstep.Command{Verb: lockstep.Run, Number: n + 1, A: 10}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	for m.Passed() < mortalSent {
		<-inbox.Wake()
		inbox.Take(nil)
	}
	if err := unix.Sendmsg(3, []byte{1}, unix.UnixRights(m.Descriptors()...), nil, 0); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	time.Sleep(time.Hour)
	return 0
}

// orphan starts a chipset, has it killed, and returns the descriptors of its module.
func orphan(t *testing.T) []int {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "ours"), os.NewFile(uintptr(pair[1]), "theirs")
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := exec.Command("/proc/self/exe", mortalRole)
	c.Stderr, c.ExtraFiles = os.Stderr, []*os.File{theirs}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Process.Kill(); _ = c.Wait() }()
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	oob := make([]byte, unix.CmsgSpace(4*8))
	_, n, _, _, err := conn.(*net.UnixConn).ReadMsgUnix(make([]byte, 1), oob)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		t.Fatal(messages, err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		unix.CloseOnExec(fd)
	}
	return fds
}

func adopt(t *testing.T, side lockstep.Side, fds []int) *rig {
	t.Helper()
	m, err := Adopt(side, fds, NewInbox(), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return rigOf(t, m)
}

func TestAModuleOutlivesItsChipset(t *testing.T) {
	r := adopt(t, 1, orphan(t))
	if s, err := r.Settings(); err != nil || s.Side != 1 || s.MemoryBytes != 4<<20 {
		t.Errorf("settings: %+v, %v", s, err)
	}
	if n, ok := r.Last(); !ok || n != mortalSent {
		t.Errorf("the last command was %d, %v", n, ok)
	}
	if tail, ok := r.Tail(15); !ok || len(tail) != 6 || tail[0].Number != 15 || tail[0].A != 10 {
		t.Errorf("the tail: %+v, %v", tail, ok)
	}
	if r.RAM()[4711] != 42 {
		t.Error("its memory is another one")
	}
	r.run(21)
	if got := r.record(21); got.Steps != 210 {
		t.Errorf("it has lost its state: %+v", got)
	}
	r.signal(unix.SIGSTOP)
	r.run(22)
	r.gone(Stopped, fmt.Sprintf("cpu1: process %d is stopped", r.Pid()))
	r.Fence("stopped")
	<-r.Done()
}

func TestAnAdoptedModuleDies(t *testing.T) {
	r := adopt(t, 1, orphan(t))
	r.signal(unix.SIGKILL)
	r.gone(Died, fmt.Sprintf("cpu1: process %d has ended", r.Pid()))
}

func TestAModuleThatDiedBeforeItWasAdopted(t *testing.T) {
	fds := orphan(t)
	if err := unix.PidfdSendSignal(fds[descriptorProcess], unix.SIGKILL, nil, 0); err != nil {
		t.Fatal(err)
	}
	poll := []unix.PollFd{{Fd: int32(fds[descriptorProcess]), Events: unix.POLLIN}}
	if n, err := unix.Poll(poll, int(patience.Milliseconds())); n != 1 {
		t.Fatal(n, err)
	}
	r := adopt(t, 1, fds)
	r.gone(Died, "has ended")
	if n, ok := r.Last(); !ok || n != mortalSent {
		t.Errorf("the last command was %d, %v", n, ok)
	}
}

func TestWhatCannotBeAdopted(t *testing.T) {
	before := held()
	fds := orphan(t)
	if _, err := Adopt(1, fds[:3], NewInbox(), Limits{}); err == nil {
		t.Error("three descriptors were adopted")
	}
	_ = unix.PidfdSendSignal(fds[descriptorProcess], unix.SIGKILL, nil, 0)
	_ = unix.Close(fds[descriptorProcess])
	fds = orphan(t)
	_ = unix.PidfdSendSignal(fds[descriptorProcess], unix.SIGKILL, nil, 0)
	fds[descriptorRAM], fds[descriptorProcess] = fds[descriptorProcess], fds[descriptorRAM]
	if _, err := Adopt(1, fds, NewInbox(), Limits{}); err == nil {
		t.Error("descriptors in the wrong order were adopted")
	}
	if after := held(); after != before {
		t.Errorf("%s before, %s behind it", before, after)
	}
}

// duplicates are descriptors as a keeper has them.
func duplicates(t *testing.T, fds []int) (copies []int) {
	t.Helper()
	for _, fd := range fds {
		d, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		copies = append(copies, d)
	}
	return copies
}

func TestAHandOver(t *testing.T) {
	r := start(t, Config{Side: 0, CPU: -1})
	r.run(1)
	r.record(1)
	kept := duplicates(t, r.Descriptors())
	pid := r.Pid()
	r.HandOver()
	next := adopt(t, 0, kept)
	next.run(2)
	if got := next.record(2); got.Steps != 20 || next.Pid() != pid {
		t.Errorf("process %d, then %d: %+v", pid, next.Pid(), got)
	}
}

func TestAModuleThatNobodyAdoptsEnds(t *testing.T) {
	log := logFile(t)
	r := start(t, Config{Side: 1, CPU: -1, Log: log, Patience: 2 * time.Second})
	r.run(1)
	r.record(1)
	kept := duplicates(t, r.Descriptors())
	r.HandOver()
	poll := []unix.PollFd{{Fd: int32(kept[descriptorProcess]), Events: unix.POLLIN}}
	if n, err := unix.Poll(poll, int(patience.Milliseconds())); n != 1 {
		t.Fatal(n, err)
	}
	adopt(t, 1, kept).gone(Died, "ended with exit code 3")
	if b, _ := os.ReadFile(log.Name()); string(b) != "cpu1 ends: the chipset is gone: nothing was heard of it for 2s\n" {
		t.Errorf("its last words: %q", b)
	}
}
