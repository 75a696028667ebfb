package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// counter is a number on the disk that never goes back: what next has returned is stable,
// and a counter that is opened after a crash goes on above it.
//
// The file has two slots, each in a sector of its own, written in turn: a write that is
// cut off spoils the slot that is not the newest. Calls that come together share one sync.
type counter struct {
	file *os.File
	slot int64 // that is written next; used by whoever has set syncing

	mu      sync.Mutex
	done    sync.Cond // on mu: stable has grown, or err was set
	given   uint64    // the last number given to a caller
	stable  uint64    // all up to it are on the disk
	syncing bool      // a caller writes for all that wait
	err     error     // the first failure; after a failed sync nothing is known about the file
}

const (
	counterName = "requests"
	slotBytes   = 512 // a sector: written whole or not at all
	slotUsed    = 12  // le64 number, le32 CRC32C of it
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func openCounter(dir string) (*counter, error) {
	path := filepath.Join(dir, counterName)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open the counter: %w", err)
	}
	c := &counter{file: f}
	c.done.L = &c.mu
	slots := make([]byte, 2*slotBytes)
	if info, err := f.Stat(); err != nil {
		f.Close()
		return nil, fmt.Errorf("open the counter: %w", err)
	} else if info.Size() < int64(len(slots)) {
		// Made now, or when a crash came before its first number was acknowledged.
		_, err := f.WriteAt(slots, 0)
		if err := errors.Join(err, f.Sync(), syncDir(dir)); err != nil {
			f.Close()
			return nil, fmt.Errorf("make the counter: %w", err)
		}
		return c, nil
	}
	if _, err := f.ReadAt(slots, 0); err != nil {
		f.Close()
		return nil, fmt.Errorf("read the counter: %w", err)
	}
	good := 0
	for i := range 2 {
		if n, ok := readSlot(slots[i*slotBytes:]); ok {
			good++
			if n >= c.stable {
				c.stable, c.slot = n, int64(1-i)
			}
		}
	}
	if good == 0 {
		f.Close()
		return nil, fmt.Errorf("the counter %s is damaged: neither of its numbers can be read; remove it to count from 0", path)
	}
	c.given = c.stable
	return c, nil
}

// readSlot reads a number. A slot that was never written is a 0.
func readSlot(slot []byte) (uint64, bool) {
	n, sum := binary.LittleEndian.Uint64(slot), binary.LittleEndian.Uint32(slot[8:])
	if n == 0 && sum == 0 {
		return 0, true
	}
	return n, sum == crc32.Checksum(slot[:8], castagnoli)
}

// next counts one more and returns the number when it is stable.
func (c *counter) next() (uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.given++
	mine := c.given
	for c.stable < mine && c.err == nil {
		if c.syncing {
			c.done.Wait()
			continue
		}
		c.syncing = true
		upTo := c.given
		c.mu.Unlock()
		err := c.write(upTo)
		c.mu.Lock()
		c.syncing = false
		if err != nil {
			c.err = fmt.Errorf("write the counter: %w", err)
		} else {
			c.stable = upTo
		}
		c.done.Broadcast()
	}
	if c.stable < mine {
		return 0, c.err
	}
	return mine, nil
}

// write puts a number into the slot that does not hold the newest one.
func (c *counter) write(n uint64) error {
	var slot [slotUsed]byte
	binary.LittleEndian.PutUint64(slot[:], n)
	binary.LittleEndian.PutUint32(slot[8:], crc32.Checksum(slot[:8], castagnoli))
	if _, err := c.file.WriteAt(slot[:], c.slot*slotBytes); err != nil {
		return err
	}
	c.slot = 1 - c.slot
	return unix.Fdatasync(int(c.file.Fd()))
}

// value is the last number that is stable.
func (c *counter) value() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stable
}

func (c *counter) close() error { return c.file.Close() }
