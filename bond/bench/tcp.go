package main

import (
	"errors"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"ft/bond/bondtest"
)

// chunk is what is written to a TCP connection, and read from it, at once.
const chunk = 128 << 10

// connection is a flow over one TCP connection, which stays for all turns.
type connection struct {
	b       *bench
	out, in *net.TCPConn
	arrived atomic.Uint64
	ended   sync.WaitGroup
}

func (b *bench) connection(way bondtest.Direction, e ends) *connection {
	from, to, fromIP, toIP := e.of(way)
	c := &connection{b: b}
	var listener *net.TCPListener
	var err error
	b.net.In(to, func() { listener, err = net.ListenTCP("tcp4", &net.TCPAddr{IP: net.ParseIP(toIP)}) })
	b.p.must(err, "listen at %s in the %s", toIP, to)
	defer listener.Close()
	b.net.In(from, func() {
		c.out, err = net.DialTCP("tcp4", &net.TCPAddr{IP: net.ParseIP(fromIP)}, listener.Addr().(*net.TCPAddr))
	})
	b.p.must(err, "connect to %s from the %s", toIP, from)
	c.in, err = listener.AcceptTCP()
	b.p.must(err, "accept at %s", toIP)
	c.ended.Add(1)
	go func() { defer c.ended.Done(); c.receive() }()
	return c
}

func (c *connection) push(until time.Time) uint64 {
	before, sent := c.arrived.Load(), uint64(0)
	buf := make([]byte, chunk)
	for time.Now().Before(until) {
		n, err := c.out.Write(buf)
		if err != nil {
			c.b.p.Fatalf("send: %v", err)
		}
		sent += uint64(n)
	}
	for limit := time.Now().Add(within); c.arrived.Load()-before < sent; runtime.Gosched() {
		if time.Now().After(limit) {
			c.b.p.Fatalf("of %d bytes %d arrived", sent, c.arrived.Load()-before)
		}
	}
	return c.arrived.Load() - before
}

func (c *connection) receive() {
	buf := make([]byte, chunk)
	for {
		n, err := c.in.Read(buf)
		c.arrived.Add(uint64(n))
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
				c.b.p.Errorf("receive: %v", err)
			}
			return
		}
	}
}

func (c *connection) close() {
	c.out.Close()
	c.ended.Wait()
	c.in.Close()
}
