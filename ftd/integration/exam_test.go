package integration_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ft/ftd/integration/exerciser"
)

// The examination: what others test disks and file systems with, on three disks at once,
// while a drill makes every leg fail in every way and kills the disks' processes, and ftd and
// the keeper are killed, scrubs run and priorities change. Whatever it is, it must see nothing
// of that, and the legs must be equal in the end.
//
//	make exam MINUTES=n
//
// works as long as it is told, and with the exercisers that are in PATH beside our own.
var (
	examMinutes = flag.Float64("exam.minutes", 0, "how long TestExam works; 0 is as long as it takes for each fault once or so")
	examSeed    = flag.Uint64("exam.seed", 0, "what TestExam draws from; 0 draws it by lot")
)

const (
	examLegBytes = 384 << 20 // xfs wants 300 MiB
	examDrill    = 8 * time.Second
	examRound    = 45 * time.Second // of the drills of a long run
	examSteps    = 150              // a second of each exerciser in a short run, which is not alone
)

// examDisk is a disk under examination.
type examDisk struct {
	name  string
	block int    // of its legs
	extra string // its table in ft.toml
	legs  [2]string
	files [2]string
}

// exam is the box, and the loads that are under way on it.
type exam struct {
	*box
	t      *testing.T
	long   bool
	random *rand.Rand
	disks  []*examDisk
	ctx    context.Context // ends when the loads shall
	stop   func()
	loads  sync.WaitGroup

	mu       sync.Mutex
	failures []string
	done     map[string]int // what the loads did
}

func TestExam(t *testing.T) {
	t.Parallel()
	seed := *examSeed
	for seed == 0 {
		seed = rand.Uint64N(1 << 32)
	}
	t.Logf("seed %d: -exam.seed %d", seed, seed)
	x := &exam{t: t, long: *examMinutes > 0, random: rand.New(rand.NewPCG(seed, 0)), done: map[string]int{}}
	x.ctx, x.stop = context.WithCancel(t.Context())
	x.newBox(&examDisk{name: "disk0", block: 512},
		&examDisk{name: "disk1", block: 4096, extra: "integrity = \"crc32c\"\n"},
		&examDisk{name: "disk2", block: 512, extra: "integrity = \"crc32c\"\n"})

	ext4 := x.fileSystem("disk0", "mkfs.ext4", "-q", "-F")
	xfs := x.fileSystem("disk1", "mkfs.xfs", "-q", "-f")
	for _, dir := range []string{ext4, xfs} {
		for i := range 2 {
			x.exercise(exerciser.Options{Path: filepath.Join(dir, fmt.Sprintf("exercised%d", i)), Size: 2 << 20})
		}
		x.others(dir)
	}
	x.raw("disk2")

	end := time.Now().Add(time.Duration(*examMinutes * float64(time.Minute)))
	for round := 0; round == 0 || time.Now().Before(end); round++ {
		x.faults(min(max(time.Until(end), examDrill), examRound))
	}
	x.stop()
	x.loads.Wait()
	x.verdict()

	unmount(t, ext4)
	unmount(t, xfs)
	command(t, "e2fsck", "-fn", x.faceOf("disk0"))
	command(t, "xfs_repair", "-n", x.faceOf("disk1"))
	for _, d := range x.disks {
		x.wait(d.name, "duplex")
		x.equalLegsOf(d.name, d.files[0], d.files[1])
	}
	t.Logf("done: %v", x.done)
}

