package config

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ft/mirror/legio"
	"ft/mirror/nbd"
)

// Probe is the probe of a real machine, for Check. It opens nothing: all it needs
// stands in stat(2) and sysfs, so that a device that hangs cannot hold it up. Only the
// server of an NBD leg is spoken to, with a time limit.
func Probe(path string) (Device, error) {
	if nbd.IsAddress(path) {
		return probeExport(path)
	}
	return probeIn("/sys", path)
}

// askWithin is how long an NBD server may take to say what it exports.
const askWithin = 2 * time.Second

// probeExport asks an NBD server: it is another machine that may hang.
func probeExport(address string) (Device, error) {
	e, err := legio.AskRemote(address, askWithin)
	if err != nil {
		return Device{}, err
	}
	return Device{Kind: Export, Bytes: e.Size, Extents: []Extent{{Store: address, Len: e.Size}}}, nil
}

func probeIn(sys, path string) (Device, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return Device{}, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return Device{Kind: Directory}, nil
	case unix.S_IFCHR:
		return Device{Kind: CharDevice}, nil
	case unix.S_IFREG:
		return Device{Kind: RegularFile, Bytes: st.Size, Extents: []Extent{fileExtent(&st)}}, nil
	case unix.S_IFBLK:
		return blockDevice(sys, path, unix.Major(st.Rdev), unix.Minor(st.Rdev))
	}
	return Device{Kind: OtherDevice}, nil
}

// fileExtent is a whole file: also what may be appended to it later.
func fileExtent(st *unix.Stat_t) Extent {
	return Extent{Store: fmt.Sprintf("file %d:%d inode %d", unix.Major(st.Dev), unix.Minor(st.Dev), st.Ino), Len: math.MaxInt64 / 2}
}

// sectorBytes is the unit of sizes in sysfs, whatever the device's block size.
const sectorBytes = 512

// blockDevice traces a device down one level: partition to disk, loop to file.
func blockDevice(sys, path string, major, minor uint32) (Device, error) {
	dir := filepath.Join(sys, "dev/block", fmt.Sprintf("%d:%d", major, minor))
	sectors, err := sysNumber(dir, "size")
	if errors.Is(err, fs.ErrNotExist) {
		return Device{}, fmt.Errorf("%s is a node without a device (%d:%d): %w", path, major, minor, fs.ErrNotExist)
	}
	if err != nil {
		return Device{}, err
	}
	d := Device{Kind: BlockDevice, Bytes: sectors * sectorBytes}
	d.Extents = []Extent{{Store: fmt.Sprintf("block %d:%d", major, minor), Len: d.Bytes}}
	if _, err := os.Stat(filepath.Join(dir, "partition")); err == nil {
		whole, err := sysString(dir, "../dev")
		if err != nil {
			return Device{}, err
		}
		start, err := sysNumber(dir, "start")
		if err != nil {
			return Device{}, err
		}
		d.Extents = append(d.Extents, Extent{Store: "block " + whole, Off: start * sectorBytes, Len: d.Bytes})
	}
	if e, ok := loopFile(dir, d.Bytes); ok {
		d.Extents = append(d.Extents, e)
	}
	return d, nil
}

// loopFile is the part of a file that a loop device shows. A file that has been
// removed meanwhile cannot be found by its name, and is nobody else's leg.
func loopFile(dir string, bytes int64) (Extent, bool) {
	file, err := sysString(dir, "loop/backing_file")
	if err != nil {
		return Extent{}, false
	}
	off, err := sysNumber(dir, "loop/offset")
	if err != nil {
		return Extent{}, false
	}
	var st unix.Stat_t
	if unix.Stat(file, &st) != nil {
		return Extent{}, false
	}
	if st.Mode&unix.S_IFMT == unix.S_IFBLK {
		return Extent{Store: fmt.Sprintf("block %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)), Off: off, Len: bytes}, true
	}
	e := fileExtent(&st)
	e.Off, e.Len = off, bytes
	return e, true
}

func sysString(dir, name string) (string, error) {
	// The path is opened as it is: "../dev" is relative to where the link dir leads.
	b, err := os.ReadFile(dir + "/" + name)
	return strings.TrimSpace(string(b)), err
}

func sysNumber(dir, name string) (int64, error) {
	s, err := sysString(dir, name)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s/%s: %w", dir, name, err)
	}
	return n, nil
}
