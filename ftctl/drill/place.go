package drill

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"ft/ftd/api"
)

// Where the load on a disk may write. A person's data are worth more than a drill:
//
//   - There is a file system on the disk, and it is mounted: a file of its own there, of
//     limited size, whose name is removed as soon as it is open. It goes with the process.
//   - Nobody has the disk open, nothing is mounted, and both its ends and the place that is
//     written to read as zeroes: that place, which is made zeroes again at the end. What an
//     earlier drill that was killed has left there is known by what it says.
//   - Everywhere else it only reads.

const (
	loadBytes = 32 << 20 // at most
	loadLeast = 1 << 20
	freeShare = 10      // of the free room of a file system, one part in so many
	endBytes  = 4 << 20 // at both ends of a disk, where signatures lie
	fileName  = "ftctl-drill.*.tmp"
)

// newDiskLoad puts a load on a disk. note says why it only reads, or why there is none.
func newDiskLoad(d api.DeviceStatus, drill uint64) (l *diskLoad, note string) {
	l = &diskLoad{device: d.ID, id: blockID{drill: drill, disk: rand.Uint64()}}
	node, number, err := blockDevice(d.Face)
	if err != nil {
		return nil, fmt.Sprintf("%s: %v%s", d.ID, err, asRoot(err))
	}
	if dir, ok := mountOf(number); ok {
		err := l.inFile(dir)
		if err == nil {
			return l, ""
		}
		note = fmt.Sprintf("%s: no file can be written in %s (%v): it is only read", d.ID, dir, err)
	} else if why, err := l.onDisk(node, number); err == nil && why == "" {
		return l, ""
	} else if err != nil {
		note = fmt.Sprintf("%s: it is only read: %v", d.ID, err)
	} else {
		note = fmt.Sprintf("%s: it is only read: %s", d.ID, why)
	}
	if err := l.onlyRead(node); err != nil {
		return nil, fmt.Sprintf("%s: %v%s", d.ID, err, asRoot(err))
	}
	return l, note
}

func blockDevice(face string) (node string, number uint64, err error) {
	if node, err = filepath.EvalSymlinks(face); err != nil {
		return "", 0, err
	}
	var st unix.Stat_t
	if err := unix.Stat(node, &st); err != nil {
		return "", 0, fmt.Errorf("%s: %w", node, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return "", 0, fmt.Errorf("%s is no block device", node)
	}
	return node, st.Rdev, nil
}

// mountOf is where a device is mounted to be written to (proc_pid_mountinfo(5)).
func mountOf(number uint64) (dir string, ok bool) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", false
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		before, after, _ := strings.Cut(lines.Text(), " - ")
		fields, source := strings.Fields(before), strings.Fields(after)
		if len(fields) < 6 || len(source) < 3 {
			continue
		}
		if !isOf(number, fields[2], unescape(source[1])) {
			continue
		}
		// The mount's own options, and the file system's.
		if !hasOption(fields[5], "rw") || !hasOption(source[2], "rw") {
			continue
		}
		point := unescape(fields[4])
		if st, err := os.Stat(point); err == nil && st.IsDir() {
			return point, true
		}
	}
	return "", false
}

// isOf: a mount is known by its device's number, or, of file systems over several devices,
// by its source.
func isOf(number uint64, numbers, source string) bool {
	if numbers == fmt.Sprintf("%d:%d", unix.Major(number), unix.Minor(number)) {
		return true
	}
	var st unix.Stat_t
	return strings.HasPrefix(source, "/") && unix.Stat(source, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK && st.Rdev == number
}

func hasOption(list, option string) bool {
	for o := range strings.SplitSeq(list, ",") {
		if o == option {
			return true
		}
	}
	return false
}

// unescape undoes the octal escapes of blanks and the like.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// inFile makes a file without a name.
func (l *diskLoad) inFile(dir string) error {
	var free unix.Statfs_t
	if err := unix.Statfs(dir, &free); err != nil {
		return err
	}
	bytes := min(loadBytes, int64(free.Bavail)*free.Bsize/freeShare)
	if bytes < loadLeast {
		return errors.New("the file system is full")
	}
	f, err := os.CreateTemp(dir, fileName)
	if err != nil {
		return err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return err
	}
	direct := "directly"
	if flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0); err == nil {
		if _, err := unix.FcntlInt(f.Fd(), unix.F_SETFL, flags|unix.O_DIRECT); err != nil {
			direct = "through the page cache"
		}
	}
	l.file, l.blocks = f, bytes/blockBytes
	l.what = fmt.Sprintf("%d verified reads and writes a second, %s, in a file of %d MiB in %s", diskRate, direct, bytes>>20, dir)
	if err := l.prepare(); err != nil {
		f.Close()
		return err
	}
	return nil
}

