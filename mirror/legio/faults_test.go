package legio

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"ft/drivers"
)

func fault(words string) drivers.Fault {
	f := strings.Fields(words)
	return drivers.Fault{Name: f[0], Args: f[1:]}
}

func inject(t *testing.T, leg *Leg, words string) {
	t.Helper()
	if err := leg.Inject(fault(words)); err != nil {
		t.Fatalf("inject %s: %v", words, err)
	}
}

func TestFaultErrors(t *testing.T) {
	leg, l := mustOpen(t, sparse(t, 4*mib), OpenOptions{}), newEventLoop(t)
	type outcome map[string]syscall.Errno
	ios := map[string]func() *IO{
		"read 0":     func() *IO { return read(0, 4096) },
		"read 8192":  func() *IO { return read(8192, 4096) },
		"write 0":    func() *IO { return write(0, 4096, 1) },
		"write 8192": func() *IO { return write(8192, 4096, 1) },
		"zero":       func() *IO { return &IO{Op: Zero, Len: mib} },
		"flush":      func() *IO { return &IO{Op: Flush} },
	}
	const eio = syscall.EIO
	for _, c := range []struct {
		fault string
		want  outcome
	}{
		{"read-error", outcome{"read 0": eio, "read 8192": eio}},
		{"read-error 0x2000 1", outcome{"read 8192": eio}},
		{"write-error", outcome{"write 0": eio, "write 8192": eio, "zero": eio, "flush": eio}},
		{"write-error 4096 4096", outcome{"zero": eio}},
		{"vanish", outcome{"read 0": syscall.ENODEV, "read 8192": syscall.ENODEV, "write 0": syscall.ENODEV, "write 8192": syscall.ENODEV, "zero": syscall.ENODEV, "flush": syscall.ENODEV}},
		{"clear", nil},
	} {
		inject(t, leg, c.fault)
		for name, io := range ios {
			if e := l.one(leg, io()); e != c.want[name] {
				t.Errorf("%s: %s gives %v, want %v", c.fault, name, e, c.want[name])
			}
		}
		if got, want := leg.Gone(), c.fault == "vanish"; got != want {
			t.Errorf("%s: Gone is %v", c.fault, got)
		}
		if a := leg.faults.Active(); c.fault != "clear" && a != strings.Replace(c.fault, "0x2000", "8192", 1) || c.fault == "clear" && a != "" {
			t.Errorf("%s: active is %q", c.fault, a)
		}
		inject(t, leg, "clear")
	}
}

func TestFaultCorrupt(t *testing.T) {
	leg, l := mustOpen(t, sparse(t, mib), OpenOptions{}), newEventLoop(t)
	differ := func() (n int) {
		io := read(0, 8192)
		if e := l.one(leg, io); e != 0 {
			t.Fatal(e)
		}
		for _, b := range io.Buf {
			if b != 9 {
				n++
			}
		}
		return n
	}
	inject(t, leg, "corrupt")
	io := write(0, 8192, 9)
	if e := l.one(leg, io); e != 0 {
		t.Fatal(e)
	}
	if !filled(io, 9) {
		t.Error("the caller's buffer was changed: the other leg would be corrupted too")
	}
	if n := differ(); n != 1 {
		t.Errorf("%d bytes differ after a corrupted write, want 1", n)
	}
	if e := l.one(leg, write(0, 8192, 9)); e != 0 || differ() != 0 {
		t.Errorf("the write after the corrupted one is corrupt too (%v)", e)
	}
	inject(t, leg, "corrupt 5000")
	stored := read(4096, 4096)
	if e := l.one(leg, stored); e != 0 || stored.Buf[5000-4096] != 9^1 || differ() != 1 {
		t.Errorf("corrupt 5000 did not flip one bit of that byte (%v)", e)
	}
}

func TestFaultSlow(t *testing.T) {
	leg, l := mustOpen(t, sparse(t, mib), OpenOptions{}), newEventLoop(t)
	inject(t, leg, "slow 50")
	begun := time.Now()
	for _, io := range []*IO{write(0, 4096, 1), read(0, 4096), {Op: Flush}, {Op: Zero, Len: 4096}} {
		if e := l.one(leg, io); e != 0 {
			t.Fatal(e)
		}
	}
	if d := time.Since(begun); d < 200*time.Millisecond {
		t.Errorf("four IOs took %v, want 50 ms each", d)
	}
	inject(t, leg, "slow 600000")
	ended := l.start(leg, write(0, 4096, 1))
	waitFor(t, "the write to be kept", func() bool { return held(leg.faults) == 1 })
	inject(t, leg, "clear")
	if io := wait(t, ended); io.Err != 0 {
		t.Errorf("what was slow when that was cleared: %v", io.Err)
	}
}