func (x *exam) newBox(disks ...*examDisk) {
	x.disks = disks
	for _, d := range disks {
		for i := range d.legs {
			d.legs[i], d.files[i] = legLoopOf(x.t, examLegBytes, d.block)
		}
	}
	x.box = newBox(x.t, disks[0].legs[0], disks[0].legs[1])
	var rest strings.Builder
	rest.WriteString("leg_timeout = \"2s\"\n" + disks[0].extra)
	for _, d := range disks[1:] {
		fmt.Fprintf(&rest, "\n[[disk]]\nname = %q\npci0 = %q\npci1 = %q\nleg_timeout = \"2s\"\n%s", d.name, d.legs[0], d.legs[1], d.extra)
	}
	x.configure(rest.String())
	// The loads end before anything that they work on, also when the test fails.
	x.t.Cleanup(func() { x.stop(); x.loads.Wait() })
	x.start()
	for _, d := range disks {
		x.wait(d.name, "duplex")
	}
}

// legLoopOf is a leg on a loop device whose blocks have so many bytes.
func legLoopOf(t *testing.T, bytes int64, block int) (dev, file string) {
	t.Helper()
	file = legFile(t, bytes)
	dev = strings.TrimSpace(command(t, "losetup", "--find", "--show", "--direct-io=on", "--sector-size", strconv.Itoa(block), file))
	t.Cleanup(func() { command(t, "losetup", "-d", dev) })
	return dev, file
}

func (b *box) faceOf(disk string) string { return filepath.Join(b.dir, "dev", disk) }

func (x *exam) fileSystem(disk string, mkfs ...string) (dir string) {
	x.t.Helper()
	unclaimed(x.t, x.faceOf(disk))
	command(x.t, mkfs[0], append(mkfs[1:], x.faceOf(disk))...)
	dir = x.t.TempDir()
	command(x.t, "mount", x.faceOf(disk), dir)
	x.t.Cleanup(func() {
		x.stop()
		x.loads.Wait()
		unmount(x.t, dir)
	})
	return dir
}

// load runs f until it fails or the exam's end.
func (x *exam) load(name string, f func(round int) error) {
	x.loads.Go(func() {
		for round := 0; x.ctx.Err() == nil; round++ {
			err := f(round)
			x.mu.Lock()
			if err != nil {
				x.failures = append(x.failures, fmt.Sprintf("%s: %v", name, err))
				x.mu.Unlock()
				return
			}
			x.done[name]++
			x.mu.Unlock()
		}
	})
}

// verdict fails the test when a load has failed or was not there.
func (x *exam) verdict() {
	x.t.Helper()
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, f := range x.failures {
		x.t.Error(f)
	}
	for _, name := range []string{"exerciser", "fio", "badblocks"} {
		if x.done[name] == 0 {
			x.t.Errorf("%s has not been through once", name)
		}
	}
	if x.t.Failed() {
		x.t.FailNow()
	}
}

// exercise works with a file, or a part of a disk, by our own exerciser.
func (x *exam) exercise(opt exerciser.Options) {
	x.t.Helper()
	opt.Seed = x.random.Uint64()
	e, err := exerciser.New(opt)
	if err != nil {
		x.t.Fatal(err)
	}
	x.load("exerciser", func(int) error { // once: it works until the end
		defer e.Close()
		pace := time.NewTicker(time.Second / examSteps)
		defer pace.Stop()
		for x.ctx.Err() == nil {
			if err := e.Step(); err != nil {
				return err
			}
			if !x.long {
				<-pace.C
			}
		}
		return e.Verify()
	})
}

// program is a load that is a program, again and again. One that the end finds at work goes
// on until it is through, so that it has its say.
func (x *exam) program(name string, args func(round int) []string) {
	dir := x.t.TempDir()
	x.load(name, func(round int) error {
		cmd := exec.Command(name, args(round)...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, out)
		}
		return nil
	})
}

