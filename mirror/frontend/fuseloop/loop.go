package fuseloop

// The loop device over the file.

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"ft/mirror/frontend"
)

// loopDevice is a loop device of ours.
type loopDevice struct {
	fd     int
	number int
	rdev   uint64
	path   string
	made   bool // path is a node that we made
}

func (l loopDevice) sysfs() string { return "/sys/block/loop" + strconv.Itoa(l.number) }

// openLoopControl opens what gives out loop devices.
func openLoopControl() (int, error) {
	control, err := unix.Open("/dev/loop-control", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open /dev/loop-control: %w (are loop devices in this kernel? `modprobe loop`)", err)
	}
	return control, nil
}

// attachLoop puts a free loop device over file. Its descriptor takes the place of
// control's.
func attachLoop(control, file int, g frontend.Geometry, opt Options) (loopDevice, error) {
	config := unix.LoopConfig{Fd: uint32(file), Size: uint32(g.LogicalBlock)}
	config.Info.Flags = unix.LO_FLAGS_DIRECT_IO | unix.LO_FLAGS_AUTOCLEAR
	copy(config.Info.File_name[:len(config.Info.File_name)-1], "ft:"+g.Name)
	for range loopAttemptsMax {
		number, err := unix.IoctlRetInt(control, unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return loopDevice{fd: -1}, fmt.Errorf("ask for a free loop device: %w", err)
		}
		l := loopDevice{fd: -1, number: number}
		if err := l.open(opt); err != nil {
			return l, err
		}
		err = unix.IoctlLoopConfigure(l.fd, &config)
		if err == nil {
			return l, l.renumber(control)
		}
		l.close()
		// Somebody else had been told of the same device: ask again.
		if !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENXIO) {
			return l, fmt.Errorf("configure %s over the FUSE file: %w", l.path, err)
		}
	}
	return loopDevice{fd: -1}, fmt.Errorf("no free loop device in %d attempts: others were faster each time", loopAttemptsMax)
}

// renumber moves the device's descriptor to the number of another, which it closes.
func (l *loopDevice) renumber(fd int) error {
	if err := unix.Dup3(l.fd, fd, unix.O_CLOEXEC); err != nil {
		return fmt.Errorf("duplicate the descriptor of %s: %w", l.path, err)
	}
	closeAll(l.fd)
	l.fd = fd
	return nil
}

// adoptLoop takes over the descriptor of a loop device.
func adoptLoop(fd int, opt Options) (loopDevice, error) {
	info, err := unix.IoctlLoopGetStatus64(fd)
	if err != nil {
		return loopDevice{}, fmt.Errorf("the loop device left by the predecessor: %w", err)
	}
	l := loopDevice{fd: fd, number: int(info.Number)}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return loopDevice{}, fmt.Errorf("the loop device left by the predecessor: %w", err)
	}
	l.rdev = st.Rdev
	return l, l.findNode(opt)
}

// open opens the loop device by its number.
func (l *loopDevice) open(opt Options) error {
	dev, err := os.ReadFile(l.sysfs() + "/dev")
	if err != nil {
		return fmt.Errorf("find loop device %d: %w", l.number, err)
	}
	var major, minor uint32
	if _, err := fmt.Sscanf(string(dev), "%d:%d", &major, &minor); err != nil {
		return fmt.Errorf("find loop device %d: %s/dev has %q: %w", l.number, l.sysfs(), dev, err)
	}
	l.rdev = unix.Mkdev(major, minor)
	if err := l.findNode(opt); err != nil {
		return err
	}
	l.fd, err = unix.Open(l.path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		l.close()
		return fmt.Errorf("open %s: %w", l.path, err)
	}
	return nil
}

// findNode finds a device node, or makes one where there is no devtmpfs.
func (l *loopDevice) findNode(opt Options) error {
	name := "loop" + strconv.Itoa(l.number)
	system := filepath.Join(opt.loopDir, name)
	if isNode(system, l.rdev) {
		l.path = system
		return nil
	}
	if opt.NodeDir == "" {
		return fmt.Errorf("there is no device node %s for device %d:%d: is devtmpfs mounted on /dev?", system, unix.Major(l.rdev), unix.Minor(l.rdev))
	}
	private := filepath.Join(opt.NodeDir, name)
	if !isNode(private, l.rdev) {
		if err := os.Remove(private); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("make a device node: %w", err)
		}
		if err := unix.Mknod(private, unix.S_IFBLK|0o600, int(l.rdev)); err != nil {
			return fmt.Errorf("make the device node %s: %w", private, err)
		}
	}
	l.path, l.made = private, true
	return nil
}

