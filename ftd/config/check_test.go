package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func parse(t *testing.T, text string) *Config {
	t.Helper()
	c, err := Parse("ft.toml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// twoLegs is a file whose legs stand in lines 3 and 4.
func twoLegs(a, b string) string {
	return fmt.Sprintf("[[disk]]\nname = \"disk0\"\npci0 = %q\npci1 = %q\n", a, b)
}

func sized(t *testing.T, name string, bytes int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(bytes); err != nil {
		t.Fatal(err)
	}
	return path
}

// loopOver sets a loop device up, and detaches it at the end.
func loopOver(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("losetup", append([]string{"--show", "-f"}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("losetup %v: %v: %s", args, err, out)
	}
	dev := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "-d", dev).CombinedOutput(); err != nil {
			t.Errorf("losetup -d %s: %v: %s", dev, err, out)
		}
	})
	return dev
}

func TestFitLegsPass(t *testing.T) {
	a, b := loopOver(t, sized(t, "a", 8<<20)), sized(t, "b", 8<<20)
	if ps := Check(parse(t, twoLegs(a, b)), ThisHost); len(ps) > 0 {
		t.Error(ps)
	}
}

func TestUnfitLegsAreRefused(t *testing.T) {
	dir := t.TempDir()
	a := sized(t, "a", 8<<20)
	link := filepath.Join(dir, "link")
	if err := os.Symlink(a, link); err != nil {
		t.Fatal(err)
	}
	hard := filepath.Join(filepath.Dir(a), "hard")
	if err := os.Link(a, hard); err != nil {
		t.Fatal(err)
	}
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	loop := loopOver(t, a)
	second := loopOver(t, "--offset", "4096", a)
	same := func(path, as string) []string {
		return []string{fmt.Sprintf("ft.toml:4: %s lies on the same storage as pci0 of disk0 (%s, line 3); each leg needs a device of its own", path, as)}
	}
	cases := []struct {
		name, pci0, pci1 string
		want             []string
		absent           bool
	}{
		{"missing", a, dir + "/none", []string{"ft.toml:4: " + dir + "/none does not exist; mend the path, or plug the device in; /dev/disk/by-id/ has names that do not change"}, true},
		{"directory", dir, a, []string{"ft.toml:3: " + dir + " is a directory; give a block device, or a file of the size that the disk shall have (truncate -s 1G FILE)"}, false},
		{"character device", a, "/dev/null", []string{"ft.toml:4: /dev/null is neither a block device nor a file; give a block device, or a file of the size that the disk shall have (truncate -s 1G FILE)"}, false},
		{"pipe", a, fifo, []string{"ft.toml:4: " + fifo + " is neither a block device nor a file; give a block device, or a file of the size that the disk shall have (truncate -s 1G FILE)"}, false},
		{"through a link", a, link, same(link, a), false},
		{"hard link", a, hard, same(hard, a), false},
		{"file and its loop device", a, loop, same(loop, a), false},
		{"two loop devices of one file", loop, second, same(second, loop), false},
		{"empty file", a, sized(t, "empty", 0), nil, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			ps := Check(parse(t, twoLegs(c.pci0, c.pci1)), ThisHost)
			if c.want == nil {
				c.want = []string{fmt.Sprintf("ft.toml:4: %s is an empty file; give it the size that the disk shall have (truncate -s 1G FILE)", c.pci1)}
			}
			if d := cmp.Diff(strings.Join(c.want, "\n"), ps.Error()); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
			if ps[0].Absent != c.absent {
				t.Errorf("Absent is %v", ps[0].Absent)
			}
		})
	}
}

func TestLegsOfDifferentSizeAreRefused(t *testing.T) {
	a, b := sized(t, "a", 8<<20), sized(t, "b", 9<<20)
	ps := Check(parse(t, twoLegs(a, b)), ThisHost)
	want := fmt.Sprintf("ft.toml:4: the legs of disk0 differ in size: %s has 8388608 bytes, %s has 9437184; make both the same size (a partition of the larger one will do)", a, b)
	if d := cmp.Diff(want, ps.Error()); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

func TestPartitionsAreTracedToTheirDisk(t *testing.T) {
	probe := func(path string) (Device, error) {
		switch path {
		case "/sda":
			return Device{BlockDevice, 100, []Extent{{"sda", 0, 100}}}, nil
		case "/sda1":
			return Device{BlockDevice, 40, []Extent{{"sda1", 0, 40}, {"sda", 10, 40}}}, nil
		case "/sda2":
			return Device{BlockDevice, 40, []Extent{{"sda2", 0, 40}, {"sda", 50, 40}}}, nil
		}
		return Device{}, fs.ErrNotExist
	}
	ps := Check(parse(t, twoLegs("/sda", "/sda2")), Host{Leg: probe})
	if len(ps) != 1 || ps[0].Advice || !strings.Contains(ps[0].What, "same storage") {
		t.Errorf("disk and its partition: %v", ps)
	}
	ps = Check(parse(t, twoLegs("/sda1", "/sda2")), Host{Leg: probe})
	if len(ps) != 1 || !ps[0].Advice || !strings.Contains(ps[0].What, "lost together") {
		t.Errorf("two partitions of a disk: %v", ps)
	}
	ps = Check(parse(t, twoLegs("/sda1", "/x")+"[[disk]]\nname = \"e\"\npci1 = \"/sda2\"\n"), Host{Leg: probe})
	if len(ps) != 1 || !ps[0].Absent {
		t.Errorf("partitions of one disk under two mirrors: %v", ps)
	}
}

func TestProbeReadsPartitionsFromSysfs(t *testing.T) {
	sys := t.TempDir()
	write := func(name, text string) {
		path := filepath.Join(sys, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("devices/sda/dev", "8:0")
	write("devices/sda/sda1/partition", "1")
	write("devices/sda/sda1/start", "2048")
	write("devices/sda/sda1/size", "4096")
	if err := os.MkdirAll(filepath.Join(sys, "dev/block"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../../devices/sda/sda1", filepath.Join(sys, "dev/block/8:1")); err != nil {
		t.Fatal(err)
	}
	got, err := blockDevice(sys, "/dev/sda1", 8, 1)
	if err != nil {
		t.Fatal(err)
	}
	want := Device{BlockDevice, 2 << 20, []Extent{{"block 8:1", 0, 2 << 20}, {"block 8:0", 1 << 20, 2 << 20}}}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
	if _, err := blockDevice(sys, "/dev/sdb", 8, 16); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a node without a device: %v", err)
	}
}
