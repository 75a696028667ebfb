package port

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ft/chipset/lockstep"
)

// Chipset is the chipset's end of a port. One goroutine sends, one receives; the rest may
// be called from any.
type Chipset struct {
	mem           memory
	memfd, bellfd int
	bell          *os.File // bellfd in the poller: an eventfd that wakes the receiver
	raw           syscall.RawConn

	sendMu sync.Mutex
	// Of the commands; guarded by sendMu. taken is the module's position as last seen.
	head, reserve, taken uint64
	sent                 atomic.Uint64 // messages; changed with sendMu held

	tail   atomic.Uint64 // of the records; changed by the receiver
	broken error         // the receiver's

	closed atomic.Bool
}

// New makes a port whose module has the configuration given.
func New(config []byte) (*Chipset, error) {
	if len(config) > ConfigMax {
		return nil, fmt.Errorf("a module's configuration of %d bytes: there is room for %d", len(config), ConfigMax)
	}
	memfd, err := SealedMemory("ft-port", size)
	if err != nil {
		return nil, err
	}
	bell, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		_ = unix.Close(memfd)
		return nil, fmt.Errorf("an eventfd for a port: %w", err)
	}
	c, err := newChipset(memfd, bell)
	if err != nil {
		return nil, err
	}
	copy(c.mem[configOffset:], config)
	c.mem.store(offConfigLength, uint64(len(config)))
	c.mem.store(offVersion, version)
	c.mem.store(offMagic, magic)
	return c, nil
}

// Adopt takes a port over whose chipset is dead. Both descriptors are the port's from then
// on, and closed when it fails.
func Adopt(memfd, bell int) (*Chipset, error) {
	if err := CheckSealed("a port", memfd, size); err != nil {
		_, _ = unix.Close(memfd), unix.Close(bell)
		return nil, err
	}
	c, err := newChipset(memfd, bell)
	if err != nil {
		return nil, err
	}
	if err := c.recall(); err != nil {
		c.Release()
		return nil, err
	}
	return c, nil
}

// recall takes the predecessor's positions from the header.
func (c *Chipset) recall() error {
	m := c.mem
	if _, err := m.config(); err != nil {
		return err
	}
	c.head, c.taken = m.load(offCommandHead), m.load(offCommandTail)
	c.sent.Store(m.load(offCommandsSent))
	c.tail.Store(m.load(offRecordTail))
	c.reserve = max(c.head, m.load(offCommandReserve))
	if _, err := used(c.head, c.taken); err != nil {
		return err
	}
	if _, err := used(m.load(offRecordHead), c.tail.Load()); err != nil {
		return err
	}
	if ahead := c.reserve - c.head; ahead > space(lockstep.MessageMax) {
		return fmt.Errorf("%w: %d bytes were being written", ErrBroken, ahead)
	}
	return nil
}

func newChipset(memfd, bell int) (*Chipset, error) {
	c := &Chipset{memfd: memfd, bellfd: bell}
	err := unix.SetNonblock(bell, true) // what makes the runtime take it into its poller
	if err == nil {
		c.mem, err = mapPort(memfd)
	}
	c.bell = os.NewFile(uintptr(bell), "bell of a port")
	if err == nil {
		c.raw, err = c.bell.SyscallConn()
	}
	if err != nil {
		c.Release()
		return nil, fmt.Errorf("open a port: %w", err)
	}
	return c, nil
}

// Descriptors are what the module, or a successor, needs: the memory and the bell. They
// stay the port's.
func (c *Chipset) Descriptors() (memfd, bell int) { return c.memfd, c.bellfd }

// Config is the module's configuration.
func (c *Chipset) Config() ([]byte, error) {
	c.sendMu.Lock()
	defer c.sendMu.Unlock()
	if c.mem == nil {
		return nil, ErrClosed
	}
	return c.mem.config()
}

