package main

import (
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// status is the document of GET /status. Fields may be added; these keep their names.
type status struct {
	Kernel     string           `json:"kernel"`  // release
	BootID     string           `json:"boot_id"` // another one after each start of the kernel
	Uptime     float64          `json:"uptime_seconds"`
	Time       time.Time        `json:"time"`
	Requests   uint64           `json:"requests"` // counted since the disk was made
	Tainted    uint64           `json:"tainted"`  // Documentation/admin-guide/tainted-kernels.rst
	Complaints complaintsReport `json:"complaints"`
	Memory     space            `json:"memory_bytes"`
	Disk       space            `json:"disk_bytes"`
	Load       loadReport       `json:"load"`
}

type space struct {
	Total uint64 `json:"total"`
	Free  uint64 `json:"free"`
}

func (s *server) status(w http.ResponseWriter, _ *http.Request) {
	st := status{
		Kernel: kernelRelease(), BootID: readWord("/proc/sys/kernel/random/boot_id"),
		Uptime: uptime().Seconds(), Time: time.Now(),
		Requests: s.requests.value(), Memory: memory(), Disk: disk(s.dataDir), Load: s.load.report(),
	}
	st.Tainted, _ = strconv.ParseUint(readWord("/proc/sys/kernel/tainted"), 10, 64) // 0 where it cannot be read
	st.Complaints.Lines = []string{}
	if s.complaints != nil {
		st.Complaints = s.complaints.report()
	}
	answer(w, st)
}

// readWord reads a file of /proc or /sys that has one word; "" where there is none.
func readWord(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

func kernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Sysname[:]) + " " + unix.ByteSliceToString(u.Release[:])
}

// uptime is the time since the kernel's start.
func uptime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

func memory() space {
	var i unix.Sysinfo_t
	if err := unix.Sysinfo(&i); err != nil {
		return space{}
	}
	return space{Total: uint64(i.Totalram) * uint64(i.Unit), Free: uint64(i.Freeram) * uint64(i.Unit)}
}

func disk(dir string) space {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return space{}
	}
	return space{Total: s.Blocks * uint64(s.Bsize), Free: s.Bavail * uint64(s.Bsize)}
}
