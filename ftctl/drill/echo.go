package drill

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ft/drivers/netns"
)

// The echo load asks a neighbour for echoes through the face, many times a second (ICMP,
// RFC 792; ICMPv6, RFC 4443). What it finds is the gap: from the last request that was
// answered before some that were not, to the next one that was. A request without an answer
// is no loss: the network has promised none.

const (
	echoEvery      = 2 * time.Millisecond
	echoPatience   = time.Second // after which a request counts as unanswered
	echoTargetsMax = 2
	echoRing       = 4096 // requests remembered; above echoPatience / echoEvery
	echoRead       = 100 * time.Millisecond
	echoBuffer     = 4 << 20
	echoTries      = 5 // to find out whether somebody answers at all

	icmpEchoRequest, icmpEchoReply     = 8, 0
	icmpv6EchoRequest, icmpv6EchoReply = 128, 129
	icmpHeader                         = 8
	icmpPayload                        = 8 // the whole number of the request
)

type echoLoad struct {
	meter
	f      nicFace
	target netip.Addr
	fd     int
	id     uint16

	track echoTrack
}

// echoTrack follows which requests are answered.
type echoTrack struct {
	mu       sync.Mutex
	next     uint64 // number of the next request, from 1
	sent     [echoRing]time.Time
	answered [echoRing]bool
	last     uint64 // the latest that was answered
}

func newEchoLoad(f nicFace, target netip.Addr) (*echoLoad, error) {
	l := &echoLoad{f: f, target: target, id: uint16(rand.Uint32())}
	err := netns.Do(f.netns, func() (err error) {
		l.fd, err = l.open()
		return err
	})
	if err != nil {
		return nil, err
	}
	for range echoTries {
		if err = l.send(time.Now()); err == nil {
			if err = l.receive(); err == nil {
				l.track.seen()
				return l, nil
			}
		}
	}
	unix.Close(l.fd)
	if errors.Is(err, unix.EAGAIN) {
		err = errors.New("it does not answer")
	}
	return nil, err
}

func (l *echoLoad) open() (int, error) {
	family, protocol := unix.AF_INET, unix.IPPROTO_ICMP
	var to unix.Sockaddr = &unix.SockaddrInet4{Addr: l.target.Unmap().As4()}
	if l.target.Is6() && !l.target.Is4In6() {
		family, protocol = unix.AF_INET6, unix.IPPROTO_ICMPV6
		to = &unix.SockaddrInet6{Addr: l.target.As16()}
	}
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return -1, fmt.Errorf("open a raw socket: %w", err)
	}
	wait := unix.NsecToTimeval(echoRead.Nanoseconds())
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, echoBuffer) // that answers are not lost here
	err = errors.Join(
		unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, l.f.face),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait),
		unix.Connect(fd, to))
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("ask through %s: %w", l.f.face, err)
	}
	return fd, nil
}

func (l *echoLoad) Name() string   { return l.f.device + " echo " + l.target.String() }
func (l *echoLoad) Device() string { return l.f.device }
func (l *echoLoad) What() string {
	return fmt.Sprintf("%d echoes a second from %s", time.Second/echoEvery, l.target)
}

// send sends the next request. Its sequence number has 16 bits, its payload all of it.
func (l *echoLoad) send(now time.Time) error {
	n, late := l.track.ask(now)
	l.missed(late)
	var b [icmpHeader + icmpPayload]byte
	b[0] = icmpEchoRequest
	if l.target.Is6() {
		b[0] = icmpv6EchoRequest // its checksum is the kernel's to make
	}
	binary.BigEndian.PutUint16(b[4:], l.id)
	binary.BigEndian.PutUint16(b[6:], uint16(n))
	binary.BigEndian.PutUint64(b[icmpHeader:], n)
	if l.target.Is4() {
		binary.BigEndian.PutUint16(b[2:], onesComplement(b[:]))
	}
	err := unix.Send(l.fd, b[:], 0)
	if err == nil || errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.EAGAIN) {
		return nil
	}
	return err
}

// receive takes one answer.
func (l *echoLoad) receive() error {
	var b [512]byte
	for {
		n, _, err := unix.Recvfrom(l.fd, b[:], 0)
		if err != nil {
			return err
		}
		p, reply := b[:n], byte(icmpv6EchoReply)
		if l.target.Is4() { // with the IP header, RFC 791
			if n < 20 {
				continue
			}
			p, reply = p[min(n, int(p[0]&0xf)*4):], icmpEchoReply
		}
		if len(p) < icmpHeader+icmpPayload || p[0] != reply || binary.BigEndian.Uint16(p[4:]) != l.id {
			continue
		}
		gap := l.track.answer(binary.BigEndian.Uint64(p[icmpHeader:]))
		l.gap(gap)
		l.count(1, icmpPayload)
		return nil
	}
}

// Run asks until ctx ends.
func (l *echoLoad) Run(ctx context.Context) {
	defer unix.Close(l.fd)
	var asking sync.WaitGroup
	ended := make(chan struct{})
	asking.Go(func() {
		defer close(ended)
		tick := time.NewTicker(echoEvery)
		defer tick.Stop()
		for failing := false; ; {
			select {
			case <-ctx.Done():
				time.Sleep(echoRead) // for the last answers
				return
			case now := <-tick.C:
				err := l.send(now)
				if err != nil && !failing {
					l.failed(fmt.Errorf("echo to %s: %w", l.target, err))
				}
				failing = err != nil
			}
		}
	})
	for going := true; going; {
		select {
		case <-ended:
			going = false
		default:
			_ = l.receive() // nothing within echoRead is for track to see
		}
	}
	asking.Wait()
}

// Window counts a gap that lasts as well.
func (l *echoLoad) Window(now time.Time) Window {
	w := l.meter.Window(now)
	w.Stall = max(w.Stall, l.track.silence(now))
	return w
}

// ask numbers a request. late says whether the one of echoPatience ago has no answer.
func (t *echoTrack) ask(now time.Time) (n uint64, late int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.next == 0 {
		t.next = 1
	}
	n = t.next
	t.next++
	const back = uint64(echoPatience / echoEvery)
	if n > back && !t.answered[(n-back)%echoRing] {
		late = 1
	}
	t.sent[n%echoRing], t.answered[n%echoRing] = now, false
	return n, late
}

// answer notes an answer. When requests before it were not answered, the gap is the time
// from the last one that was.
func (t *echoTrack) answer(n uint64) (gap time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n == 0 || n >= t.next || t.next-n >= echoRing {
		return 0
	}
	t.answered[n%echoRing] = true
	if n <= t.last {
		return 0 // overtaken
	}
	if n > t.last+1 && t.last > 0 {
		if t.next-t.last < echoRing {
			gap = t.sent[n%echoRing].Sub(t.sent[t.last%echoRing])
		} else {
			gap = echoRing * echoEvery
		}
	}
	t.last = n
	return gap
}

// silence is how long a request has been without an answer, when that is longer than an
// answer takes.
func (t *echoTrack) silence(now time.Time) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.last == 0 || t.last+1 >= t.next || t.next-t.last >= echoRing {
		return 0
	}
	if quiet := now.Sub(t.sent[(t.last+1)%echoRing]); quiet > echoRead {
		return quiet
	}
	return 0
}

// seen forgets what was tried before the load began.
func (t *echoTrack) seen() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range t.answered {
		t.answered[i] = true
	}
	t.last = t.next - 1
}