// onDisk takes a part of a disk that nobody uses and that is empty. why: it is not.
func (l *diskLoad) onDisk(node string, number uint64) (why string, err error) {
	fd, err := unix.Open(node, unix.O_RDWR|unix.O_DIRECT|unix.O_EXCL|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.EBUSY):
		return "it is in use, and not by a mount", nil
	case err != nil:
		return "", fmt.Errorf("open %s: %w", node, err)
	}
	f := os.NewFile(uintptr(fd), node)
	if why, err = l.take(f, number); why != "" || err != nil {
		f.Close()
	}
	return why, err
}

func (l *diskLoad) take(f *os.File, number uint64) (why string, err error) {
	if user := userOf(number); user != "" {
		return user + " has it open", nil
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return "", err
	}
	bytes := min(loadBytes, size/4/blockBytes*blockBytes)
	if bytes < loadLeast {
		return "it is too small", nil
	}
	l.file, l.blocks, l.erase = f, bytes/blockBytes, true
	l.base = (size / 2) &^ (1<<20 - 1)
	for _, part := range []struct {
		at, bytes int64
		ours      bool
	}{{0, min(endBytes, l.base), false}, {max(size-endBytes, l.base+bytes) &^ (blockBytes - 1), endBytes, false}, {l.base, bytes, true}} {
		empty, err := isEmpty(f, part.at, min(part.bytes, (size-part.at)&^(blockBytes-1)), part.ours)
		if err != nil {
			return "", err
		}
		if !empty {
			return "it is not empty", nil
		}
	}
	l.what = fmt.Sprintf("%d verified reads and writes a second, in %d MiB of the empty disk", diskRate, bytes>>20)
	return "", l.prepare()
}

// isEmpty reads a part of a disk. ours: blocks of an earlier drill count as empty.
func isEmpty(f *os.File, at, bytes int64, ours bool) (bool, error) {
	const piece = 1 << 20
	buf, err := unix.Mmap(-1, 0, piece, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return false, err
	}
	defer unix.Munmap(buf)
	for end := at + bytes; at < end; at += piece {
		got := buf[:min(piece, end-at)]
		if _, err := f.ReadAt(got, at); err != nil {
			return false, fmt.Errorf("read it at %d: %w", at, err)
		}
		for i := 0; i < len(got); i += blockBytes {
			if b := got[i : i+blockBytes]; !isZero(b) && !(ours && isDrills(b)) {
				return false, nil
			}
		}
	}
	return true, nil
}

// userOf names a process that has a device open, but for this one. Not every program that
// works on a disk claims it.
func userOf(number uint64) string {
	fds, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	self := fmt.Sprintf("/proc/%d/", os.Getpid())
	for _, path := range fds {
		if strings.HasPrefix(path, self) {
			continue
		}
		// Only what is a device is looked at: other files may be on servers that do not answer.
		target, err := os.Readlink(path)
		var st unix.Stat_t
		if err != nil || !strings.HasPrefix(target, "/dev/") || unix.Stat(path, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK || st.Rdev != number {
			continue
		}
		pid := strings.Split(path, "/")[2]
		name, _ := os.ReadFile("/proc/" + pid + "/comm")
		if n := strings.TrimSpace(string(name)); n != "ftd" { // holds the face itself
			return fmt.Sprintf("%s (pid %s)", n, pid)
		}
	}
	return ""
}

// onlyRead reads anywhere on a disk.
func (l *diskLoad) onlyRead(node string) error {
	f, err := os.OpenFile(node, os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		return err
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil || size < blockBytes {
		f.Close()
		return fmt.Errorf("%s: its size is %d (%v)", node, size, err)
	}
	l.file, l.size, l.blocks, l.base, l.erase = f, size, 0, 0, false
	l.what = fmt.Sprintf("%d reads a second", diskRate)
	return nil
}
