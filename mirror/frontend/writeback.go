package frontend

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// WriteBack has the kernel write the page cache of a block device, and waits for that, but
// not longer than within.
func WriteBack(device string, within time.Duration) error {
	done := make(chan error, 1)
	go func() {
		fd, err := unix.Open(device, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Fsync(fd)
			unix.Close(fd)
		}
		done <- err
	}()
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("write back the page cache of %s: %w", device, err)
		}
		return nil
	case <-time.After(within):
		return fmt.Errorf("the page cache of %s was not written back in %v: given up", device, within)
	}
}
