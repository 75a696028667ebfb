package bondtest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A stream is numbered UDP datagrams at a steady rate from one namespace to another. Each
// carries its number and the time it was sent at, so that what was lost is known by number
// and for how long by the sender's clock: a machine that is busy makes no loss of a delay.

// Direction of a stream.
type Direction int

// Directions.
const (
	ToPeer   Direction = iota // from the box's face
	FromPeer                  // to the box's face
)

func (d Direction) String() string { return [...]string{"to the peer", "from the peer"}[d] }

const (
	streamPayload  = 16      // number, time sent
	streamMax      = 1 << 22 // datagrams of one stream: 14 minutes at 5 kHz
	streamBuffer   = 4 << 20 // bytes that wait for a receiver without CPU
	streamBehind   = 5       // periods that a late sender catches up
	streamQuiet    = 250 * time.Millisecond
	streamPatience = 100 * time.Millisecond // between looks at whether to end
)

// StreamResult is what became of a stream.
type StreamResult struct {
	Sent       int // also what the kernel refused to send
	SendErrors int // of these: refused
	Received   int // different ones
	Lost       int
	LostFirst  int // of these: before the first that arrived
	Duplicated int // arrivals of what had arrived before
	Reordered  int // arrivals after a later one
	// LongestGap is the longest time by the sender's clock between two datagrams that
	// arrived with none in between that did, and at least one lost: 0 when nothing was.
	LongestGap time.Duration
	// LongestDelay is the longest time from sending to the receiving kernel.
	LongestDelay time.Duration
	FirstError   error
}

func (r StreamResult) String() string {
	return fmt.Sprintf("sent %d, lost %d (refused %d), duplicated %d, reordered %d, longest gap %v, longest delay %v",
		r.Sent, r.Lost, r.SendErrors, r.Duplicated, r.Reordered, r.LongestGap.Round(time.Microsecond), r.LongestDelay.Round(time.Microsecond))
}

// Stream is a stream that runs.
type Stream struct {
	t        TB
	out, in  *net.UDPConn
	interval time.Duration
	stop     chan struct{}
	ended    sync.WaitGroup // sender
	received sync.WaitGroup
	once     sync.Once
	sentAll  atomic.Bool
	count    atomic.Int64 // of arrivals
	left     atomic.Int64 // of what was sent

	// The sender's, until ended.
	sent       []int64 // UnixNano, by number
	sendErrors int
	firstError error

	// The receiver's, until received.
	seen  map[uint64]int
	last  uint64
	order int
	delay time.Duration
}

// Stream starts a stream of rate datagrams a second over IPv4. The face must have its
// addresses. It ends with Stop, or with the test.
func (n *Net) Stream(d Direction, rate int) *Stream {
	n.t.Helper()
	from, to, fromIP, toIP := Box, Peer, BoxIP4, PeerIP4
	if d == FromPeer {
		from, to, fromIP, toIP = Peer, Box, PeerIP4, BoxIP4
	}
	var in, out *net.UDPConn
	var err error
	n.In(to, func() { in, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(toIP)}) })
	n.must(err, "listen for a stream in the %s", to)
	n.In(from, func() {
		out, err = net.DialUDP("udp4", &net.UDPAddr{IP: net.ParseIP(fromIP)}, in.LocalAddr().(*net.UDPAddr))
	})
	if err != nil {
		in.Close()
	}
	n.must(err, "open a stream in the %s", from)
	s, err := StartStream(n.t, out, in, rate)
	n.must(err, "start a stream %s", d)
	return s
}

// StartStream runs a stream over any two sockets, which it closes at its end.
func StartStream(t TB, out, in *net.UDPConn, rate int) (*Stream, error) {
	s := &Stream{t: t, out: out, in: in, interval: time.Second / time.Duration(rate),
		stop: make(chan struct{}), seen: map[uint64]int{}}
	if err := prepareReceiver(in); err != nil {
		in.Close()
		out.Close()
		return nil, err
	}
	s.received.Add(1)
	go func() { defer s.received.Done(); s.receive() }()
	s.ended.Add(1)
	go func() { defer s.ended.Done(); s.send() }()
	t.Cleanup(func() { s.finish() })
	return s, nil
}

func prepareReceiver(c *net.UDPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return fmt.Errorf("reach the receiver's socket: %w", err)
	}
	var inner error
	err = raw.Control(func(fd uintptr) {
		if inner = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, streamBuffer); inner != nil {
			inner = fmt.Errorf("SO_RCVBUFFORCE: %w", inner)
			return
		}
		if inner = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1); inner != nil {
			inner = fmt.Errorf("SO_TIMESTAMPNS: %w", inner)
		}
	})
	return errors.Join(err, inner)
}

