package main

// The mirror beside md's raid1, in a guest whose kernel has md, ublk and nbd.
//
// The guest is an emulated computer whose clock counts instructions, one a nanosecond: it has
// one processor of 1,000 MIPS, whatever else this machine does, and figures are alike from one
// run to the next. Its disks are the kernel's null_blk, with memory behind them and a time of
// their own for each request, in that same clock. What the ratios say is therefore how many
// instructions, in the kernel and in the driver, a request takes on its way, and how many of
// them stand between one request and the next. What caches and switches of address spaces
// cost on a real processor they do not say.

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ft/drivers/kerneltest"
	"ft/mirror"
)

const (
	guestMax = 40 * time.Minute
	// guestCPU has the kernel copy words. With the string instructions that are fast on real
	// processors (ERMS, FSRM) it copies byte by byte, and each byte counts as an instruction here.
	guestCPU = "max,-erms,-fsrm"
	// A disk of the guest: what a flash disk takes for a request.
	diskMiB    = 32
	diskTimeNs = 50_000
	// fio's times, of the guest's clock.
	guestRamp    = "20ms"
	guestRuntime = "100ms"
)

// faces are the frontends that are measured beside md.
var faces = []string{"ublk", "fuseloop", "nbd"}

// guest runs this program in a guest; what it prints there is printed here.
func guest(only string, rounds int) (code int) {
	p := &program{}
	defer p.clean()
	defer func() {
		if x := recover(); x != nil {
			if _, ours := x.(failed); !ours {
				panic(x)
			}
			code = 1
			fmt.Fprintf(os.Stderr, "The guest's console:\n%s", p.rest.String())
		}
	}()
	exe, err := os.Executable()
	if err != nil {
		p.Fatal(err)
	}
	fmt.Printf("In a guest: a computer of 1,000 MIPS with Debian's kernel and disks that take %d µs.\n\n", diskTimeNs/1000)
	return kerneltest.Run(p, kerneltest.Options{
		Modules:  []string{"raid1", "ublk_drv", "nbd", "loop", "fuse", "configfs", "null_blk"},
		Programs: []string{"fio", "mdadm", "blkid"},
		Memory:   1024,
		CPU:      guestCPU,
		Counted:  true,
		Binary:   exe,
		Args:     []string{"-guest", "-only", only, "-rounds", strconv.Itoa(rounds)},
		Timeout:  guestMax,
	})
}

// besideMD is the guest's part.
func besideMD(only string, rounds int) (err error) {
	const config = "/sys/kernel/config"
	if err := unix.Mount("configfs", config, "configfs", 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("mount configfs: %w", err)
	}
	md, err := disks("md")
	if err != nil {
		return err
	}
	if err := command("mdadm", "--create", "/dev/md0", "--run", "--assume-clean", "--level=1", "--raid-devices=2", "--metadata=1.2", "--bitmap=internal", md[0], md[1]); err != nil {
		return err
	}
	devices := map[string]string{"md": "/dev/md0"}
	for _, kind := range faces {
		legs, err := disks(kind)
		if err != nil {
			return err
		}
		dir := filepath.Join(os.TempDir(), kind)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		b, err := startBox(dir, legs, mirror.Options{Frontend: kind})
		if err != nil {
			return fmt.Errorf("a mirror with the frontend %s: %w", kind, err)
		}
		defer func() { err = errors.Join(err, b.stop()) }()
		devices[kind] = b.face()
	}
	fmt.Printf("%-28s %11s", "what", "md raid1")
	for _, kind := range faces {
		fmt.Printf(" %11s %6s", kind, "ratio")
	}
	fmt.Println("   (at least 0.70 for ublk)")
	for _, j := range jobs {
		if strings.Contains(j.name, only) && j.depth != 32 {
			if err := besideRow(j, devices, rounds); err != nil {
				return err
			}
		}
	}
	return nil
}

// disks makes two disks.
func disks(name string) (paths [2]string, err error) {
	for i := range paths {
		id := fmt.Sprintf("%s-leg%d", name, i)
		dir := filepath.Join("/sys/kernel/config/nullb", id)
		if err := os.Mkdir(dir, 0o755); err != nil {
			return paths, fmt.Errorf("make a disk: %w", err)
		}
		for _, set := range []struct{ what, to string }{
			{"size", strconv.Itoa(diskMiB)}, {"blocksize", "512"}, {"memory_backed", "1"},
			{"irqmode", "2"}, {"completion_nsec", strconv.Itoa(diskTimeNs)}, {"hw_queue_depth", "256"}, {"submit_queues", "1"},
			{"discard", "1"}, {"power", "1"},
		} {
			if err := os.WriteFile(filepath.Join(dir, set.what), []byte(set.to), 0o644); err != nil {
				return paths, fmt.Errorf("set up a disk: %w", err)
			}
		}
		paths[i] = "/dev/" + id
		if _, err := os.Stat(paths[i]); err != nil {
			return paths, fmt.Errorf("the disk that was made does not show: %w", err)
		}
		// Written once, as a disk is that has been used.
		if err := fill(paths[i]); err != nil {
			return paths, err
		}
	}
	return paths, nil
}

func fill(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	b := make([]byte, 1<<20)
	for range diskMiB {
		if _, err := f.Write(b); err != nil {
			return errors.Join(fmt.Errorf("write to a disk: %w", err), f.Close())
		}
	}
	return errors.Join(f.Sync(), f.Close())
}

// besideRow measures a job on all devices in turn.
func besideRow(j job, devices map[string]string, rounds int) error {
	got, ratios := map[string][]float64{}, map[string][]float64{}
	for range rounds {
		anchor := 0.0
		for _, kind := range append([]string{"md"}, faces...) {
			x, err := fio(j, guestRuntime, guestRamp, devices[kind])
			if err != nil {
				return err
			}
			if kind == "md" {
				anchor = x
			}
			got[kind] = append(got[kind], x)
			ratios[kind] = append(ratios[kind], x/anchor)
		}
	}
	fmt.Printf("%-28s %11s", j.name, j.unit(median(got["md"])))
	for _, kind := range faces {
		fmt.Printf(" %11s %6.2f", j.unit(median(got[kind])), median(ratios[kind]))
	}
	fmt.Println()
	return nil
}

// program stands for a test where a guest is asked for: what cannot be had ends it.
type program struct {
	dirs []string
	rest strings.Builder // what is not the table
}

type failed struct{}

func (p *program) Helper() {}
func (p *program) Errorf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
}
func (p *program) Fatal(args ...any) {
	fmt.Fprintln(os.Stderr, args...)
	panic(failed{})
}
func (p *program) Fatalf(format string, args ...any) { p.Fatal(fmt.Sprintf(format, args...)) }
func (p *program) Skip(args ...any)                  { p.Fatal(args...) }
func (p *program) Skipf(format string, args ...any)  { p.Fatalf(format, args...) }

// Logf passes on what the program in the guest says.
func (p *program) Logf(format string, args ...any) {
	if text, said := strings.CutPrefix(fmt.Sprintf(format, args...), "guest: "); said {
		fmt.Println(text)
	} else {
		fmt.Fprintln(&p.rest, text)
	}
}

func (p *program) TempDir() string {
	dir, err := os.MkdirTemp("", "ft-bench-")
	if err != nil {
		p.Fatal(err)
	}
	p.dirs = append(p.dirs, dir)
	return dir
}

func (p *program) clean() {
	for _, dir := range p.dirs {
		os.RemoveAll(dir)
	}
}
