// Command bench measures the mirror beside its anchors, in one run, and prints ratios:
// the same fio jobs in turn on two raw loop devices written at once (what a mirror can
// reach at best), on one raw loop device, and on the mirror's face over two legs of
// the same kind, beside what a face reaches that answers at once (the way through FUSE and
// loop device by itself); then the mirror with and without its write-intent map, resync beside
// dd from leg to leg, the bytes of a fast resync, and how long a write waits when the
// mirror's process is killed. The disk runs as in service: a driver process under a
// keeper.
//
// With -guest it runs in an emulated machine whose kernel has ublk, nbd and md, and puts the
// mirror on each frontend beside md's raid1: see guest.go.
//
// Run as root: make bench, make bench-guest
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"

	"ft/drivers/host"
	"ft/drivers/kerneltest"
	"ft/mirror"
)

// disk is the name of the mirror that is measured.
const disk = "disk0"

// job is one row of the table.
type job struct {
	name  string
	rw    string
	bs    string
	depth int
	least float64
}

var jobs = []job{
	{"4 KiB random writes, QD 1", "randwrite", "4k", 1, 0.65},
	{"4 KiB random writes, QD 16", "randwrite", "4k", 16, 0.85},
	{"4 KiB random writes, QD 32", "randwrite", "4k", 32, 0.75},
	{"1 MiB writes, QD 4", "write", "1m", 4, 0.9},
	{"4 KiB random reads, QD 1", "randread", "4k", 1, 0.6},
	{"4 KiB random reads, QD 16", "randread", "4k", 16, 0.65},
	{"4 KiB random reads, QD 32", "randread", "4k", 32, 0.75},
	{"1 MiB reads, QD 4", "read", "1m", 4, 0.9},
}