func held(f *Faults) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.held)
}

func TestFaultHang(t *testing.T) {
	leg, l := mustOpen(t, sparse(t, mib), OpenOptions{}), newEventLoop(t)
	leg.deadline = 50 * time.Millisecond // of the read that hangs; opening may take its time
	inject(t, leg, "slow 600000")        // under way when the hang begins
	ended := l.start(leg, write(0, 4096, 1))
	waitFor(t, "the write to be kept", func() bool { return held(leg.faults) == 1 })
	inject(t, leg, "hang")
	more := l.start(leg, write(4096, 4096, 2), &IO{Op: Flush}, &IO{Op: Zero, Off: 8192, Len: 4096})
	waitFor(t, "everything to be kept", func() bool { return held(leg.faults) == 4 })
	if _, err := leg.ReadAt(make([]byte, 1), 0); !Hung(err) {
		t.Errorf("a synchronous read: %v, want that it gave no answer", err)
	}
	if leg.Quiet() || len(ended)+len(more) != 0 {
		t.Error("something ended while the leg hung")
	}
	inject(t, leg, "clear")
	wait(t, ended)
	for range 3 {
		if io := wait(t, more); io.Err != 0 {
			t.Errorf("%v after the hang: %v", io.Op, io.Err)
		}
	}
	io := read(4096, 4096)
	if e := l.one(leg, io); e != 0 || !filled(io, 2) {
		t.Errorf("what was written during the hang is not there (%v)", e)
	}
	inject(t, leg, "hang")
	ended = l.start(leg, write(0, 4096, 1))
	waitFor(t, "the write to be kept", func() bool { return held(leg.faults) == 1 })
	inject(t, leg, "vanish")
	if io := wait(t, ended); io.Err != syscall.ENODEV {
		t.Errorf("what hung when the leg vanished: %v, want ENODEV", io.Err)
	}
}

// A fault belongs to the slot: it holds when the leg is opened again.
func TestFaultsOutliveTheLeg(t *testing.T) {
	path, o := sparse(t, mib), OpenOptions{Faults: NewFaults()}
	leg := mustOpen(t, path, o)
	inject(t, leg, "vanish")
	closeFor(t, leg)
	if _, err := Open(path, o); !Absent(err) {
		t.Errorf("opening a vanished leg: %v, want absent", err)
	}
	for _, f := range []string{"return", "hang"} {
		if err := o.Faults.Inject(fault(f)); err != nil {
			t.Fatal(err)
		}
	}
	short := o
	short.Deadline = 50 * time.Millisecond
	if _, err := Open(path, short); !Hung(err) {
		t.Errorf("opening a hung leg: %v, want hung", err)
	}
	if err := o.Faults.Inject(fault("corrupt 0")); err == nil {
		t.Error("a stored byte was corrupted without an open leg")
	}
	for _, f := range []string{"clear", "read-error 0 4096"} {
		if err := o.Faults.Inject(fault(f)); err != nil {
			t.Fatal(err)
		}
	}
	leg = mustOpen(t, path, o)
	if _, err := leg.ReadAt(make([]byte, 4), 0); !errors.Is(err, syscall.EIO) {
		t.Errorf("a read of the leg opened again: %v, want EIO", err)
	}
}

// closeFor closes a leg and waits until the device is let go, leaving faults set.
func closeFor(t *testing.T, leg *Leg) {
	t.Helper()
	leg.Close()
	select {
	case <-leg.Closed():
	case <-time.After(testPatient):
		t.Fatal("the leg was not let go")
	}
}

func TestBadFaultsAreRefused(t *testing.T) {
	leg := mustOpen(t, sparse(t, mib), OpenOptions{})
	for words, want := range map[string]string{
		"explode":             "no fault \"explode\" on a leg; there are:\nread-error",
		"slow":                "usage: slow MS",
		"slow 0":              "not within 1 to",
		"slow 999999999":      "not within 1 to",
		"slow fast":           "\"fast\" is no number",
		"hang 3":              "usage: hang",
		"read-error 5":        "does not take 1 arguments",
		"read-error -1 4":     "\"-1\" is no number",
		"write-error 0 0":     "is empty",
		"corrupt 99999999999": "has only 1048576 bytes",
	} {
		err := leg.Inject(fault(words))
		if usage := (*UsageError)(nil); !errors.As(err, &usage) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want a usage error with %q", words, err, want)
		}
	}
	if a := leg.faults.Active(); a != "" {
		t.Errorf("refused faults are active: %s", a)
	}
	if _, err := os.Stat(leg.Path); err != nil {
		t.Error(err)
	}
}
