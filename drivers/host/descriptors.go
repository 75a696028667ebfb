package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ft/drivers/notify"
)

// Limits of the descriptors that a driver stores.
const (
	storeTimeout   = 5 * time.Second        // a restarted keeper is back long before
	unstoreTimeout = 500 * time.Millisecond // one that is away is told when it asks
	storeMax       = 1024                   // under all names together
	// copyFloor keeps the copies out of the low numbers, where a driver that closes a
	// number twice would hit them.
	copyFloor = 100
)

// descriptors is what the driver has stored with the keeper. It holds copies, so that
// what it hands to a restarted keeper is what the driver stored, whatever the driver
// has done with its own numbers since.
type descriptors struct {
	sender *notify.Sender
	log    *slog.Logger
	warn   sync.Once

	mu sync.Mutex // held over a confirmation: the keeper sees changes in order
	// byName has an empty list for a name that was unstored, which a restarted keeper
	// may have got back from systemd.
	byName map[string][]int
}

// newDescriptors begins with what a predecessor had stored: the keeper holds it still.
func newDescriptors(sender *notify.Sender, log *slog.Logger, inherited map[string][]int) (*descriptors, error) {
	d := &descriptors{sender: sender, log: log, byName: map[string][]int{}}
	for name, fds := range inherited {
		copies, err := copyAll(fds)
		if err != nil {
			return nil, fmt.Errorf("copy the inherited descriptor %s: %w", name, err)
		}
		d.byName[name] = copies
	}
	return d, nil
}

// Store adds fds under name and returns when the keeper holds them. Where no keeper
// watches it does nothing but warn: nobody would start a successor to adopt them.
func (d *descriptors) Store(name string, fds ...int) error {
	if err := notify.CheckName(name); err != nil {
		return err
	}
	if name == notify.GateName || name == notify.PredecessorName {
		return fmt.Errorf("store descriptors: the name %q is the keeper's own", name)
	}
	if !d.sender.Watched() {
		d.warn.Do(func() { d.log.Warn("no keeper: a crash of this process is not survived") })
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	total := len(fds)
	for _, have := range d.byName {
		total += len(have)
	}
	if n := len(d.byName[name]) + len(fds); n > notify.FdsMax || total > storeMax {
		return fmt.Errorf("store %d descriptors as %s: that makes %d under this name and %d in all, at most %d and %d are kept", len(fds), name, n, total, notify.FdsMax, storeMax)
	}
	copies, err := copyAll(fds)
	if err != nil {
		return fmt.Errorf("store descriptors as %s: %w", name, err)
	}
	all := append(append([]int(nil), d.byName[name]...), copies...)
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	if err := d.sender.Confirm(ctx, notify.Message{Store: name, Replace: true}, all...); err != nil {
		closeAll(copies)
		return fmt.Errorf("store descriptors as %s with the keeper: %w", name, err)
	}
	d.byName[name] = all
	return nil
}

// Unstore drops what is stored under name, here and at the keeper. It waits for the
// keeper; one that is away drops it when it is back and asks.
func (d *descriptors) Unstore(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	fds := d.byName[name]
	if len(fds) == 0 {
		return
	}
	d.byName[name] = nil
	closeAll(fds)
	ctx, cancel := context.WithTimeout(context.Background(), unstoreTimeout)
	defer cancel()
	if err := d.sender.Confirm(ctx, notify.Message{Remove: name}); err != nil {
		d.log.Warn("the keeper does not confirm that it dropped a descriptor", "name", name, "err", err)
	}
}

// restore hands all that is stored to the keeper again; each name replaces what the
// keeper has under it.
func (d *descriptors) restore(ctx context.Context) (map[string]int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	counts := map[string]int{}
	for name, fds := range d.byName {
		m := notify.Message{Store: name, Replace: true}
		if len(fds) == 0 {
			m = notify.Message{Remove: name}
		} else {
			counts[name] = len(fds)
		}
		if err := d.sender.Confirm(ctx, m, fds...); err != nil {
			return nil, fmt.Errorf("descriptor %s: %w", name, err)
		}
	}
	return counts, nil
}

func (d *descriptors) counts() map[string]int {
	d.mu.Lock()
	defer d.mu.Unlock()
	counts := map[string]int{}
	for name, fds := range d.byName {
		if len(fds) > 0 {
			counts[name] = len(fds)
		}
	}
	return counts
}

func copyAll(fds []int) ([]int, error) {
	copies := make([]int, 0, len(fds))
	for _, fd := range fds {
		c, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, copyFloor)
		if err != nil {
			closeAll(copies)
			return nil, fmt.Errorf("copy descriptor %d: %w", fd, err)
		}
		copies = append(copies, c)
	}
	return copies, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// mergePidfds makes one descriptor that becomes readable when all of fds have: -1 for
// none, the pidfd itself for one, an eventfd for more (a successor whose predecessor
// had not been gone either).
func mergePidfds(fds []int) (int, error) {
	switch len(fds) {
	case 0:
		return -1, nil
	case 1:
		return fds[0], nil
	}
	all, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return -1, fmt.Errorf("watch %d predecessors: %w", len(fds), err)
	}
	done := os.NewFile(uintptr(all), "predecessors")
	go func() {
		for _, fd := range fds {
			if err := waitReadable(fd); err != nil {
				return // never readable: the successor goes on barring the old I/O
			}
		}
		_, _ = done.Write([]byte{1, 0, 0, 0, 0, 0, 0, 0})
	}()
	return all, nil
}

// waitReadable waits until fd is readable: for a pidfd, until the process is gone.
func waitReadable(fd int) error {
	for {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("watch a predecessor: %w", err)
		}
	}
}
