package bond

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"ft/bond/bondtest"
	"ft/drivers"
)

// TCP in both directions goes on through failovers of every kind, with every byte.
func TestTCPSurvives(t *testing.T) {
	onEachPath(t, func(t *testing.T, kind string) {
		r := newRig(t, kind, nil)
		r.attach(1)
		transfers := []*transfer{r.transfer(bondtest.ToPeer), r.transfer(bondtest.FromPeer)}
		goOn := func(when string) {
			t.Helper()
			for _, x := range transfers {
				more := x.received() + 1<<18
				bondtest.WaitFor(t, "bytes of "+x.name+", "+when, 10*time.Second, func() bool { return x.received() >= more })
			}
		}
		goOn("at the start")
		r.net.PullCable(0)
		r.carries(1)
		goOn("after a pulled cable")
		r.net.ReturnCable(0)
		r.wait("duplex", duplex)
		switchReady(t, r.net)
		r.toTheOther()
		goOn("after a switch")
		r.net.DeleteNIC(0)
		r.wait("removed", func(st drivers.Status) bool { return st.Sides[0].State == drivers.Removed && st.Sides[1].Active })
		goOn("after a NIC has gone")
		for _, x := range transfers {
			if err := x.end(); err != nil {
				t.Errorf("%s: %v", x.name, err)
			}
		}
	})
}

// transfer is a connection on which random bytes go one way until its end.
type transfer struct {
	name string
	stop chan struct{}
	sent chan result
	got  chan result
	n    *arrivals
}

type result struct {
	sum [sha256.Size]byte
	n   int64
	err error
}

func (r *rig) transfer(d bondtest.Direction) *transfer {
	r.t.Helper()
	from, to, ip := bondtest.Box, bondtest.Peer, bondtest.PeerIP4
	if d == bondtest.FromPeer {
		from, to, ip = bondtest.Peer, bondtest.Box, bondtest.BoxIP4
	}
	var l net.Listener
	var out, in net.Conn
	var err error
	r.net.In(to, func() { l, err = net.Listen("tcp", net.JoinHostPort(ip, "0")) })
	if err != nil {
		r.t.Fatal(err)
	}
	defer l.Close()
	r.net.In(from, func() { out, err = net.DialTimeout("tcp", l.Addr().String(), 10*time.Second) })
	if err == nil {
		in, err = l.Accept()
	}
	if err != nil {
		r.t.Fatal(err)
	}
	x := &transfer{name: "TCP " + d.String(), stop: make(chan struct{}), sent: make(chan result, 1), got: make(chan result, 1), n: &arrivals{}}
	r.t.Cleanup(func() { out.Close(); in.Close() })
	go x.send(out)
	go x.receive(in)
	return x
}

func (x *transfer) received() int64 { return x.n.Load() }

// send keeps to a rate that leaves the machine something for everything else.
func (x *transfer) send(c net.Conn) {
	var res result
	sum, random, b := sha256.New(), rand.NewChaCha8([32]byte{1}), make([]byte, 16<<10)
	tick := time.NewTicker(4 * time.Millisecond)
	defer tick.Stop()
	for done := false; !done && res.err == nil; {
		_, _ = random.Read(b) // it cannot fail
		sum.Write(b)
		_, res.err = c.Write(b)
		res.n += int64(len(b))
		select {
		case <-x.stop:
			done = true
		case <-tick.C:
		}
	}
	res.err = errors.Join(res.err, c.Close())
	sum.Sum(res.sum[:0])
	x.sent <- res
}

func (x *transfer) receive(c net.Conn) {
	var res result
	sum := sha256.New()
	res.n, res.err = io.Copy(io.MultiWriter(sum, x.n), c)
	sum.Sum(res.sum[:0])
	x.got <- res
}

// arrivals counts what is written to it.
type arrivals struct{ atomic.Int64 }

func (a *arrivals) Write(b []byte) (int, error) {
	a.Add(int64(len(b)))
	return len(b), nil
}

// end lets the sender close and compares what has come with what was sent.
func (x *transfer) end() error {
	close(x.stop)
	var sent, got result
	for range 2 {
		select {
		case sent = <-x.sent:
		case got = <-x.got:
		case <-time.After(20 * time.Second):
			return errors.New("it does not end")
		}
	}
	if sent.err != nil || got.err != nil || sent.n != got.n || sent.sum != got.sum {
		return fmt.Errorf("sent %d bytes (%v), got %d (%v), the same %v", sent.n, sent.err, got.n, got.err, sent.sum == got.sum)
	}
	return nil
}
