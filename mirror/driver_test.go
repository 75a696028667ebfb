package mirror

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ft/drivers"
)

// box is one disk run by the real driver in this process, on legs that are files.
type box struct {
	t    *testing.T
	d    drivers.Driver
	cfg  drivers.Config
	done chan struct{}
	// inherit is what a predecessor left; the driver then adopts.
	inherit map[string][]int
}

func newBox(t *testing.T, bytes int64) *box {
	if os.Getuid() != 0 {
		t.Fatal("loop and FUSE devices need root")
	}
	dir := t.TempDir()
	b := &box{t: t}
	opt, _ := json.Marshal(Options{LegTimeout: 5 * time.Second})
	b.cfg = drivers.Config{Kind: Kind, Name: "disk0", RunDir: dir, StateDir: filepath.Join(dir, "state"), DevDir: filepath.Join(dir, "dev"), Drills: true, Options: opt}
	for _, p := range []string{"drivers", "state"} {
		if err := os.Mkdir(filepath.Join(dir, p), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for i := range b.cfg.Sides {
		p := filepath.Join(dir, []string{"leg0", "leg1"}[i])
		if err := os.WriteFile(p, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(p, bytes); err != nil {
			t.Fatal(err)
		}
		b.cfg.Sides[i].Resource.Path = p
	}
	t.Cleanup(b.stop)
	return b
}

func (b *box) start() {
	b.t.Helper()
	env := drivers.Env{Log: slog.New(slog.NewTextHandler(b.t.Output(), nil)), Predecessor: -1, Inherited: b.inherit,
		Store: func(string, ...int) error { return nil }, Unstore: func(string) {}, Text: func(string) {},
		Fatal: func(err error) { panic(err) }}
	d, err := New(b.cfg, env)
	if err != nil {
		b.t.Fatal(err)
	}
	done := make(chan struct{})
	b.d, b.done = d, done
	go func() {
		for {
			select {
			case ev := <-d.Events():
				b.t.Logf("event %d %s %d: %s -> %s %s %v", ev.Seq, ev.Kind, ev.Side, ev.From, ev.To, ev.Reason, ev.Detail)
			case <-done:
				return
			}
		}
	}()
	mode := drivers.Fresh
	if len(b.inherit) > 0 {
		mode = drivers.Adopt
	}
	if err := d.Start(context.Background(), mode); err != nil {
		b.t.Fatal(err)
	}
}

func (b *box) stop() {
	if b.d == nil {
		return
	}
	if err := b.d.Stop(context.Background(), drivers.RemoveForce); err != nil {
		b.t.Errorf("stop: %v", err)
	}
	close(b.done)
	b.d = nil
}

func (b *box) attach(s drivers.Side) {
	b.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		err := b.d.Attach(context.Background(), s, drivers.Resource{})
		var ref *drivers.Refused
		if errors.As(err, &ref) && ref.Code == drivers.RuleBusy && time.Now().Before(deadline) {
			b.wait("drained", func(st drivers.Status) bool { return !st.Sides[s].Draining })
			continue
		}
		if err != nil {
			b.t.Fatal(err)
		}
		return
	}
}

func (b *box) wait(what string, ok func(drivers.Status) bool) {
	b.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; {
		st := b.d.Status()
		if ok(st) {
			return
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("waiting for %s: %+v", what, st)
		}
		unix.Poll(nil, 5)
	}
}

func (b *box) duplex() {
	b.t.Helper()
	b.wait("duplex", func(st drivers.Status) bool { return st.State == drivers.FaceDuplex })
}

// equal compares the data of the legs' files, which must be out of service.
func (b *box) equal(n int64) {
	b.t.Helper()
	var f [2]*os.File
	for i := range f {
		var err error
		if f[i], err = os.Open(b.cfg.Sides[i].Resource.Path); err != nil {
			b.t.Fatal(err)
		}
		defer f[i].Close()
	}
	x, y := make([]byte, 1<<20), make([]byte, 1<<20)
	for off := int64(0); off < n; off += 1 << 20 {
		k := min(1<<20, n-off)
		f[0].ReadAt(x[:k], off)
		f[1].ReadAt(y[:k], off)
		if !bytes.Equal(x[:k], y[:k]) {
			b.t.Fatalf("the legs differ in the MiB at %d", off)
		}
	}
}

func (b *box) face() *os.File {
	b.t.Helper()
	f, err := os.OpenFile(filepath.Join(b.cfg.DevDir, "disk0"), os.O_RDWR, 0)
	if err != nil {
		b.t.Fatal(err)
	}
	return f
}

func TestDiskOnRealLegs(t *testing.T) {
	b := newBox(t, 64<<20)
	b.start()
	b.attach(1)
	b.duplex()
	f := b.face()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil || size < 63<<20 {
		t.Fatalf("the face has %d bytes: %v", size, err)
	}
	write := func(c byte, off int64) {
		t.Helper()
		if _, err := f.WriteAt(bytes.Repeat([]byte{c}, 1<<20), off); err != nil {
			t.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	write(1, 0)
	if err := b.d.Inject(context.Background(), 1, drivers.Fault{Name: "write-error"}); err != nil {
		t.Fatal(err)
	}
	write(2, 4<<20)
	b.wait("leg 1 is cut off", func(st drivers.Status) bool { return st.Sides[1].State == drivers.Shot })
	write(3, 8<<20)
	if err := b.d.Inject(context.Background(), 1, drivers.Fault{Name: "clear"}); err != nil {
		t.Fatal(err)
	}
	b.attach(1)
	b.duplex()
	if err := b.d.Inject(context.Background(), 0, drivers.Fault{Name: "hang"}); err != nil {
		t.Fatal(err)
	}
	write(4, 12<<20)
	b.wait("leg 0 is cut off", func(st drivers.Status) bool { return st.Sides[0].State == drivers.Shot })
	if err := b.d.Inject(context.Background(), 0, drivers.Fault{Name: "clear"}); err != nil {
		t.Fatal(err)
	}
	b.attach(0)
	b.duplex()
	got := make([]byte, 1<<20)
	for c, off := range map[byte]int64{1: 0, 2: 4 << 20, 3: 8 << 20, 4: 12 << 20} {
		if _, err := f.ReadAt(got, off); err != nil || got[0] != c || got[1<<20-1] != c {
			t.Errorf("at %d: %d, %v; %d was written", off, got[0], err, c)
		}
	}
	f.Close()
	b.stop()
	b.equal(size)
	b.start()
	b.attach(1)
	b.duplex()
}
