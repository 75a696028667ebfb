package backplane

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"ft/chipset/engine"
	"ft/chipset/lockstep"
	"ft/chipset/port"
	"ft/chipset/rv64/translate"
)

// Config is what a module is started with.
type Config struct {
	Exe         string // default: this program
	Side        lockstep.Side
	Machine     MachineConfig
	Engine      engine.Kind // default: the interpreter
	MemoryBytes int64
	CPU         int      // core that it is pinned to; -1: not pinned
	Log         *os.File // takes its last words; nil: nowhere
	Inbox       *Inbox   // where its records arrive; needed
	Limits      Limits
	Patience    time.Duration // default port.Patience

	// Of is a module that stands still, whose memory this one begins with: as a copy of its own,
	// made page by page where it writes. nil: memory that is all zero.
	Of *Module
}

// releaseMax bounds the wait for a killed process: one in the middle of a system call ends
// behind it.
const releaseMax = 5 * time.Second

// Module is a CPU module's process, as the chipset has it. All methods may be called from
// any goroutine; Send from one at a time.
type Module struct {
	side   lockstep.Side
	port   *port.Chipset
	proc   *process
	inbox  *Inbox
	limits Limits
	ram    []byte
	ramfd  int

	passed, refused     atomic.Uint64
	asked, answered     atomic.Uint64 // commands that are answered; answers
	slowAsked, slowDone atomic.Uint64 // those of them that take long
	idle                atomic.Bool   // the watcher sleeps until it is poked
	poke                chan struct{}
	quit                chan struct{} // ends the watcher
	done                chan struct{} // the process is gone, all that it sent was seen
	watching            sync.WaitGroup
	sendMu              sync.Mutex // guards head
	head                []byte
	useMu               sync.RWMutex // held for reading while the memory is copied
	released            bool         // guarded by useMu
	releaseOnce         sync.Once
	releaseErr          error
	how                 string // it ended; the mourner's, until the port is closed

	// Guarded by inbox.mu.
	fenced      bool
	why         string // it was fenced
	leaving     bool   // handed over to a successor
	gone        bool   // reported
	blocked     bool   // the reader waits for room in the inbox
	queued      int
	queuedBytes int
}

// Start starts a module in a fresh process with zeroed memory.
func Start(cfg Config) (*Module, error) {
	if cfg.MemoryBytes <= 0 || cfg.MemoryBytes%pageSize != 0 {
		return nil, fmt.Errorf("start %s: %d bytes of memory: want a multiple of 4 KiB", cfg.Side, cfg.MemoryBytes)
	}
	if cfg.Patience <= 0 {
		cfg.Patience = port.Patience
	}
	settings, err := json.Marshal(Settings{
		Side: cfg.Side, MemoryBytes: cfg.MemoryBytes, CPU: cfg.CPU, Machine: cfg.Machine, Engine: cfg.Engine, Patience: cfg.Patience, Private: cfg.Of != nil,
	})
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", cfg.Side, err)
	}
	m := newModule(cfg.Side, cfg.Inbox, cfg.Limits)
	if err := m.start(cfg, settings); err != nil {
		m.discard()
		return nil, fmt.Errorf("start %s: %w", cfg.Side, err)
	}
	m.begin()
	return m, nil
}

