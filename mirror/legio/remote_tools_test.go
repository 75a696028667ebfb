package legio

// What the tests of NBD legs need besides: a proxy, a server that answers anything, a measure.

import (
	"bytes"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ft/mirror/nbd"
)

// proxy stands between, and can cut connections or hold back what comes for the server.
type proxy struct {
	t      *testing.T
	path   string
	mu     sync.Mutex
	conns  []net.Conn
	held   bool
	passed int
}

func newProxy(t *testing.T, to string) *proxy {
	t.Helper()
	p := &proxy{t: t, path: filepath.Join(t.TempDir(), "proxy.sock")}
	l, err := net.Listen("unix", p.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close(); p.cut() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("unix", to)
			if err != nil {
				in.Close()
				continue
			}
			p.mu.Lock()
			p.conns, p.held, p.passed = append(p.conns, in, out), false, 0
			p.mu.Unlock()
			go p.pass(in, out, true)
			go p.pass(out, in, false)
		}
	}()
	return p
}

func (p *proxy) uri() string { return "nbd+unix:///?socket=" + p.path }

func (p *proxy) pass(from, to net.Conn, count bool) {
	defer from.Close()
	defer to.Close()
	b := make([]byte, 64<<10)
	for {
		n, err := from.Read(b)
		if err != nil {
			return
		}
		p.mu.Lock()
		drop := p.held && count
		if drop {
			p.passed += n
		}
		p.mu.Unlock()
		if drop {
			continue
		}
		if _, err := to.Write(b[:n]); err != nil {
			return
		}
	}
}

func (p *proxy) hold() { p.mu.Lock(); p.held = true; p.mu.Unlock() }

// got is how many bytes have been held back.
func (p *proxy) got() int { p.mu.Lock(); defer p.mu.Unlock(); return p.passed }

func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		c.Close()
	}
	p.conns = nil
}

func BenchmarkRemoteWrite(b *testing.B) {
	for _, depth := range []int{1, 16} {
		b.Run(fmt.Sprint(depth), func(b *testing.B) { benchRemote(b, depth) })
	}
}

func benchRemote(b *testing.B, depth int) {
	dir := b.TempDir()
	socket := filepath.Join(dir, "s")
	cmd := exec.Command("nbdkit", "-f", "-U", socket, "memory", "64M")
	if err := cmd.Start(); err != nil {
		b.Skip(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	var leg *Leg
	var err error
	for range 1000 {
		if leg, err = Open("nbd+unix:///?socket="+socket, OpenOptions{}); err == nil {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if err != nil {
		b.Fatal(err)
	}
	defer leg.Close()
	ring, err := NewRing(RingEntries)
	if err != nil {
		b.Fatal(err)
	}
	defer ring.Close()
	submit := func(io *IO) { ring.Submit([]*IO{io}, [3]*Leg{leg, leg}) }
	b.ResetTimer()
	begun, done := 0, 0
	for ; begun < min(depth, b.N); begun++ {
		submit(&IO{Op: Write, Off: int64(begun) * 4096, Len: 4096, Buf: alignedBytes(4096)})
	}
	for done < b.N {
		unix.Poll([]unix.PollFd{{Fd: int32(ring.Fd()), Events: unix.POLLIN}}, 1000)
		ring.Reap(func(io *IO) {
			if done++; begun < b.N {
				begun++
				submit(io)
			}
		})
	}
}

// FuzzReplies: whatever a server answers, every IO comes back, once.
func FuzzReplies(f *testing.F) {
	simple := func(cookie uint64, e nbd.Error, data int) []byte {
		return append(nbd.AppendSimpleReply(nil, cookie, e), make([]byte, data)...)
	}
	f.Add(bytes.Join([][]byte{simple(0, 0, 4096), simple(1, 0, 0), simple(2, 0, 0), simple(3, 0, 0)}, nil))
	f.Add(bytes.Join([][]byte{simple(3, 0, 0), simple(2, nbd.EINVAL, 0), simple(1, nbd.EIO, 0), simple(0, nbd.EIO, 0), simple(4, 0, 0)}, nil))
	f.Add(simple(9, 0, 0))
	f.Add(simple(0, nbd.ESHUTDOWN, 0))
	path := filepath.Join(f.TempDir(), "fuzz.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { l.Close() })
	f.Fuzz(func(t *testing.T, replies []byte) {
		go answerWith(l, replies)
		leg, err := Open("nbd+unix:///?socket="+path, OpenOptions{Fence: NewFence(0)})
		if err != nil {
			t.Fatal(err)
		}
		ring, err := NewRing(16)
		if err != nil {
			t.Fatal(err)
		}
		r := &remoteLeg{t, leg, ring}
		r.begin(&IO{Op: Read, Len: 4096, Buf: alignedBytes(4096)}, &IO{Op: Write, Len: 4096, Buf: alignedBytes(4096)},
			&IO{Op: Zero, Len: 1 << 20}, &IO{Op: Flush})
		r.wait(4)
		if n := ring.Reap(func(*IO) {}); n != 0 {
			t.Errorf("%d IOs came back twice", n)
		}
		leg.Close()
		<-leg.Closed()
		ring.Close()
	})
}

// answerWith shakes hands with one client, sends it the replies whatever it asks, and hangs
// up.
func answerWith(l net.Listener, replies []byte) {
	c, err := l.Accept()
	if err != nil {
		return
	}
	defer c.Close()
	h, out := nbd.NewHandshake(nbd.Export{Name: "x", Size: remoteBytes, BlockMin: 512, BlockGood: 4096, PayloadMax: 1 << 20,
		Flags: nbd.FlagSendFlush | nbd.FlagSendWriteZeroes})
	var in []byte
	b := make([]byte, 4096)
	for {
		c.Write(out)
		n, err := c.Read(b)
		if err != nil {
			return
		}
		in, out = append(in, b[:n]...), nil
		for {
			used, answer, phase, err := h.Step(in, out)
			if in, out = in[used:], answer; err != nil || phase == nbd.Ended {
				return
			}
			if phase == nbd.Transmission {
				c.Write(out)
				c.Read(b) // something has been asked
				c.Write(replies)
				return
			}
			if used == 0 {
				break
			}
		}
	}
}
