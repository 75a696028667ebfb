package integration_test

import (
	"io"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"ft/mirror/metadata"
)

// superOf reads what a leg says of itself.
func superOf(t *testing.T, path string) metadata.Superblock {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		t.Fatal(err)
	}
	img, err := metadata.Load(f, size)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return img.Super
}

// replaced waits until a side is made of what is at a path, and the disk is duplex.
func (b *box) replaced(id, path string) {
	b.t.Helper()
	await(b.t, 60*time.Second, id+" to be "+path, func() bool {
		st, err := b.statusNow()
		if err != nil || st.System.State.String() != "duplex" || b.stats("disk0")["replacing"] != nil {
			return false
		}
		for _, d := range st.Devices {
			for _, s := range d.Sides {
				if s.ID == id {
					return s.Resource == path
				}
			}
		}
		return false
	})
}

// A leg is replaced under load, through the death of its driver and of ftd; the old one can
// not come back, and the new one is the leg after a restart of everything, whatever ft.toml
// says.
func TestReplace(t *testing.T) {
	t.Parallel()
	dev0, file0 := legLoop(t, legBytes)
	dev1, file1 := legLoop(t, legBytes)
	dev2, file2 := legLoop(t, legBytes)
	small, _ := legLoop(t, legBytes/2)
	b := newBox(t, dev0, dev1)
	b.configure("integrity = \"crc32c\"\nresync_rate_max = \"60MB\"\n")
	b.start()
	b.wait("disk0", "duplex")
	says(t, b.refuse("replace", "pci1/disk0", small), "size")
	says(t, b.refuse("replace", "pci1/disk0", dev0), "same storage")
	says(t, b.refuse("replace", "pci1/disk0", "/dev/ft-nothing"), "does not exist")
	says(t, b.refuse("replace", "pci1/disk0", "--abort"), "not being replaced")
	b.mkfs()
	dir := b.mount()
	// Enough that the copy takes its time.
	writeSome(t, dir+"/some", 64<<20)
	digest := digestOf(t, dir+"/some")
	l := b.fio(dir)

	// In the disk's own file system, and on a loop device there: a leg that lies on itself.
	onItself := dir + "/leg.img"
	command(t, "truncate", "-s", strconv.Itoa(legBytes), onItself)
	says(t, b.refuse("replace", "pci1/disk0", onItself), "lies on")
	loopOnItself := strings.TrimSpace(command(t, "losetup", "--find", "--show", onItself))
	says(t, b.refuse("replace", "pci1/disk0", loopOnItself), "lies on")
	command(t, "losetup", "-d", loopOnItself)

	command(t, "mkfs.ext4", "-q", "-F", dev2)
	says(t, b.refuse("replace", "pci1/disk0", dev2), "ext4", "--accept-risk=overwrite")
	says(t, b.do("replace", "pci1/disk0", dev2, "--accept-risk=overwrite"), "being copied")
	says(t, b.refuse("replace", "pci0/disk0", file2), "already")
	says(t, b.do("status"), "copy to "+dev2)
	b.wait("pci1/disk0", "duplex") // it is no less so
	says(t, b.do("replace", "pci1/disk0", "--abort"), "stays as it is")
	says(t, b.do("replace", "pci1/disk0", dev2), "being copied")
	b.killDriver()
	b.killFtd()
	b.start()
	b.replaced("pci1/disk0", dev2)
	l.running()
	says(t, b.do("show", "pci1/disk0"), dev2, dev1, "ft.toml")
	if sb := superOf(t, file1); !sb.Generation.IsZero() || sb.Has(1) {
		t.Errorf("the old leg says of itself: %+v", metadata.Describe(&sb))
	}
	if sb := superOf(t, file2); !sb.Both() || sb.Staged || sb.Slot != 1 {
		t.Errorf("the new leg says of itself: %+v", metadata.Describe(&sb))
	}

	// The leg dies while it is replaced: the new one goes on from the partner.
	l.running()
	dev3, file3 := legLoop(t, legBytes)
	b.do("replace", "pci1/disk0", dev3)
	b.do("inject", "pci1/disk0", "write-error")
	b.replaced("pci1/disk0", dev3)
	l.stop()
	if d := digestOf(t, dir+"/some"); d != digest {
		t.Error("what was written is not what is read")
	}
	unmount(t, dir)
	b.equalLegs(file0, file3)
	b.stop()

	b.start()
	b.replaced("pci1/disk0", dev3)
	says(t, b.do("show", "disk0"), dev3)
	b.scrubbed() // the first one, which makes the checksums
	b.do("scrub", "disk0")
	if found := b.scrubbed(); !found.Clean() {
		t.Errorf("after two replacements: %+v", found)
	}
	b.stop()
}

// A leg that is dead is replaced at once, and the new one comes in from the partner.
func TestReplaceDead(t *testing.T) {
	t.Parallel()
	dev0, file0 := legLoop(t, legBytes)
	dev1, _ := legLoop(t, legBytes)
	dev2, file2 := legLoop(t, legBytes)
	b := newBox(t, dev0, dev1)
	b.configure("")
	b.start()
	b.wait("disk0", "duplex")
	b.pattern('r')
	b.do("inject", "pci1/disk0", "vanish")
	b.wait("disk0", "simplex")
	b.do("replace", "pci1/disk0", dev2)
	b.replaced("pci1/disk0", dev2)
	b.reads('r')
	b.equalLegs(file0, file2)
	b.stop()
}
