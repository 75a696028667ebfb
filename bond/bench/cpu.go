package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// userHZ is the unit of /proc/stat, the same on all machines that Go runs on.
const userHZ = 100

// machineTime is how long the machine's CPUs have worked, since its boot: for whomever,
// in user mode or in the kernel, interrupts and softirqs too. It counts in ticks.
func machineTime() (time.Duration, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	return busy(string(text))
}

// busy reads the first line of /proc/stat: cpu, then user, nice, system, idle, iowait,
// irq, softirq, steal (proc_stat(5)). Time stolen is not ours.
func busy(stat string) (time.Duration, error) {
	line, _, _ := strings.Cut(stat, "\n")
	f := strings.Fields(line)
	if len(f) < 9 || f[0] != "cpu" {
		return 0, fmt.Errorf("/proc/stat begins with %q", line)
	}
	var ticks uint64
	for _, i := range []int{1, 2, 3, 6, 7} {
		n, err := strconv.ParseUint(f[i], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/stat begins with %q: %w", line, err)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / userHZ, nil
}

// processTime is the CPU time of another process, by its clock (clock_getcpuclockid(3)).
func processTime(pid int) (time.Duration, error) {
	const cpuclockSched = 2 // CPUCLOCK_SCHED, linux/posix-timers.h
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|cpuclockSched), &ts); err != nil {
		return 0, fmt.Errorf("the CPU clock of process %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}

// residentKiB is a process's memory, of it what no file backs.
func residentKiB(pid int) (all, anonymous int, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		var into *int
		switch name {
		case "VmRSS":
			into = &all
		case "RssAnon":
			into = &anonymous
		default:
			continue
		}
		if _, err := fmt.Sscan(value, into); err != nil {
			return 0, 0, fmt.Errorf("%s of process %d: %w", name, pid, err)
		}
	}
	return all, anonymous, nil
}

// settling is how long a driver has before its idle cost is taken: it faults its memory
// in a second after its start.
const settling = 2 * time.Second

// idle prints what the driver process costs with its looks and probes alone.
func (b *bench) idle(d *driven) {
	time.Sleep(settling)
	pid := d.cmd.Process.Pid
	before, err := processTime(pid)
	b.p.must(err, "measure the driver")
	began := time.Now()
	time.Sleep(time.Duration(2*b.seconds) * time.Second)
	after, err := processTime(pid)
	b.p.must(err, "measure the driver")
	share := float64(after-before) / float64(time.Since(began))
	all, anonymous, err := residentKiB(pid)
	b.p.must(err, "measure the driver")
	fmt.Printf("%-38s %.2f %% of a core, %.1f MiB resident (%.1f MiB of its own, the rest its program)\n", "driver process, idle", 100*share, float64(all)/1024, float64(anonymous)/1024)
}
