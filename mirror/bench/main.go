// Command bench measures the mirror beside its anchors, in one run, and prints ratios:
// the same fio jobs in turn on two raw loop devices written at once (what a mirror can
// reach at best), on one raw loop device, and on the mirror's face over two legs of
// the same kind; then resync beside dd from leg to leg, and the bytes of a fast resync.
//
// Run as root: make bench
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"sort"
	"strings"
	"time"

	"ft/drivers"
	"ft/mirror"
)

// job is one row of the table.
type job struct {
	name        string
	rw          string
	bs          string
	depth       int
	least, goal float64
}

var jobs = []job{
	{"4 KiB random writes, QD 1", "randwrite", "4k", 1, 0.65, 1},
	{"4 KiB random writes, QD 16", "randwrite", "4k", 16, 0.85, 1},
	{"4 KiB random writes, QD 32", "randwrite", "4k", 32, 0.75, 1},
	{"1 MiB writes, QD 4", "write", "1m", 4, 0.9, 1},
	{"4 KiB random reads, QD 1", "randread", "4k", 1, 0.6, 1},
	{"4 KiB random reads, QD 16", "randread", "4k", 16, 0.65, 1},
	{"4 KiB random reads, QD 32", "randread", "4k", 32, 0.75, 1},
	{"1 MiB reads, QD 4", "read", "1m", 4, 0.9, 1},
}

