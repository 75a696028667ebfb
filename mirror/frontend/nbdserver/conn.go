package nbdserver

// A connection: bytes in, commands; answers, bytes out.

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"ft/mirror/nbd"
)

const (
	// readsMax bounds what one connection is read before others have their turn.
	readsMax = 8
	// skipMax is the most payload of a refused command that is read over.
	skipMax = 2 * nbd.PayloadDefault
	// segmentsMax is how many pieces one sendmsg carries.
	segmentsMax = 64
)

// conn is one client.
type conn struct {
	s      *Server
	fd     int // -1 when closed
	who    string
	events uint32 // what epoll looks for

	ended     func() // told when it is closed, nil for nobody
	greeting  []byte
	handshake *nbd.Handshake
	phase     nbd.Phase
	session   nbd.Session
	begun     time.Time
	moved     time.Time // when bytes last came

	in       []byte // room for the longest message of a handshake
	from, to int    // what of it is there
	filling  *command
	skip     int64    // payload of a refused command that is still to come
	pending  *command // waits for memory
	waiting  int64    // how much
	leaving  bool     // no more commands

	out      []segment
	sent     time.Time // when bytes last went, or there was nothing to send
	commands int       // not wholly answered
	used     int64     // bytes of payload

	queued, turn, resumable, talking bool // on a list of the server's, or just off it
}

// segment is a piece of an answer.
type segment struct {
	b    []byte
	part *part    // whose memory b lies in
	end  *command // whose answer ends with it
}

func newConn(s *Server, fd int, who string) *conn {
	now := time.Now()
	return &conn{s: s, fd: fd, who: who, begun: now, moved: now, sent: now, in: make([]byte, nbd.HandshakeBytes)}
}

// ready deals with what epoll has seen.
func (c *conn) ready(events uint32) {
	if events&(unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		c.close() // nobody is there to be answered
		return
	}
	if events&unix.EPOLLOUT != 0 {
		c.send()
	}
	if events&unix.EPOLLIN != 0 {
		c.receive()
	}
}

// receive reads what has come.
func (c *conn) receive() {
	for range readsMax {
		if c.fd < 0 || c.leaving || c.blocked() {
			return
		}
		into := c.in[c.to:]
		direct := c.filling != nil && c.from == c.to
		if direct {
			into = c.filling.room()
		}
		n, err := unix.Read(c.fd, into)
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
			return
		case err != nil:
			c.close()
			return
		case n <= 0:
			c.leave()
			return
		}
		c.moved = time.Now()
		if direct {
			c.filled(n)
		} else {
			c.to += n
		}
		c.goOn()
		if n < len(into) {
			return
		}
	}
}

// blocked says whether nothing more is to be read for now.
func (c *conn) blocked() bool {
	return c.pending != nil || c.commands >= commandsMax && c.filling == nil
}

// goOn does what can be done with what has been read.
func (c *conn) goOn() {
	for c.fd >= 0 && c.step() {
	}
	if c.fd < 0 {
		return
	}
	if c.from == c.to {
		c.from, c.to = 0, 0
	} else if c.from > 0 {
		c.to = copy(c.in, c.in[c.from:c.to])
		c.from = 0
	}
	c.listen()
}

// step does one thing, and says whether there may be another.
func (c *conn) step() bool {
	have := c.in[c.from:c.to]
	switch {
	case c.leaving:
		return false
	case c.phase == nbd.Haggling:
		return c.haggle(have)
	case c.skip > 0:
		n := min(c.skip, int64(len(have)))
		c.skip -= n
		c.from += int(n)
		return n > 0
	case c.filling != nil:
		n := copy(c.filling.room(), have)
		c.from += n
		if n > 0 {
			c.filled(n)
		}
		return n > 0
	case c.pending != nil:
		return c.admit()
	case c.commands >= commandsMax || len(have) < nbd.RequestBytes:
		return false
	}
	r, err := nbd.ParseRequest(have)
	if err != nil {
		c.cut(err)
		return false
	}
	c.from += nbd.RequestBytes
	c.begin(r)
	return true
}

// haggle takes the handshake a message further.
func (c *conn) haggle(have []byte) bool {
	used, answer, phase, err := c.handshake.Step(have, nil)
	c.from += used
	c.phase = phase
	if len(answer) > 0 {
		c.say(answer, nil, nil)
	}
	switch {
	case err != nil:
		c.cut(err)
		return false
	case phase == nbd.Ended:
		c.leave()
		return false
	case phase == nbd.Transmission:
		c.session, c.handshake = c.handshake.Session, nil
	}
	return used > 0
}

// begin takes a command.
func (c *conn) begin(r nbd.Request) {
	c.s.status.commands.Add(1)
	if r.Type == nbd.CmdDisc {
		c.leave()
		return
	}
	c.commands++
	cmd := &command{conn: c, r: r}
	if e, why := c.s.export.Check(c.session, r); e != 0 {
		if c.skip = int64(r.Payload()); c.skip > skipMax {
			c.cut(fmt.Errorf("a command with %d bytes of payload", c.skip))
			return
		}
		cmd.fail(e, why)
		cmd.answer()
		return
	}
	c.pending = cmd
}

