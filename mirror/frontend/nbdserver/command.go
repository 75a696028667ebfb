package nbdserver

// A command of a client, and the requests to the engine that it is made of.

import (
	"ft/mirror/frontend"
	"ft/mirror/frontend/payload"
	"ft/mirror/nbd"
)

// command is one command. It is answered when no part is out any more.
type command struct {
	conn  *conn
	r     nbd.Request
	parts []*part // of a READ, in order
	err   nbd.Error
	why   string

	next     int64 // bytes from Off of which parts have been made
	left     int   // parts out, and what else keeps it from being answered
	filling  *part // of a WRITE: its payload comes to here
	got      int64 // bytes of that
	flushing bool  // FUA: the parts are done
	dead     bool  // dropped: no answer
	begun    bool  // a chunk of its answer has been sent
}

// part is one request to the engine.
type part struct {
	frontend.Request
	cmd   *command
	mem   *payload.Memory // nil: none of its own
	moved []byte          // what was read lies here instead
	held  uint8
}

// Who holds a part's memory.
const (
	heldByEngine = 1 << iota
	heldByAnswer
)

// zeroes is what a WRITE_ZEROES writes that must not make holes.
var zeroes = payload.Aligned(partBytes)

// charge is the memory that a command takes.
func (c *command) charge() int64 {
	if c.r.Type == nbd.CmdRead || c.r.Type == nbd.CmdWrite {
		return payload.Charge(int64(c.r.Len))
	}
	return 0
}

// start begins an admitted command.
func (c *command) start() {
	s := c.conn.s
	c.left = 1 // so that it does not end half-begun
	switch c.r.Type {
	case nbd.CmdRead:
		for c.next < int64(c.r.Len) {
			p := c.newPart(frontend.Read, min(partBytes, int64(c.r.Len)-c.next))
			p.mem = payload.Take(int(p.Len))
			p.Data = p.mem.Data
			c.parts = append(c.parts, p)
			c.begin(p)
		}
	case nbd.CmdWrite:
		if c.r.Len > 0 {
			c.conn.filling = c
			c.left++ // until all has come
		}
	case nbd.CmdWriteZeroes:
		switch fast := s.opt.FastZero != nil && s.opt.FastZero() && c.r.Flags&nbd.CmdFlagNoHole == 0; {
		case c.r.Flags&nbd.CmdFlagFastZero != 0 && !fast:
			c.fail(nbd.ENOTSUP, "zeroes are written there")
		case c.r.Flags&nbd.CmdFlagNoHole == 0:
			c.zeroAll()
		default:
			for range zeroParts {
				c.zeroNext()
			}
		}
	case nbd.CmdTrim:
		// It is a hint: where zeroes would have to be written it is not worth that.
		if s.opt.FastZero == nil || s.opt.FastZero() {
			c.zeroAll()
		}
	case nbd.CmdFlush:
		c.begin(c.newPart(frontend.Flush, 0))
	case nbd.CmdBlockStatus:
		c.left++ // it is answered by statusFound
		s.looker.ask(c)
	}
	c.done()
}

// newPart makes the next n bytes of the command a part.
func (c *command) newPart(op frontend.Op, n int64) *part {
	p := &part{cmd: c, held: heldByEngine | heldByAnswer}
	p.Request = frontend.Request{Op: op, Off: int64(c.r.Off) + c.next, Len: n, Queue: c.conn.s, Tag: c.r.Cookie, Mem: p}
	c.next += n
	return p
}

func (c *command) begin(p *part) {
	c.left++
	c.conn.s.emit(&p.Request)
}

func (c *command) zeroAll() {
	if c.r.Len > 0 {
		c.begin(c.newPart(frontend.Zero, int64(c.r.Len)))
	}
}

// zeroNext writes the next zeroes.
func (c *command) zeroNext() {
	if n := min(partBytes, int64(c.r.Len)-c.next); n > 0 && c.err == 0 {
		p := c.newPart(frontend.Write, n)
		p.Data = zeroes[:n:n]
		c.begin(p)
	}
}

// room is where the next of a WRITE's payload comes to.
func (c *command) room() []byte {
	if c.filling == nil {
		p := c.newPart(frontend.Write, min(partBytes, int64(c.r.Len)-c.next))
		p.mem = payload.Take(int(p.Len))
		p.Data = p.mem.Data
		c.filling, c.got = p, 0
	}
	return c.filling.Data[c.got:]
}

// filled notes n bytes of payload of the command that is being filled.
func (c *conn) filled(n int) {
	cmd := c.filling
	p := cmd.filling
	if cmd.got += int64(n); cmd.got < p.Len {
		return
	}
	cmd.filling = nil
	last := cmd.next == int64(cmd.r.Len)
	cmd.begin(p)
	if last {
		c.filling = nil
		cmd.done()
	}
}