func main() {
	dir := flag.String("dir", "", "where the legs' files lie (default: a temporary directory)")
	size := flag.Int64("size", 1<<30, "bytes of a leg")
	seconds := flag.Int("seconds", 4, "length of one fio run")
	rounds := flag.Int("rounds", 5, "how often each pair is measured, in turn")
	only := flag.String("only", "", "only rows whose name contains this")
	profile := flag.String("cpuprofile", "", "write a CPU profile of the disk's process to this file")
	serve := flag.String("serve", "", "")
	flag.Parse()
	if *serve != "" {
		serveDisk(*serve, *profile)
		return
	}
	if err := run(*dir, *size, *seconds, *rounds, *only, *profile); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(dir string, size int64, seconds, rounds int, only, profile string) (err error) {
	if dir == "" {
		if dir, err = os.MkdirTemp("/var/tmp", "ft-bench-"); err != nil {
			return err
		}
		defer os.RemoveAll(dir)
	}
	b := &bench{dir: dir, size: size, seconds: seconds, profile: profile}
	defer b.close()
	if err := b.setUp(); err != nil {
		return err
	}
	fmt.Printf("%-32s %12s %12s %8s %9s\n", "what", "anchor", "mirror", "ratio", "at least")
	for _, j := range jobs {
		if !strings.Contains(j.name, only) {
			continue
		}
		if err := b.row(j, rounds); err != nil {
			return err
		}
	}
	if strings.Contains("resync", only) {
		return b.resync(rounds)
	}
	return nil
}

// bench is two legs of the mirror and two raw loop devices of the same kind.
type bench struct {
	dir     string
	size    int64
	seconds int
	profile string
	loops   []string // raw 0, raw 1, leg 0, leg 1
	disk    *exec.Cmd
	answers *json.Decoder
	asks    *json.Encoder
}

func (b *bench) setUp() error {
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
	return b.startDisk()
}

func command(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

func (b *bench) close() {
	if b.disk != nil {
		b.disk.Process.Signal(os.Interrupt)
		b.disk.Wait()
	}
	for _, l := range b.loops {
		if err := command("losetup", "-d", l); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
	}
}

// row measures a job on the anchor and on the mirror in turn and prints the medians
// and the median of the ratios.
func (b *bench) row(j job, rounds int) error {
	var anchors, faces, ratios []float64
	for range rounds {
		var devices []string
		if strings.Contains(j.rw, "write") {
			devices = b.loops[:2]
		} else {
			devices = b.loops[:1]
		}
		a, err := b.fio(j, devices...)
		if err != nil {
			return err
		}
		m, err := b.fio(j, filepath.Join(b.dir, "dev", "disk0"))
		if err != nil {
			return err
		}
		anchors, faces, ratios = append(anchors, a), append(faces, m), append(ratios, m/a)
	}
	unit := func(x float64) string {
		if j.bs == "1m" {
			return fmt.Sprintf("%.0f MB/s", x*1.048576)
		}
		return fmt.Sprintf("%.1f k/s", x/1000)
	}
	fmt.Printf("%-32s %12s %12s %8.2f %9.2f\n", j.name, unit(median(anchors)), unit(median(faces)), median(ratios), j.least)
	return nil
}

func median(x []float64) float64 {
	sort.Float64s(x)
	return x[len(x)/2]
}

// fio runs a job and gives operations a second; on two devices, written at once, those
// of the slower one.
func (b *bench) fio(j job, devices ...string) (float64, error) {
	args := []string{"--output-format=json", "--ioengine=libaio", "--direct=1", "--time_based", "--norandommap", "--randrepeat=0",
		fmt.Sprintf("--runtime=%d", b.seconds), "--ramp_time=1", "--rw=" + j.rw, "--bs=" + j.bs, fmt.Sprintf("--iodepth=%d", j.depth)}
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

// startDisk runs the driver in a process of its own, as it is in service.
func (b *bench) startDisk() error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	cfg := drivers.Config{Kind: mirror.Kind, Name: "disk0", RunDir: b.dir, StateDir: filepath.Join(b.dir, "state"), DevDir: filepath.Join(b.dir, "dev"), Drills: true}
	for i := range cfg.Sides {
		cfg.Sides[i].Resource.Path = b.loops[2+i]
	}
	for _, p := range []string{"state", "drivers"} {
		if err := os.MkdirAll(filepath.Join(b.dir, p), 0o700); err != nil {
			return err
		}
	}
	arg, err := json.Marshal(cfg)
	if err != nil {
		return err
	}
	b.disk = exec.Command(exe, "-serve", string(arg), "-cpuprofile", b.profile)
	b.disk.Stderr = os.Stderr
	in, err := b.disk.StdinPipe()
	if err != nil {
		return err
	}
	out, err := b.disk.StdoutPipe()
	if err != nil {
		return err
	}
	b.asks, b.answers = json.NewEncoder(in), json.NewDecoder(out)
	if err := b.disk.Start(); err != nil {
		return err
	}
	_, err = b.ask("attach")
	return err
}

// answer is what the disk's process says to a request.
type answer struct {
	Err     string
	Seconds float64
	Bytes   int64
}

func (b *bench) ask(what string) (answer, error) {
	var a answer
	if err := b.asks.Encode(what); err != nil {
		return a, fmt.Errorf("ask the disk's process to %s: %w", what, err)
	}
	if err := b.answers.Decode(&a); err != nil {
		return a, fmt.Errorf("the disk's process, asked to %s: %w", what, err)
	}
	if a.Err != "" {
		return a, fmt.Errorf("%s: %s", what, a.Err)
	}
	return a, nil
}

// resync measures a full resync of written legs beside dd, and how much a fast one copies.
func (b *bench) resync(rounds int) error {
	face := filepath.Join(b.dir, "dev", "disk0")
	if _, err := b.fio(job{rw: "write", bs: "1m", depth: 4}, face); err != nil {
		return err
	}
	var anchors, faces, ratios []float64
	for range rounds {
		begun := time.Now()
		if err := command("dd", "if="+b.loops[0], "of="+b.loops[1], "bs=1M", "iflag=direct", "oflag=direct", "status=none"); err != nil {
			return err
		}
		dd := float64(b.size) / time.Since(begun).Seconds()
		if _, err := b.ask("detach"); err != nil {
			return err
		}
		a, err := b.ask("full")
		if err != nil {
			return err
		}
		m := float64(a.Bytes) / a.Seconds
		anchors, faces, ratios = append(anchors, dd), append(faces, m), append(ratios, m/dd)
	}
	fmt.Printf("%-32s %9.0f MB/s %7.0f MB/s %8.2f %9.2f\n", "full resync, against dd", median(anchors)/1e6, median(faces)/1e6, median(ratios), 0.9)

	if _, err := b.ask("detach"); err != nil {
		return err
	}
	const written = 8 << 20
	if err := command("dd", "if=/dev/urandom", "of="+face, "bs=64k", fmt.Sprintf("count=%d", written>>16), "seek=1000", "oflag=direct", "conv=notrunc", "status=none"); err != nil {
		return err
	}
	a, err := b.ask("attach")
	if err != nil {
		return err
	}
	fmt.Printf("%-32s %9.1f MiB  %7.1f MiB  %8.2f %9s\n", "fast resync, bytes copied", float64(written)/(1<<20), float64(a.Bytes)/(1<<20), float64(a.Bytes)/written, "<= 1.05")
	return nil
}

// serveDisk is the disk's process.
func serveDisk(arg, profile string) {
	if profile != "" {
		f, err := os.Create(profile)
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		if err := pprof.StartCPUProfile(f); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
	}
	var cfg drivers.Config
	if err := json.Unmarshal([]byte(arg), &cfg); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	out := json.NewEncoder(os.Stdout)
	d, err := newDisk(cfg)
	if err != nil {
		out.Encode(answer{Err: err.Error()})
		os.Exit(1)
	}
	interrupt := make(chan os.Signal, 1)
	signal.Notify(interrupt, os.Interrupt)
	go func() {
		<-interrupt
		pprof.StopCPUProfile()
		if err := d.Stop(context.Background(), drivers.RemoveForce); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
		os.Exit(0)
	}()
	in := json.NewDecoder(os.Stdin)
	for {
		var what string
		if in.Decode(&what) != nil {
			interrupt <- os.Interrupt
			select {}
		}
		a, err := d.serve(what, cfg)
		if err != nil {
			a.Err = err.Error()
		}
		out.Encode(a)
	}
}
