package module

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// A record is what a machine was given, so that the run can be had again: a head that names
// the machine, then each input with the step at which it was applied, and at the end how
// far the machine ran.
//
//	head    "ftrecord", version, digest of the start (StartDigest)
//	entry   step (8), length (4) and CRC32C (4) of what follows, the encoded input
//	end     step, length 0
//
// All numbers are little-endian. A record without its end (the recorder was killed) is
// played up to its last whole entry.

const (
	recordMagic   = "ftrecord"
	recordVersion = 1
	recordHead    = 8 + 4 + sha256.Size
	entryHead     = 8 + 4 + 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Digest names a start or a memory.
type Digest [sha256.Size]byte

func (d Digest) String() string { return fmt.Sprintf("%x", d[:16]) }

// StartDigest is the digest of memory and registers: two machines with the same one are the
// same, if they were built from the same Config.
func (m *Machine) StartDigest() Digest {
	h := sha256.New()
	h.Write(m.cfg.RAM)
	s := m.hart.State()
	for _, word := range s.Words() {
		h.Write(binary.LittleEndian.AppendUint64(nil, word))
	}
	return Digest(h.Sum(nil))
}

// MemoryDigest is the digest of all of memory.
func (m *Machine) MemoryDigest() Digest { return sha256.Sum256(m.cfg.RAM) }

// Recorder writes a record. Its errors are sticky: Close returns the first.
type Recorder struct {
	w   *bufio.Writer
	buf []byte
	err error
}

// NewRecorder begins the record of m, which has not run yet.
func NewRecorder(w io.Writer, m *Machine) *Recorder {
	r := &Recorder{w: bufio.NewWriterSize(w, 64<<10)}
	digest := m.StartDigest()
	head := binary.LittleEndian.AppendUint32([]byte(recordMagic), recordVersion)
	r.write(append(head, digest[:]...))
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
	body := r.buf[entryHead:]
	binary.LittleEndian.PutUint64(r.buf, step)
	binary.LittleEndian.PutUint32(r.buf[8:], uint32(len(body)))
	binary.LittleEndian.PutUint32(r.buf[12:], crc32.Checksum(body, castagnoli))
	r.write(r.buf)
}

// Close ends the record at the step that the machine has reached.
func (r *Recorder) Close(step uint64) error {
	end := binary.LittleEndian.AppendUint64(nil, step)
	r.write(append(end, make([]byte, entryHead-8)...))
	if r.err == nil {
		r.err = r.w.Flush()
	}
	if r.err != nil {
		return fmt.Errorf("record the machine's inputs: %w", r.err)
	}
	return nil
}

// Replay does to m, which has not run yet, what a record says, in runs of up to quantum
// steps, and returns the steps run. What the machine emits goes to its Sink as ever, and is
// answered by the record alone. With no end in the record, m stands at its last input.
func Replay(rd io.Reader, m *Machine, quantum uint64) (steps uint64, err error) {
	rd = bufio.NewReaderSize(rd, 64<<10)
	var head [recordHead]byte
	if _, err := io.ReadFull(rd, head[:]); err != nil || string(head[:8]) != recordMagic {
		return 0, errors.New("this is no record of a machine's inputs")
	}
	if v := binary.LittleEndian.Uint32(head[8:]); v != recordVersion {
		return 0, fmt.Errorf("a record of version %d, version %d is known", v, recordVersion)
	}
	if want := Digest(head[12:]); want != m.StartDigest() {
		return 0, fmt.Errorf("the record is of a machine that started as %v, this one starts as %v: give the same kernel, initrd, command line, memory and devices", want, m.StartDigest())
	}
	var buf []byte
	for {
		var entry [entryHead]byte
		if _, err := io.ReadFull(rd, entry[:]); err != nil {
			return m.Steps(), nil // killed while recording
		}
		at, n, sum := binary.LittleEndian.Uint64(entry[:]), binary.LittleEndian.Uint32(entry[8:]), binary.LittleEndian.Uint32(entry[12:])
		if n > inputHead+InputMax {
			return m.Steps(), fmt.Errorf("the record has an input of %d bytes at step %d, it is damaged", n, at)
		}
		if n > 0 {
			buf = append(buf[:0], make([]byte, n)...)
			if _, err := io.ReadFull(rd, buf); err != nil {
				return m.Steps(), nil
			}
			if crc32.Checksum(buf, castagnoli) != sum {
				return m.Steps(), fmt.Errorf("the record is damaged at step %d: its checksum does not match", at)
			}
		}
		if err := m.runTo(at, quantum); err != nil || n == 0 {
			return m.Steps(), err
		}
		var in Input
		if err := in.Decode(buf); err != nil {
			return m.Steps(), err
		}
		if err := m.Apply(&in); err != nil {
			return m.Steps(), fmt.Errorf("the record at step %d: %w", at, err)
		}
	}
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
