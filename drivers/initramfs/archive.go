// Package initramfs packs what a kernel starts from: a cpio archive with programs, their
// libraries, and kernel modules in an order in which they can be loaded.
//
// The files come from this machine or from an unpacked tree of another architecture's
// packages; nothing of either is executed.
package initramfs

import (
	"bufio"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
)

// Archive writes an initramfs: a cpio archive in the "new ASCII" format that the kernel
// unpacks (Documentation/driver-api/early-userspace/buffer-format.rst). The first error
// stays, and is what Close returns. What is there already is not written again, and the
// directories above an entry are made.
type Archive struct {
	w     *bufio.Writer
	off   int64
	inode uint32
	have  map[string]bool
	err   error // the first one; nothing is written after it
}

// NewArchive begins an archive.
func NewArchive(w io.Writer) *Archive {
	return &Archive{w: bufio.NewWriterSize(w, 1<<20), have: map[string]bool{"": true}}
}

// Types of inodes, as in cpio's c_mode (stat(2), S_IFMT).
const (
	typeDir  = 0o040000
	typeChar = 0o020000
	typeFile = 0o100000
	typeLink = 0o120000
)

// header is an entry's, followed by its name; major and minor are of a device node. All
// times are 0: the same content is the same archive.
func (a *Archive) header(name string, mode uint32, size int64, major, minor uint32) {
	a.inode++
	a.printf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		a.inode, mode, 0, 0, 1, 0, size, 0, 0, major, minor, len(name)+1, 0, name)
	a.pad()
}

func (a *Archive) printf(format string, args ...any) {
	if a.err == nil {
		var n int
		n, a.err = fmt.Fprintf(a.w, format, args...)
		a.off += int64(n)
	}
}

// pad aligns the next entry, or an entry's data, to 4 bytes.
func (a *Archive) pad() { a.printf("%s", "\x00\x00\x00"[:-a.off&3]) }

// entry makes a path relative, and the directories above it; false when it is there already.
func (a *Archive) entry(p string) (string, bool) {
	p = strings.TrimPrefix(path.Clean("/"+p), "/")
	if a.have[p] {
		return p, false
	}
	if dir := path.Dir(p); dir != "." {
		a.Dir(dir)
	}
	a.have[p] = true
	return p, true
}

// Dir adds a directory.
func (a *Archive) Dir(p string) {
	if p, isNew := a.entry(p); isNew {
		a.header(p, typeDir|0o755, 0, 0, 0)
	}
}

// Link adds a symbolic link.
func (a *Archive) Link(p, target string) {
	if p, isNew := a.entry(p); isNew {
		a.header(p, typeLink|0o777, int64(len(target)), 0, 0)
		a.printf("%s", target)
		a.pad()
	}
}

// Char adds a character device.
func (a *Archive) Char(p string, major, minor uint32) {
	if p, isNew := a.entry(p); isNew {
		a.header(p, typeChar|0o600, 0, major, minor)
	}
}

// Bytes adds a file.
func (a *Archive) Bytes(p string, perm fs.FileMode, data []byte) {
	if p, isNew := a.entry(p); isNew {
		a.header(p, typeFile|uint32(perm.Perm()), int64(len(data)), 0, 0)
		if a.err == nil {
			_, a.err = a.w.Write(data)
			a.off += int64(len(data))
		}
		a.pad()
	}
}

// File adds a copy of a file of this machine, with its permissions; links are followed.
func (a *Archive) File(p, from string) {
	data, err := os.ReadFile(from)
	if err == nil {
		var info fs.FileInfo
		if info, err = os.Stat(from); err == nil {
			a.Bytes(p, info.Mode(), data)
			return
		}
	}
	if a.err == nil {
		a.err = err
	}
}

// Close ends the archive and returns the first error.
func (a *Archive) Close() error {
	a.inode = 0
	a.header("TRAILER!!!", 0, 0, 0, 0)
	if a.err != nil {
		return a.err
	}
	return a.w.Flush()
}
