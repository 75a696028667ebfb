package legio

// A leg that is the export of an NBD server, maybe on another machine: one connection,
// with many requests under way. It is a Leg like others to all who submit and wait; only
// what carries the IOs is another.
//
// Invariants:
//   - One goroutine sends, one receives, and nobody else touches the connection. An IO is
//     handed back when it has been answered and its payload is no longer being sent, or
//     when the connection has broken and both goroutines have ended: its memory is then
//     nobody's.
//   - A connection that has broken stays so: every IO on it ends with ENODEV, and the leg is
//     one whose device has vanished.
//   - A connection is given up only when all that was sent has been answered, or when it is
//     broken. What a broken one leaves in doubt, the slot's Fence knows.

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ft/mirror/nbd"
)

const (
	// remoteBatch is how many requests one writev carries.
	remoteBatch = 32
	// remoteZeroMax is the most that one WRITE_ZEROES covers.
	remoteZeroMax = 64 << 20
	// remoteLost is after how long without a sign of life from the other host a connection
	// counts as broken. It does not tell a server that is slow from one that is well.
	remoteLost = 10 * time.Second
)

// remote is the connection of a leg.
type remote struct {
	leg     *Leg
	conn    net.Conn
	export  nbd.Export
	piece   int64 // bytes that one READ or WRITE carries
	fence   *Fence
	process int // pidfd of the server, -1 where it cannot be known
	sending sync.WaitGroup

	mu     sync.Mutex // guards the fields below
	more   sync.Cond  // of queue, or the end
	queue  []*wire    // to be sent
	under  []*wire    // by cookie: sent, or being sent; nil where none is
	free   []uint32   // cookies
	cut    []*wire    // what was being sent when that failed: some of it may have been answered
	broken error      // why the connection has ended
	zeroes bool       // the server knows WRITE_ZEROES
}

// wire is one request of the protocol.
type wire struct {
	io       *remoteIO
	command  uint16
	off, n   int64
	buf      []byte // of a READ or WRITE
	cookie   uint32 // its place in under
	sent     bool   // wholly
	answered bool
}

// remoteIO is an IO under way, cut into requests.
type remoteIO struct {
	*IO
	left int
	// A Zero that the server does not know is written, from here on.
	at, end int64
}

// openRemote connects to the server.
func (l *Leg) openRemote(o OpenOptions) error {
	address, err := nbd.ParseAddress(l.Path)
	if err != nil {
		return &OpenError{l.Path, KindUnfit, err.Error(), nil}
	}
	conn, export, err := dialRemote(address, o.Deadline/4*3) // so that it is told of before Open gives up
	if err != nil {
		return remoteOpenError(l.Path, err)
	}
	if err := l.measureRemote(export, o.MinBytes); err != nil {
		endRemote(conn)
		return err
	}
	process := serverOf(conn)
	if wait := o.Fence.pass(); wait != "" {
		endRemote(conn)
		closePidfd(process)
		return &OpenError{l.Path, KindWaits, wait, nil}
	}
	r := &remote{leg: l, conn: conn, export: export, fence: o.Fence, process: process,
		piece: min(transferMax, int64(export.PayloadMax)&^(align-1)), zeroes: export.Flags&nbd.FlagSendWriteZeroes != 0}
	r.more.L = &r.mu
	l.remote, l.fd, l.depth, l.identity = r, -1, depthMax, address.String()
	if export.Flags&nbd.FlagSendFlush == 0 {
		l.Note = "the server knows no flush: what it has acknowledged is taken to be stable"
	}
	if !r.zeroes {
		l.zeroing.Store(int32(zeroWrite))
	}
	received := make(chan error, 1)
	r.sending.Add(1)
	go r.send()
	go func() { received <- r.receive() }()
	go r.see(received)
	return nil
}

// dialRemote connects and shakes hands.
func dialRemote(a nbd.Address, deadline time.Duration) (net.Conn, nbd.Export, error) {
	until := time.Now().Add(deadline)
	conn, err := net.DialTimeout(a.Network, a.Host, deadline)
	if err != nil {
		return nil, nbd.Export{}, err
	}
	if err := tuneRemote(conn); err != nil {
		conn.Close()
		return nil, nbd.Export{}, err
	}
	conn.SetDeadline(until)
	export, err := nbd.Dial(conn, a.Export)
	if err != nil {
		conn.Close()
		return nil, nbd.Export{}, err
	}
	conn.SetDeadline(time.Time{})
	return conn, export, nil
}

// tuneRemote has a connection over a network break soon when the other host is gone, and
// not deliver later what it had not delivered until then.
func tuneRemote(conn net.Conn) error {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return nil
	}
	err := errors.Join(tcp.SetNoDelay(true), tcp.SetLinger(0),
		tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: remoteLost / 4, Interval: remoteLost / 4, Count: 3}))
	raw, rawErr := tcp.SyscallConn()
	if err = errors.Join(err, rawErr); err != nil {
		return err
	}
	rawErr = raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(remoteLost.Milliseconds()))
	})
	return errors.Join(err, rawErr)
}