// dropped forgets a command that did not come whole, or was not begun. What the engine has
// of it goes on.
func (c *command) dropped() {
	c.dead = true
	if c.conn.filling != c {
		return
	}
	if p := c.filling; p != nil {
		c.next -= p.Len
		p.mem.Give()
		p.mem, c.filling = nil, nil
	}
	c.conn.uncharge(payload.Charge(int64(c.r.Len) - c.next))
}

func (c *conn) uncharge(n int64) {
	c.used -= n
	c.s.used -= n
	c.mayResume()
}

// answered takes a part back from the engine.
func (p *part) answered() {
	c := p.cmd
	if p.Err != 0 {
		c.fail(nbd.ErrorOf(p.Err), "")
	}
	if p.Op != frontend.Read {
		p.let(heldByAnswer)
	} else if c.streams() && p.Err == 0 {
		c.sendChunk(p)
	}
	if p.Op == frontend.Write && p.mem == nil {
		c.zeroNext()
	}
	c.done()
}

// let ends somebody's hold of a part's memory.
func (p *part) let(who uint8) {
	if p.held &^= who; p.held != 0 || p.mem == nil {
		return
	}
	charge := p.mem.Bytes()
	p.mem.Give()
	p.mem = nil
	p.cmd.conn.uncharge(charge)
}

func (c *command) fail(e nbd.Error, why string) {
	if c.err == 0 && e != 0 {
		c.err, c.why = e, why
	}
}

// done counts one of what the command waits for, and answers it when that was the last.
func (c *command) done() {
	if c.left--; c.left > 0 {
		return
	}
	if c.r.Flags&nbd.CmdFlagFUA != 0 && c.err == 0 && !c.flushing && c.next > 0 && c.r.Type != nbd.CmdRead {
		c.flushing = true
		c.begin(c.newPart(frontend.Flush, 0))
		return
	}
	c.answer()
}

// streams says whether each part of a READ is sent as it comes.
func (c *command) streams() bool {
	return c.conn.session.Structured && c.r.Flags&nbd.CmdFlagDF == 0
}

// sendChunk sends a part of a READ. It ends the answer if it is the last and all went well.
func (c *command) sendChunk(p *part) {
	c.begun = true
	if last := c.left == 1 && c.err == 0; last {
		c.conn.say(nbd.AppendData(nil, c.r.Cookie, uint64(p.Off), uint32(p.Len), true), nil, nil)
		c.conn.say(p.payload(), p, c)
		c.dead = true // it has been answered
		return
	}
	c.conn.say(nbd.AppendData(nil, c.r.Cookie, uint64(p.Off), uint32(p.Len), false), nil, nil)
	c.conn.say(p.payload(), p, nil)
}

func (p *part) payload() []byte {
	if p.moved != nil {
		return p.moved
	}
	return p.Data
}

// answer answers a command of which all parts are back, but for a READ that has been
// answered part by part.
func (c *command) answer() {
	if c.err != 0 {
		c.conn.s.status.errors.Add(1)
	}
	structured := c.conn.session.Structured
	switch {
	case c.dead: // part by part
		return
	case c.err != 0 && structured:
		c.letParts()
		c.conn.say(nbd.AppendError(nil, c.r.Cookie, c.err, c.why), nil, c)
	case c.err != 0:
		c.letParts()
		c.conn.say(nbd.AppendSimpleReply(nil, c.r.Cookie, c.err), nil, c)
	case c.r.Type == nbd.CmdRead && structured && len(c.parts) > 0 && !c.begun:
		c.conn.say(nbd.AppendData(nil, c.r.Cookie, c.r.Off, c.r.Len, true), nil, nil)
		c.sendParts()
	case c.r.Type == nbd.CmdRead && !structured && len(c.parts) > 0:
		c.conn.say(nbd.AppendSimpleReply(nil, c.r.Cookie, 0), nil, nil)
		c.sendParts()
	case structured:
		c.conn.say(nbd.AppendDone(nil, c.r.Cookie), nil, c)
	default:
		c.conn.say(nbd.AppendSimpleReply(nil, c.r.Cookie, 0), nil, c)
	}
	c.dead = true
}

// sendParts sends the data of a READ in one.
func (c *command) sendParts() {
	for i, p := range c.parts {
		var end *command
		if i == len(c.parts)-1 {
			end = c
		}
		c.conn.say(p.payload(), p, end)
	}
}

// letParts lets go of what will not be sent. What is on its way out is let go with that.
func (c *command) letParts() {
	for _, p := range c.parts {
		if !c.streams() || p.Err != 0 {
			p.let(heldByAnswer)
		}
	}
}

// statusFound answers a BLOCK_STATUS.
func (c *command) statusFound(x []nbd.Extent) {
	if !c.dead {
		c.conn.say(nbd.AppendBlockStatus(nil, c.r, x), nil, c)
		c.dead = true
	}
}