func (m *Module) start(cfg Config, settings []byte) (err error) {
	if m.ramfd, err = newMemory(cfg); err != nil {
		return err
	}
	if cfg.Of == nil {
		if err = m.mapRAM(cfg.MemoryBytes); err != nil {
			return err
		}
	}
	if m.port, err = port.New(settings); err != nil {
		return err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	log := cfg.Log
	if log == nil {
		log = null
	}
	exe := cfg.Exe
	if exe == "" {
		exe = "/proc/self/exe"
	}
	memfd, bell := m.port.Descriptors()
	m.proc, err = startProcess(exe, []string{"ftd", Role, fmt.Sprint(uint8(m.side))},
		[]uintptr{null.Fd(), log.Fd(), log.Fd(), uintptr(m.ramfd), uintptr(memfd), uintptr(bell)})
	return err
}

// newMemory is a new module's memory: its own, or another's that it cannot write to.
func newMemory(cfg Config) (fd int, err error) {
	if cfg.Of == nil {
		return port.SealedMemory("ft-ram-"+cfg.Side.String(), cfg.MemoryBytes)
	}
	cfg.Of.useMu.RLock()
	defer cfg.Of.useMu.RUnlock()
	if cfg.Of.released || int64(len(cfg.Of.ram)) != cfg.MemoryBytes {
		return -1, fmt.Errorf("begin with the memory of %s: it has been released, or has not %d bytes", cfg.Of.side, cfg.MemoryBytes)
	}
	if fd, err = unix.Open(fmt.Sprintf("/proc/self/fd/%d", cfg.Of.ramfd), unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return -1, fmt.Errorf("begin with the memory of %s: %w", cfg.Of.side, err)
	}
	return fd, nil
}

// Adopt takes a running module over from its Descriptors, which a predecessor stored. They
// are the module's from then on, and closed when it fails. A process that is dead by now is
// adopted as well, and reported.
func Adopt(side lockstep.Side, descriptors []int, inbox *Inbox, limits Limits) (*Module, error) {
	if len(descriptors) != descriptorCount {
		closeAll(descriptors)
		return nil, fmt.Errorf("adopt %s: %d descriptors were kept of it, not %d", side, len(descriptors), descriptorCount)
	}
	m := newModule(side, inbox, limits)
	if err := m.adopt(descriptors); err != nil {
		m.discard()
		return nil, fmt.Errorf("adopt %s: %w", side, err)
	}
	m.begin()
	return m, nil
}

func (m *Module) adopt(descriptors []int) (err error) {
	m.ramfd = descriptors[descriptorRAM]
	if m.proc, err = adoptProcess(descriptors[descriptorProcess]); err != nil {
		closeAll(descriptors[descriptorRAM+1:])
		return err
	}
	if m.port, err = port.Adopt(descriptors[descriptorPort], descriptors[descriptorBell]); err != nil {
		return err
	}
	var st unix.Stat_t
	if err = unix.Fstat(m.ramfd, &st); err != nil {
		return err
	}
	if err = port.CheckSealed("its memory", m.ramfd, st.Size); err != nil {
		return err
	}
	return m.mapRAM(st.Size)
}

// Places in Descriptors.
const (
	descriptorRAM = iota
	descriptorPort
	descriptorBell
	descriptorProcess
	descriptorCount
)

// Descriptors are what Adopt needs, in its order. They stay the module's.
func (m *Module) Descriptors() []int {
	memfd, bell := m.port.Descriptors()
	return []int{m.ramfd, memfd, bell, m.proc.pidfd}
}

func newModule(side lockstep.Side, inbox *Inbox, limits Limits) *Module {
	return &Module{side: side, inbox: inbox, limits: limits.withDefaults(), ramfd: -1,
		poke: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{})}
}

func (m *Module) mapRAM(bytes int64) (err error) {
	m.ram, err = unix.Mmap(m.ramfd, 0, int(bytes), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_NORESERVE)
	if err != nil {
		return fmt.Errorf("map %d MiB of memory: %w", bytes>>20, err)
	}
	_ = unix.Madvise(m.ram, unix.MADV_HUGEPAGE) // faster, where shmem_enabled of the kernel's huge pages allows it
	return nil
}

// discard gives back what a start that failed had got hold of.
func (m *Module) discard() {
	if m.proc != nil {
		m.proc.close()
	}
	m.drop()
}

// drop gives memory and port back.
func (m *Module) drop() {
	m.useMu.Lock()
	defer m.useMu.Unlock()
	m.released = true
	if m.port != nil {
		m.port.Release()
	}
	if m.ram != nil {
		_ = unix.Munmap(m.ram)
		m.ram = nil
	}
	if m.ramfd >= 0 {
		_ = unix.Close(m.ramfd)
		m.ramfd = -1
	}
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}

