package legio

// Who holds a device that is busy, so that the refusal can name them. Best effort:
// everything here reads /proc and /sys, and asks no device.

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"ft/mirror/legio/loop"
)

// holdersMax is how many holders a sentence names.
const holdersMax = 4

func describeHolders(who []string) string {
	switch {
	case len(who) == 0:
		return "somebody who cannot be found out (a mount in another namespace, or the kernel)"
	case len(who) > holdersMax:
		return strings.Join(who[:holdersMax], ", ") + fmt.Sprintf(" and %d more", len(who)-holdersMax)
	}
	return strings.Join(who, ", ")
}

// holders names who has the block device at path, or a part of it, in use.
func holders(path string) []string {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return nil
	}
	parts := map[uint64]string{st.Rdev: ""}
	dir := sysfsDir(st.Rdev)
	if found, _ := filepath.Glob(dir + "/*/partition"); found != nil {
		for _, f := range found {
			part := filepath.Base(filepath.Dir(f))
			var major, minor uint32
			if _, err := fmt.Sscanf(readLine(filepath.Dir(f)+"/dev"), "%d:%d", &major, &minor); err == nil {
				parts[unix.Mkdev(major, minor)] = " (" + part + ")"
			}
		}
	}
	who := mountsOf(parts)
	for rdev, part := range parts {
		if stacked, _ := os.ReadDir(sysfsDir(rdev) + "/holders"); len(stacked) > 0 {
			for _, h := range stacked {
				who = append(who, "/dev/"+h.Name()+" on top of it"+part)
			}
		}
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		if dev := loop.Over(real); dev != "" {
			who = append(who, dev+" on top of it")
		}
	}
	return append(who, openers(func(link, target string) bool {
		var open unix.Stat_t // of device nodes only: a stat of any open file might hang
		return strings.HasPrefix(target, "/dev/") && unix.Stat(link, &open) == nil &&
			open.Mode&unix.S_IFMT == unix.S_IFBLK && open.Rdev == st.Rdev
	})...)
}

// mountsOf finds mounts and swap areas on the devices.
func mountsOf(parts map[uint64]string) []string {
	var who []string
	eachLine("/proc/self/mountinfo", func(f []string) {
		if len(f) < 5 {
			return
		}
		var major, minor uint32
		fmt.Sscanf(f[2], "%d:%d", &major, &minor)
		part, ours := parts[unix.Mkdev(major, minor)]
		if !ours { // file systems with device numbers of their own (btrfs) tell by the source
			for i := range f {
				if f[i] == "-" && i+2 < len(f) && strings.HasPrefix(f[i+2], "/dev/") {
					var st unix.Stat_t
					if unix.Stat(f[i+2], &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK {
						part, ours = parts[st.Rdev]
					}
				}
			}
		}
		if ours {
			who = append(who, "a file system mounted on "+f[4]+part)
		}
	})
	eachLine("/proc/swaps", func(f []string) {
		var st unix.Stat_t
		if len(f) > 0 && unix.Stat(f[0], &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK {
			if part, ours := parts[st.Rdev]; ours {
				who = append(who, "swap"+part)
			}
		}
	})
	return who
}

func eachLine(path string, do func(fields []string)) {
	f, err := os.Open(path)
	if err != nil {
		return
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		do(strings.Fields(s.Text()))
	}
}

// openers finds processes by what they have open: link is the entry in /proc/PID/fd,
// target what it points to. This one is named too: a leg may be used twice here.
func openers(match func(link, target string) bool) []string {
	var who []string
	procs, _ := os.ReadDir("/proc")
	for _, p := range procs {
		if _, err := strconv.Atoi(p.Name()); err != nil {
			continue
		}
		fds, _ := os.ReadDir("/proc/" + p.Name() + "/fd")
		for _, fd := range fds {
			link := "/proc/" + p.Name() + "/fd/" + fd.Name()
			if target, err := os.Readlink(link); err == nil && match(link, target) {
				who = append(who, fmt.Sprintf("process %s (%s)", p.Name(), readLine("/proc/"+p.Name()+"/comm")))
				break
			}
		}
	}
	return who
}
