package module

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
)

// A record is what a machine was given, so that the run can be had again: a head that names
// the machine, then each input with the step at which it was applied, and at the end how
// far the machine ran and what it was then.
//
//	head    "ftrecord", version, length of the description, the description (its writer's:
//	        how to build the machine), digest of the start (StartDigest)
//	entry   step (8), length (4), CRC32C (4) of both and of what follows, the encoded input
//	end     the same with the length 0; fingerprint (8), digest of memory
//
// All numbers are little-endian. A record without its end (the recorder was killed) is
// played up to its last whole entry.

const (
	recordMagic    = "ftrecord"
	recordVersion  = 1
	recordHead     = 8 + 4 + 4
	entryHead      = 8 + 4 + 4
	descriptionMax = 1 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Digest names a start or a memory.
type Digest [sha256.Size]byte

func (d Digest) String() string { return fmt.Sprintf("%x", d[:16]) }

// StartDigest is the digest of memory and registers: two machines with the same one are the
// same, if they were built from the same Config.
func (m *Machine) StartDigest() Digest {
	h := sha256.New()
	digestMemory(h, m.cfg.RAM)
	s := m.hart.State()
	for _, word := range s.Words() {
		h.Write(binary.LittleEndian.AppendUint64(nil, word))
	}
	return Digest(h.Sum(nil))
}

// MemoryDigest is the digest of all of memory.
func (m *Machine) MemoryDigest() Digest { return DigestMemory(m.cfg.RAM) }

// DigestMemory is the digest of a machine's memory.
func DigestMemory(ram []byte) Digest {
	h := sha256.New()
	digestMemory(h, ram)
	return Digest(h.Sum(nil))
}

// digestMemory hashes each page that is not all zero, behind its number: most of a large
// memory was never touched, and a hash of it would take as long as if it had been.
func digestMemory(h hash.Hash, ram []byte) {
	var zero [4096]byte
	for at := 0; at < len(ram); at += len(zero) {
		page := ram[at:][:len(zero)]
		if bytes.Equal(page, zero[:]) {
			continue
		}
		h.Write(binary.LittleEndian.AppendUint64(nil, uint64(at)))
		h.Write(page)
	}
}

// Recorder writes a record. Its errors are sticky: Close returns the first.
type Recorder struct {
	w   *bufio.Writer
	buf []byte
	err error
}

// NewRecorder begins the record of m, which has not run yet. The description is for whoever
// builds the machine again.
func NewRecorder(w io.Writer, m *Machine, description []byte) *Recorder {
	r := &Recorder{w: bufio.NewWriterSize(w, 64<<10)}
	digest := m.StartDigest()
	head := binary.LittleEndian.AppendUint32([]byte(recordMagic), recordVersion)
	head = binary.LittleEndian.AppendUint32(head, uint32(len(description)))
	r.write(append(append(head, description...), digest[:]...))
	return r
}

func (r *Recorder) write(b []byte) {
	if r.err == nil {
		_, r.err = r.w.Write(b)
	}
}

// Input records one that was applied at a step.
func (r *Recorder) Input(step uint64, in *Input) {
	r.buf = in.Append(append(r.buf[:0], make([]byte, entryHead)...))
	r.entry(step, len(r.buf)-entryHead)
}

// entry writes what is in buf behind the room for its head.
func (r *Recorder) entry(step uint64, length int) {
	binary.LittleEndian.PutUint64(r.buf, step)
	binary.LittleEndian.PutUint32(r.buf[8:], uint32(length))
	binary.LittleEndian.PutUint32(r.buf[12:], entrySum(r.buf, r.buf[entryHead:]))
	r.write(r.buf)
}

func entrySum(head, body []byte) uint32 {
	return crc32.Update(crc32.Checksum(head[:12], castagnoli), castagnoli, body)
}

// Close ends the record with the machine as it is.
func (r *Recorder) Close(m *Machine) error { return r.CloseAt(endOf(m)) }

// CloseAt ends the record with what became of a machine that ran elsewhere.
func (r *Recorder) CloseAt(end End) error {
	r.buf = binary.LittleEndian.AppendUint64(append(r.buf[:0], make([]byte, entryHead)...), end.Fingerprint)
	r.buf = append(r.buf, end.Memory[:]...)
	r.entry(end.Steps, 0)
	if r.err == nil {
		r.err = r.w.Flush()
	}
	if r.err != nil {
		return fmt.Errorf("record the machine's inputs: %w", r.err)
	}
	return nil
}

// Record is a record that is being read.
type Record struct {
	Description []byte
	start       Digest
	r           io.Reader
	buf         []byte
}

// OpenRecord reads a record's head.
func OpenRecord(r io.Reader) (*Record, error) {
	rec := &Record{r: bufio.NewReaderSize(r, 64<<10)}
	var head [recordHead]byte
	if _, err := io.ReadFull(rec.r, head[:]); err != nil || string(head[:8]) != recordMagic {
		return nil, errors.New("this is no record of a machine's inputs")
	}
	if v := binary.LittleEndian.Uint32(head[8:]); v != recordVersion {
		return nil, fmt.Errorf("a record of version %d, version %d is known", v, recordVersion)
	}
	n := binary.LittleEndian.Uint32(head[12:])
	if n > descriptionMax {
		return nil, fmt.Errorf("the record is damaged: a description of %d bytes", n)
	}
	rec.Description = make([]byte, n)
	for _, p := range [][]byte{rec.Description, rec.start[:]} {
		if _, err := io.ReadFull(rec.r, p); err != nil {
			return nil, errors.New("the record ends within its head")
		}
	}
	return rec, nil
}

// End is how a play ended.
type End struct {
	Steps       uint64
	Fingerprint uint64
	Memory      Digest
	Whole       bool // the record had an end, and the machine was then what it had been
}

// Play does to m, which has not run yet, what the record says, in runs of up to quantum
// steps. What the machine emits goes to its Sink as ever, and is answered by the record
// alone. An error says where the machine differs from the one that was recorded, or the
// record is damaged.
func (rec *Record) Play(m *Machine, quantum uint64) (End, error) {
	if start := m.StartDigest(); start != rec.start {
		return End{}, fmt.Errorf("the record is of a machine that started as %v, this one starts as %v: give the same kernel, initrd, command line, memory and devices", rec.start, start)
	}
	for {
		at, body, last, err := rec.next()
		switch {
		case errors.Is(err, io.ErrUnexpectedEOF): // the recorder was killed
			return endOf(m), nil
		case err == nil:
			err = m.runTo(at, quantum)
		}
		if err == nil && last {
			return rec.end(m, body)
		}
		var in Input
		if err == nil {
			err = in.Decode(body)
		}
		if err == nil {
			err = m.Apply(&in)
		}
		if err != nil {
			return endOf(m), fmt.Errorf("the record at step %d: %w", m.Steps(), err)
		}
	}
}

// next reads an entry, or the end.
func (rec *Record) next() (at uint64, body []byte, last bool, err error) {
	var head [entryHead]byte
	if _, err := io.ReadFull(rec.r, head[:]); err != nil {
		return 0, nil, false, io.ErrUnexpectedEOF
	}
	n := binary.LittleEndian.Uint32(head[8:])
	if n > inputHead+InputMax {
		return 0, nil, false, fmt.Errorf("it is damaged: an input of %d bytes", n)
	}
	if last = n == 0; last {
		n = 8 + uint32(len(Digest{}))
	}
	if int(n) > cap(rec.buf) {
		rec.buf = make([]byte, n)
	}
	body = rec.buf[:n]
	if _, err := io.ReadFull(rec.r, body); err != nil {
		return 0, nil, false, io.ErrUnexpectedEOF
	}
	if entrySum(head[:], body) != binary.LittleEndian.Uint32(head[12:]) {
		return 0, nil, false, errors.New("it is damaged: a checksum does not match")
	}
	return binary.LittleEndian.Uint64(head[:]), body, last, nil
}

// end compares the machine with what the record says that it was at its end.
func (rec *Record) end(m *Machine, body []byte) (End, error) {
	end := endOf(m)
	fingerprint, memory := binary.LittleEndian.Uint64(body), Digest(body[8:])
	if end.Fingerprint != fingerprint || end.Memory != memory {
		return end, fmt.Errorf("at step %d the machine differs from the recorded one: fingerprint %#x, recorded %#x; memory %v, recorded %v",
			end.Steps, end.Fingerprint, fingerprint, end.Memory, memory)
	}
	end.Whole = true
	return end, nil
}

func endOf(m *Machine) End {
	return End{Steps: m.Steps(), Fingerprint: m.Fingerprint(), Memory: m.MemoryDigest()}
}

// runTo runs to a step in runs of up to quantum.
func (m *Machine) runTo(at, quantum uint64) error {
	for m.Steps() < at {
		ran, why := m.Run(min(quantum, at-m.Steps()))
		if ran == 0 && why != StopBudget {
			return fmt.Errorf("the machine stands at step %d (%v) and the record goes on at %d: it is not this machine's", m.Steps(), why, at)
		}
	}
	if m.Steps() != at {
		return fmt.Errorf("the machine is at step %d, the record at %d: it is not this machine's", m.Steps(), at)
	}
	return nil
}