func (m *Module) begin() {
	m.port.Beat()
	m.watching.Add(1)
	go m.mourn()
	go m.read()
	go m.watch()
}

// Side is the module's place, Pid its process.
func (m *Module) Side() lockstep.Side { return m.side }
func (m *Module) Pid() int            { return m.proc.pid }

// RAM is the chipset's own mapping of the module's memory, valid until Release; nil of one that
// began with another's.
func (m *Module) RAM() []byte { return m.ram }

// Passed counts the records that were taken from the Inbox, Refused those that came after
// the fence, or behind garbage.
func (m *Module) Passed() uint64  { return m.passed.Load() }
func (m *Module) Refused() uint64 { return m.refused.Load() }

// Gauges is what the module says of its engine, which is for people: nothing is decided by it.
func (m *Module) Gauges() (kind engine.Kind, s translate.Stats) {
	return gaugesOf(m.port.Gauges())
}

// Done is closed when the process is gone and all that it had sent is delivered or refused.
func (m *Module) Done() <-chan struct{} { return m.done }

// Tail and Last are the port's: what was sent of the stream, for adoption.
func (m *Module) Tail(from uint64) ([]lockstep.Command, bool) { return m.port.Tail(from) }
func (m *Module) Last() (number uint64, ok bool)              { return m.port.Last() }

// Settings are what the module was started with, as they stand in its port: the module
// could have changed them.
func (m *Module) Settings() (s Settings, err error) {
	b, err := m.port.Config()
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	return s, err
}

// Send sends a command. It never blocks: port.ErrFull says that there is no room now. To a
// module that is fenced nothing is sent.
func (m *Module) Send(c *lockstep.Command) error {
	if m.isFenced() {
		return fmt.Errorf("send %s to %s: it is fenced", c.Verb, m.side)
	}
	m.sendMu.Lock()
	defer m.sendMu.Unlock()
	head := *c
	head.Data = nil
	m.head = head.Append(m.head[:0])
	answered, slow := answers(c.Verb)
	// Counted before it is sent: its answer may be there before Send returns.
	if slow {
		m.slowAsked.Add(1)
	}
	if answered {
		m.asked.Add(1)
	}
	if err := m.port.Send(m.head, c.Data); err != nil {
		if slow {
			m.slowAsked.Add(^uint64(0))
		}
		if answered {
			m.asked.Add(^uint64(0))
		}
		if errors.Is(err, port.ErrFull) {
			return err // an everyday thing
		}
		return fmt.Errorf("send %s to %s: %w", c.Verb, m.side, err)
	}
	if m.idle.Load() {
		select {
		case m.poke <- struct{}{}:
		default:
		}
	}
	return nil
}

// answers says whether a command is answered, and whether that may take long.
func answers(v lockstep.Verb) (answered, slow bool) {
	switch v {
	case lockstep.Run, lockstep.Epoch, lockstep.Emit, lockstep.Patrol:
		return true, false // with a part of memory, the latter
	case lockstep.Back, lockstep.Save, lockstep.Load, lockstep.Test, lockstep.Digest:
		return true, true // the last one is asked of a module that is not in lockstep
	}
	return false, false
}

func (m *Module) isFenced() bool {
	m.inbox.mu.Lock()
	defer m.inbox.mu.Unlock()
	return m.fenced
}

// Fenced says whether the module is fenced, and why.
func (m *Module) Fenced() (why string, fenced bool) {
	m.inbox.mu.Lock()
	defer m.inbox.mu.Unlock()
	return m.why, m.fenced
}

