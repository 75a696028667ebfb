package mirror

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ft/drivers"
	"ft/drivers/kerneltest"
)

// TestKernelFrontends runs the mirror on the frontends that this machine's kernel lacks.
func TestKernelFrontends(t *testing.T) {
	kerneltest.RunTests(t, kerneltest.Options{
		Modules:  []string{"nbd", "ublk_drv", "loop"},
		Programs: []string{"blkid"},
		Args:     []string{"-test.run=^TestFaceOnOtherFrontends$"},
	}, "ft/mirror")
}

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
	opt, _ := json.Marshal(Options{Frontend: name})
	b.cfg.Options = opt
	b.start()
	b.attach(1)
	b.wait("duplex", func(st drivers.Status) bool { return st.State == drivers.FaceDuplex })
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
	b.wait("duplex", func(st drivers.Status) bool { return st.State == drivers.FaceDuplex })

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
	b.wait("duplex", func(st drivers.Status) bool { return st.State == drivers.FaceDuplex })
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
