// Package nbd is the Network Block Device protocol as doc/proto.md of
// github.com/NetworkBlockDevice/nbd has it: fixed newstyle handshake, simple and
// structured replies, base:allocation. It has no I/O but what it is given, and serves
// both ends: mirror/frontend/nbdserver, and legs that are another's NBD server.
//
// Names are the document's, without NBD_. All numbers are big-endian on the wire.
//
// Everything that comes from the other end is bounded before it is believed: what is too
// long, out of range or out of turn is an error, never memory.
package nbd

import (
	"encoding/binary"
	"syscall"
)

// Magic numbers.
const (
	magicInit        = uint64(0x4e42444d41474943) // "NBDMAGIC"
	magicOption      = uint64(0x49484156454f5054) // "IHAVEOPT"
	magicOptionReply = uint64(0x0003e889045565a9)
	magicRequest     = uint32(0x25609513)
	magicSimpleReply = uint32(0x67446698)
	magicChunk       = uint32(0x668e33ef)
)

// Handshake flags, of the server and of the client.
const (
	flagFixedNewstyle = 1 << 0
	flagNoZeroes      = 1 << 1
)

// Transmission flags.
const (
	FlagHasFlags        uint16 = 1 << 0
	FlagReadOnly        uint16 = 1 << 1
	FlagSendFlush       uint16 = 1 << 2
	FlagSendFUA         uint16 = 1 << 3
	FlagRotational      uint16 = 1 << 4
	FlagSendTrim        uint16 = 1 << 5
	FlagSendWriteZeroes uint16 = 1 << 6
	FlagSendDF          uint16 = 1 << 7 // only once structured replies have been negotiated
	FlagCanMultiConn    uint16 = 1 << 8
	FlagSendCache       uint16 = 1 << 10
	FlagSendFastZero    uint16 = 1 << 11
)

// Options of the handshake.
const (
	optExportName      = 1
	optAbort           = 2
	optList            = 3
	optStartTLS        = 5
	optInfo            = 6
	optGo              = 7
	optStructuredReply = 8
	optListMetaContext = 9
	optSetMetaContext  = 10
)

// Replies to options.
const (
	repAck         = 1
	repServer      = 2
	repInfo        = 3
	repMetaContext = 4
	repErr         = uint32(1) << 31
	repErrUnsup    = repErr + 1
	repErrPolicy   = repErr + 2
	repErrInvalid  = repErr + 3
	repErrTLSReqd  = repErr + 5
	repErrUnknown  = repErr + 6
	repErrShutdown = repErr + 7
	repErrTooBig   = repErr + 9
)

// Information that INFO and GO give.
const (
	infoExport      = 0
	infoName        = 1
	infoDescription = 2
	infoBlockSize   = 3
)

// Commands.
const (
	CmdRead        uint16 = 0
	CmdWrite       uint16 = 1
	CmdDisc        uint16 = 2
	CmdFlush       uint16 = 3
	CmdTrim        uint16 = 4
	CmdCache       uint16 = 5
	CmdWriteZeroes uint16 = 6
	CmdBlockStatus uint16 = 7
)

// Flags of commands.
const (
	CmdFlagFUA      uint16 = 1 << 0
	CmdFlagNoHole   uint16 = 1 << 1
	CmdFlagDF       uint16 = 1 << 2
	CmdFlagReqOne   uint16 = 1 << 3
	CmdFlagFastZero uint16 = 1 << 4
)

// Chunks of a structured reply.
const (
	replyFlagDone        = 1 << 0
	replyTypeNone        = 0
	replyTypeOffsetData  = 1
	replyTypeBlockStatus = 5
	replyTypeError       = 1<<15 + 1
)

// States of base:allocation.
const (
	StateHole uint32 = 1 << 0 // not allocated
	StateZero uint32 = 1 << 1 // reads as zeroes
)

// ContextAllocation is the one metadata context of this implementation.
const ContextAllocation = "base:allocation"

// Sizes.
const (
	RequestBytes     = 28
	SimpleReplyBytes = 16
	chunkBytes       = 20
	stringBytesMax   = 4096
	// PayloadDefault is the payload that everybody takes when nothing else was said.
	PayloadDefault = 32 << 20
)

// Error is an error as the protocol numbers them: Linux's numbers, but few of them.
type Error uint32

// Errors.
const (
	EPERM     Error = 1
	EIO       Error = 5
	ENOMEM    Error = 12
	EINVAL    Error = 22
	ENOSPC    Error = 28
	EOVERFLOW Error = 75
	ENOTSUP   Error = 95
	ESHUTDOWN Error = 108
)

// ErrorOf is the error of the protocol that says what errno says; 0 for 0.
func ErrorOf(errno syscall.Errno) Error {
	switch errno {
	case 0:
		return 0
	case syscall.EPERM, syscall.EROFS, syscall.EACCES:
		return EPERM
	case syscall.ENOMEM:
		return ENOMEM
	case syscall.EINVAL:
		return EINVAL
	case syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG:
		return ENOSPC
	case syscall.EOVERFLOW:
		return EOVERFLOW
	case syscall.EOPNOTSUPP:
		return ENOTSUP
	case syscall.ESHUTDOWN:
		return ESHUTDOWN
	}
	return EIO
}

// Errno is the error for those who know only the kernel's. What is not among the
// protocol's errors is EIO. So is ESHUTDOWN: the server's going is no error of the range.
func (e Error) Errno() syscall.Errno {
	switch e {
	case 0:
		return 0
	case EPERM, ENOMEM, EINVAL, ENOSPC, EOVERFLOW, ENOTSUP:
		return syscall.Errno(e)
	}
	return syscall.EIO
}

var be = binary.BigEndian