// send keeps to absolute times, and skips what it is too late for.
func (s *Stream) send() {
	runtime.LockOSThread() // of its own: the sleep is the kernel's
	defer runtime.UnlockOSThread()
	var due unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &due); err != nil {
		s.firstError = fmt.Errorf("clock_gettime: %w", err)
		return
	}
	next := due.Nano()
	var b [streamPayload]byte
	for len(s.sent) < streamMax {
		select {
		case <-s.stop:
			return
		default:
		}
		stamp := time.Now().UnixNano()
		binary.BigEndian.PutUint64(b[0:], uint64(len(s.sent)))
		binary.BigEndian.PutUint64(b[8:], uint64(stamp))
		s.sent = append(s.sent, stamp)
		if _, err := s.out.Write(b[:]); err != nil {
			s.sendErrors++
			if s.firstError == nil {
				s.firstError = err
			}
		}
		s.left.Add(1)
		next += int64(s.interval)
		var now unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err == nil && now.Nano()-next > streamBehind*int64(s.interval) {
			next = now.Nano()
		}
		due = unix.NsecToTimespec(next)
		for unix.ClockNanosleep(unix.CLOCK_MONOTONIC, unix.TIMER_ABSTIME, &due, nil) == unix.EINTR {
		}
	}
}

// receive ends when the sender has and all has come, or nothing has for streamQuiet.
func (s *Stream) receive() {
	var b [64]byte
	oob := make([]byte, 64)
	var quietSince time.Time
	for {
		_ = s.in.SetReadDeadline(time.Now().Add(streamPatience)) // an open socket's cannot fail
		n, oobn, _, _, err := s.in.ReadMsgUDP(b[:], oob)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if !s.sentAll.Load() {
				continue
			}
			if quietSince.IsZero() {
				quietSince = time.Now()
			}
			if len(s.seen) == len(s.sent) || time.Since(quietSince) > streamQuiet {
				return
			}
			continue
		case err != nil:
			return
		}
		quietSince = time.Time{}
		if n == streamPayload {
			s.arrived(binary.BigEndian.Uint64(b[0:]), int64(binary.BigEndian.Uint64(b[8:])), arrival(oob[:oobn]))
		}
	}
}

func (s *Stream) arrived(number uint64, sent, at int64) {
	if s.seen[number]++; s.seen[number] == 1 {
		if number < s.last {
			s.order++
		}
		s.last = max(s.last, number)
	}
	s.delay = max(s.delay, time.Duration(at-sent))
	s.count.Add(1)
}

// arrival is the receiving kernel's time of a datagram (socket(7), SO_TIMESTAMPNS).
func arrival(oob []byte) int64 {
	for len(oob) > 0 {
		h, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			break
		}
		if h.Level == unix.SOL_SOCKET && h.Type == unix.SCM_TIMESTAMPNS && len(data) >= 16 {
			return int64(binary.NativeEndian.Uint64(data))*1e9 + int64(binary.NativeEndian.Uint64(data[8:]))
		}
		oob = rest
	}
	return time.Now().UnixNano()
}

// Arrived is how many datagrams have arrived until now, duplicates too.
func (s *Stream) Arrived() int { return int(s.count.Load()) }

// WaitArrived waits until n more than now have arrived. within is how long nothing may come,
// on a quiet machine.
func (s *Stream) WaitArrived(n int, within time.Duration) {
	s.t.Helper()
	s.wait(fmt.Sprintf("%d more datagrams of the stream arrived", n), n, within, &s.count)
}

// WaitSent waits until n more than now have been sent, arrive they or not.
func (s *Stream) WaitSent(n int, within time.Duration) {
	s.t.Helper()
	s.wait(fmt.Sprintf("%d more datagrams of the stream sent", n), n, within, &s.left)
}

func (s *Stream) wait(what string, n int, within time.Duration, count *atomic.Int64) {
	s.t.Helper()
	for last, want := count.Load(), count.Load()+int64(n); last < want; last = count.Load() {
		WaitFor(s.t, what, within, func() bool { return count.Load() > last })
	}
}

// Stop ends the stream, waits for what is on its way, and counts.
func (s *Stream) Stop() StreamResult {
	s.finish()
	r := StreamResult{Sent: len(s.sent), SendErrors: s.sendErrors, FirstError: s.firstError,
		Received: len(s.seen), Reordered: s.order, LongestDelay: s.delay}
	r.Lost = r.Sent - r.Received
	before := -1 // the last one that arrived
	for i := range s.sent {
		times := s.seen[uint64(i)]
		if times == 0 {
			continue
		}
		r.Duplicated += times - 1
		if before < 0 {
			r.LostFirst = i
		}
		if before >= 0 && before < i-1 {
			r.LongestGap = max(r.LongestGap, time.Duration(s.sent[i]-s.sent[before]))
		}
		before = i
	}
	return r
}

func (s *Stream) finish() {
	s.once.Do(func() {
		close(s.stop)
		s.ended.Wait()
		s.sentAll.Store(true)
		s.received.Wait()
		s.out.Close()
		s.in.Close()
	})
}
