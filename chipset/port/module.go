package port

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"ft/chipset/lockstep"
)

// Patience is how long a module waits for a chipset that shows no sign of life.
const Patience = 60 * time.Second

// looks is how often a module looks for such a sign in that time.
const looks = 12

// Module is the module's end of a port, for one thread.
type Module struct {
	mem  memory
	bell int
	buf  []byte

	commandTail, recordHead uint64
	taken, sent             uint64 // messages
	unrung                  int    // records that the chipset was not woken for
	patience                time.Duration
}

// Open maps the port in memfd. bell stays the caller's. Both are the descriptors that
// Chipset.Files gave. Called on the thread that will execute the commands.
func Open(memfd, bell int) (*Module, error) {
	mem, err := mapPort(memfd)
	if err != nil {
		return nil, err
	}
	m := &Module{mem: mem, bell: bell, patience: Patience}
	mem.store(offThread, uint64(unix.Gettid()))
	return m, nil
}

// SetPatience sets how long the module waits for a chipset that shows no sign of life.
func (m *Module) SetPatience(d time.Duration) {
	if d > 0 {
		m.patience = d
	}
}

// Config is the module's configuration.
func (m *Module) Config() ([]byte, error) { return m.mem.config() }

// Receive waits for the next command, which is valid until the next call. That the module
// asks for it says that it is done with the one before. It returns ErrAbandoned when the
// chipset has shown no sign of life for the module's patience.
func (m *Module) Receive() ([]byte, error) {
	m.mem.store(offCommandsDone, m.taken)
	for {
		inside, err := used(m.mem.load(offCommandHead), m.commandTail)
		if err != nil {
			return nil, err
		}
		if inside > 0 {
			message, space, err := m.mem.commands().read(m.commandTail, inside, m.buf)
			if err != nil {
				return nil, err
			}
			m.buf = message[:cap(message)]
			m.commandTail += space
			m.taken++
			m.mem.store(offCommandTail, m.commandTail)
			return message, nil
		}
		m.ring()
		if err := m.sleep(sleepsForMessage, func() bool { return m.mem.load(offCommandHead) != m.commandTail }); err != nil {
			return nil, err
		}
	}
}

// Send sends a record. It waits for room when the chipset is behind. One that is not urgent
// may lie there for a few more commands until the chipset is woken: to be woken costs it
// more than to look at the record.
func (m *Module) Send(message []byte, urgent bool) error {
	if len(message) > lockstep.MessageMax {
		return fmt.Errorf("a record of %d bytes: at most %d are sent", len(message), lockstep.MessageMax)
	}
	need := space(len(message))
	room := func() bool { return RingBytes-(m.recordHead-m.mem.load(offRecordTail)) >= need }
	for !room() {
		m.ring()
		if err := m.sleep(sleepsForRoom, room); err != nil {
			return err
		}
	}
	m.mem.records().write(m.recordHead, len(message), message, nil)
	m.recordHead += need
	m.sent++
	m.mem.store(offRecordsSent, m.sent)
	m.mem.store(offRecordHead, m.recordHead)
	if m.unrung++; urgent || m.unrung >= unrungMax || m.mem.load(offCommandsSent)-m.taken < aheadMin {
		m.ring()
	}
	return nil
}

// A chipset is not woken for up to unrungMax records, as long as aheadMin commands keep the
// module busy until it has been.
const (
	unrungMax = 4
	aheadMin  = 6
)

// ring wakes the chipset, if it sleeps and there is something that it was not woken for.
func (m *Module) ring() {
	if m.unrung > 0 && m.mem.woken(offChipsetSleeps, sleepsForMessage) {
		_, _ = unix.Write(m.bell, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	}
	m.unrung = 0
}

// sleep returns when ready does, or may do.
func (m *Module) sleep(kind uint32, ready func() bool) error {
	slice := unix.NsecToTimespec(int64(m.patience) / looks)
	beat := m.mem.load(offHeartbeat)
	word := m.mem.word32(offModuleSleeps)
	// Looks are counted and not timed: a module that was stopped for long has not waited
	// for long.
	for look := 0; look < looks; {
		m.mem.sleeps(offModuleSleeps, kind)
		if ready() || m.mem.load(offHeartbeat) != beat {
			m.mem.sleeps(offModuleSleeps, awake)
			return nil
		}
		if futexWait(word, kind, &slice) == unix.ETIMEDOUT { // else woken, or by a signal of the runtime
			look++
		}
	}
	return fmt.Errorf("%w: nothing was heard of it for %v", ErrAbandoned, m.patience)
}
