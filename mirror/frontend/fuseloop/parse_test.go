package fuseloop

import (
	"bytes"
	"encoding/binary"
	"syscall"
	"testing"

	"ft/mirror/frontend"
)

var testDisk = disk{size: 16 << 20, logical: 512, physical: 4096, maxWrite: 1 << 20}

// request is a message of the kernel with a right header.
func request(opcode uint32, body ...[]byte) []byte {
	h := inHeader{Opcode: opcode, Unique: 42, Nodeid: fuseRootID}
	all := bytes.Join(body, nil)
	h.Len = uint32(inHeaderSize + len(all))
	return append(bytes.Clone(bytesOf(&h)), all...)
}

func raw[T any](v T) []byte { return bytes.Clone(bytesOf(&v)) }

func TestParse(t *testing.T) {
	payload := bytes.Repeat([]byte{7}, 4096)
	carry := func(op frontend.Op, off, n int64) message {
		return message{course: courseCarry, op: op, off: off, n: n}
	}
	refuse := func(errno syscall.Errno) message { return message{course: courseRefuse, errno: errno} }
	bad := func(errno syscall.Errno) message { return message{course: courseRefuse, errno: errno, bad: true} }
	answer, drop := message{course: courseAnswer}, message{course: courseDrop}
	read := func(off uint64, n uint32) []byte { return request(opRead, raw(readIn{Offset: off, Size: n})) }
	write := func(off uint64, n uint32, data []byte) []byte {
		return request(opWrite, raw(writeIn{Offset: off, Size: n}), data)
	}
	falloc := func(mode uint32, off, n uint64) []byte {
		return request(opFallocate, raw(fallocateIn{Mode: mode, Offset: off, Length: n}))
	}
	for _, c := range []struct {
		name string
		buf  []byte
		want message
	}{
		{"read", read(4096, 8192), carry(frontend.Read, 4096, 8192)},
		{"read of the last block", read(16<<20-512, 512), carry(frontend.Read, 16<<20-512, 512)},
		{"read over the end", read(16<<20-512, 1024), bad(syscall.EINVAL)},
		{"read beyond the end", read(16<<20, 512), bad(syscall.EINVAL)},
		{"read whose end overflows", read(^uint64(511), 1024), bad(syscall.EINVAL)},
		{"read at half a block", read(256, 512), bad(syscall.EINVAL)},
		{"read of half a block", read(0, 256), bad(syscall.EINVAL)},
		{"read of nothing", read(0, 0), bad(syscall.EINVAL)},
		{"read of too much", read(0, 1<<20+512), bad(syscall.EIO)},
		{"read cut short", request(opRead, make([]byte, 39)), bad(syscall.EIO)},
		{"write", write(512, 4096, payload), carry(frontend.Write, 512, 4096)},
		{"write with less than it says", write(512, 4096, payload[:512]), bad(syscall.EIO)},
		{"write with more than it says", write(512, 512, payload), bad(syscall.EIO)},
		{"write over the end", write(16<<20-512, 4096, payload), bad(syscall.EINVAL)},
		{"write cut short", request(opWrite, make([]byte, 12)), bad(syscall.EIO)},
		{"fsync", request(opFsync, make([]byte, 16)), carry(frontend.Flush, 0, 0)},
		{"discard", falloc(3, 0, 16<<20), carry(frontend.Zero, 0, 16<<20)},
		{"write zeroes", falloc(17, 512, 512), carry(frontend.Zero, 512, 512)},
		{"plain fallocate", falloc(0, 0, 512), refuse(syscall.EOPNOTSUPP)},
		{"collapse range", falloc(8, 0, 512), refuse(syscall.EOPNOTSUPP)},
		{"discard over the end", falloc(3, 512, 16<<20), bad(syscall.EINVAL)},
		{"discard whose end overflows", falloc(3, 1<<63, 1<<63), bad(syscall.EINVAL)},
		{"fallocate cut short", request(opFallocate, make([]byte, 31)), bad(syscall.EIO)},
		{"getattr", request(opGetattr, make([]byte, 16)), answer},
		{"setattr of the mode", request(opSetattr, raw(setattrIn{Valid: fattrMode})), answer},
		{"truncate to the size it has", request(opSetattr, raw(setattrIn{Valid: fattrSize, Size: 16 << 20})), answer},
		{"truncate", request(opSetattr, raw(setattrIn{Valid: fattrSize, Size: 4096})), refuse(syscall.EPERM)},
		{"open", request(opOpen, make([]byte, 8)), answer},
		{"release", request(opRelease, make([]byte, 24)), answer},
		{"flush", request(opFlush, make([]byte, 24)), answer},
		{"statfs", request(opStatfs), answer},
		{"destroy", request(opDestroy), answer},
		{"init of another major version", request(opInit, raw(initIn{Major: 8})), refuse(syscall.EPROTO)},
		{"init cut short", request(opInit, make([]byte, 8)), bad(syscall.EIO)},
		{"extended init cut short", request(opInit, raw(initIn{Major: 7, Flags: initInitExt})), bad(syscall.EIO)},
		{"interrupt", request(opInterrupt, make([]byte, 8)), refuse(syscall.ENOSYS)},
		{"lookup", request(1, []byte("name\x00")), refuse(syscall.ENOSYS)},
		{"getxattr", request(22, make([]byte, 8)), refuse(syscall.ENOSYS)},
		{"ioctl", request(39, make([]byte, 32)), refuse(syscall.ENOSYS)},
		{"forget", request(opForget, make([]byte, 8)), drop},
		{"batch forget", request(opBatchForget, make([]byte, 8)), drop},
		{"unheard of", request(9999), refuse(syscall.ENOSYS)},
		{"length that is not its own", append(request(opGetattr), 0), bad(syscall.EIO)},
		{"no header", make([]byte, 39), message{bad: true}},
		{"nothing", nil, message{bad: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := testDisk.parse(c.buf)
			if len(c.buf) >= inHeaderSize && got.unique != 42 {
				t.Errorf("unique is %d", got.unique)
			}
			if got.course != c.want.course || got.errno != c.want.errno || got.bad != c.want.bad ||
				got.op != c.want.op || got.off != c.want.off && got.course == courseCarry || got.n != c.want.n && got.course == courseCarry {
				t.Errorf("got %+v\nwant %+v", got, c.want)
			}
			if got.course == courseCarry && got.op == frontend.Write && !bytes.Equal(got.payload, payload) {
				t.Errorf("payload of %d bytes", len(got.payload))
			}
		})
	}
}

