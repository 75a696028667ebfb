package crossbar

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ft/chipset/lockstep"
	"ft/chipset/port"
)

// Journal is what a successor has to know of a machine whose chipset has died, in memory that
// outlives the process: two places that are written in turn, each with its number and its
// checksum, so that one is whole whenever the writer died.
type Journal struct {
	fd  int
	mem []byte

	mu     sync.Mutex // guards the fields below
	number uint64
	entry  Entry
}

// Entry is what a journal says.
type Entry struct {
	Pids    [2]int        `json:"pids"`     // of the modules in lockstep; 0: none
	Judging bool          `json:"judging"`  // they are at odds: nobody else could go on with them
	Began   time.Duration `json:"began_ns"` // guest time 0, as CLOCK_BOOTTIME
	Boots   uint64        `json:"boots"`
}

const (
	journalBytes = 8192
	placeBytes   = journalBytes / 2
	placeHead    = 8 + 4 + 4 // number, length, checksum
)

// Names under which descriptors are kept.
const JournalName = "journal"

// ModuleName is the name of a module's descriptors.
func ModuleName(s lockstep.Side, pid int) string { return s.String() + "-" + strconv.Itoa(pid) }

// NewJournal makes an empty one.
func NewJournal() (*Journal, error) {
	fd, err := port.SealedMemory("ft-journal", journalBytes)
	if err != nil {
		return nil, err
	}
	return mapJournal(fd)
}

// OpenJournal takes a predecessor's over.
func OpenJournal(fd int) (*Journal, error) {
	if err := port.CheckSealed("the journal", fd, journalBytes); err != nil {
		return nil, err
	}
	j, err := mapJournal(fd)
	if err != nil {
		return nil, err
	}
	found := false
	for p := range 2 {
		if number, e, ok := j.read(p); ok && number >= j.number {
			j.number, j.entry, found = number, e, true
		}
	}
	if !found {
		j.Close()
		return nil, errors.New("the journal says nothing")
	}
	return j, nil
}

func mapJournal(fd int) (*Journal, error) {
	mem, err := unix.Mmap(fd, 0, journalBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("map the journal: %w", err)
	}
	return &Journal{fd: fd, mem: mem}, nil
}

// FD is its descriptor.
func (j *Journal) FD() int { return j.fd }

// Entry is what it says.
func (j *Journal) Entry() Entry {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.entry
}

// Begin notes the beginning of a machine that runs now for the boots'th time.
func (j *Journal) Begin(began time.Time, boots uint64) {
	since := time.Since(began)
	j.change(func(e *Entry) { e.Began, e.Boots = boottime()-since, boots })
}

// BeganAt is guest time 0.
func (e Entry) BeganAt() time.Time { return time.Now().Add(e.Began - boottime()) }

func boottime() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) // it is there since Linux 2.6.39
	return time.Duration(ts.Nano())
}

// change changes what it says.
func (j *Journal) change(f func(*Entry)) {
	if j == nil {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	was := j.entry
	if f(&j.entry); j.entry == was {
		return
	}
	b, err := json.Marshal(j.entry)
	if err != nil || len(b) > placeBytes-placeHead {
		panic("crossbar: a journal's entry cannot be written") // plain values
	}
	j.number++
	at := j.mem[int(j.number%2)*placeBytes:][:placeBytes]
	binary.LittleEndian.PutUint32(at[12:], 0) // not whole
	binary.LittleEndian.PutUint64(at, j.number)
	binary.LittleEndian.PutUint32(at[8:], uint32(len(b)))
	copy(at[placeHead:], b)
	binary.LittleEndian.PutUint32(at[12:], crc32.ChecksumIEEE(at[:12])^crc32.ChecksumIEEE(b))
}

// read reads a place.
func (j *Journal) read(place int) (number uint64, e Entry, ok bool) {
	at := j.mem[place*placeBytes:][:placeBytes]
	n := binary.LittleEndian.Uint32(at[8:])
	if n == 0 || n > placeBytes-placeHead {
		return 0, e, false
	}
	b := at[placeHead:][:n]
	if binary.LittleEndian.Uint32(at[12:]) != crc32.ChecksumIEEE(at[:12])^crc32.ChecksumIEEE(b) || json.Unmarshal(b, &e) != nil {
		return 0, e, false
	}
	return binary.LittleEndian.Uint64(at), e, true
}

// Close gives it back.
func (j *Journal) Close() {
	_ = unix.Munmap(j.mem)
	_ = unix.Close(j.fd)
}

// Keeper holds descriptors for a successor.
type Keeper struct {
	Journal *Journal
	Store   func(name string, fds ...int) error
	Drop    func(name string)
}

// keep has a module's descriptors held.
func (x *Crossbar) keep(m *mod) error {
	if x.cfg.Keeper.Store == nil {
		return nil
	}
	return x.cfg.Keeper.Store(ModuleName(m.side, m.Pid()), m.Descriptors()...)
}

// drop ends that.
func (x *Crossbar) drop(m *mod, pid int) {
	if x.cfg.Keeper.Drop != nil {
		x.cfg.Keeper.Drop(ModuleName(m.side, pid))
	}
}

// journalWithin writes down whether a side is in lockstep.
func (x *Crossbar) journalWithin(s lockstep.Side, in bool) {
	x.cfg.Keeper.Journal.change(func(e *Entry) {
		if e.Pids[s] = 0; in && x.mods[s] != nil {
			e.Pids[s] = x.mods[s].Pid()
		}
	})
}

func (x *Crossbar) journalJudging(is bool) {
	x.cfg.Keeper.Journal.change(func(e *Entry) { e.Judging = is })
}
