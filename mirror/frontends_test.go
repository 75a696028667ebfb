package mirror

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ft/drivers"
	"ft/drivers/kerneltest"
)

// TestKernelFrontends runs the mirror on the frontends that this machine's kernel lacks.
func TestKernelFrontends(t *testing.T) {
	kerneltest.RunTests(t, kerneltest.Options{
		Modules:  []string{"nbd", "ublk_drv", "loop", "fuse"},
		Programs: []string{"blkid"},
		Args:     []string{"-test.run=^(TestAutoKeepsTheFaceThatThereIs|TestFaceOnOtherFrontends|TestFaceThatIsHeldIsAwaited)$"},
	}, "ft/mirror")
}

// guestLegTimeout is beyond what an emulated machine takes for anything, however busy the
// real one is.
const guestLegTimeout = time.Minute

// The whole driver on /dev/nbdN and /dev/ublkbN: a leg is lost and comes back, the process
// hands over.
func TestFaceOnOtherFrontends(t *testing.T) {
	if !kerneltest.InGuest() {
		t.Skip("TestKernelFrontends runs this in a guest that has the drivers")
	}
	for name, device := range map[string]string{frontendNBD: "/dev/nbd", frontendUblk: "/dev/ublkb"} {
		t.Run(name, func(t *testing.T) { faceOn(t, name, device) })
	}
}

func faceOn(t *testing.T, name, device string) {
	b := newBox(t, 64<<20)
	opt, _ := json.Marshal(Options{Frontend: name, LegTimeout: guestLegTimeout})
	b.cfg.Options = opt
	b.start()
	b.attach(1)
	b.duplex()
	face := filepath.Join(b.cfg.DevDir, "disk0")
	if target, err := os.Readlink(face); err != nil || !strings.HasPrefix(target, device) {
		t.Fatalf("%s leads to %q: %v", face, target, err)
	}
	f, err := os.OpenFile(face, os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	out, in := alignedBytes(4<<20), alignedBytes(4<<20)
	check := func(seed byte) {
		t.Helper()
		rand.NewChaCha8([32]byte{seed}).Read(out)
		if _, err := f.WriteAt(out, int64(seed)<<20); err != nil {
			t.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
		if _, err := f.ReadAt(in, int64(seed)<<20); err != nil || !bytes.Equal(in, out) {
			t.Fatalf("what was written is not what is read: %v", err)
		}
	}
	check(1)
	if err := b.d.Inject(t.Context(), 1, drivers.Fault{Name: "vanish"}); err != nil {
		t.Fatal(err)
	}
	check(2)
	b.wait("simplex", func(st drivers.Status) bool { return st.State == drivers.FaceSimplex })
	if err := b.d.Inject(t.Context(), 1, drivers.Fault{Name: "return"}); err != nil {
		t.Fatal(err)
	}
	b.attach(1)
	b.duplex()

	if err := b.d.Stop(t.Context(), drivers.HandOver); err != nil {
		t.Fatal(err)
	}
	close(b.done)
	// As the keeper does it, with the device that was stored.
	kept, err := unix.Open(face, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	b.inherit = map[string][]int{name + "-face": {kept}}
	b.start()
	check(3)
	b.duplex()

	// The keeper is gone as well, and nobody has kept anything.
	if err := b.d.Stop(t.Context(), drivers.HandOver); err != nil {
		t.Fatal(err)
	}
	close(b.done)
	b.inherit = nil
	b.start()
	check(4)
	b.duplex()
	if kind := b.d.Status().Stats["frontend"]; kind != name {
		t.Errorf("the frontend is %v", kind)
	}
	f.Close()
	b.stop()
	nbds, _ := filepath.Glob("/sys/block/nbd*/backend")
	ublks, _ := filepath.Glob("/sys/block/ublkb*")
	if left := append(nbds, ublks...); len(left) > 0 {
		t.Errorf("the device is still there: %v", left)
	}
}

// The kernel's best frontend is taken when a face is made, and not before: a face that there
// is stays what it is when its driver is replaced, and so does the noted choice.
func TestAutoKeepsTheFaceThatThereIs(t *testing.T) {
	if !kerneltest.InGuest() {
		t.Skip("TestKernelFrontends runs this in a guest that has the drivers")
	}
	const module = "ublk_drv"
	if err := unix.DeleteModule(module, 0); err != nil {
		t.Fatal(err)
	}
	b := newBox(t, 64<<20)
	opt, _ := json.Marshal(Options{LegTimeout: guestLegTimeout})
	b.cfg.Options = opt
	b.start()
	b.attach(1)
	b.duplex()
	is := func(want string) {
		t.Helper()
		st := b.d.Status()
		if st.Stats["frontend"] != want {
			t.Fatalf("the face is %v (%v), not %s", st.Stats["frontend"], st.Stats["frontend_why"], want)
		}
	}
	is(frontendFUSE)
	if why := b.d.Status().Stats["frontend_why"]; !strings.Contains(fmt.Sprint(why), "modprobe ublk_drv") {
		t.Errorf("why it is not ublk is not said: %v", why)
	}
	ko, err := os.Open("/usr/lib/modules/" + module + ".ko")
	if err != nil {
		t.Fatal(err)
	}
	defer ko.Close()
	if err := unix.FinitModule(int(ko.Fd()), "", 0); err != nil {
		t.Fatal(err)
	}
	replace := func() {
		t.Helper()
		kept := map[string][]int{}
		for name, fds := range b.d.(*driver).face.Descriptors() {
			for _, fd := range fds {
				fd, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
				if err != nil {
					t.Fatal(err)
				}
				kept[name] = append(kept[name], fd)
			}
		}
		if err := b.d.Stop(t.Context(), drivers.HandOver); err != nil {
			t.Fatal(err)
		}
		close(b.done)
		b.inherit = kept
		b.start()
		b.duplex()
	}
	replace()
	is(frontendFUSE)
	b.stop()
	b.inherit = nil
	b.start()
	is(frontendUblk)
	opt, _ = json.Marshal(Options{Frontend: frontendNBD, LegTimeout: guestLegTimeout})
	b.cfg.Options = opt
	replace()
	is(frontendUblk)
	b.stop()
	b.inherit = nil
	b.start()
	is(frontendNBD)
}
