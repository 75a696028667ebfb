package kerneltest

import (
	"bufio"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
)

// archive writes an initramfs: a cpio archive in the "new ASCII" format that the kernel
// unpacks (Documentation/driver-api/early-userspace/buffer-format.rst).
type archive struct {
	w     *bufio.Writer
	off   int64
	inode uint32
	have  map[string]bool
	err   error // the first one; nothing is written after it
}

func newArchive(w io.Writer) *archive {
	return &archive{w: bufio.NewWriterSize(w, 1<<20), have: map[string]bool{"": true}}
}

// Types of inodes, as in cpio's c_mode (stat(2), S_IFMT).
const (
	typeDir  = 0o040000
	typeChar = 0o020000
	typeFile = 0o100000
	typeLink = 0o120000
)

// header is an entry's, followed by its name; major and minor are of a device node.
func (a *archive) header(name string, mode uint32, size int64, major, minor uint32) {
	a.inode++
	a.printf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		a.inode, mode, 0, 0, 1, 0, size, 0, 0, major, minor, len(name)+1, 0, name)
	a.pad()
}

func (a *archive) printf(format string, args ...any) {
	if a.err == nil {
		var n int
		n, a.err = fmt.Fprintf(a.w, format, args...)
		a.off += int64(n)
	}
}

// pad aligns the next entry, or an entry's data, to 4 bytes.
func (a *archive) pad() { a.printf("%s", "\x00\x00\x00"[:-a.off&3]) }

// entry makes a path relative, and the directories above it; false when it is there already.
func (a *archive) entry(p string) (string, bool) {
	p = strings.TrimPrefix(path.Clean("/"+p), "/")
	if a.have[p] {
		return p, false
	}
	if dir := path.Dir(p); dir != "." {
		a.dir(dir)
	}
	a.have[p] = true
	return p, true
}

func (a *archive) dir(p string) {
	if p, isNew := a.entry(p); isNew {
		a.header(p, typeDir|0o755, 0, 0, 0)
	}
}

func (a *archive) link(p, target string) {
	if p, isNew := a.entry(p); isNew {
		a.header(p, typeLink|0o777, int64(len(target)), 0, 0)
		a.printf("%s", target)
		a.pad()
	}
}

func (a *archive) char(p string, major, minor uint32) {
	if p, isNew := a.entry(p); isNew {
		a.header(p, typeChar|0o600, 0, major, minor)
	}
}

func (a *archive) bytes(p string, perm fs.FileMode, data []byte) {
	if p, isNew := a.entry(p); isNew {
		a.header(p, typeFile|uint32(perm.Perm()), int64(len(data)), 0, 0)
		if a.err == nil {
			_, a.err = a.w.Write(data)
			a.off += int64(len(data))
		}
		a.pad()
	}
}

// file copies a file of this machine, with its permissions; links are followed.
func (a *archive) file(p, from string) {
	data, err := os.ReadFile(from)
	if err == nil {
		var info fs.FileInfo
		if info, err = os.Stat(from); err == nil {
			a.bytes(p, info.Mode(), data)
			return
		}
	}
	if a.err == nil {
		a.err = err
	}
}

// close ends the archive and returns the first error.
func (a *archive) close() error {
	a.inode = 0
	a.header("TRAILER!!!", 0, 0, 0, 0)
	if a.err != nil {
		return a.err
	}
	return a.w.Flush()
}
