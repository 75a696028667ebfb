// Package port is what lies between the chipset and one CPU module: memory that both have
// mapped, with a ring of commands towards the module and a ring of records back.
//
//	header │ commands: chipset → module │ records: module → chipset
//
// # Rings
//
// A position counts all bytes that ever went through a ring, so it only grows; its offset in
// the ring is the rest of a division by RingBytes. A message is its length (8 bytes), the
// message itself filled up to a multiple of 8, and its length again, by which Tail finds the
// way back. The writer fills in the message and then moves the ring's head; the reader copies
// the message out and then moves the ring's tail. Each of the two is stored by one side.
//
// # Wake-up
//
// A side that finds nothing to do stores in a word of the header that it sleeps, looks once
// more, and sleeps. The other side moves a position, then loads that word, and rings if it
// is set. All of these are sequentially consistent, so either the sleeper's second look
// finds the message, or the sender finds the word: no wake-up is lost, and none is made
// that nobody waits for. Whoever rings clears the word, so one sleep is ended by one call.
// A module rings late for records that are not urgent (Module.Send), and in any case before
// it sleeps itself.
//
// The module's word is a futex: a thread that is there for nothing else sleeps on it. The
// chipset's sleeper is a goroutine in the runtime's poller; what wakes it is an eventfd, of
// which it wants the edges alone. So the chipset neither reads nor writes a descriptor that
// the module could have made to block.
//
// # Trust
//
// The module may be broken, and the chipset takes nothing in this memory for granted that the
// module can write to, which is all of it. What the chipset knows itself (its own positions)
// it keeps outside and only stores here. What it needs from the module (the module's
// positions, a message's length) it loads once, checks, and uses the copy. A message is copied
// out before anything looks into it. What does not check is ErrBroken, for good. The memory
// is sealed against a change of its size, which would turn a look into it into a SIGBUS.
//
// # Adoption
//
// The chipset's positions are in the header so that its successor finds them. What the
// module has taken stays readable until its space is used again: after its chipset's death
// one module may have been sent more of the stream than the other, and Tail finds that again.
package port

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"ft/chipset/lockstep"
)

// Sizes, in bytes.
const (
	// RingBytes holds two of the largest messages, so that one can be written while the
	// other is read. A power of two.
	RingBytes   = 8 << 20
	headerBytes = 64 << 10
	size        = headerBytes + 2*RingBytes

	configOffset = 4096
	// ConfigMax bounds the module's configuration.
	ConfigMax = headerBytes - configOffset

	overhead = 16 // of a message: its length, twice
)

const _ = uint(RingBytes - 2*(lockstep.MessageMax+overhead+8)) // does not compile when it is too small

const (
	magic   = 0x31_74_72_6f_70_2d_74_66 // "ft-port1"
	version = 1
)

// Offsets of the header's words. What one side stores often has cache lines of its own.
const (
	offMagic        = 0
	offVersion      = 8
	offConfigLength = 16

	// Stored by the chipset.
	offCommandHead    = 128 // position
	offCommandReserve = 136 // position up to which the ring may have been written to
	offCommandsSent   = 144 // messages
	offRecordTail     = 152 // position
	offHeartbeat      = 192

	// Stored by the module.
	offCommandTail  = 256 // position
	offCommandsDone = 264 // messages: executed, not just taken
	offRecordHead   = 272 // position
	offRecordsSent  = 280 // messages
	offThread       = 320 // the module's thread that executes commands

	offGauges = 512  // Gauges
	offWords  = 1024 // last words: their length, and they

	// Stored by both: who sleeps.
	offModuleSleeps  = 384 // a futex; one of the values below
	offChipsetSleeps = 448
)

// Values of a word that says who sleeps.
const (
	awake = iota
	sleepsForMessage
	sleepsForRoom
)

var (
	// ErrFull: there is no room for the message now.
	ErrFull = errors.New("the ring is full")
	// ErrClosed: this end was closed, and all that had come was received.
	ErrClosed = errors.New("the port is closed")
	// ErrBroken: what the other side has written makes no sense.
	ErrBroken = errors.New("the port is broken")
	// ErrAbandoned: the chipset has not been seen to live for too long.
	ErrAbandoned = errors.New("the chipset is gone")
)

// memory is the mapping.
type memory []byte

func mapPort(fd int) (memory, error) {
	b, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map a port: %w", err)
	}
	return b, nil
}