// Send sends the message that a and b are together. It never blocks: without room it
// returns ErrFull and has sent nothing.
func (c *Chipset) Send(a, b []byte) error {
	n := len(a) + len(b)
	if n > lockstep.MessageMax {
		return fmt.Errorf("a message of %d bytes: at most %d are sent", n, lockstep.MessageMax)
	}
	c.sendMu.Lock()
	defer c.sendMu.Unlock()
	if c.closed.Load() {
		return ErrClosed
	}
	taken := c.mem.load(offCommandTail)
	inside, err := used(c.head, taken)
	if err != nil {
		return err
	}
	if taken < c.taken {
		return fmt.Errorf("%w: the module gave back commands that it had taken", ErrBroken)
	}
	c.taken = taken
	need := space(n)
	if need > RingBytes-inside {
		return ErrFull
	}
	if c.reserve < c.head+need { // before the old content goes: Tail relies on it
		c.reserve = c.head + need
		c.mem.store(offCommandReserve, c.reserve)
	}
	c.mem.commands().write(c.head, n, a, b)
	c.head += need
	c.mem.store(offCommandsSent, c.sent.Add(1))
	c.mem.store(offCommandHead, c.head)
	c.wakeModule(sleepsForMessage)
	return nil
}

func (c *Chipset) wakeModule(kind uint32) {
	if c.mem.woken(offModuleSleeps, kind) {
		futexWake(c.mem.word32(offModuleSleeps))
	}
}

// Receive waits for a message and returns it, in buf when that is large enough. It returns
// ErrClosed when the port is closed and all is received that had been sent; ErrBroken, for
// good, when the module broke the rules.
func (c *Chipset) Receive(buf []byte) ([]byte, error) {
	if c.broken != nil {
		return nil, c.broken
	}
	for {
		closed := c.closed.Load() // before the look: what was sent before the close is found
		message, err := c.take(buf)
		if message != nil || err != nil {
			c.broken = err
			return message, err
		}
		if closed {
			return nil, ErrClosed
		}
		// The bell is never read, so each ring is an edge to the poller, also one between
		// the look and the sleep.
		err = c.raw.Read(func(uintptr) bool {
			c.mem.sleeps(offChipsetSleeps, sleepsForMessage)
			if c.mem.load(offRecordHead) == c.tail.Load() {
				return false
			}
			c.mem.sleeps(offChipsetSleeps, awake)
			return true
		})
		if err != nil { // by Nudge or Close: the deadline has served
			_ = c.bell.SetReadDeadline(time.Time{})
		}
	}
}

// Nudge makes a receiver that sleeps look once more, for records that it was not woken for.
func (c *Chipset) Nudge() { _ = c.bell.SetReadDeadline(time.Unix(1, 0)) }

// take takes the next message, if there is one.
func (c *Chipset) take(buf []byte) ([]byte, error) {
	tail := c.tail.Load()
	inside, err := used(c.mem.load(offRecordHead), tail)
	if err != nil || inside == 0 {
		return nil, err
	}
	message, taken, err := c.mem.records().read(tail, inside, buf)
	if err != nil {
		return nil, err
	}
	c.tail.Store(tail + taken)
	c.mem.store(offRecordTail, tail+taken)
	c.wakeModule(sleepsForRoom)
	if message == nil {
		message = []byte{}
	}
	return message, nil
}

// Beat shows the module that its chipset lives.
func (c *Chipset) Beat() { atomic.AddUint64(c.mem.word(offHeartbeat), 1) }

// Progress is how far a module is, by its own word where nothing else is said.
type Progress struct {
	Sent    uint64 // commands, by the chipset's
	Done    uint64 // commands
	Records uint64 // that it sent
	Unread  bool   // the chipset has not taken all of them
	Thread  int    // that executes commands; 0 before it has begun
}

// Progress looks at the module from outside.
func (c *Chipset) Progress() Progress {
	m := c.mem
	return Progress{
		Sent: c.sent.Load(), Done: m.load(offCommandsDone), Records: m.load(offRecordsSent),
		Unread: m.load(offRecordHead) != c.tail.Load(), Thread: int(int32(m.load(offThread))),
	}
}

// Close ends sending, and receiving when all is received that was sent before. Memory and
// descriptors stay until Release.
func (c *Chipset) Close() {
	c.closed.Store(true)
	c.Nudge()
}

// Release gives memory and descriptors back, when nobody receives or looks any more.
func (c *Chipset) Release() {
	c.Close()
	c.sendMu.Lock()
	defer c.sendMu.Unlock()
	if c.mem != nil {
		_ = unix.Munmap(c.mem)
		c.mem = nil
	}
	if c.memfd >= 0 {
		_ = unix.Close(c.memfd)
		_ = c.bell.Close()
		c.memfd, c.bellfd = -1, -1
	}
}
