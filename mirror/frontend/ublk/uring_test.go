package ublk

import (
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A thread that waits in a ring as the queue makes it is woken by every signal of a watched
// descriptor, also when nobody has read the ones before; without one it waits to the limit.
func TestRingCountsEachSignal(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	r, err := newRing(ringEntries, ioringSetupRDisabled|ioringSetupSingleIssuer|ioringSetupDeferTaskrun)
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	bell, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(bell)
	if err := r.notify(bell); err != nil {
		t.Fatal(err)
	}
	if err := r.silence(); err != nil {
		t.Fatal(err)
	}
	if err := r.enable(); err != nil {
		t.Fatal(err)
	}
	r.watch(bell, watchBase)
	signalled := func(limit time.Duration) (n int) {
		t.Helper()
		for until := time.Now().Add(limit); n == 0; { // a signal of the runtime's ends a wait too
			left := time.Until(until)
			if err := r.wait(left, false); err != nil {
				t.Fatal(err)
			}
			for e, ok := r.next(); ok; e, ok = r.next() {
				if e.userData != watchBase || e.res < 0 {
					t.Fatalf("completion %+v", e)
				}
				n++
				if e.flags&ioringCqeFMore == 0 {
					r.watch(bell, watchBase)
				}
			}
			if left <= 0 {
				break
			}
		}
		return n
	}
	if n := signalled(5 * time.Millisecond); n != 0 {
		t.Fatalf("%d signals before there was one", n)
	}
	for i := range 3 {
		go func() {
			one := [8]byte{1}
			unix.Write(bell, one[:])
		}()
		if n := signalled(time.Minute); n != 1 {
			t.Fatalf("%d completions for signal %d", n, i)
		}
	}
	if n := signalled(5 * time.Millisecond); n != 0 {
		t.Errorf("%d signals more than there were", n)
	}
}
