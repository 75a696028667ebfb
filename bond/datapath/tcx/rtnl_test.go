package tcx

import (
	"encoding/binary"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Of userfaultfd(2), linux/userfaultfd.h.
const (
	uffdAPI                   = 0xaa
	uffdioAPI                 = 0xc018aa3f
	uffdioRegister            = 0xc020aa00
	uffdioZeropage            = 0xc020aa04
	uffdioRegisterModeMissing = 1 // UFFDIO_REGISTER_MODE_MISSING
)

// holdRTNL keeps the kernel's RTNL lock until release is called, or the test ends: the
// kernel holds it while it answers ETHTOOL_GLINK (net/ethtool/ioctl.c), and the answer goes
// into a page that is not there until we say so. When it returns, the lock is held.
func holdRTNL(t *testing.T, nic string) (release func()) {
	t.Helper()
	page := unix.Getpagesize()
	mem, err := unix.Mmap(-1, 0, 2*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatalf("map two pages: %v", err)
	}
	missing := uint64(uintptr(unsafe.Pointer(&mem[page])))
	uffd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|unix.O_NONBLOCK, 0, 0) // poll takes no other
	if errno != 0 {
		t.Fatalf("userfaultfd: %v", errno)
	}
	control := func(what string, request uintptr, words ...uint64) {
		t.Helper()
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uffd, request, uintptr(unsafe.Pointer(&words[0]))); errno != 0 {
			t.Fatalf("userfaultfd, %s: %v", what, errno)
		}
	}
	control("agree on the version", uffdioAPI, uffdAPI, 0, 0)
	control("register a page", uffdioRegister, missing, uint64(page), uffdioRegisterModeMissing, 0)

	// struct ethtool_value, the command at the end of one page and the answer in the next.
	binary.NativeEndian.PutUint32(mem[page-4:], unix.ETHTOOL_GLINK)
	var request struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	copy(request.name[:], nic)
	request.data = unsafe.Pointer(&mem[page-4])
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan unix.Errno, 1)
	go func() {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(socket), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
		done <- errno
	}()
	release = sync.OnceFunc(func() {
		control("give the page", uffdioZeropage, missing, uint64(page), 0, 0)
		if errno := <-done; errno != 0 {
			t.Errorf("ETHTOOL_GLINK into a page that came late: %v", errno)
		}
		unix.Close(socket)
		unix.Close(int(uffd))
		_ = unix.Munmap(mem)
	})
	t.Cleanup(release)
	wait := []unix.PollFd{{Fd: int32(uffd), Events: unix.POLLIN}}
	for end := time.Now().Add(5 * time.Second); wait[0].Revents != unix.POLLIN; {
		left := time.Until(end)
		if _, err := unix.Poll(wait, int(max(0, left.Milliseconds()))); err != nil && err != unix.EINTR || left <= 0 {
			t.Fatalf("nobody misses the page: %v, events %#x", err, wait[0].Revents)
		}
	}
	return release
}
