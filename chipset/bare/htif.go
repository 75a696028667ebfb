package bare

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"math"

	"ft/chipset/rv64"
)

// The host-target interface, as Spike's fesvr has it (fesvr/htif.cc, device.cc). The program
// stores a doubleword to tohost:
//
//	bits 63…56  device     0 system calls, 1 console
//	bits 55…48  command
//	bits 47…0   payload
//
// To device 0 an odd payload ends the program, with the payload shifted right by one as its
// status; an even one is the address of a system call's record (syscall.go). To device 1
// command 1 prints a byte, and command 0 asks for one, which never comes. The host takes a
// command by clearing tohost, and answers, where there is an answer, in fromhost once that
// is zero.
//
// A command is taken at the step that stores it. Two stores of four bytes, the lower half
// first, are one command when they lie at most halvesApart steps apart.

const (
	deviceSystem  = 0
	deviceConsole = 1

	commandCall  = 0 // of deviceSystem
	commandWrite = 1 // of deviceConsole

	payloadMask = 1<<48 - 1

	halvesApart = 16
)

type htif struct {
	hart             *rv64.Hart
	toHost, fromHost uint64 // fromHost is 0 where the program has none

	console, errors *bufio.Writer
	lines           bool  // leave as they are complete, not when the run comes back
	err             error // of a writer, the first

	stored  bool   // to tohost or fromhost, since serve
	half    bool   // the last store may have been the lower half of a command
	serveAt uint64 // the step at which what was stored is served
	answer  uint64 // for fromhost, when that is zero; 0 for none
	ended   bool
	status  uint64
	refused uint64 // a command that made no sense
}

func (f *htif) init(hart *rv64.Hart, toHost, fromHost uint64) {
	f.hart, f.toHost, f.fromHost = hart, toHost, fromHost
	hart.Watch(f.toHost, 8, f.storing)
	if f.fromHost != 0 {
		hart.Watch(f.fromHost, 8, f.storing)
	}
}

// storing is called by the hart behind a store to tohost or fromhost.
func (f *htif) storing(addr, size uint64) {
	switch {
	case addr != f.toHost || size != 4 || f.read(f.toHost)>>32 != 0:
		f.serveAt, f.half = 0, false
	case !f.stored: // the same half again, in a loop, is no reason to wait longer
		f.half = true
	}
	f.stored = true
	f.hart.RequestStop()
}

// due says whether serve has to be called at the present step. A hart that is idle stores no
// other half.
func (f *htif) due(idle bool) bool {
	if f.half {
		f.half, f.serveAt = false, f.hart.Steps()+halvesApart
	}
	return f.stored && (idle || f.hart.Steps() >= f.serveAt)
}

// settle serves what is left at a step that no other follows.
func (f *htif) settle() error {
	if !f.stored {
		return nil
	}
	return f.serve()
}

// until is how many steps may be run before due has to be asked again.
func (f *htif) until() uint64 {
	if !f.stored {
		return math.MaxUint64
	}
	return f.serveAt - f.hart.Steps()
}

// serve takes commands until there is none, or one whose answer the program does not take.
func (f *htif) serve() error {
	f.stored, f.serveAt = false, 0
	for {
		if f.answer != 0 {
			if f.fromHost == 0 || f.read(f.fromHost) != 0 {
				return f.err
			}
			f.write(f.fromHost, f.answer)
			f.answer = 0
		}
		command := f.read(f.toHost)
		if command == 0 || f.ended {
			return f.err
		}
		f.write(f.toHost, 0)
		if err := f.take(command); err != nil {
			return err
		}
	}
}

// take executes a command.
func (f *htif) take(command uint64) error {
	payload := command & payloadMask
	switch device, what := command>>56, command>>48&0xff; {
	case device == deviceConsole:
		if what == commandWrite {
			f.putByte(byte(payload))
		}
	case command&1 != 0:
		// exit(-1) arrives with all of the upper bits set: it is meant for device 0 too.
		f.ended, f.status = true, command>>1
	case device == deviceSystem && what == commandCall:
		if err := f.call(payload); err != nil {
			f.refused = command
			return fmt.Errorf("tohost was %#x: %w", command, err)
		}
		f.answer = 1
	}
	return nil
}

// putByte prints a byte.
func (f *htif) putByte(b byte) {
	f.note(f.console.WriteByte(b))
	if b == '\n' && f.lines {
		f.note(f.console.Flush())
	}
}

// note keeps the first error of a writer, and stops the run.
func (f *htif) note(err error) {
	if err != nil && f.err == nil {
		f.err = fmt.Errorf("print what the program writes: %w", err)
		f.stored = true
		f.hart.RequestStop()
	}
}

func (f *htif) flush() error {
	f.note(f.console.Flush())
	f.note(f.errors.Flush())
	return f.err
}

func (f *htif) read(addr uint64) uint64 {
	var b [8]byte
	f.hart.ReadRAM(addr, b[:])
	return binary.LittleEndian.Uint64(b[:])
}

func (f *htif) write(addr, v uint64) {
	f.hart.WriteRAM(addr, binary.LittleEndian.AppendUint64(nil, v))
}
