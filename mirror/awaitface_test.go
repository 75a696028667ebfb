package mirror

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ft/drivers"
	"ft/drivers/kerneltest"
)

// A ublk device that the kernel does not give over, as its process is not gone, is awaited: its
// users see no error unless an admin stops the disk by force. What holds it here is a copy of
// the descriptor that a process which cannot end has not closed.
func TestFaceThatIsHeldIsAwaited(t *testing.T) {
	if !kerneltest.InGuest() {
		t.Skip("TestKernelFrontends runs this in a guest that has the drivers")
	}
	defer func(was time.Duration) { facePatience = was }(facePatience)
	facePatience = 100 * time.Millisecond
	b := newBox(t, 16<<20)
	opt, _ := json.Marshal(Options{Frontend: frontendUblk, LegTimeout: guestLegTimeout})
	b.cfg.Options = opt
	b.start()
	face := filepath.Join(b.cfg.DevDir, "disk0")
	f, err := os.OpenFile(face, os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	target, err := os.Readlink(face)
	if err != nil {
		t.Fatal(err)
	}
	device := filepath.Join("/sys/block", filepath.Base(target))
	write := func() chan error {
		ended := make(chan error, 1)
		go func() {
			_, err := f.WriteAt(alignedBytes(4096), 0)
			ended <- err
		}()
		return ended
	}
	// successor replaces the process while something holds the device.
	successor := func() (held int) {
		t.Helper()
		held = copyOfCharDevice(t)
		if err := b.d.Stop(t.Context(), drivers.HandOver); err != nil {
			t.Fatal(err)
		}
		close(b.done)
		b.start()
		if st := b.d.Status(); !strings.Contains(st.Reason, fmt.Sprintf("held by process %d", os.Getpid())) || st.Face != "" {
			t.Fatalf("that the face is awaited is not said: %+v", st)
		}
		return held
	}

	held := successor()
	ended := write()
	b.attach(1) // the disk is in service otherwise
	b.duplex()
	select {
	case err := <-ended:
		t.Fatalf("a write did not wait for the face: %v", err)
	default:
	}
	unix.Close(held)
	if err := <-ended; err != nil {
		t.Fatalf("a write that waited for the face: %v", err)
	}
	b.wait("the face", func(st drivers.Status) bool { return st.Face != "" && st.Reason == "" })

	held = successor()
	ended = write()
	var refused *drivers.Refused
	if err := b.d.Stop(t.Context(), drivers.Remove); !errors.As(err, &refused) || refused.Code != drivers.RuleBusy {
		t.Fatalf("the disk is stopped while users wait for its face: %v", err)
	}
	go func() {
		for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); unix.Poll(nil, 5) {
			if _, err := os.Stat(device); err != nil {
				break
			}
		}
		unix.Close(held)
	}()
	b.stop()
	if err := <-ended; err == nil {
		t.Error("a write to a face that was discarded succeeded")
	}
	if _, err := os.Stat(device); err == nil {
		t.Errorf("%s is still there", device)
	}
}

// copyOfCharDevice copies this process's descriptor of the device that the requests come by.
func copyOfCharDevice(t *testing.T) int {
	t.Helper()
	fds, _ := filepath.Glob("/proc/self/fd/*")
	for _, fd := range fds {
		if target, _ := os.Readlink(fd); strings.HasPrefix(target, "/dev/ublkc") {
			var n int
			fmt.Sscan(filepath.Base(fd), &n)
			n, err := unix.FcntlInt(uintptr(n), unix.F_DUPFD_CLOEXEC, 3)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("no device of requests is open")
	return -1
}