// Fence cuts the module off, at once: when it returns nothing of it leaves the Inbox any
// more, and its process is being killed. It waits for nothing; Done says when the process is
// gone. Counts and memory stay until Release.
func (m *Module) Fence(why string) {
	m.inbox.mu.Lock()
	first, leaving := !m.fenced, m.leaving
	if first {
		m.fenced, m.why = true, why
		m.inbox.room.Broadcast()
	}
	m.inbox.mu.Unlock()
	if first && !leaving {
		m.proc.kill()
	}
}

// read is the reader: it ends when the process is gone and its ring is empty, or the ring
// is broken.
func (m *Module) read() {
	defer close(m.done)
	var buf []byte
	for refusing := false; ; {
		message, err := m.port.Receive(buf)
		if errors.Is(err, port.ErrClosed) {
			if m.how != "" {
				how := m.how
				if words := m.port.LastWords(); words != "" {
					how += ": " + words
				}
				m.report(Gone{Why: Died, Text: m.says(how)})
			}
			return
		}
		record := new(lockstep.Record)
		if err == nil {
			buf = message[:cap(message)]
			if !refusing {
				err = record.Decode(message)
			}
		}
		if err != nil && !refusing {
			refusing = true
			m.report(Gone{Why: Garbage, Text: m.says("sent what no module sends: " + err.Error())})
		}
		if errors.Is(err, port.ErrBroken) {
			m.refused.Add(1)
			<-m.proc.ended
			return
		}
		if refusing || !m.inbox.put(Delivery{Module: m, Record: record, bytes: len(message)}) {
			m.refused.Add(1)
			continue
		}
		m.count(record.Kind)
	}
}

// count keeps account of what the module owes.
func (m *Module) count(k lockstep.RecordKind) {
	switch k {
	case lockstep.Output, lockstep.Injected:
		return
	case lockstep.Restored, lockstep.Saved, lockstep.Loaded, lockstep.Tested:
		m.slowDone.Add(1)
	}
	m.answered.Add(1)
}

// says is a sentence about the process. One that was gone and reaped before it was adopted
// has no number any more.
func (m *Module) says(what string) string {
	if m.proc.pid <= 0 {
		return fmt.Sprintf("%s: its process %s", m.side, what)
	}
	return fmt.Sprintf("%s: process %d %s", m.side, m.proc.pid, what)
}

// report delivers that the module is gone, once, and not after the fence.
func (m *Module) report(g Gone) {
	m.inbox.mu.Lock()
	first := !m.gone
	m.gone = true
	m.inbox.mu.Unlock()
	if first {
		m.inbox.put(Delivery{Module: m, Gone: &g})
	}
}

// mourn is the mourner: it waits for the process's end, and then lets the reader come to
// the end of the ring.
func (m *Module) mourn() {
	defer close(m.proc.ended)
	if how, err := m.proc.wait(); err == nil {
		m.how = how
	}
	m.port.Close()
}

// Release fences the module, waits until its process is gone, and gives memory and
// descriptors back. RAM must not be used any more. An error says that the process would
// not end: what is ours is given back all the same.
func (m *Module) Release() error {
	m.Fence("released")
	m.releaseOnce.Do(func() {
		timer := time.NewTimer(releaseMax)
		defer timer.Stop()
		select {
		case <-m.done:
		case <-timer.C:
			m.releaseErr = fmt.Errorf("release %s: process %d was killed %v ago and has not ended", m.side, m.proc.pid, releaseMax)
		}
		m.end()
	})
	return m.releaseErr
}

// HandOver leaves the process running for a successor, and gives back what is ours.
func (m *Module) HandOver() {
	m.releaseOnce.Do(func() {
		m.inbox.mu.Lock()
		m.leaving = true
		m.inbox.room.Broadcast()
		m.inbox.mu.Unlock()
		m.end()
	})
}

// end ends the goroutines and gives everything back.
func (m *Module) end() {
	close(m.quit)
	m.proc.close() // the mourner's wait ends, if it has not yet
	<-m.proc.ended
	<-m.done
	m.watching.Wait()
	m.drop()
}