// others are the exercisers of the file system test suites, where a person has installed them.
func (x *exam) others(dir string) {
	if !x.long {
		return
	}
	seed := x.random.Uint32N(1 << 30)
	for name, args := range map[string]func(round int) []string{
		"fsx": func(round int) []string {
			return []string{"-q", "-N", "2000", "-l", "2000000", "-o", "200000", "-S", fmt.Sprint(int(seed) + round), filepath.Join(dir, "fsx")}
		},
		"fsstress": func(round int) []string {
			return []string{"-c", "-d", filepath.Join(dir, "fsstress"), "-p", "2", "-n", "300", "-s", fmt.Sprint(int(seed) + round)}
		},
	} {
		if _, err := exec.LookPath(name); err != nil {
			x.t.Logf("%s is not in PATH: left out", name)
			continue
		}
		if err := os.MkdirAll(filepath.Join(dir, name+".d"), 0o755); err != nil {
			x.t.Fatal(err)
		}
		x.program(name, args)
	}
}

// raw works with a disk itself: fio verifies what it writes in blocks of all sizes, past and
// through the page cache, with and without fsync; our exerciser and badblocks have a part each.
func (x *exam) raw(disk string) {
	face := x.faceOf(disk)
	const part = 24 << 20
	job := 0
	for _, direct := range []string{"0", "1"} {
		for _, fsync := range []string{"0", "16"} {
			off, seed := job*part, x.random.Uint32N(1<<30)
			job++
			x.program("fio", func(round int) []string {
				return []string{"--name=mixed", "--filename=" + face, "--offset=" + strconv.Itoa(off), "--size=" + strconv.Itoa(part),
					"--rw=randwrite", "--bsrange=512-1m", "--blockalign=512", "--ioengine=libaio", "--iodepth=32", "--direct=" + direct,
					"--fsync=" + fsync, "--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0", "--thread",
					"--randseed=" + fmt.Sprint(int(seed)+round)}
			})
		}
	}
	x.exercise(exerciser.Options{Path: face, Base: int64(job) * part, Size: 4 << 20})
	job++
	const block = 4096
	first := job * part / block
	x.program("badblocks", func(int) []string {
		// It may begin while others have the disk open (-f).
		return []string{"-w", "-f", "-e", "1", "-b", strconv.Itoa(block), "-c", "64", "-o", filepath.Join(x.dir, "badblocks"), face,
			strconv.Itoa(first + part/2/block - 1), strconv.Itoa(first)}
	})
}

// faults is a drill of so long, and then what a drill does not do.
func (x *exam) faults(d time.Duration) {
	x.t.Helper()
	// A part is away for seconds, and scrubs wait meanwhile: it is under way in the drill.
	disk := x.disks[x.random.IntN(len(x.disks))].name
	x.do("priority", disk, []string{"low", "normal", "high"}[x.random.IntN(3)])
	x.do("scrub", disk)
	r, code := x.drill("--json", "--minutes", fmt.Sprint(d.Minutes()), "--seed", fmt.Sprint(x.random.Uint32())).report()
	if code != done || !r.OK || r.Errors != 0 || r.Lost != 0 || r.Faults == 0 {
		x.t.Errorf("the drill: exit code %d: %+v", code, r)
	}
	x.t.Logf("%s", r.Verdict)
	x.done["faults"] += r.Faults

	x.killFtd()
	keeper := x.keeperPid()
	if err := unix.Kill(keeper, unix.SIGKILL); err != nil {
		x.t.Fatal(err)
	}
	x.start()
	await(x.t, 20*time.Second, "another keeper", func() bool { k := x.keeperNow(); return k != 0 && k != keeper })
	for _, d := range x.disks {
		await(x.t, 20*time.Second, "the keeper to know the driver of "+d.name, func() bool {
			out, code := x.ftctl("--json", "show", d.name)
			return code == done && strings.Contains(out, `"restored":true`)
		})
		pid := x.processOf(d.name).Pid
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			x.t.Fatal(err)
		}
		x.awaitSuccessor(d.name, pid)
		x.wait(d.name, "duplex")
	}
	x.mu.Lock()
	failed := len(x.failures) > 0
	x.mu.Unlock()
	if failed {
		x.stop()
		x.loads.Wait()
		x.verdict()
	}
}
