package integration_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ft/drivers"
)

// says fails the test unless text has all the words.
func says(t *testing.T, text string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("it does not say %q:\n%s", w, text)
		}
	}
}

// hide takes a leg's file away; the function that it returns puts it back.
func hide(t *testing.T, leg string) (show func()) {
	t.Helper()
	if err := os.Rename(leg, leg+".hidden"); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		if err := os.Rename(leg+".hidden", leg); err != nil {
			t.Fatal(err)
		}
	}
}

// pattern writes a recognisable block to the start of the face, durably.
func (b *box) pattern(c byte) {
	b.t.Helper()
	f, err := os.OpenFile(b.face(), os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		b.t.Fatal(err)
	}
	defer f.Close()
	buf := aligned(b.t)
	copy(buf, bytes.Repeat([]byte{c}, len(buf)))
	if _, err := f.WriteAt(buf, 0); err != nil {
		b.t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		b.t.Fatal(err)
	}
}

// reads fails the test unless the face has the pattern.
func (b *box) reads(c byte) {
	b.t.Helper()
	f, err := os.OpenFile(b.face(), os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		b.t.Fatal(err)
	}
	defer f.Close()
	buf := aligned(b.t)
	if _, err := f.ReadAt(buf, 0); err != nil {
		b.t.Fatal(err)
	}
	if buf[0] != c || buf[len(buf)-1] != c {
		b.t.Fatalf("the face reads %q, want %q", buf[0], c)
	}
}

// awaitDown waits until disk0 is down for a reason that has the words in it: the box
// has looked at its legs and serves from none.
func (b *box) awaitDown(words ...string) {
	b.t.Helper()
	var out string
	var code int
	await(b.t, 30*time.Second, "disk0 to be refused", func() bool {
		out, code = b.ftctl("status", "--check")
		for _, w := range words {
			if !strings.Contains(out, w) {
				return false
			}
		}
		return code == 2
	})
	if _, err := os.Stat(b.face()); err == nil {
		b.t.Errorf("%s is there although disk0 is down", b.face())
	}
}

// behind makes a box whose pci1 leg lacks what was written last, and stops it.
func behind(t *testing.T) (b *box, legs [2]string) {
	t.Helper()
	legs = [2]string{legFile(t, legBytes), legFile(t, legBytes)}
	b = newBox(t, legs[0], legs[1])
	b.start()
	b.wait("disk0", "duplex")
	b.pattern('a')
	b.do("inject", "pci1/disk0", "vanish")
	b.wait("disk0", "simplex")
	b.pattern('b')
	b.stop()
	return b, legs
}

func TestLegThatIsBehindIsNotServedAlone(t *testing.T) {
	t.Parallel()
	b, legs := behind(t)
	show := hide(t, legs[0])
	b.start()
	b.awaitDown("pci1/disk0", "resolve")
	show() // the good leg returns: it serves, with what it has
	b.wait("disk0", "duplex")
	b.reads('b')
}

func TestResolveServesALegThatIsBehind(t *testing.T) {
	t.Parallel()
	b, legs := behind(t)
	hide(t, legs[0])
	b.start()
	b.awaitDown("pci1/disk0", "resolve")
	b.do("resolve", "disk0", "--keep", "pci1")
	b.wait("disk0", "simplex")
	b.reads('a')
}

// Legs that were each written alone are refused, with both histories; resolve picks one.
func TestSplitBrain(t *testing.T) {
	t.Parallel()
	b, legs := behind(t)
	show := hide(t, legs[0])
	b.start()
	b.awaitDown("resolve")
	b.do("resolve", "disk0", "--keep", "pci1")
	b.wait("disk0", "simplex")
	b.pattern('c')
	b.stop()
	// Nobody remembers: the state directory is lost too.
	if err := os.RemoveAll(filepath.Join(b.dir, "state")); err != nil {
		t.Fatal(err)
	}
	show()
	b.start()
	b.awaitDown("each written alone", "pci0", "pci1", "resolve")
	b.do("resolve", "disk0", "--keep", "pci0")
	b.wait("disk0", "duplex") // the other leg follows by itself
	b.reads('b')
}