func (m memory) word(off int) *uint64     { return (*uint64)(unsafe.Pointer(&m[off])) }
func (m memory) word32(off int) *uint32   { return (*uint32)(unsafe.Pointer(&m[off])) }
func (m memory) load(off int) uint64      { return atomic.LoadUint64(m.word(off)) }
func (m memory) store(off int, v uint64)  { atomic.StoreUint64(m.word(off), v) }
func (m memory) commands() ring           { return ring(m[headerBytes : headerBytes+RingBytes]) }
func (m memory) records() ring            { return ring(m[headerBytes+RingBytes : size]) }
func (m memory) sleeps(off int, v uint32) { atomic.StoreUint32(m.word32(off), v) }

// woken ends a sleep of kind v, and says whether there was one.
func (m memory) woken(off int, v uint32) bool {
	w := m.word32(off)
	return atomic.LoadUint32(w) == v && atomic.CompareAndSwapUint32(w, v, awake)
}

// ring is the bytes of a ring.
type ring []byte

// space is what a message of n bytes takes.
func space(n int) uint64 { return uint64(n+7)&^7 + overhead }

// length is the word at a position, which is a multiple of 8.
func (r ring) length(pos uint64) uint64 {
	return atomic.LoadUint64((*uint64)(unsafe.Pointer(&r[pos%RingBytes])))
}

func (r ring) setLength(pos, n uint64) {
	atomic.StoreUint64((*uint64)(unsafe.Pointer(&r[pos%RingBytes])), n)
}

// put copies b to a position, around the ring's end.
func (r ring) put(pos uint64, b []byte) {
	n := copy(r[pos%RingBytes:], b)
	copy(r, b[n:])
}

// get copies what is at a position to b.
func (r ring) get(pos uint64, b []byte) {
	n := copy(b, r[pos%RingBytes:])
	copy(b[n:], r)
}

// write puts a message of two parts, n bytes together, at a position.
func (r ring) write(pos uint64, n int, a, b []byte) {
	r.setLength(pos, uint64(n))
	r.put(pos+8, a)
	r.put(pos+8+uint64(len(a)), b)
	r.setLength(pos+space(n)-8, uint64(n))
}

// read copies the message at a position, where used bytes are said to be, into buf or into
// a larger buffer. It returns the space that it takes.
func (r ring) read(pos, used uint64, buf []byte) (message []byte, taken uint64, err error) {
	n := r.length(pos)
	if n > lockstep.MessageMax || space(int(n)) > used {
		return nil, 0, fmt.Errorf("%w: a message of %d bytes where %d are", ErrBroken, n, used)
	}
	taken = space(int(n))
	if again := r.length(pos + taken - 8); again != n {
		return nil, 0, fmt.Errorf("%w: a message of %d bytes ends as one of %d", ErrBroken, n, again)
	}
	if uint64(cap(buf)) < n {
		buf = make([]byte, n, max(n, 4096))
	}
	message = buf[:n]
	r.get(pos+8, message)
	return message, taken, nil
}

// used is what lies between two positions of a ring, checked.
func used(head, tail uint64) (uint64, error) {
	n := head - tail
	if head < tail || n > RingBytes || head%8 != 0 || tail%8 != 0 || n > 0 && n < overhead {
		return 0, fmt.Errorf("%w: a ring from %d to %d", ErrBroken, tail, head)
	}
	return n, nil
}

// config is the configuration in the header, copied.
func (m memory) config() ([]byte, error) {
	if got := m.load(offMagic); got != magic {
		return nil, fmt.Errorf("%w: it begins with %#x", ErrBroken, got)
	}
	if got := m.load(offVersion); got != version {
		return nil, fmt.Errorf("%w: its version is %d, this program's %d", ErrBroken, got, version)
	}
	n := m.load(offConfigLength)
	if n > ConfigMax {
		return nil, fmt.Errorf("%w: a configuration of %d bytes", ErrBroken, n)
	}
	return append([]byte(nil), m[configOffset:configOffset+n]...), nil
}

// streamNumber is the number of a command of the stream, from its first bytes. A commit has
// none: it says what others of the stream have led to, and a successor begins anew there.
func streamNumber(message []byte) (uint64, bool) {
	if len(message) < 9 || message[0] == 0 || lockstep.Verb(message[0]) > lockstep.Patrol {
		return 0, false
	}
	number := binary.LittleEndian.Uint64(message[1:])
	return number, number != 0
}