func isNode(path string, rdev uint64) bool {
	var st unix.Stat_t
	return unix.Stat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK && st.Rdev == rdev
}

// verify makes sure that the device is what was asked for. The kernel drops direct I/O
// silently where it thinks that the file cannot do it; every block would then be cached
// twice, and a flush would not be one.
func (l loopDevice) verify(g frontend.Geometry) error {
	info, err := unix.IoctlLoopGetStatus64(l.fd)
	if err != nil {
		return fmt.Errorf("status of %s: %w", l.path, err)
	}
	for _, f := range []struct {
		bit  uint32
		name string
	}{{unix.LO_FLAGS_DIRECT_IO, "direct I/O"}, {unix.LO_FLAGS_AUTOCLEAR, "autoclear"}} {
		if info.Flags&f.bit == 0 {
			return fmt.Errorf("%s: the kernel did not turn on %s", l.path, f.name)
		}
	}
	var size uint64
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(l.fd), unix.BLKGETSIZE64, uintptr(unsafe.Pointer(&size))); errno != 0 {
		return fmt.Errorf("size of %s: %w", l.path, errno)
	}
	if size != uint64(g.Size) {
		return fmt.Errorf("%s has %d bytes, not the %d of disk %s", l.path, size, g.Size, g.Name)
	}
	block, err := unix.IoctlGetInt(l.fd, unix.BLKSSZGET)
	if err != nil {
		return fmt.Errorf("block size of %s: %w", l.path, err)
	}
	if block != g.LogicalBlock {
		return fmt.Errorf("%s has blocks of %d bytes, not the %d of disk %s", l.path, block, g.LogicalBlock, g.Name)
	}
	return nil
}

// connection is the FUSE connection that the file under the device is of.
func (l loopDevice) connection() (uint32, error) {
	info, err := unix.IoctlLoopGetStatus64(l.fd)
	if err != nil {
		return 0, fmt.Errorf("status of %s: %w", l.path, err)
	}
	return unix.Minor(info.Device), nil
}

// queueSettings are files of /sys/block/loopN/queue, as we want them and as they are for
// others. Nothing depends on them but speed.
var queueSettings = []struct{ name, ours, others string }{
	// Writeback is throttled where it is slow: at the legs.
	{"wbt_lat_usec", "0", "-1"},
	// The loop driver sends one discard at a time, waits for it, and starts nothing else
	// meanwhile: gigabytes in one would stop the disk. The others' is the most there is
	// in pages.
	{"discard_max_bytes", strconv.Itoa(discardBytesMax), strconv.Itoa(1<<32 - 4096)},
}

// tune sets the device's queue, for us or for others. For each setting that changes, the
// kernel drains the queue: this waits for requests that are under way, and must not be
// waited for by those who serve them. (Before the device is bound there would be nothing
// to drain, but a new one then takes no limit for discards.)
func (l loopDevice) tune(log *slog.Logger, ours bool) {
	for _, s := range queueSettings {
		path, value := l.sysfs()+"/queue/"+s.name, s.others
		if ours {
			value = s.ours
		}
		if now, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(now)) == value {
			continue
		}
		if err := os.WriteFile(path, []byte(value), 0); err != nil {
			log.Debug("loop device's queue left as it is", "setting", path, "value", value, "err", err)
		}
	}
}

// bound says whether there is a file under the device: whose does not matter to this one, whose
// own has gone.
func (l loopDevice) bound() bool {
	_, err := os.Stat(l.sysfs() + "/loop/backing_file")
	return err == nil
}

// clear tells the kernel that nobody new is to be let in, which it honours if nobody
// else has the device open. The device is cleared when it is closed by the last.
func (l loopDevice) clear() error {
	err := unix.IoctlSetInt(l.fd, unix.LOOP_CLR_FD, 0)
	if err != nil && !errors.Is(err, unix.ENXIO) {
		return fmt.Errorf("clear %s: %w", l.path, err)
	}
	return nil
}

// close closes the device and removes a node of ours.
func (l *loopDevice) close() {
	closeAll(l.fd)
	l.fd = -1
	l.removeNode()
}

func (l *loopDevice) removeNode() {
	if l.made {
		_ = os.Remove(l.path) // not there: as it should be
	}
}
