package ublk

// A device outlives the processes that knew of it. Whose it is stands in the device itself:
// a mark in ublksrv_flags, which the driver keeps and gives back and has no use for.

import (
	"hash/fnv"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// markOf is the mark of an identity, 0 for none.
func markOf(identity string) uint64 {
	if identity == "" {
		return 0
	}
	h := fnv.New64a()
	h.Write([]byte(identity))
	return max(1, h.Sum64())
}

// find is the number of the device that has an identity.
func (c *control) find(identity string) (uint32, error) {
	mark := markOf(identity)
	// The class is there from ADD_DEV on, the block device only once it was started.
	entries, err := os.ReadDir("/sys/class/ublk-char")
	if err != nil || mark == 0 {
		return 0, ErrIncomplete
	}
	for _, e := range entries {
		n, ok := strings.CutPrefix(filepath.Base(e.Name()), "ublkc")
		id, err := strconv.ParseUint(n, 10, 31)
		if !ok || err != nil {
			continue
		}
		var info devInfo
		if c.do("look at a ublk device", cmdGetDevInfo, withMemory(uint32(id), &info)) == nil && info.ublksrvFlags == mark {
			return uint32(id), nil
		}
	}
	return 0, ErrIncomplete
}

// Left says whether a device with an identity is there.
func Left(identity string) bool {
	c, err := openControl()
	if err != nil {
		return false
	}
	defer c.close()
	_, err = c.find(identity)
	return err == nil
}

// Discard removes the device that was left with an identity: who has it open gets errors.
func Discard(identity string) error {
	c, err := openControl()
	if err != nil {
		return err
	}
	id, err := c.find(identity)
	if err != nil {
		c.close()
		return err
	}
	return (&Face{id: id, fd: -1, control: c}).takeDown()
}
