package drill

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"ft/drivers/netns"
)

// The TCP load is one connection between the face and a neighbour, whose both ends are
// here: each end sends bytes that their place determines, and checks what it gets. What was
// sent and does not arrive before the connection breaks, or ends, is lost.

const (
	tcpPiece    = 8 << 10
	tcpEvery    = 10 * time.Millisecond // 800 KB/s each way
	tcpConnect  = 10 * time.Second
	tcpEnd      = 30 * time.Second // for the rest to arrive
	tcpRetry    = 500 * time.Millisecond
	tcpToPeer   = 0 // directions, and workers of the meter
	tcpFromPeer = 1
)

type tcpLoad struct {
	meter
	f        nicFace
	peer     string // namespace
	from, to netip.Addr
	first    *tcpPair
}

// tcpPair is a connection with its two ends.
type tcpPair struct{ near, far *net.TCPConn }

func (p *tcpPair) close() { p.near.Close(); p.far.Close() }

func newTCPLoad(f nicFace, peer string, from, to netip.Addr) (l *tcpLoad, err error) {
	l = &tcpLoad{f: f, peer: peer, from: from, to: to}
	l.first, err = l.connect(context.Background())
	return l, err
}

func (l *tcpLoad) Name() string   { return l.f.device + " TCP " + l.to.String() }
func (l *tcpLoad) Device() string { return l.f.device }
func (l *tcpLoad) What() string {
	return fmt.Sprintf("TCP with %s, %d KB/s each way, every byte checked", l.to, tcpPiece*int(time.Second/tcpEvery)/1000)
}

// connect makes a connection from the face to a port of the neighbour's.
func (l *tcpLoad) connect(ctx context.Context) (*tcpPair, error) {
	ctx, cancel := context.WithTimeout(ctx, tcpConnect)
	defer cancel()
	var server *net.TCPListener
	err := netns.Do(l.peer, func() (err error) {
		server, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(l.to, 0)))
		return err
	})
	if err != nil {
		return nil, err
	}
	defer server.Close()
	var near net.Conn
	err = netns.Do(l.f.netns, func() (err error) {
		d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(l.from, 0)), FallbackDelay: -1}
		near, err = d.DialContext(ctx, "tcp", server.Addr().String())
		return err
	})
	if err != nil {
		return nil, err
	}
	deadline, _ := ctx.Deadline()
	_ = server.SetDeadline(deadline)
	far, err := server.AcceptTCP()
	if err != nil {
		near.Close()
		return nil, err
	}
	return &tcpPair{near.(*net.TCPConn), far}, nil
}

// Run sends and checks until ctx ends. A connection that breaks is an error, and followed by
// another one.
func (l *tcpLoad) Run(ctx context.Context) {
	pair := l.first
	for seed := uint64(1); ; seed++ {
		if pair != nil {
			l.transfer(ctx, pair, seed)
		}
		pair = nil
		select {
		case <-ctx.Done():
			return
		case <-time.After(tcpRetry):
		}
		var err error
		if pair, err = l.connect(ctx); err != nil && ctx.Err() == nil {
			l.failed(fmt.Errorf("TCP with %s: %w", l.to, err))
		}
	}
}

// transfer goes on until ctx ends or the connection breaks.
func (l *tcpLoad) transfer(ctx context.Context, pair *tcpPair, seed uint64) {
	defer pair.close()
	broken := make(chan struct{})
	var once sync.Once
	fail := func(err error) {
		once.Do(func() {
			l.failed(fmt.Errorf("TCP with %s: %w", l.to, err))
			close(broken)
			pair.close()
		})
	}
	flows := [2]tcpFlow{
		tcpToPeer:   {from: pair.near, to: pair.far, seed: 2 * seed},
		tcpFromPeer: {from: pair.far, to: pair.near, seed: 2*seed + 1},
	}
	var all sync.WaitGroup
	for i := range flows {
		f := &flows[i]
		all.Go(func() {
			if err := f.send(ctx, broken); err != nil {
				fail(err)
			}
		})
		all.Go(func() {
			if err := f.receive(&l.meter, i); err != nil {
				fail(err)
			}
		})
	}
	all.Wait()
	for _, f := range flows {
		if f.sent > f.got {
			l.lost(int64(f.sent-f.got), "TCP with %s: %d bytes of %d did not arrive", l.to, f.sent-f.got, f.sent)
		}
	}
}

// tcpFlow is one direction.
type tcpFlow struct {
	from, to  *net.TCPConn
	seed      uint64
	sent, got uint64 // each by its own goroutine, and read after both have ended
}

// send sends pieces until ctx ends, and then the end of the stream.
func (f *tcpFlow) send(ctx context.Context, broken <-chan struct{}) error {
	piece := make([]byte, tcpPiece)
	tick := time.NewTicker(tcpEvery)
	defer tick.Stop()
	for {
		select {
		case <-broken:
			return nil
		case <-ctx.Done():
			_ = f.to.SetReadDeadline(time.Now().Add(tcpEnd))
			return f.from.CloseWrite()
		case <-tick.C:
		}
		fillPattern(piece, f.seed, f.sent)
		_ = f.from.SetWriteDeadline(time.Now().Add(2 * time.Minute)) // no fault takes that long
		n, err := f.from.Write(piece)
		f.sent += uint64(n)
		if err != nil {
			return err
		}
	}
}

// receive checks what comes until the end of the stream.
func (f *tcpFlow) receive(m *meter, worker int) error {
	got, want := make([]byte, tcpPiece), make([]byte, tcpPiece)
	for {
		m.begin(worker, time.Now())
		n, err := io.ReadFull(f.to, got)
		m.end(worker, time.Now(), n)
		fillPattern(want, f.seed, f.got)
		if !bytes.Equal(got[:n], want[:n]) {
			return fmt.Errorf("what came after %d bytes is not what was sent", f.got)
		}
		f.got += uint64(n)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			return fmt.Errorf("the rest has not come within %s", tcpEnd)
		case err != nil:
			return err
		}
	}
}