func main() {
	dir := flag.String("dir", "", "where the legs' files lie (default: a temporary directory)")
	size := flag.Int64("size", 1<<30, "bytes of a leg")
	seconds := flag.Int("seconds", 4, "length of one fio run")
	rounds := flag.Int("rounds", 5, "how often each pair is measured, in turn")
	inGuest := flag.Bool("guest", false, "measure in a guest, an emulated machine with Debian's kernel, beside its md")
	only := flag.String("only", "", "only rows whose name contains this")
	driver := flag.String("driver", "", "be the disk's driver process, with this configuration (what the keeper starts)")
	flag.Parse()
	if *driver != "" {
		os.Exit(host.Run(context.Background(), mirror.Kind, disk, *driver))
	}
	if *inGuest && !kerneltest.InGuest() {
		os.Exit(guest(*only, *rounds))
	}
	if *inGuest {
		if err := besideMD(*only, *rounds); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	if err := run(*dir, *size, *seconds, *rounds, *only); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(dir string, size int64, seconds, rounds int, only string) (err error) {
	if dir == "" {
		if dir, err = os.MkdirTemp("/var/tmp", "ft-bench-"); err != nil {
			return err
		}
		defer os.RemoveAll(dir)
	}
	b := &bench{dir: dir, size: size, seconds: seconds}
	defer b.close()
	if err := b.setUp(); err != nil {
		return err
	}
	fmt.Printf("%-32s %12s %12s %8s %9s %14s\n", "what", "anchor", "mirror", "ratio", "at least", "a face alone")
	for _, j := range jobs {
		if strings.Contains(j.name, only) {
			if err := b.row(j, rounds); err != nil {
				return err
			}
		}
	}
	for _, r := range []struct {
		name string
		run  func(rounds int) error
	}{{"write-intent map", b.intentMap}, {"balance", b.balance}, {"checksums", b.checksums}, {"resync", b.resync}, {"scrub", b.scrub}, {"stall", b.stall}} {
		if strings.Contains(r.name, only) {
			if err := r.run(rounds); err != nil {
				return err
			}
		}
	}
	return nil
}

// bench is two legs of the mirror and two raw loop devices of the same kind.
type bench struct {
	dir     string
	size    int64
	seconds int
	loops   []string // raw 0, raw 1, leg 0, leg 1
	box     *box
	alone   *alone
}

func (b *bench) setUp() (err error) {
	for _, name := range []string{"raw0", "raw1", "leg0", "leg1"} {
		path := filepath.Join(b.dir, name)
		// Written once, so that no run pays for the allocation of blocks.
		if err := command("dd", "if=/dev/zero", "of="+path, "bs=1M", fmt.Sprintf("count=%d", b.size>>20), "status=none", "conv=fsync"); err != nil {
			return err
		}
		out, err := exec.Command("losetup", "--direct-io=on", "-f", "--show", path).CombinedOutput()
		if err != nil {
			return fmt.Errorf("losetup %s: %v: %s", path, err, out)
		}
		b.loops = append(b.loops, strings.TrimSpace(string(out)))
	}
	b.box, err = startBox(b.dir, [2]string{b.loops[2], b.loops[3]}, mirror.Options{Frontend: "fuseloop"})
	if err == nil {
		b.alone, err = startAlone(b.size)
	}
	return err
}

func command(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

func (b *bench) close() {
	if b.alone != nil {
		if err := b.alone.close(); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
	}
	if b.box != nil {
		if err := b.box.stop(); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
	}
	for _, l := range b.loops {
		if err := command("losetup", "-d", l); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
	}
}

// row measures a job in turn on the anchor, on the mirror, and on a face that answers at
// once, and prints the medians and the median of the ratios.
func (b *bench) row(j job, rounds int) error {
	devices := b.loops[:1]
	if strings.Contains(j.rw, "write") {
		devices = b.loops[:2]
	}
	var anchors, faces, alones, ratios []float64
	for range rounds {
		x, err := b.fio(j, b.alone.face.Device())
		if err != nil {
			return err
		}
		alones = append(alones, x)
		a, err := b.fio(j, devices...)
		if err != nil {
			return err
		}
		m, err := b.fio(j, b.box.face())
		if err != nil {
			return err
		}
		anchors, faces, ratios = append(anchors, a), append(faces, m), append(ratios, m/a)
	}
	fmt.Printf("%-32s %12s %12s %8.2f %9.2f %14s\n", j.name, j.unit(median(anchors)), j.unit(median(faces)), median(ratios), j.least, j.unit(median(alones)))
	return nil
}

// unit is x operations a second as people read it.
func (j job) unit(x float64) string {
	if j.bs == "1m" {
		return fmt.Sprintf("%.0f MB/s", x*1.048576)
	}
	return fmt.Sprintf("%.1f k/s", x/1000)
}

func median(x []float64) float64 {
	sort.Float64s(x)
	return x[len(x)/2]
}

// fio runs a job and gives operations a second; on two devices, written at once, those
// of the slower one.
func (b *bench) fio(j job, devices ...string) (float64, error) {
	return fio(j, fmt.Sprint(b.seconds), "1", devices...)
}

func fio(j job, runtime, ramp string, devices ...string) (float64, error) {
	args := []string{"--output-format=json", "--ioengine=libaio", "--direct=1", "--time_based", "--norandommap", "--randrepeat=0",
		"--runtime=" + runtime, "--ramp_time=" + ramp, "--rw=" + j.rw, "--bs=" + j.bs, fmt.Sprintf("--iodepth=%d", j.depth)}
	for i, d := range devices {
		args = append(args, fmt.Sprintf("--name=job%d", i), "--filename="+d)
	}
	out, err := exec.Command("fio", args...).Output()
	if err != nil {
		return 0, fmt.Errorf("fio %s: %w: %s", strings.Join(args, " "), err, out)
	}
	var res struct {
		Jobs []struct{ Read, Write struct{ IOPS float64 } }
	}
	if err := json.Unmarshal(out, &res); err != nil {
		return 0, err
	}
	least := 0.0
	for i, r := range res.Jobs {
		if x := r.Read.IOPS + r.Write.IOPS; i == 0 || x < least {
			least = x
		}
	}
	return least, nil
}
