package main

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"ft/drivers"
	"ft/mirror"
	"ft/mirror/legio/loop"
)

// transfers are blocks that are written and read, a row of the table each.
type transfers struct {
	what        string
	size, depth int // bytes of a block, and how many at a time
	count       int
}

var diskWork = []transfers{
	{"1 MiB %s, QD 4", 1 << 20, 4, 256},
	{"4 KiB random %s, QD 1", 4 << 10, 1, 2000},
	{"4 KiB random %s, QD 16", 4 << 10, 16, 6000},
}

func (t transfers) name(how string) string { return fmt.Sprintf(t.what, how) }

func (t transfers) command(how, path string, seed int) string {
	return fmt.Sprintf("disk %s %s %d %d %d %d", how, path, t.size, t.depth, t.count, seed)
}

// row is one whose figures are bytes a second of big blocks, or blocks a second.
func (t transfers) row(how string) *row {
	if t.size >= 1<<20 {
		return newRow(t.name(how), "MB/s")
	}
	return newRow(t.name(how), "k/s")
}

func (t transfers) rate(s spent) float64 {
	if t.size >= 1<<20 {
		return float64(t.size) * float64(t.count) / 1e6 / s.wall.Seconds()
	}
	return float64(t.count) / 1e3 / s.wall.Seconds()
}

// cost says how many of a guest's steps a block takes.
func (t transfers) cost(steps series) string {
	return fmt.Sprintf("%.0f k steps a block", steps.median()/float64(t.count)/1e3)
}

// guestDisk is the face as the guest has it.
const guestDisk = "/dev/vda"

// blocks measures blocks on the face from the host and from the guest. What one writes the
// other reads, and has to find.
func (b *bench) blocks(t transfers, here, there *computer, face string) error {
	writes, reads := t.row("writes"), t.row("reads")
	var writing, reading series // steps of the guest
	// pass has one write and the other read, in numbers that are the rows' columns.
	pass := func(from, to int, seed int) error {
		ends := []struct {
			*computer
			path string
		}{{here, face}, {there, guestDisk}}
		written, took, err := ends[from].do(t.command("write", ends[from].path, seed))
		if err != nil {
			return err
		}
		writes.add(from, t.rate(took))
		if ends[from].computer == there {
			writing = append(writing, float64(took.steps))
		}
		read, took, err := ends[to].do(t.command("read", ends[to].path, seed))
		if err != nil {
			return err
		}
		reads.add(to, t.rate(took))
		if ends[to].computer == there {
			reading = append(reading, float64(took.steps))
		}
		if read != written {
			return fmt.Errorf("%s: %s has read other data (%s) than %s wrote (%s)", t.command("read", ends[to].path, seed), ends[to].name, read, ends[from].name, written)
		}
		return nil
	}
	for round := range b.rounds {
		for way := range 2 {
			if err := pass(way, 1-way, 2*round+way+1); err != nil {
				return err
			}
		}
		writes.compare(writes.ratio(1, 0))
		reads.compare(reads.ratio(1, 0))
	}
	writes.remark, reads.remark = t.cost(writing), t.cost(reading)
	for _, r := range []*row{writes, reads} {
		if b.wanted(r.name) {
			fmt.Println(r)
		}
	}
	return nil
}

const (
	diskName = "disk0"
	legBytes = 512 << 20
)

// mirrored makes a mirror over two loop devices, in duplex, and returns its face.
func (b *bench) mirrored() (face string, err error) {
	cfg := drivers.Config{Kind: mirror.Kind, Name: diskName}
	for i := range cfg.Sides {
		if cfg.Sides[i].Resource.Path, err = b.leg(filepath.Join(b.dir, fmt.Sprintf("leg%d", i))); err != nil {
			return "", err
		}
	}
	dir := filepath.Join(b.dir, diskName)
	d, err := startDriver(dir, cfg, mirror.Options{}, "")
	if err != nil {
		return "", err
	}
	b.cleanup(d.stop)
	serves := func(st drivers.Status) bool { return st.State != drivers.FaceDown && st.Face != "" }
	if _, err := d.await("the disk", serves); err != nil {
		return "", err
	}
	if err := d.attach(1, drivers.RiskOverwrite); err != nil {
		return "", err
	}
	_, err = d.await("the disk to be in duplex", func(st drivers.Status) bool { return serves(st) && st.State == drivers.FaceDuplex })
	return filepath.Join(dir, "dev", diskName), err
}

// leg makes a file and puts a loop device over it, which ends with this process.
func (b *bench) leg(path string) (dev string, err error) {
	f, err := os.Create(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	// Written once, so that no run pays for the allocation of blocks.
	zero := make([]byte, 1<<20)
	for range legBytes / len(zero) {
		if _, err := f.Write(zero); err != nil {
			return "", fmt.Errorf("make a leg: %w", err)
		}
	}
	if err := f.Sync(); err != nil {
		return "", fmt.Errorf("make a leg: %w", err)
	}
	dev, fd, err := loop.Attach(int(f.Fd()), path)
	if err != nil {
		return "", fmt.Errorf("make a leg: %w", err)
	}
	b.cleanup(func() error { return unix.Close(fd) })
	return dev, nil
}
