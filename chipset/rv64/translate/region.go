//go:build linux && amd64

package translate

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// region is memory for machine code: a memfd mapped twice, once to be written to and once to
// be executed, never both in one mapping.
type region struct {
	write []byte
	exec  []byte
}

// newRegion makes one of so many bytes.
func newRegion(size int) (*region, error) {
	// MFD_EXEC says that it is meant to be executed (memfd_create(2)); kernels before 6.3 do
	// not know it.
	fd, err := unix.MemfdCreate("rv64-code", unix.MFD_CLOEXEC|unix.MFD_EXEC)
	if err == unix.EINVAL {
		fd, err = unix.MemfdCreate("rv64-code", unix.MFD_CLOEXEC)
	}
	if err != nil {
		return nil, fmt.Errorf("memfd_create for translated code: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.Ftruncate(fd, int64(size)); err != nil {
		return nil, fmt.Errorf("make %d bytes of memory for translated code: %w", size, err)
	}
	r := &region{}
	if r.write, err = unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return nil, fmt.Errorf("map memory for translated code to write to it: %w", err)
	}
	if r.exec, err = unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_SHARED); err != nil {
		r.free()
		return nil, fmt.Errorf("map memory for translated code to execute it (a seccomp filter or noexec may forbid it): %w", err)
	}
	return r, nil
}

func (r *region) free() error {
	for _, m := range []*[]byte{&r.write, &r.exec} {
		if *m == nil {
			continue
		}
		if err := unix.Munmap(*m); err != nil {
			return fmt.Errorf("unmap translated code: %w", err)
		}
		*m = nil
	}
	return nil
}
