package fuseloop

// From the bytes of a request to what is to be done about it. Everything here is a
// function of its arguments. The kernel is trusted no more than any other source of
// bytes: what does not make sense is refused with an errno and counted, and what has
// not even a header is dropped. A server that died of a request would take the disk
// with it.

import (
	"math"
	"syscall"

	"ft/mirror/frontend"
)

// course is what is to be done about a message.
type course uint8

const (
	courseDrop   course = iota // nothing: it wants no answer, or has no number to answer to
	courseRefuse               // answer with errno
	courseAnswer               // answer from what the face itself knows
	courseCarry                // a request for the engine
)

// disk is what parsing needs to know of the face.
type disk struct {
	size     int64 // bytes
	logical  int64 // bytes, power of two
	physical int64 // bytes, power of two
	maxWrite int64 // bytes
}

// message is a request of the kernel, understood.
type message struct {
	course course
	opcode uint32
	unique uint64
	errno  syscall.Errno // courseRefuse
	bad    bool          // the request made no sense; for the count

	// courseCarry
	op      frontend.Op
	off     int64 // bytes
	n       int64 // bytes
	payload []byte

	// courseAnswer to INIT
	init initInExt
}

func (m *message) refuse(errno syscall.Errno) { m.course, m.errno = courseRefuse, errno }

func (m *message) malformed(errno syscall.Errno) {
	m.refuse(errno)
	m.bad = true
}

// parse reads the message that buf holds.
func (d disk) parse(buf []byte) (m message) {
	h, ok := decode[inHeader](buf)
	if !ok {
		m.bad = true
		return m
	}
	m.opcode, m.unique = h.Opcode, h.Unique
	if int64(h.Len) != int64(len(buf)) {
		m.malformed(syscall.EIO)
		return m
	}
	body := buf[inHeaderSize:]
	switch h.Opcode {
	case opForget, opBatchForget, opNotifyReply:
		m.course = courseDrop
	case opRead:
		d.parseRead(&m, body)
	case opWrite:
		d.parseWrite(&m, body)
	case opFallocate:
		d.parseFallocate(&m, body)
	case opFsync, opSyncfs:
		m.course, m.op = courseCarry, frontend.Flush
	case opInit:
		parseInit(&m, body)
	case opSetattr:
		in, ok := decode[setattrIn](body)
		switch {
		case !ok:
			m.malformed(syscall.EIO)
		case in.Valid&fattrSize != 0 && in.Size != uint64(d.size):
			m.refuse(syscall.EPERM) // a disk has the size that it has
		default:
			m.course = courseAnswer
		}
	case opGetattr, opOpen, opStatfs, opRelease, opFlush, opAccess, opDestroy:
		m.course = courseAnswer
	case opInterrupt:
		// Leg I/O cannot be called back. ENOSYS tells the kernel not to ask again.
		m.refuse(syscall.ENOSYS)
	default:
		// Names, attributes, locks, ioctl, poll, seek: ENOSYS makes the kernel do it
		// itself or fail it, and mostly remember that.
		m.refuse(syscall.ENOSYS)
	}
	return m
}

// parseRange takes over a range when it lies on the disk and on its blocks.
func (d disk) parseRange(m *message, off, n uint64) bool {
	size := uint64(d.size)
	if n == 0 || n > size || off > size-n || (off|n)&uint64(d.logical-1) != 0 {
		m.malformed(syscall.EINVAL)
		return false
	}
	m.off, m.n = int64(off), int64(n)
	return true
}

func (d disk) parseRead(m *message, body []byte) {
	in, ok := decode[readIn](body)
	if !ok || int64(in.Size) > d.maxWrite {
		m.malformed(syscall.EIO)
		return
	}
	if d.parseRange(m, in.Offset, uint64(in.Size)) {
		m.course, m.op = courseCarry, frontend.Read
	}
}

func (d disk) parseWrite(m *message, body []byte) {
	in, ok := decode[writeIn](body)
	if !ok || int64(in.Size) > d.maxWrite || len(body)-(writeHead-inHeaderSize) != int(in.Size) {
		m.malformed(syscall.EIO)
		return
	}
	if d.parseRange(m, in.Offset, uint64(in.Size)) {
		m.course, m.op = courseCarry, frontend.Write
		m.payload = body[writeHead-inHeaderSize:]
	}
}

// parseFallocate: the loop driver sends discard and unmapping write-zeroes as punch |
// keep-size and write-zeroes that must not unmap as zero-range | keep-size
// (drivers/block/loop.c, lo_fallocate). All of them want zeroes to be read afterwards.
func (d disk) parseFallocate(m *message, body []byte) {
	in, ok := decode[fallocateIn](body)
	switch {
	case !ok:
		m.malformed(syscall.EIO)
	case in.Mode != fallocPunchHole|fallocKeepSize && in.Mode != fallocZeroRange|fallocKeepSize:
		m.refuse(syscall.EOPNOTSUPP)
	case d.parseRange(m, in.Offset, in.Length):
		m.course, m.op = courseCarry, frontend.Zero
	}
}

func parseInit(m *message, body []byte) {
	in, ok := decode[initIn](body)
	if !ok {
		m.malformed(syscall.EIO)
		return
	}
	m.init.initIn = in
	if in.Flags&initInitExt != 0 {
		if m.init, ok = decode[initInExt](body); !ok {
			m.malformed(syscall.EIO)
			return
		}
	}
	if in.Major != fuseKernelVersion {
		m.refuse(syscall.EPROTO)
		return
	}
	m.course = courseAnswer
}

// forever is a validity in seconds that no one lives to see the end of. The kernel
// then asks for the attributes once.
const forever = math.MaxInt32

// attributes answers GETATTR and SETATTR.
func (d disk) attributes() attrOut {
	return attrOut{
		AttrValid: forever,
		Attr: attr{
			Ino:     fuseRootID,
			Size:    uint64(d.size),
			Blocks:  uint64(d.size) / 512,
			Mode:    syscall.S_IFREG | 0o600,
			Nlink:   1,
			Blksize: uint32(d.physical),
		},
	}
}

// statfs answers STATFS. The loop driver takes the granularity of discards from the
// block size.
func (d disk) statfs() statfsOut {
	granularity := max(d.physical, 4096)
	return statfsOut{
		Blocks:  uint64(d.size / granularity),
		Bsize:   uint32(granularity),
		Frsize:  uint32(granularity),
		Namelen: 255,
	}
}

// initAnswer answers INIT: of what we want, that which this kernel has.
func (d disk) initAnswer(in initInExt, maxBackground int) initOut {
	const pageSize = 4096
	want := uint32(initAsyncRead | initBigWrites | initAsyncDio | initMaxPages | initInitExt)
	return initOut{
		Major:               fuseKernelVersion,
		Minor:               min(in.Minor, fuseKernelMinorVersion),
		MaxReadahead:        in.MaxReadahead,
		Flags:               in.Flags & want,
		Flags2:              in.Flags2 & init2Resend,
		MaxBackground:       uint16(maxBackground),
		CongestionThreshold: uint16(maxBackground - maxBackground/4),
		MaxWrite:            uint32(d.maxWrite),
		TimeGran:            1,
		MaxPages:            uint16(d.maxWrite / pageSize),
	}
}
