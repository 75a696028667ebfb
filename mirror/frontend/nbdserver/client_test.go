package nbdserver

// Clients that do what no good one does.

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ft/mirror/frontend"
	"ft/mirror/nbd"
)

// client is a connection in transmission, with simple replies.
type client struct {
	net.Conn
	t *testing.T
}

func dial(t *testing.T, d *testDisk) *client {
	t.Helper()
	c, err := net.Dial("unix", d.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := nbd.Dial(c, "disk0"); err != nil {
		t.Fatal(err)
	}
	return &client{c, t}
}

func (c *client) send(r nbd.Request, payload ...byte) {
	c.t.Helper()
	if _, err := c.Write(append(r.Append(nil), payload...)); err != nil {
		c.t.Fatal(err)
	}
}

// reply reads a simple reply, and its data.
func (c *client) reply(n int) (nbd.Reply, []byte) {
	c.t.Helper()
	head := make([]byte, nbd.SimpleReplyBytes)
	if _, err := io.ReadFull(c, head); err != nil {
		c.t.Fatal(err)
	}
	r, ok := nbd.ParseSimpleReply(head)
	if !ok {
		c.t.Fatalf("no simple reply: %x", head)
	}
	if r.Err != 0 {
		return r, nil
	}
	data := make([]byte, n)
	if _, err := io.ReadFull(c, data); err != nil {
		c.t.Fatal(err)
	}
	return r, data
}

func (c *client) wantError(r nbd.Request, want nbd.Error, payload ...byte) {
	c.t.Helper()
	c.send(r, payload...)
	if got, _ := c.reply(0); got.Err != want || got.Cookie != r.Cookie {
		c.t.Errorf("%+v was answered with %+v and not with error %d", r, got, want)
	}
}

// ended waits for the server to hang up.
func (c *client) ended() {
	c.t.Helper()
	if n, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Errorf("the server has not hung up: %d bytes, %v", n, err)
	}
}

func TestBadRequestsAreRefusedAndTheConnectionLives(t *testing.T) {
	d := newTestDisk(t, Options{})
	c := dial(t, d)
	c.wantError(nbd.Request{Type: nbd.CmdRead, Cookie: 1, Off: testBytes, Len: 512}, nbd.EINVAL)
	c.wantError(nbd.Request{Type: nbd.CmdRead, Cookie: 2, Off: 1, Len: 512}, nbd.EINVAL)
	c.wantError(nbd.Request{Type: nbd.CmdRead, Cookie: 3, Off: ^uint64(511), Len: 1024}, nbd.EINVAL)
	c.wantError(nbd.Request{Type: nbd.CmdRead, Cookie: 4, Len: 33 << 20}, nbd.EOVERFLOW)
	c.wantError(nbd.Request{Type: nbd.CmdWrite, Cookie: 5, Off: testBytes - 512, Len: 1024}, nbd.ENOSPC, make([]byte, 1024)...)
	c.wantError(nbd.Request{Type: nbd.CmdWrite, Cookie: 6, Len: 33 << 20}, nbd.EOVERFLOW, make([]byte, 33<<20)...)
	c.wantError(nbd.Request{Type: 99, Cookie: 7}, nbd.EINVAL)
	c.wantError(nbd.Request{Type: nbd.CmdWriteZeroes, Flags: 1 << 9, Cookie: 8, Len: 512}, nbd.EINVAL)
	c.wantError(nbd.Request{Type: nbd.CmdWriteZeroes, Flags: nbd.CmdFlagFastZero, Cookie: 9, Len: 512}, nbd.EINVAL)
	c.wantError(nbd.Request{Type: nbd.CmdBlockStatus, Cookie: 10, Len: 512}, nbd.EINVAL)
	c.wantError(nbd.Request{Type: nbd.CmdFlush, Cookie: 11, Len: 512}, nbd.EINVAL)
	c.wantError(nbd.Request{Type: nbd.CmdRead, Flags: nbd.CmdFlagDF, Cookie: 12, Len: 512}, nbd.EINVAL)
	for _, r := range []nbd.Request{{Type: nbd.CmdRead}, {Type: nbd.CmdWrite}, {Type: nbd.CmdTrim}, {Type: nbd.CmdWriteZeroes}, {Type: nbd.CmdCache, Len: 512}} {
		c.wantError(r, 0)
	}
	c.send(nbd.Request{Type: nbd.CmdWrite, Cookie: 13, Len: 512}, bytes.Repeat([]byte{7}, 512)...)
	c.reply(0)
	c.send(nbd.Request{Type: nbd.CmdRead, Cookie: 14, Len: 512})
	if _, b := c.reply(512); !bytes.Equal(b, bytes.Repeat([]byte{7}, 512)) {
		t.Error("what was written is not read")
	}
	c.send(nbd.Request{Type: nbd.CmdDisc})
	c.ended()
}