// admit lets the pending command in if there is memory for it.
func (c *conn) admit() bool {
	cmd := c.pending
	need := cmd.charge()
	if need > 0 {
		if c.used+need > connBytesMax {
			return false // some of its own comes back first
		}
		if !c.turn && len(c.s.starving) > 0 || !c.s.roomFor(need) {
			if !c.queued {
				c.queued, c.waiting = true, need
				c.s.starving = append(c.s.starving, c)
			}
			return false
		}
		c.turn = false
		c.used += need
		c.s.used += need
	}
	c.pending = nil
	cmd.start()
	return true
}

// say puts something on its way out.
func (c *conn) say(b []byte, p *part, end *command) {
	if c.fd < 0 {
		if p != nil {
			p.let(heldByAnswer)
		}
		return
	}
	if len(c.out) == 0 {
		c.sent = time.Now()
	}
	c.out = append(c.out, segment{b, p, end})
	if !c.talking {
		c.talking = true
		c.s.talking = append(c.s.talking, c)
	}
}

// send sends what the socket takes.
func (c *conn) send() {
	var pieces [segmentsMax][]byte
	for c.fd >= 0 && len(c.out) > 0 {
		n := 0
		for _, g := range c.out[:min(len(c.out), segmentsMax)] {
			pieces[n] = g.b
			n++
		}
		sent, err := unix.SendmsgBuffers(c.fd, pieces[:n], nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if errors.Is(err, unix.EAGAIN) {
			break
		}
		if err != nil {
			c.close()
			return
		}
		c.sent = time.Now()
		c.wentOut(sent)
	}
	if c.fd < 0 {
		return
	}
	if len(c.out) == 0 && c.leaving {
		c.leave()
		return
	}
	c.listen()
}

// wentOut takes n bytes off what is to be sent.
func (c *conn) wentOut(n int) {
	done := 0
	for done < len(c.out) && n >= len(c.out[done].b) {
		n -= len(c.out[done].b)
		c.out[done].over()
		done++
	}
	if done == len(c.out) {
		clear(c.out)
		c.out = c.out[:0]
		return
	}
	c.out = append(c.out[:0], c.out[done:]...)
	c.out[0].b = c.out[0].b[n:]
}

// over lets go of what a segment held.
func (g *segment) over() {
	if g.part != nil {
		g.part.let(heldByAnswer)
	}
	if g.end != nil {
		g.end.conn.commands--
		g.end.conn.mayResume()
	}
}

// mayResume has the connection go on soon, if it waits for something of its own.
func (c *conn) mayResume() {
	if c.fd >= 0 && !c.resumable && (c.pending != nil || c.from < c.to || c.events&unix.EPOLLIN == 0) {
		c.resumable = true
		c.s.resumable = append(c.s.resumable, c)
	}
}

// listen tells epoll what the connection waits for.
func (c *conn) listen() {
	var want uint32
	if !c.leaving && !c.blocked() {
		want |= unix.EPOLLIN
	}
	if len(c.out) > 0 {
		want |= unix.EPOLLOUT
	}
	if want == c.events {
		return
	}
	c.events = want
	ev := unix.EpollEvent{Events: want, Fd: int32(c.fd)}
	_ = unix.EpollCtl(c.s.epoll, unix.EPOLL_CTL_MOD, c.fd, &ev) // fails only for a descriptor that is not there
}

// overdue says why the client is to be cut off, "" when it is not.
func (c *conn) overdue(now time.Time) string {
	opt := &c.s.opt
	switch {
	case c.phase == nbd.Haggling && now.Sub(c.begun) > opt.handshake:
		return fmt.Sprintf("its handshake did not end within %v", opt.handshake)
	case len(c.out) > 0 && now.Sub(c.sent) > opt.stall:
		return fmt.Sprintf("it took nothing of its answers for %v", opt.stall)
	case (c.filling != nil || c.skip > 0) && now.Sub(c.moved) > opt.stall:
		return fmt.Sprintf("it sent nothing of a payload for %v", opt.stall)
	}
	return ""
}

// leave takes no more commands, and closes when those under way have been answered.
func (c *conn) leave() {
	if c.fd < 0 {
		return
	}
	c.leaving = true
	c.drop()
	if c.commands == 0 && len(c.out) == 0 {
		c.close()
		return
	}
	c.listen()
}

// drop forgets a command of which not all has come.
func (c *conn) drop() {
	for _, cmd := range []*command{c.filling, c.pending} {
		if cmd != nil {
			cmd.dropped()
			c.commands--
		}
	}
	c.filling, c.pending, c.skip = nil, nil, 0
}

// cut ends a connection for what the client did.
func (c *conn) cut(why error) {
	c.s.status.mu.Lock()
	c.s.status.cut++
	c.s.status.mu.Unlock()
	c.s.opt.Log.Warn("an NBD client was cut off", "disk", c.s.export.Name, "client", c.who, "why", why)
	c.close()
}

// close ends a connection at once. What the engine has of it comes back later.
func (c *conn) close() {
	if c.fd < 0 {
		return
	}
	c.drop()
	delete(c.s.conns, int32(c.fd))
	unix.Close(c.fd)
	c.fd = -1
	for i := range c.out {
		c.out[i].over()
	}
	c.out, c.in = nil, nil
	c.from, c.to = 0, 0
	c.s.status.mu.Lock()
	delete(c.s.status.clients, c)
	c.s.status.mu.Unlock()
	if c.ended != nil {
		c.ended()
	}
}
