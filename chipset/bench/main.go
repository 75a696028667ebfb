// Command bench measures the machine beside its anchors, in one run, and prints ratios:
//
//   - programs in a guest (integers, memory, floating point, system calls) and its boot,
//     beside the same guest under qemu-system-riscv64, with -icount shift=0, where QEMU is
//     deterministic too, and without;
//   - what a guest costs that does nothing, and how its clock keeps wall time;
//   - lockstep: the same programs on one CPU module and on two; how soon a CPU module's fault
//     is seen and got over; what it takes to bring one in, by the guest's memory and by what it
//     writes meanwhile; how long a guest that panics is gone;
//   - the guest's disk and network, beside the host's own on the same face: a mirror over
//     two loop devices, and a veth to a network namespace.
//
// The guest is the test box's (ftd/testbox/guest), Debian's kernel, with the program in
// chipset/bench/program as its first process. All machines are booted, then they do the
// same work in turn; who has no turn is idle. The program answers each piece of work with a
// checksum, and it is a failure if two answers differ.
//
// Machines run as in service: driver processes and their CPU modules, but for the keeper. What
// computes is measured by the CPU time of all its processes, since others may be at work on
// this computer; steps are those of our own machine, and QEMU's steps a second are the same
// steps in its time. Disk and network are measured by the wall.
//
// So is lockstep, whose two CPU modules want a core each: where others are at work it shows
// what was to be had of them. How many cores it had is beside each row; with fewer than 1.9 the
// ratio says little. The row beneath is by the CPU time of cpu0's process alone, simplex and
// duplex, and says what lockstep costs a CPU module: it is what the ratio by the wall comes to
// where cores are free. Times of faults begin when the module says that the fault is in (for
// kill and stop, when it was asked for), and end with the event; "went on after" is the
// chipset's own figure, from the difference to the good module running on. Of a CPU module that
// comes in, "brownout" begins with its self-test; memory counts that the guest has written to.
//
// Run as root: make bench
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"ft/chipset"
	"ft/chipset/backplane"
	"ft/chipset/inside"
	"ft/drivers"
	"ft/drivers/host"
	"ft/drivers/netns"
	_ "ft/mirror" // the driver of the disk
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == backplane.Role { // of a machine that this program drives
		os.Exit(inside.Run(os.Args[2:], os.Stderr))
	}
	var b bench
	flag.StringVar(&b.dir, "dir", "", "where the files lie, the disk's legs above all (default: a temporary directory)")
	flag.IntVar(&b.rounds, "rounds", 5, "how often each piece of work is done, in turn")
	flag.IntVar(&b.flips, "flips", 24, "how often each fault is put into a CPU module")
	flag.IntVar(&b.idleSeconds, "idle", 20, "seconds over which idle guests are watched")
	flag.StringVar(&b.only, "only", "", "only rows whose name contains this")
	flag.StringVar((*string)(&b.compare), "compare", string(chipset.CompareStep), "what goes into our machine's fingerprint: step, store or off")
	driver := flag.String("driver", "", "be a driver process, with this configuration …")
	space := flag.String("netns", "", "… in this network namespace")
	flag.Parse()
	if *driver != "" {
		os.Exit(beDriver(*driver, *space))
	}
	if b.rounds < 1 || b.flips < 1 || b.idleSeconds < 1 || flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "bench: -rounds, -flips and -idle are at least 1, and there are no arguments")
		os.Exit(2)
	}
	if err := b.run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// beDriver is a driver process of the kind that its configuration names.
func beDriver(config, space string) int {
	if space != "" {
		if err := netns.Enter(space); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			return host.ExitFailed
		}
	}
	text, err := os.ReadFile(config)
	var cfg drivers.Config
	if err == nil {
		err = json.Unmarshal(text, &cfg)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench: read the driver's configuration:", err)
		return host.ExitConfig
	}
	return host.Run(context.Background(), cfg.Kind, cfg.Name, config)
}

// bench is one run.
type bench struct {
	dir         string
	rounds      int
	flips       int
	idleSeconds int
	only        string
	compare     chipset.Compare

	files    files
	cleanups []func() error // the latest is the first to be called
}

func (b *bench) wanted(name string) bool { return strings.Contains(name, b.only) }

func (b *bench) run() (err error) {
	if b.dir == "" {
		if b.dir, err = os.MkdirTemp("/var/tmp", "ft-chipset-bench-"); err != nil {
			return err
		}
	} else if err = os.Mkdir(b.dir, 0o700); err != nil {
		return err // it is removed at the end: it must be ours alone
	}
	b.cleanup(func() error { return os.RemoveAll(b.dir) })
	defer func() { err = errors.Join(err, b.clean()) }()
	stopped := make(chan os.Signal, 1)
	signal.Notify(stopped, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		<-stopped
		// All else ends with this process: its children are killed with it, loop devices
		// and namespaces go with the last descriptor, CPU modules end within a minute.
		os.RemoveAll(b.dir)
		os.Exit(1)
	}()
	if b.files, err = prepare(b.dir); err != nil {
		return err
	}
	fmt.Printf("Guest: Linux %s, %d MiB. %s. Load average %s.\n\n", b.files.version, b.files.memoryMiB, compared(b.compare), loadAverage())
	for _, part := range []func() error{b.speeds, b.lockstep, b.inputOutput} {
		if err := part(); err != nil {
			return err
		}
	}
	fmt.Printf("Load average at the end %s.\n", loadAverage())
	return nil
}

func compared(c chipset.Compare) string {
	return map[chipset.Compare]string{
		chipset.CompareStep:  "Every step of our machine goes into its fingerprint",
		chipset.CompareStore: "Our machine's stores and jumps go into its fingerprint",
		chipset.CompareOff:   "Nothing of our machine goes into a fingerprint",
	}[c]
}

func (b *bench) cleanup(f func() error) { b.cleanups = append(b.cleanups, f) }

// clean calls what has been added since there were so many, the latest first.
func (b *bench) cleanTo(n int) (err error) {
	for len(b.cleanups) > n {
		last := b.cleanups[len(b.cleanups)-1]
		b.cleanups = b.cleanups[:len(b.cleanups)-1]
		err = errors.Join(err, last())
	}
	return err
}

func (b *bench) clean() error { return b.cleanTo(0) }

// within bounds everything that is waited for, on a computer that is busy with other things.
const within = 10 * time.Minute

// loadAverage is this computer's, over one, five and fifteen minutes.
func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Join(strings.Fields(string(text))[:3], " ")
}
