package api

import (
	"bufio"
	"bytes"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// keeperStates are the words for how a process is at the keeper (drivers/keeper).
var keeperStates = []string{"starting", "running", "dying", "waiting", "failed", "stopped"}

// keeper writes what the keeper knows; err says that none answers.
func (m *exposition) keeper(ps []KeptProcess, err error) {
	m.add("ft_keeper_up", gauge, "1 when the keeper answers.", number(err == nil))
	for _, p := range ps {
		l := []string{"process", p.Name}
		m.state("ft_keeper_process_state", "State of a driver process at the keeper", keeperStates, p.State, l...)
		m.add("ft_keeper_process_starts_total", counter, "Times that the keeper started the driver process; all but the first are restarts.", float64(p.Starts), l...)
		m.add("ft_keeper_process_early_deaths", gauge, "Deaths of the driver process in a row, each soon after its start; ten, and it is given up.", float64(p.Early), l...)
	}
}

// process writes what ftd itself uses, under the names that every exporter has. What /proc
// does not say is left out.
func (m *exposition) process() {
	var use unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &use) == nil {
		m.add("process_cpu_seconds_total", counter, "CPU time that ftd has used.", float64(use.Utime.Nano()+use.Stime.Nano())/1e9)
	}
	if start, ok := startTime(); ok {
		m.add("process_start_time_seconds", gauge, "When ftd was started.", start)
	}
	if size, resident, ok := memoryUse(); ok {
		m.add("process_virtual_memory_bytes", gauge, "Address space of ftd.", size)
		m.add("process_resident_memory_bytes", gauge, "Memory of ftd.", resident)
	}
	if fds, err := os.ReadDir("/proc/self/fd"); err == nil {
		m.add("process_open_fds", gauge, "File descriptors that ftd has open.", float64(len(fds)-1)) // but for this one
	}
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil {
		m.add("process_max_fds", gauge, "File descriptors that ftd may have open.", float64(limit.Cur))
	}
	m.add("go_goroutines", gauge, "Goroutines of ftd.", float64(runtime.NumGoroutine()))
}

// memoryUse reads /proc/self/statm (proc_pid_statm(5)): sizes in pages.
func memoryUse() (size, resident float64, ok bool) {
	b, err := os.ReadFile("/proc/self/statm")
	f := strings.Fields(string(b))
	if err != nil || len(f) < 2 {
		return 0, 0, false
	}
	pages, err1 := strconv.ParseFloat(f[0], 64)
	used, err2 := strconv.ParseFloat(f[1], 64)
	page := float64(os.Getpagesize())
	return pages * page, used * page, err1 == nil && err2 == nil
}

// userHZ is the unit of times in /proc/PID/stat, 100 on every architecture that Go runs on.
const userHZ = 100

// startTime is field 22 of /proc/self/stat (proc_pid_stat(5)), in ticks since the boot, on top
// of the time of the boot (btime in /proc/stat).
func startTime() (float64, bool) {
	b, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return 0, false
	}
	// The name in parentheses may have spaces; what follows it is field 3.
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < 20 {
		return 0, false
	}
	ticks, err := strconv.ParseFloat(f[19], 64)
	boot, ok := bootTime()
	return boot + ticks/userHZ, err == nil && ok
}

func bootTime() (float64, bool) {
	file, err := os.Open("/proc/stat")
	if err != nil {
		return 0, false
	}
	defer file.Close()
	for sc := bufio.NewScanner(file); sc.Scan(); {
		if text, ok := strings.CutPrefix(sc.Text(), "btime "); ok {
			n, err := strconv.ParseInt(text, 10, 64)
			return float64(n), err == nil
		}
	}
	return 0, false
}