func TestWhatIsNoRequestEndsTheConnection(t *testing.T) {
	d := newTestDisk(t, Options{})
	for _, b := range [][]byte{
		make([]byte, nbd.RequestBytes),
		nbd.Request{Type: nbd.CmdWrite, Len: ^uint32(0)}.Append(nil),
	} {
		c := dial(t, d)
		c.Write(b)
		c.ended()
	}
	if s := d.s.Stats(); s.Cut != 2 {
		t.Errorf("%+v", s)
	}
}

func TestFUAIsAnsweredAfterAFlush(t *testing.T) {
	d := newTestDisk(t, Options{})
	c := dial(t, d)
	for _, r := range []nbd.Request{
		{Type: nbd.CmdWrite, Flags: nbd.CmdFlagFUA, Len: 3 << 20},
		{Type: nbd.CmdWriteZeroes, Flags: nbd.CmdFlagFUA, Len: 1 << 20},
		{Type: nbd.CmdWriteZeroes, Flags: nbd.CmdFlagFUA | nbd.CmdFlagNoHole, Len: 9 << 20},
		{Type: nbd.CmdTrim, Flags: nbd.CmdFlagFUA, Len: 1 << 20},
	} {
		d.mu.Lock()
		d.ops = nil
		d.mu.Unlock()
		c.wantError(r, 0, make([]byte, r.Payload())...)
		d.mu.Lock()
		ops := d.ops
		d.mu.Unlock()
		if len(ops) < 2 || ops[len(ops)-1] != frontend.Flush {
			t.Errorf("%+v: %v", r, ops)
		}
		noHole := r.Flags&nbd.CmdFlagNoHole != 0
		if want := int(r.Len>>20) + 1; noHole && (len(ops) != want || ops[0] != frontend.Write) {
			t.Errorf("NO_HOLE is to be written in parts of a megabyte: %v", ops)
		}
	}
	// The write fails: there is nothing to flush, and the error is the answer.
	d.mu.Lock()
	d.ops, d.fail = nil, func(*frontend.Request) syscall.Errno { return syscall.ENOSPC }
	d.mu.Unlock()
	c.wantError(nbd.Request{Type: nbd.CmdWrite, Flags: nbd.CmdFlagFUA, Len: 512}, nbd.ENOSPC, make([]byte, 512)...)
}

func TestMemoryIsBoundedAndOneClientDoesNotStarveTheOthers(t *testing.T) {
	d := newTestDisk(t, Options{stall: time.Second})
	// Clients that ask for all they may have, and take nothing of it.
	var greedy []*client
	for range bytesMax / connBytesMax {
		c := dial(t, d)
		for i := range uint64(8) {
			c.send(nbd.Request{Type: nbd.CmdRead, Cookie: i, Len: 32 << 20})
		}
		greedy = append(greedy, c)
	}
	// They hold all the memory there is until they are cut off, and then others have it.
	c := dial(t, d)
	c.send(nbd.Request{Type: nbd.CmdRead, Cookie: 77, Len: 4096})
	if r, _ := c.reply(4096); r.Err != 0 {
		t.Errorf("%+v", r)
	}
	eventually(t, "who takes nothing is cut off", func() bool { return d.s.Stats().Cut == uint64(len(greedy)) })
}

func TestManyCommandsThatNobodyReadsAnswersOf(t *testing.T) {
	d := newTestDisk(t, Options{stall: time.Minute})
	c := dial(t, d)
	c.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
	n := 0
	for batch := bytes.Repeat(nbd.Request{Type: nbd.CmdFlush}.Append(nil), 100); n < 1_000_000; n += 100 {
		if _, err := c.Write(batch); err != nil {
			break
		}
	}
	if n == 1_000_000 {
		t.Error("a million commands were taken of a client that reads no answers")
	}
	other := dial(t, d)
	other.wantError(nbd.Request{Type: nbd.CmdFlush, Cookie: 5}, 0)
}

func TestWhoDoesNotGoOnIsCutOff(t *testing.T) {
	d := newTestDisk(t, Options{handshake: time.Second, stall: time.Second})
	silent, err := net.Dial("unix", d.path)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	half := dial(t, d)
	half.send(nbd.Request{Type: nbd.CmdWrite, Len: 1 << 20}, make([]byte, 100)...)
	idle := dial(t, d)
	eventually(t, "both are cut off", func() bool { return d.s.Stats().Cut == 2 })
	half.ended()
	idle.wantError(nbd.Request{Type: nbd.CmdFlush}, 0) // who asks for nothing may stay
}