func TestLastSideIsNotTakenAway(t *testing.T) {
	t.Parallel()
	legs := [2]string{legFile(t, legBytes), legFile(t, legBytes)}
	b := newBox(t, legs[0], legs[1])
	b.start()
	b.wait("disk0", "duplex")
	says(t, b.refuse("bringdown", "disk0"), "last-side")
	b.do("bringdown", "pci0/disk0")
	says(t, b.refuse("bringdown", "pci1/disk0"), "last", "--accept-risk=last-side")
	says(t, b.refuse("bringdown", "pci1"), "--accept-risk=last-side")
	b.wait("disk0", "simplex")
	b.do("bringdown", "pci1/disk0", "--accept-risk=last-side")
	b.wait("disk0", "down")
	b.do("bringup", "pci1/disk0")
	b.do("bringup", "pci0/disk0")
	b.wait("disk0", "duplex")
}

// A device goes down as a whole when nobody uses it and an admin names the risk, stays
// down over restarts, and comes back when told to.
func TestDeviceDownAndUp(t *testing.T) {
	t.Parallel()
	legs := [2]string{legFile(t, legBytes), legFile(t, legBytes)}
	b := newBox(t, legs[0], legs[1])
	b.start()
	b.wait("disk0", "duplex")
	b.mkfs()
	dir := b.mount()
	says(t, b.refuse("bringdown", "disk0", "--accept-risk=last-side"), dir)
	b.wait("disk0", "duplex")
	unmount(t, dir)
	b.do("bringdown", "disk0", "--accept-risk=last-side")
	b.wait("disk0", "down")
	if _, err := os.Lstat(b.face()); err == nil {
		t.Errorf("%s is still there", b.face())
	}
	b.killFtd()
	b.start()
	b.wait("pci0/disk0", "offline")
	if st := b.status().Devices[0]; st.State != drivers.FaceDown || st.Pid != 0 {
		t.Errorf("after a restart of ftd disk0 is %v with the process %d, although an admin took it down", st.State, st.Pid)
	}
	b.do("bringup", "disk0")
	b.wait("disk0", "duplex")
	b.equalLegs(legs[0], legs[1])
}

// A leg with a file system on it is not overwritten by being there.
func TestForeignDataIsNotOverwritten(t *testing.T) {
	t.Parallel()
	legs := [2]string{legFile(t, legBytes), legFile(t, legBytes)}
	command(t, "mkfs.ext4", "-q", "-F", legs[1])
	before := digestOf(t, legs[1])
	b := newBox(t, legs[0], legs[1])
	b.start()
	b.awaitLooked()
	says(t, b.refuse("bringup", "pci1/disk0"), "ext4", "--accept-risk=overwrite")
	b.wait("disk0", "simplex")
	b.stop()
	if digestOf(t, legs[1]) != before {
		t.Fatal("the leg with the file system was changed")
	}
	b.start()
	b.awaitLooked()
	b.do("bringup", "pci1/disk0", "--accept-risk=overwrite")
	b.wait("disk0", "duplex")
	b.equalLegs(legs[0], legs[1])
}

// A leg of another mirror is somebody's data too.
func TestLegOfAnotherMirrorIsNotOverwritten(t *testing.T) {
	t.Parallel()
	var boxes [2]*box
	for i := range boxes {
		boxes[i] = newBox(t, legFile(t, legBytes), legFile(t, legBytes))
		boxes[i].start()
		boxes[i].wait("disk0", "duplex")
		boxes[i].stop()
	}
	b, foreign := boxes[0], boxes[1].legs[1]
	before := digestOf(t, foreign)
	b.legs[1] = foreign
	b.configure("")
	b.start()
	b.awaitLooked()
	says(t, b.refuse("bringup", "pci1/disk0"), "another mirror", "--accept-risk=overwrite")
	b.stop()
	if digestOf(t, foreign) != before {
		t.Error("the leg of the other mirror was changed")
	}
}

// awaitLooked waits until the box serves from pci0 and has refused what is on pci1.
func (b *box) awaitLooked() {
	b.t.Helper()
	await(b.t, 30*time.Second, "pci1/disk0 to be refused", func() bool {
		d := b.status().Devices[0]
		return d.State == drivers.FaceSimplex && d.Sides[1].State == drivers.Offline && strings.Contains(d.Sides[1].Reason, "overwrite")
	})
}

