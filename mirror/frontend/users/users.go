// Package users finds out who uses a block device, as far as that can be done without
// disturbing anybody. The kernel keeps a count of openers but shows it to no one, so that
// this goes through what it does show: mounts of every mount namespace, descriptors of every
// process, swaps, devices built on this one.
package users

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Device is a block device.
type Device struct {
	Path  string // of its node
	Name  string // in /sys/block, and in /dev where there is devtmpfs
	Rdev  uint64
	Sysfs string // its directory in /sys/block
}

// Of tells how many others hold a device open or mounted, and who, but for the processes
// excluded and this one. It is a snapshot, takes some milliseconds, and never waits for the
// device.
func Of(d Device, exclude []int) (int, []string) {
	s := survey{
		names:   map[string]bool{d.Path: true, filepath.Join("/dev", d.Name): true},
		devices: map[uint64]bool{d.Rdev: true},
		exclude: append([]int{os.Getpid()}, exclude...),
		seen:    map[string]bool{},
	}
	s.partitions(d.Sysfs)
	s.processes()
	s.swaps()
	s.stacked(d.Sysfs)
	if len(s.who) == 0 && claimed(d.Path) {
		s.add("claimed by the kernel for something that cannot be seen from here")
	}
	return len(s.who), s.who
}

// claimed reports whether somebody has the device for himself, as a mount has.
func claimed(path string) bool {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err == nil {
		unix.Close(fd)
	}
	return errors.Is(err, unix.EBUSY)
}

type survey struct {
	names   map[string]bool // paths of the device and its partitions
	devices map[uint64]bool // their numbers
	exclude []int
	seen    map[string]bool
	who     []string
}

func (s *survey) add(user string) {
	if !s.seen[user] {
		s.seen[user] = true
		s.who = append(s.who, user)
	}
}

// partitions adds what partx may have made of the device.
func (s *survey) partitions(sysfs string) {
	paths, _ := filepath.Glob(sysfs + "/" + filepath.Base(sysfs) + "p*/dev")
	for _, path := range paths {
		var major, minor uint32
		if dev, err := os.ReadFile(path); err == nil {
			if _, err := fmt.Sscanf(string(dev), "%d:%d", &major, &minor); err == nil {
				s.devices[unix.Mkdev(major, minor)] = true
				s.names["/dev/"+filepath.Base(filepath.Dir(path))] = true
			}
		}
	}
}

// processes looks at the mount namespaces and descriptors of all. What it cannot read
// has ended meanwhile, or is not for us to see.
func (s *survey) processes() {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return
	}
	namespaces := map[string]bool{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		proc := "/proc/" + e.Name()
		if ns, err := os.Readlink(proc + "/ns/mnt"); err == nil && !namespaces[ns] {
			namespaces[ns] = s.mounts(proc + "/mountinfo")
		}
		if !slices.Contains(s.exclude, pid) && s.holds(proc+"/fd") {
			comm, _ := os.ReadFile(proc + "/comm")
			s.add(fmt.Sprintf("pid %d (%s)", pid, strings.TrimSpace(string(comm))))
		}
	}
}

// mounts adds the mounts of the device in one mountinfo. It reports whether that could
// be read.
func (s *survey) mounts(path string) bool {
	file, err := os.Open(path)
	if err != nil {
		return false
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		// id parent major:minor root mount-point options [optional …] - type source options
		fields := strings.Fields(lines.Text())
		dash := slices.Index(fields, "-")
		if dash < 5 || len(fields) < dash+3 {
			continue
		}
		var major, minor uint32
		if _, err := fmt.Sscanf(fields[2], "%d:%d", &major, &minor); err != nil {
			continue
		}
		// btrfs has a device number of its own: go by the source, too.
		if s.devices[unix.Mkdev(major, minor)] || s.isDevice(fields[dash+2]) {
			s.add("mounted on " + unescape(fields[4]))
		}
	}
	return lines.Err() == nil
}

// unescape undoes the octal escapes of mountinfo.
func unescape(path string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(path)
}

// isDevice reports whether a path in /dev leads to the device.
func (s *survey) isDevice(path string) bool {
	if s.names[path] {
		return true
	}
	if !strings.HasPrefix(path, "/dev/") {
		return false
	}
	return s.leadsToDevice(path)
}

// leadsToDevice asks for no more than the kernel knows by itself: what a descriptor
// leads to may be on a file system whose server hangs.
func (s *survey) leadsToDevice(path string) bool {
	var st unix.Statx_t
	if unix.Statx(unix.AT_FDCWD, path, unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE, &st) != nil {
		return false
	}
	return st.Mode&unix.S_IFMT == unix.S_IFBLK && s.devices[unix.Mkdev(st.Rdev_major, st.Rdev_minor)]
}

// holds reports whether one of the descriptors in a directory of /proc is the device.
func (s *survey) holds(dir string) bool {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	for _, e := range entries {
		path := dir + "/" + e.Name()
		target, err := os.Readlink(path)
		if err == nil && strings.HasPrefix(target, "/") && s.leadsToDevice(path) {
			return true
		}
	}
	return false
}

func (s *survey) swaps() {
	swaps, _ := os.ReadFile("/proc/swaps")
	for _, line := range strings.Split(string(swaps), "\n") {
		if path, _, _ := strings.Cut(line, " "); s.isDevice(path) {
			s.add("used for swap")
		}
	}
}

// stacked adds the devices that are built on this one.
func (s *survey) stacked(sysfs string) {
	holders, _ := filepath.Glob(sysfs + "/holders/*")
	inPartitions, _ := filepath.Glob(sysfs + "/" + filepath.Base(sysfs) + "p*/holders/*")
	for _, path := range append(holders, inPartitions...) {
		s.add("used by " + filepath.Base(path))
	}
	files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, path := range files {
		file, err := os.ReadFile(path)
		if err == nil && s.isDevice(strings.TrimSpace(string(file))) {
			s.add("used by " + filepath.Base(filepath.Dir(filepath.Dir(path))))
		}
	}
}
