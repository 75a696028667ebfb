package faultfile

import (
	"fmt"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// hangWithAIO leaves a libaio write in flight on a hung file, says so, and waits to
// be killed.
func hangWithAIO(t *testing.T) {
	f := New(t, size)
	dev := f.Loop(t)
	fd, err := unix.Open(dev, unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.Hang()
	buf, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	// struct iocb of include/uapi/linux/aio_abi.h, little-endian.
	cb := &struct {
		data                uint64
		key, rwFlags        uint32
		opcode              uint16
		prio                int16
		fd                  uint32
		buf, nbytes, offset uint64
		reserved            uint64
		flags, resfd        uint32
	}{opcode: 1, fd: uint32(fd), buf: uint64(uintptr(unsafe.Pointer(&buf[0]))), nbytes: 4096}
	var ctx uintptr
	if _, _, e := unix.Syscall(unix.SYS_IO_SETUP, 1, uintptr(unsafe.Pointer(&ctx)), 0); e != 0 {
		t.Fatal(e)
	}
	if _, _, e := unix.Syscall(unix.SYS_IO_SUBMIT, ctx, 1, uintptr(unsafe.Pointer(&cb))); e != 0 {
		t.Fatal(e)
	}
	waitFor(t, "the write to be held", func() bool { return f.Held() == 1 })
	fmt.Println("hangs:", dev, f.Pid())
	select {}
}