func TestInitTakesWhatTheKernelHas(t *testing.T) {
	var in initInExt
	in.Major, in.Minor, in.Flags, in.Flags2 = 7, 45, ^uint32(0), ^uint32(0)
	out := testDisk.initAnswer(in, 256)
	if out.Minor != 40 || out.Flags != initAsyncRead|initBigWrites|initAsyncDio|initMaxPages|initInitExt || out.Flags2 != init2Resend {
		t.Errorf("from a new kernel: %+v", out)
	}
	if out.MaxWrite != 1<<20 || out.MaxPages != 256 || out.MaxBackground != 256 || out.CongestionThreshold != 192 {
		t.Errorf("limits: %+v", out)
	}
	in.Minor, in.Flags, in.Flags2 = 34, initAsyncDio, 0
	if out = testDisk.initAnswer(in, 256); out.Minor != 34 || out.Flags != initAsyncDio || out.Flags2 != 0 {
		t.Errorf("from an old kernel: %+v", out)
	}
}

// FuzzParse: whatever comes, what is carried to the engine lies on the disk and on its
// blocks, and everything with a number that wants an answer gets one.
func FuzzParse(f *testing.F) {
	for opcode := range uint32(52) {
		f.Add(request(opcode, make([]byte, 40)))
	}
	f.Add(request(opRead, raw(readIn{Offset: 4096, Size: 4096})))
	f.Add(request(opWrite, raw(writeIn{Offset: 4096, Size: 512}), make([]byte, 512)))
	f.Add(request(opFallocate, raw(fallocateIn{Mode: 3, Length: 1 << 20})))
	f.Add(request(opInit, raw(initInExt{initIn: initIn{Major: 7, Minor: 45, Flags: ^uint32(0)}})))
	f.Fuzz(func(t *testing.T, buf []byte) {
		m := testDisk.parse(buf)
		if len(buf) < inHeaderSize {
			if m.course != courseDrop {
				t.Fatalf("without a header: %+v", m)
			}
			return
		}
		if m.unique != binary.NativeEndian.Uint64(buf[8:]) {
			t.Fatalf("unique %d", m.unique)
		}
		switch m.course {
		case courseRefuse:
			if m.errno == 0 || m.errno >= 512 {
				t.Fatalf("refused with %v", m.errno)
			}
		case courseCarry:
			if m.op == frontend.Flush {
				return
			}
			if m.off < 0 || m.n <= 0 || m.off > testDisk.size-m.n || m.off%testDisk.logical != 0 || m.n%testDisk.logical != 0 {
				t.Fatalf("not on the disk: %+v", m)
			}
			if m.op != frontend.Zero && m.n > testDisk.maxWrite {
				t.Fatalf("too large: %+v", m)
			}
			if m.op == frontend.Write && int64(len(m.payload)) != m.n {
				t.Fatalf("payload of %d bytes for %d", len(m.payload), m.n)
			}
		case courseDrop:
			if m.opcode != opForget && m.opcode != opBatchForget && m.opcode != opNotifyReply {
				t.Fatalf("opcode %d is not answered", m.opcode)
			}
		}
	})
}