func (l *Leg) measureRemote(e nbd.Export, minBytes int64) error {
	l.LogicalBlock, l.PhysicalBlock = max(512, int(e.BlockMin)), max(512, int(e.BlockMin), min(int(e.BlockGood), align))
	l.Bytes = e.Size &^ (align - 1)
	switch {
	case e.Flags&nbd.FlagReadOnly != 0:
		return &OpenError{l.Path, KindUnfit, "the server exports it read-only", nil}
	case e.BlockMin > align:
		return &OpenError{l.Path, KindUnfit, fmt.Sprintf("its least block is %d bytes; at most %d are possible", e.BlockMin, align), nil}
	case e.PayloadMax < align:
		return &OpenError{l.Path, KindUnfit, fmt.Sprintf("the server takes at most %d bytes at once; at least %d are needed", e.PayloadMax, align), nil}
	case l.Bytes < max(minBytes, align):
		return tooSmall(l.Path, l.Bytes, max(minBytes, align))
	}
	return nil
}

// remoteOpenError sorts what kept a server from being opened.
func remoteOpenError(path string, err error) error {
	var timeout net.Error
	switch {
	case errors.Is(err, nbd.ErrRefused):
		return &OpenError{path, KindUnfit, "the server does not let us use it", err}
	case errors.As(err, &timeout) && timeout.Timeout():
		// One that hangs, and one that serves another client first, cannot be told apart.
		return &OpenError{path, KindAbsent, "no server answers there in time", err}
	}
	return &OpenError{path, KindAbsent, "no server answers there", err}
}

// submit begins an IO. Any thread.
func (r *remote) submit(x *IO) {
	op := &remoteIO{IO: x}
	r.mu.Lock()
	switch x.Op {
	case Flush:
		if r.export.Flags&nbd.FlagSendFlush != 0 {
			r.ask(op, nbd.CmdFlush, 0, 0, nil)
		}
	case Zero:
		op.at, op.end = x.Off, x.Off+x.Len
		r.zeroNext(op)
	default:
		command, mem := nbd.CmdRead, x.payload()
		if x.Op == Write {
			command = nbd.CmdWrite
		}
		for at := int64(0); at < x.Len; at += r.piece {
			n := min(r.piece, x.Len-at)
			r.ask(op, command, x.Off+at, n, mem[at:at+n])
		}
	}
	if r.broken != nil {
		x.Err = syscall.ENODEV
	}
	ended := op.left == 0
	r.mu.Unlock()
	r.more.Signal()
	if ended {
		r.leg.complete(x)
	}
}

// ask queues a request. Under mu. After the break it does nothing.
func (r *remote) ask(op *remoteIO, command uint16, off, n int64, buf []byte) {
	if r.broken == nil {
		op.left++
		r.queue = append(r.queue, &wire{io: op, command: command, off: off, n: n, buf: buf})
	}
}

// zeroNext goes on with a Zero: one request at a time. Under mu.
func (r *remote) zeroNext(op *remoteIO) {
	n := min(op.end-op.at, remoteZeroMax)
	if r.zeroes {
		r.ask(op, nbd.CmdWriteZeroes, op.at, n, nil)
	} else {
		n = min(n, r.piece)
		r.ask(op, nbd.CmdWrite, op.at, n, zeroes[:n])
	}
	op.at += n
}

// send sends what is queued, until the connection has ended.
func (r *remote) send() {
	defer r.sending.Done()
	var batch []*wire
	var heads []byte
	var pieces net.Buffers
	for {
		if batch = r.take(batch[:0]); batch == nil {
			return
		}
		heads, pieces = heads[:0], pieces[:0]
		for _, w := range batch {
			heads = w.head().Append(heads)
		}
		for i, w := range batch {
			pieces = append(pieces, heads[i*nbd.RequestBytes:(i+1)*nbd.RequestBytes])
			if w.command == nbd.CmdWrite {
				pieces = append(pieces, w.buf)
			}
		}
		going := pieces // WriteTo uses it up
		if _, err := going.WriteTo(r.conn); err != nil {
			r.mu.Lock()
			r.cut = batch
			r.mu.Unlock()
			r.end(fmt.Errorf("send: %w", err))
			return
		}
		r.wentOut(batch)
	}
}

// take waits for something to send, and gives it its cookies; nil at the end.
func (r *remote) take(batch []*wire) []*wire {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.queue) == 0 && r.broken == nil {
		r.more.Wait()
	}
	if r.broken != nil {
		return nil
	}
	n := min(len(r.queue), remoteBatch)
	batch = append(batch, r.queue[:n]...)
	if r.queue = append(r.queue[:0], r.queue[n:]...); cap(r.queue) > 4*depthMax && len(r.queue) == 0 {
		r.queue = nil
	}
	for _, w := range batch {
		if k := len(r.free); k > 0 {
			w.cookie, r.free = r.free[k-1], r.free[:k-1]
			r.under[w.cookie] = w
		} else {
			w.cookie = uint32(len(r.under))
			r.under = append(r.under, w)
		}
	}
	return batch
}

