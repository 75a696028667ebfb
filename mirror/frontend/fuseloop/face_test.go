package fuseloop

import (
	"bytes"
	"math/rand/v2"
	"os"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

func uintptrOf[T any](p *T) uintptr { return uintptr(unsafe.Pointer(p)) }

func TestDeviceHoldsWhatIsWritten(t *testing.T) {
	r := start(t, geometry(t, 64<<20, 512), Options{}, atOnce)
	dev := openDevice(t, r.Device(), unix.O_DIRECT)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	want := make([]byte, 64<<20)
	for range 200 {
		n := 512 << rng.IntN(13)
		off := rng.Int64N(int64(len(want)-n)/512+1) * 512
		b := page(t, max(n, 4096))[:n]
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		if _, err := dev.WriteAt(b, off); err != nil {
			t.Fatalf("write %d at %d: %v", n, off, err)
		}
		copy(want[off:], b)
	}
	got := page(t, len(want))
	if _, err := dev.ReadAt(got, 0); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) || !bytes.Equal(r.disk.mem, want) {
		t.Error("what is read is not what was written")
	}
	_ = os.Remove
}
