package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// The guest's disk is one ext4 on the whole of /dev/vda. It is made on a blank disk and
// on nothing else: what looks like another's data stays as it is.

const (
	diskNode = "/dev/vda"
	dataDir  = "/data"
	mke2fs   = "/sbin/mke2fs"
	e2fsck   = "/sbin/e2fsck"
)

// content is what a disk looks like at its beginning.
type content int

const (
	blank     content = iota // nothing, or what a mke2fs that was cut off has left
	extClean                 // an ext4, perhaps with a journal to be replayed
	extFaulty                // an ext4 in which the kernel has found errors
	foreign                  // something else
)

// Where things are (the kernel's Documentation/filesystems/ext4/super.rst), and what
// other content has in the same bytes.
const (
	superAt    = 1024
	superMagic = superAt + 0x38 // 0xEF53, le16
	superState = superAt + 0x3A // le16
	stateError = 0x0002
	lookBytes  = 128 << 10
)

// others are marks of content that leaves the first KiB alone, which otherwise tells:
// partition tables, XFS, LVM, LUKS, FAT and squashfs all begin there.
var others = []struct {
	what, mark string
	at         int
}{
	{"btrfs", "_BHRfS_M", 0x10040},
	{"swap", "SWAPSPACE2", 4086},
	{"md", "\xfc\x4e\x2b\xa9", 4096},
	{"ISO 9660", "CD001", 0x8001},
}

// lookAt says what a disk's first bytes are, and of what kind when it is foreign.
func lookAt(head []byte) (content, string) {
	at := func(offset int, mark string) bool {
		return len(head) >= offset+len(mark) && string(head[offset:][:len(mark)]) == mark
	}
	if at(superMagic, "\x53\xef") {
		if binary.LittleEndian.Uint16(head[superState:])&stateError != 0 {
			return extFaulty, ""
		}
		return extClean, ""
	}
	for _, o := range others {
		if at(o.at, o.mark) {
			return foreign, o.what
		}
	}
	for _, b := range head[:min(len(head), superAt)] {
		if b != 0 {
			return foreign, "something"
		}
	}
	return blank, ""
}

// mountDisk makes the disk ready and mounts it. The kernel replays the journal.
func mountDisk(node string) error {
	if err := await(node); err != nil {
		return fmt.Errorf("no disk: %w", err)
	}
	head, err := readHead(node)
	if err != nil {
		return fmt.Errorf("look at the disk: %w", err)
	}
	switch kind, what := lookAt(head); kind {
	case blank:
		say("%s is blank: making an ext4 on it", node)
		// Few inodes and a small journal: less to be written before the first answer.
		if err := run(mke2fs, "-q", "-F", "-t", "ext4", "-m", "0", "-L", "guest", "-N", "16384", "-J", "size=16", "-E", "nodiscard", node); err != nil {
			return fmt.Errorf("make a file system: %w", err)
		}
	case extFaulty:
		say("%s has errors: repairing it", node)
		var exit *exitError
		if err := run(e2fsck, "-p", node); errors.As(err, &exit) && exit.status > 1 || err != nil && exit == nil {
			return fmt.Errorf("repair the file system: %w; try `e2fsck -f %s`", err, node)
		}
	case foreign:
		return fmt.Errorf("%s has %s on it, which stays: give the guest a blank disk, or clear it with `dd if=/dev/zero of=%s bs=64k count=2`", node, what, node)
	}
	if err := os.MkdirAll(dataDir, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(node, dataDir, "ext4", unix.MS_NOATIME|unix.MS_NODEV|unix.MS_NOSUID, "errors=remount-ro"); err != nil {
		return fmt.Errorf("mount %s: %w", node, err)
	}
	return nil
}

func readHead(node string) ([]byte, error) {
	f, err := os.Open(node)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	head := make([]byte, lookBytes)
	n, err := io.ReadFull(f, head)
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		err = nil // a small disk: mke2fs says so
	}
	return head[:n], err
}

// unmountDisk leaves the file system clean; where somebody still holds it, read-only.
func unmountDisk() error {
	err := unix.Unmount(dataDir, 0)
	if err == nil || errors.Is(err, unix.EINVAL) { // not mounted
		return nil
	}
	if rerr := unix.Mount("", dataDir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); rerr != nil {
		return fmt.Errorf("unmount %s: %w; make it read-only: %w", dataDir, err, rerr)
	}
	return nil
}