// What cannot be a disk is refused at the start, by file and line, and left as it is.
func TestConfigurationsThatCannotBe(t *testing.T) {
	t.Parallel()
	good, small, dir := legFile(t, legBytes), legFile(t, legBytes/2), t.TempDir()
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(good, link); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, leg0, leg1, extra string
		says                    []string
	}{
		{"legs of different size", good, small, "", []string{"ft.toml:", "differ in size"}},
		{"the same leg twice", good, good, "", []string{"ft.toml:", good}},
		{"the same leg by another name", good, link, "", []string{"ft.toml:", link}},
		{"a directory", good, dir, "", []string{"ft.toml:", "is a directory"}},
		{"a path that is not there", good, dir + "/none", "", []string{"ft.toml:", "does not exist"}},
		{"an unknown key", good, "", "leg_timeuot = \"5s\"\n", []string{"ft.toml:", "leg_timeuot", "leg_timeout"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBox(t, c.leg0, c.leg1)
			b.configure(c.extra)
			says(t, b.refuseStart(), c.says...)
			if left := b.processes(); len(left) > 0 {
				t.Errorf("processes %v run although ftd did not start", left)
			}
		})
	}
	for _, leg := range []string{good, small} {
		var st unix.Stat_t
		if err := unix.Stat(leg, &st); err != nil {
			t.Fatal(err)
		}
		if st.Blocks != 0 {
			t.Errorf("%s was written to", leg)
		}
	}
}

func TestSecondFtdIsRefused(t *testing.T) {
	t.Parallel()
	b := newBox(t, legFile(t, legBytes), legFile(t, legBytes))
	b.start()
	b.wait("disk0", "duplex")
	says(t, b.refuseStart(), fmt.Sprintf("pid %d", b.ftd.Process.Pid), "run")
	b.wait("disk0", "duplex")
}

// SIGHUP takes in a new disk, and which part its legs have in reads; what would change one
// that runs otherwise is refused and changes nothing.
func TestReload(t *testing.T) {
	t.Parallel()
	legs := [2]string{legFile(t, legBytes), legFile(t, legBytes)}
	b := newBox(t, legs[0], legs[1])
	b.start()
	b.wait("disk0", "duplex")

	b.configure("no_leg = \"wait\"\n")
	b.reload("other settings")
	disk1 := "\n[[disk]]\nname = \"disk1\"\npci0 = \"" + legFile(t, legBytes) + "\"\npci1 = \"" + legFile(t, legBytes) + "\"\n"
	b.configure(disk1)
	b.reload("new devices")
	b.wait("disk1", "duplex")
	b.wait("disk0", "duplex")
	b.configure("")
	b.reload("is gone from the file")
	b.wait("disk1", "duplex")
	says(t, b.do("reads", "pci0/disk1", "prefer"), "keeps up")
	says(t, b.do("show", "disk1"), "reads preferred")
	says(t, b.refuse("reads", "disk1", "avoid"), "no side of a disk")
	b.configure(disk1 + "pci0_reads = \"avoid\"\n")
	b.reload("is reloaded")
	says(t, b.do("show", "disk1"), "reads avoided")
	b.configure("")
	b.wait("disk0", "duplex")

	// After a restart disk1 is nobody's: it is left alone and said so.
	_ = b.ftd.Process.Signal(unix.SIGTERM)
	b.awaitFtdGone()
	b.start()
	b.wait("disk0", "duplex")
	says(t, b.do("--json", "show", "box"), "not_configured", "disk1")
	if _, err := os.Stat(filepath.Join(b.dir, "dev", "disk1")); err != nil {
		t.Error(err)
	}
}

// reload sends SIGHUP and waits for what ftd says to it.
func (b *box) reload(says string) {
	b.t.Helper()
	before, err := b.log.Seek(0, 2)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := b.ftd.Process.Signal(unix.SIGHUP); err != nil {
		b.t.Fatal(err)
	}
	await(b.t, 10*time.Second, "ftd to say: "+says, func() bool {
		text, err := os.ReadFile(b.log.Name())
		return err == nil && int64(len(text)) >= before && strings.Contains(string(text[before:]), says)
	})
}