func TestTooManyClientsAreTurnedAway(t *testing.T) {
	d := newTestDisk(t, Options{})
	for range connsMax {
		dial(t, d)
	}
	if n, who := d.s.Users(); n != connsMax || !strings.Contains(who[0], "nbdserver.test) over NBD") {
		t.Errorf("%d users: %v", n, who)
	}
	one, err := net.Dial("unix", d.path)
	if err != nil {
		t.Fatal(err)
	}
	(&client{one, t}).ended()
	if s := d.s.Stats(); s.Refused != 1 || s.Connections != connsMax {
		t.Errorf("%+v", s)
	}
}

func TestCloseAnswersWhatIsUnderWay(t *testing.T) {
	d := newTestDisk(t, Options{})
	c := dial(t, d)
	d.mu.Lock()
	d.hold = true
	d.mu.Unlock()
	c.send(nbd.Request{Type: nbd.CmdWrite, Cookie: 1, Len: 512}, make([]byte, 512)...)
	eventually(t, "the write is under way", func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		return len(d.held) == 1
	})
	closed := make(chan error)
	go func() { closed <- d.s.Close() }()
	eventually(t, "the server is closing", d.s.closing.Load)
	d.release()
	if r, _ := c.reply(0); r.Err != 0 || r.Cookie != 1 {
		t.Errorf("%+v", r)
	}
	c.ended()
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

func TestABlockStatusThatHangsHoldsUpNothing(t *testing.T) {
	hangs := make(chan struct{})
	d := newTestDisk(t, Options{Extents: func(int64, int64, int) []nbd.Extent { <-hangs; return nil }})
	defer close(hangs)
	out := tool(t, "nbdinfo", "--map", uri(d))
	if strings.Fields(out)[3] != "data" {
		t.Errorf("%s", out)
	}
}

func TestASuccessorHasTheSameSocket(t *testing.T) {
	d := newTestDisk(t, Options{})
	copied, err := unix.FcntlInt(uintptr(d.s.Listener()), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(d.path); err == nil || !strings.Contains(err.Error(), "another process serves it") {
		t.Errorf("a second server on the same path: %v", err)
	}
	before := dial(t, d)
	if err := d.s.Close(); err != nil {
		t.Fatal(err)
	}
	before.ended()
	// Nobody serves now, and a client can connect all the same; it waits.
	waits, err := net.Dial("unix", d.path)
	if err != nil {
		t.Fatal(err)
	}
	defer waits.Close()
	if err := Adopt(copied, d.path+"x"); !errors.Is(err, ErrNotOurs) {
		t.Errorf("adopted for another path: %v", err)
	}
	if err := Adopt(copied, d.path); err != nil {
		t.Fatal(err)
	}
	serveDisk(t, copied, d.path, Options{})
	waits.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := nbd.Dial(waits, ""); err != nil {
		t.Error(err)
	}
}

func TestANameThatWasLeftIsReplaced(t *testing.T) {
	d := newTestDisk(t, Options{})
	if err := os.Chmod(d.path, 0o666); err != nil {
		t.Fatal(err)
	}
	d.s.Close() // the name stays
	fd, err := Listen(d.path)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if st, err := os.Stat(d.path); err != nil || st.Mode().Perm() != 0o666 {
		t.Errorf("the mode that an admin gave is not kept: %v %v", st.Mode(), err)
	}
	if err := Remove(d.path); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(d.path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the name is still there: %v", err)
	}
	if err := os.WriteFile(d.path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(d.path); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("a file is replaced: %v", err)
	}
}

// FuzzConnection gives a server whatever bytes after a good handshake, and before one.
func FuzzConnection(f *testing.F) {
	f.Add(true, nbd.Request{Type: nbd.CmdRead, Len: 4096}.Append(nil))
	f.Add(true, append(nbd.Request{Type: nbd.CmdWrite, Len: 512}.Append(nil), make([]byte, 600)...))
	f.Add(true, nbd.Request{Type: nbd.CmdBlockStatus, Len: 1 << 20}.Append(nil))
	f.Add(false, binary.BigEndian.AppendUint32(nil, 3))
	d := newTestDisk(f, Options{Log: slog.New(slog.DiscardHandler)})
	f.Fuzz(func(t *testing.T, after bool, b []byte) {
		c, err := net.Dial("unix", d.path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(10 * time.Second))
		if after {
			if _, err := nbd.Dial(c, ""); err != nil {
				t.Fatal(err)
			}
		}
		c.Write(b)
		c.(*net.UnixConn).CloseWrite()
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("the server neither answers nor hangs up")
		}
		other := dial(t, d)
		other.wantError(nbd.Request{Type: nbd.CmdFlush, Cookie: 5}, 0)
	})
}
