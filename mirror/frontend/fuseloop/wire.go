package fuseloop

// What goes over /dev/fuse. Structures and constants bear the kernel's names and lie
// as in include/uapi/linux/fuse.h, protocol 7.45 (Linux 6.18), in the machine's own
// byte order. Only what a server of one regular file meets is here.

import "unsafe"

// Protocol version that this server speaks; the kernel adapts to the lower minor.
const (
	fuseKernelVersion      = 7
	fuseKernelMinorVersion = 40 // the first with FUSE_HAS_RESEND
	fuseRootID             = 1
)

// enum fuse_opcode.
const (
	opForget      = 2
	opGetattr     = 3
	opSetattr     = 4
	opOpen        = 14
	opRead        = 15
	opWrite       = 16
	opStatfs      = 17
	opRelease     = 18
	opFsync       = 20
	opFlush       = 25
	opInit        = 26
	opAccess      = 34
	opInterrupt   = 36
	opDestroy     = 38
	opNotifyReply = 41
	opBatchForget = 42
	opFallocate   = 43
	opSyncfs      = 50
)

// enum fuse_notify_code.
const notifyResend = 7 // FUSE_NOTIFY_RESEND, Linux 6.9

// uniqueResend (FUSE_UNIQUE_RESEND) marks a request that the kernel sends again. The
// answer carries the bit too.
const uniqueResend = 1 << 63

// INIT flags, the upper half as they stand in flags2.
const (
	initAsyncRead = 1 << 0         // FUSE_ASYNC_READ
	initBigWrites = 1 << 5         // FUSE_BIG_WRITES
	initAsyncDio  = 1 << 15        // FUSE_ASYNC_DIO
	initMaxPages  = 1 << 22        // FUSE_MAX_PAGES
	initInitExt   = 1 << 30        // FUSE_INIT_EXT: flags2 counts
	init2Resend   = 1 << (39 - 32) // FUSE_HAS_RESEND
)

// Flags of an OPEN answer.
const (
	fopenDirectIO             = 1 << 0
	fopenParallelDirectWrites = 1 << 6
)

const (
	fattrMode = 1 << 0 // FATTR_MODE
	fattrSize = 1 << 3 // FATTR_SIZE
)

// Modes of FALLOCATE, include/uapi/linux/falloc.h.
const (
	fallocKeepSize  = 0x01
	fallocPunchHole = 0x02
	fallocZeroRange = 0x10
)

// devIocClone is FUSE_DEV_IOC_CLONE, _IOR(229, 0, uint32_t).
const devIocClone = 0x8004e500

// fuse_in_header begins every request.
type inHeader struct {
	Len         uint32
	Opcode      uint32
	Unique      uint64
	Nodeid      uint64
	UID         uint32
	GID         uint32
	PID         uint32
	TotalExtlen uint16
	_           uint16
}

// fuse_out_header begins every answer and notification.
type outHeader struct {
	Len    uint32
	Error  int32
	Unique uint64
}

type initIn struct { // fuse_init_in, up to flags
	Major        uint32
	Minor        uint32
	MaxReadahead uint32
	Flags        uint32
}

type initInExt struct { // fuse_init_in with FUSE_INIT_EXT
	initIn
	Flags2 uint32
	_      [11]uint32
}

type initOut struct { // fuse_init_out
	Major               uint32
	Minor               uint32
	MaxReadahead        uint32
	Flags               uint32
	MaxBackground       uint16
	CongestionThreshold uint16
	MaxWrite            uint32
	TimeGran            uint32
	MaxPages            uint16
	MapAlignment        uint16
	Flags2              uint32
	_                   [7]uint32
}

type attr struct { // fuse_attr
	Ino       uint64
	Size      uint64
	Blocks    uint64
	Atime     uint64
	Mtime     uint64
	Ctime     uint64
	Atimensec uint32
	Mtimensec uint32
	Ctimensec uint32
	Mode      uint32
	Nlink     uint32
	UID       uint32
	GID       uint32
	Rdev      uint32
	Blksize   uint32
	Flags     uint32
}

type attrOut struct { // fuse_attr_out
	AttrValid     uint64
	AttrValidNsec uint32
	_             uint32
	Attr          attr
}

type setattrIn struct { // fuse_setattr_in
	Valid uint32
	_     uint32
	Fh    uint64
	Size  uint64
	_     [8]uint64
}

type openOut struct { // fuse_open_out
	Fh        uint64
	OpenFlags uint32
	_         uint32
}

type readIn struct { // fuse_read_in
	Fh        uint64
	Offset    uint64
	Size      uint32
	ReadFlags uint32
	LockOwner uint64
	Flags     uint32
	_         uint32
}

type writeIn struct { // fuse_write_in
	Fh         uint64
	Offset     uint64
	Size       uint32
	WriteFlags uint32
	LockOwner  uint64
	Flags      uint32
	_          uint32
}

type writeOut struct { // fuse_write_out
	Size uint32
	_    uint32
}

type statfsOut struct { // fuse_statfs_out
	Blocks  uint64
	Bfree   uint64
	Bavail  uint64
	Files   uint64
	Ffree   uint64
	Bsize   uint32
	Namelen uint32
	Frsize  uint32
	_       uint32
	_       [6]uint32
}

type fallocateIn struct { // fuse_fallocate_in
	Fh     uint64
	Offset uint64
	Length uint64
	Mode   uint32
	_      uint32
}

const (
	inHeaderSize  = int(unsafe.Sizeof(inHeader{}))
	outHeaderSize = int(unsafe.Sizeof(outHeader{}))
	// writeHead is what lies before the payload of a WRITE.
	writeHead = inHeaderSize + int(unsafe.Sizeof(writeIn{}))
)

// The sizes are the protocol: a field that moves must not compile.
var (
	_ [40]byte  = [unsafe.Sizeof(inHeader{})]byte{}
	_ [16]byte  = [unsafe.Sizeof(outHeader{})]byte{}
	_ [16]byte  = [unsafe.Sizeof(initIn{})]byte{}
	_ [64]byte  = [unsafe.Sizeof(initInExt{})]byte{}
	_ [64]byte  = [unsafe.Sizeof(initOut{})]byte{}
	_ [104]byte = [unsafe.Sizeof(attrOut{})]byte{}
	_ [88]byte  = [unsafe.Sizeof(setattrIn{})]byte{}
	_ [16]byte  = [unsafe.Sizeof(openOut{})]byte{}
	_ [40]byte  = [unsafe.Sizeof(readIn{})]byte{}
	_ [40]byte  = [unsafe.Sizeof(writeIn{})]byte{}
	_ [8]byte   = [unsafe.Sizeof(writeOut{})]byte{}
	_ [80]byte  = [unsafe.Sizeof(statfsOut{})]byte{}
	_ [32]byte  = [unsafe.Sizeof(fallocateIn{})]byte{}
)

// decode copies a T from the start of buf. It reports whether buf was long enough.
func decode[T any](buf []byte) (v T, ok bool) {
	size := int(unsafe.Sizeof(v))
	if len(buf) < size {
		return v, false
	}
	copy(bytesOf(&v), buf)
	return v, true
}

// bytesOf is v's memory.
func bytesOf[T any](v *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(v)), int(unsafe.Sizeof(*v)))
}
