package faultfile

// The kernel's side: one file over FUSE (include/uapi/linux/fuse.h, protocol 7.31). The
// root of the mount is the file itself, so that few of the operations can occur.

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Opcodes and flags of fuse.h.
const (
	fuseForget      = 2
	fuseGetattr     = 3
	fuseSetattr     = 4
	fuseOpen        = 14
	fuseRead        = 15
	fuseWrite       = 16
	fuseRelease     = 18
	fuseFsync       = 20
	fuseFlush       = 25
	fuseInit        = 26
	fuseInterrupt   = 36
	fuseDestroy     = 38
	fuseBatchForget = 42
	fuseFallocate   = 43

	fuseAsyncRead = 1 << 0
	fuseBigWrites = 1 << 5
	fuseAsyncDIO  = 1 << 15
	fuseMaxPages  = 1 << 22

	fopenDirectIO             = 1 << 0
	fopenParallelDirectWrites = 1 << 6

	inHeaderSize  = 40
	outHeaderSize = 16
	writeInSize   = 40
	writeMax      = 1 << 20
	attrSeconds   = 3600
)

var native = binary.NativeEndian

// mount makes the file system, begins to serve it, and returns the file's path.
func (s *server) mount() (path string, err error) {
	dev, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("open /dev/fuse: %w", err)
	}
	fs, err := unix.Fsopen("fuse", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return "", fmt.Errorf("fsopen fuse: %w", err)
	}
	defer unix.Close(fs)
	for _, o := range [][2]string{{"source", "faultfile"}, {"fd", strconv.Itoa(dev)}, {"rootmode", "100600"}, {"user_id", "0"}, {"group_id", "0"}} {
		if err := unix.FsconfigSetString(fs, o[0], o[1]); err != nil {
			return "", fmt.Errorf("fsconfig %s=%s: %w", o[0], o[1], err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return "", fmt.Errorf("make the FUSE file system: %w", err)
	}
	mnt, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("fsmount: %w", err)
	}
	go s.receive(dev)
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), mnt), nil
}

func (s *server) receive(dev int) {
	buf := make([]byte, writeMax+unix.Getpagesize())
	for {
		n, err := unix.Read(dev, buf)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOENT):
			continue // ENOENT: the request was withdrawn
		case err != nil:
			os.Exit(0) // aborted
		case n < inHeaderSize:
			os.Exit(1)
		}
		go s.handle(dev, append([]byte(nil), buf[:n]...))
	}
}

func (s *server) handle(dev int, in []byte) {
	opcode, unique, body := native.Uint32(in[4:]), native.Uint64(in[8:]), in[inHeaderSize:]
	var out []byte
	var e syscall.Errno
	switch opcode {
	case fuseForget, fuseBatchForget, fuseInterrupt:
		return // have no answer; what hangs is not interrupted
	case fuseInit:
		out = make([]byte, 64)
		native.PutUint32(out[0:], 7)
		native.PutUint32(out[4:], 31)
		native.PutUint32(out[8:], native.Uint32(body[8:]))
		native.PutUint32(out[12:], fuseAsyncRead|fuseBigWrites|fuseAsyncDIO|fuseMaxPages)
		native.PutUint16(out[16:], 256) // max_background
		native.PutUint16(out[18:], 256) // congestion_threshold
		native.PutUint32(out[20:], writeMax)
		native.PutUint32(out[24:], 1) // time_gran
		native.PutUint16(out[28:], uint16(writeMax/unix.Getpagesize()))
	case fuseGetattr, fuseSetattr:
		out, e = s.attributes()
	case fuseOpen:
		if e = s.pass(Op{Kind: Open}); e == 0 {
			out = make([]byte, 16)
			native.PutUint32(out[8:], fopenDirectIO|fopenParallelDirectWrites)
		}
	case fuseRead, fuseWrite, fuseFsync, fuseFallocate:
		out, e = s.data(opcode, body)
	case fuseRelease, fuseFlush, fuseDestroy:
	default:
		e = syscall.ENOSYS
	}
	header := make([]byte, outHeaderSize, outHeaderSize+len(out))
	native.PutUint32(header[0:], uint32(outHeaderSize+len(out)))
	native.PutUint32(header[4:], uint32(-int32(e)))
	native.PutUint64(header[8:], unique)
	unix.Write(dev, append(header, out...)) // fails only when the request was aborted
}

// data carries out an operation on the stored bytes. A flush makes nothing stable:
// tests that cut the power simulate it elsewhere.
func (s *server) data(opcode uint32, body []byte) ([]byte, syscall.Errno) {
	op := Op{Kind: Flush}
	if opcode != fuseFsync {
		op.Off, op.Len = int64(native.Uint64(body[8:])), int64(native.Uint32(body[16:]))
	}
	switch opcode {
	case fuseRead:
		op.Kind = Read
	case fuseWrite:
		op.Kind = Write
	case fuseFallocate:
		op.Kind, op.Len = Zero, int64(native.Uint64(body[16:]))
	}
	if e := s.pass(op); e != 0 {
		return nil, e
	}
	fd := int(s.file.Fd())
	switch op.Kind {
	case Read:
		out := make([]byte, op.Len)
		n, err := unix.Pread(fd, out, op.Off)
		if err != nil {
			return nil, err.(syscall.Errno)
		}
		s.count(Op{Read, op.Off, int64(n)})
		return out[:n], 0
	case Write:
		n, err := unix.Pwrite(fd, body[writeInSize:], op.Off)
		if err != nil {
			return nil, err.(syscall.Errno)
		}
		s.count(Op{Write, op.Off, int64(n)})
		out := make([]byte, 8)
		native.PutUint32(out, uint32(n))
		return out, 0
	case Zero:
		if err := unix.Fallocate(fd, native.Uint32(body[24:]), op.Off, op.Len); err != nil {
			return nil, err.(syscall.Errno)
		}
	}
	return nil, 0
}

// attributes is struct fuse_attr_out.
func (s *server) attributes() ([]byte, syscall.Errno) {
	var st unix.Stat_t
	if err := unix.Fstat(int(s.file.Fd()), &st); err != nil {
		return nil, syscall.EIO
	}
	out := make([]byte, 16+88)
	native.PutUint64(out[0:], attrSeconds)
	a := out[16:]
	native.PutUint64(a[0:], 1) // ino
	native.PutUint64(a[8:], uint64(st.Size))
	native.PutUint64(a[16:], uint64(st.Blocks))
	native.PutUint32(a[60:], unix.S_IFREG|0o600)
	native.PutUint32(a[64:], 1)    // nlink
	native.PutUint32(a[80:], 4096) // blksize
	return out, 0
}
