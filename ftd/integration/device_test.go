package integration_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// plug is a device with a name that does not change, as /dev/disk/by-id has them: it
// can be pulled and put back, also under another number.
type plug struct {
	t    *testing.T
	file string
	name string // the link
	node string // "" while it is pulled
}

func newPlug(t *testing.T) *plug {
	t.Helper()
	p := &plug{t: t, file: legFile(t, legBytes), name: filepath.Join(t.TempDir(), "by-id")}
	p.insert()
	t.Cleanup(p.pull)
	return p
}

func (p *plug) insert() {
	p.t.Helper()
	p.node = strings.TrimSpace(command(p.t, "losetup", "--find", "--show", "--direct-io=on", p.file))
	if err := os.Symlink(p.node, p.name); err != nil {
		p.t.Fatal(err)
	}
}

func (p *plug) pull() {
	p.t.Helper()
	if p.node == "" {
		return
	}
	if err := os.Remove(p.name); err != nil {
		p.t.Error(err)
	}
	command(p.t, "losetup", "-d", p.node)
	p.node = ""
}

// A device that is taken out of service, pulled, and put back is seen by the kernel's
// events: removed, then there again.
func TestDeviceIsPulledAndPutBack(t *testing.T) {
	t.Parallel()
	leg := newPlug(t)
	dev0, file0 := legLoop(t, legBytes)
	b := newBox(t, dev0, leg.name)
	b.start()
	b.wait("disk0", "duplex")
	b.pattern('x')

	b.do("bringdown", "pci1/disk0")
	leg.pull()
	b.wait("pci1/disk0", "removed")
	b.pattern('y')
	leg.insert()
	b.wait("pci1/disk0", "offline") // an admin took it out: it stays out
	b.do("bringup", "pci1/disk0")
	b.wait("disk0", "duplex")
	b.equalLegs(file0, leg.file)

	// Pulled and put back without a word: it comes back by itself.
	b.stop()
	leg.pull()
	b.start()
	b.wait("disk0", "simplex")
	b.wait("pci1/disk0", "removed")
	b.pattern('z')
	leg.insert()
	b.wait("disk0", "duplex")
	b.equalLegs(file0, leg.file)
	b.stop()
}