// head is what goes before a request's payload.
func (w *wire) head() nbd.Request {
	return nbd.Request{Type: w.command, Cookie: uint64(w.cookie), Off: uint64(w.off), Len: uint32(w.n)}
}

// wentOut notes that a batch has been sent. One that was answered already ends here.
func (r *remote) wentOut(batch []*wire) {
	r.mu.Lock()
	var over []*wire
	for _, w := range batch {
		if w.sent = true; w.answered {
			over = append(over, w)
		}
	}
	r.mu.Unlock()
	for _, w := range over {
		r.over(w)
	}
}

// receive takes answers, until the connection has ended.
func (r *remote) receive() error {
	in := bufio.NewReaderSize(r.conn, 64<<10)
	var head [nbd.SimpleReplyBytes]byte
	for {
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		reply, ok := nbd.ParseSimpleReply(head[:])
		if !ok {
			return errors.New("the server sent what is no reply")
		}
		w := r.answered(reply.Cookie)
		switch {
		case w == nil:
			return fmt.Errorf("the server answered a request %d that nobody made", reply.Cookie)
		case reply.Err == nbd.ESHUTDOWN:
			return errors.New("the server is being shut down")
		case w.command == nbd.CmdRead && reply.Err == 0:
			if _, err := io.ReadFull(in, w.buf); err != nil {
				return fmt.Errorf("receive: %w", err)
			}
		}
		r.settle(w, reply)
	}
}

// answered finds what a reply is to.
func (r *remote) answered(cookie uint64) *wire {
	r.mu.Lock()
	defer r.mu.Unlock()
	if cookie >= uint64(len(r.under)) {
		return nil
	}
	return r.under[cookie]
}

// settle takes an answer.
func (r *remote) settle(w *wire, reply nbd.Reply) {
	r.mu.Lock()
	r.under[reply.Cookie] = nil
	r.free = append(r.free, uint32(reply.Cookie))
	switch errno := reply.Err.Errno(); {
	case errno == 0:
	case w.command == nbd.CmdWriteZeroes && (errno == syscall.EOPNOTSUPP || errno == syscall.EINVAL || errno == syscall.EOVERFLOW):
		r.zeroes = false // it cannot after all: they are written
		r.leg.zeroing.Store(int32(zeroWrite))
		w.io.at = w.off
	case w.io.Err == 0:
		w.io.Err = errno
	}
	w.answered = true
	over := w.sent
	r.mu.Unlock()
	if over {
		r.over(w)
	}
}

// over counts a request of an IO that is sent and answered, and hands the IO back with the
// last one.
func (r *remote) over(w *wire) {
	op := w.io
	r.mu.Lock()
	if op.Op == Zero && op.Err == 0 && op.at < op.end {
		r.zeroNext(op)
		r.more.Signal()
		if r.broken != nil {
			op.Err = syscall.ENODEV
		}
	}
	op.left--
	ended := op.left == 0
	r.mu.Unlock()
	if ended {
		r.leg.complete(op.IO)
	}
}

// end breaks the connection, once. Those who use it then end.
func (r *remote) end(why error) {
	r.mu.Lock()
	if r.broken == nil {
		r.broken = why
	}
	r.mu.Unlock()
	r.more.Broadcast()
	r.conn.Close()
}

// see waits for the connection's end, and then hands everything back.
func (r *remote) see(received <-chan error) {
	r.end(<-received)
	r.sending.Wait()
	r.mu.Lock()
	writes := 0
	lost := map[*remoteIO]bool{}
	for _, w := range r.under {
		if w == nil {
			continue
		}
		if lost[w.io] = true; w.command == nbd.CmdWrite || w.command == nbd.CmdWriteZeroes {
			writes++
		}
	}
	for _, w := range r.cut {
		if w.answered { // it is not under way any more, and nobody else hands it back
			lost[w.io] = true
		}
	}
	for _, w := range r.queue {
		lost[w.io] = true
	}
	r.under, r.queue, r.free, r.cut = nil, nil, nil, nil
	r.mu.Unlock()
	r.fence.raise(writes, r.process)
	for op := range lost {
		op.Err = syscall.ENODEV
		r.leg.complete(op.IO)
	}
}

// gone says why the connection has ended, "" while it lasts.
func (r *remote) gone() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.broken == nil {
		return ""
	}
	return r.broken.Error()
}

// inflight is how many requests have not been answered.
func (r *remote) inflight() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.queue) + len(r.under) - len(r.free)
}

// close gives the connection up. Nothing is under way on it.
func (r *remote) close() {
	r.mu.Lock()
	broken := r.broken != nil
	if !broken {
		r.broken = errors.New("closed")
	}
	r.mu.Unlock()
	r.more.Broadcast()
	if !broken {
		r.sending.Wait()
		endRemote(r.conn)
	}
}

// endRemote says good-bye to a server and hangs up.
func endRemote(conn net.Conn) {
	conn.SetDeadline(time.Now().Add(time.Second))
	_, _ = conn.Write(nbd.Request{Type: nbd.CmdDisc}.Append(nil)) // it notices the end in any case
	conn.Close()
}
