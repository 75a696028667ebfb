package bare

import (
	"encoding/binary"
	"errors"
)

// System calls that the program asks of the host: a record of eight doublewords in its
// memory, the number and then the arguments, whose first doubleword gets the result, or
// minus an error number (Spike, fesvr/syscall.cc; numbers as Linux has them for riscv64).
// There are those that print and end: nothing of the host is to be seen or changed.

const (
	callClose     = 57
	callLseek     = 62
	callRead      = 63
	callWrite     = 64
	callFstat     = 80
	callExit      = 93
	callExitGroup = 94

	errBadFile = ^uint64(9) + 1  // -EBADF
	errFault   = ^uint64(14) + 1 // -EFAULT
	errSeek    = ^uint64(29) + 1 // -ESPIPE
	errNoCall  = ^uint64(38) + 1 // -ENOSYS

	recordBytes = 64
	statBytes   = 128
	statMode    = 16 // offset of st_mode
	charDevice  = 0o20000 | 0o620
)

var errRecord = errors.New("no odd value, and no address of a system call's record in memory either")

// call executes the system call whose record is at addr.
func (f *htif) call(addr uint64) error {
	var record [recordBytes]byte
	if !f.hart.ReadRAM(addr, record[:]) {
		return errRecord
	}
	arg := func(i int) uint64 { return binary.LittleEndian.Uint64(record[8*i:]) }
	result := errNoCall
	switch arg(0) {
	case callExit, callExitGroup:
		f.ended, f.status = true, arg(1)
		return nil
	case callWrite:
		result = f.callWrite(arg(1), arg(2), arg(3))
	case callRead:
		result = openOr(arg(1), 0) // the end of the input
	case callClose:
		result = openOr(arg(1), 0)
	case callLseek:
		result = openOr(arg(1), errSeek)
	case callFstat:
		result = openOr(arg(1), 0)
		var stat [statBytes]byte
		binary.LittleEndian.PutUint32(stat[statMode:], charDevice)
		if result == 0 && !f.hart.WriteRAM(arg(2), stat[:]) {
			result = errFault
		}
	}
	f.write(addr, result)
	return nil
}

// openOr is result where a file descriptor is open: standard input, output and error are.
func openOr(fd, result uint64) uint64 {
	if fd > 2 {
		return errBadFile
	}
	return result
}

// callWrite prints n bytes at addr.
func (f *htif) callWrite(fd, addr, n uint64) uint64 {
	out := f.console
	switch fd {
	case 1:
	case 2:
		out = f.errors
	default:
		return errBadFile
	}
	var part [512]byte
	for done := uint64(0); done < n; {
		p := part[:min(n-done, uint64(len(part)))]
		if !f.hart.ReadRAM(addr+done, p) {
			return errFault
		}
		_, err := out.Write(p)
		f.note(err)
		done += uint64(len(p))
	}
	if f.lines {
		f.note(out.Flush())
	}
	return n
}
