package port

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ft/chipset/lockstep"
)

// patience bounds every wait: it is for loaded machines.
const patience = time.Minute

// ends makes a port and both of its ends, in this one process.
func ends(t testing.TB) (*Chipset, *Module) {
	t.Helper()
	c, err := New([]byte("settings"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Release)
	return c, moduleOf(t, c)
}

func moduleOf(t testing.TB, c *Chipset) *Module {
	t.Helper()
	memfd, bell := c.Descriptors()
	m, err := Open(memfd, bell)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(m.mem) })
	return m
}

// pattern is a message of n bytes that is like no other.
func pattern(i, n int) []byte {
	b := make([]byte, n)
	for k := range b {
		b[k] = byte(i*31 + k*7 + k>>8)
	}
	return b
}

func receive(t testing.TB, c *Chipset, want []byte) {
	t.Helper()
	got, err := c.Receive(nil)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("received %d bytes, %v; want %d", len(got), err, len(want))
	}
}

func TestMessagesOfAllSizesGoAroundTheRings(t *testing.T) {
	c, m := ends(t)
	if got, err := m.Config(); err != nil || string(got) != "settings" {
		t.Fatalf("the module's settings: %q, %v", got, err)
	}
	r := rand.New(rand.NewPCG(1, 1))
	for i := range 60 {
		n := r.IntN(100)
		if i%3 == 0 {
			n = lockstep.MessageMax - r.IntN(20)
		}
		want := pattern(i, n)
		if err := c.Send(want[:n/3], want[n/3:]); err != nil {
			t.Fatal(err)
		}
		got, err := m.Receive()
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("message %d of %d bytes came as %d bytes, %v", i, n, len(got), err)
		}
		if err := m.Send(got, true); err != nil {
			t.Fatal(err)
		}
		receive(t, c, want)
	}
	if err := c.Send(make([]byte, lockstep.MessageMax), []byte{1}); err == nil {
		t.Error("a message above the bound was sent")
	}
}

func TestAFullRingTakesNothingAndLosesNothing(t *testing.T) {
	c, m := ends(t)
	sent := 0
	for ; ; sent++ {
		err := c.Send(pattern(sent, 1000), nil)
		if errors.Is(err, ErrFull) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if want := RingBytes / int(space(1000)); sent != want {
		t.Errorf("%d messages of 1000 bytes fit, want %d", sent, want)
	}
	for i := range sent {
		if got, err := m.Receive(); err != nil || !bytes.Equal(got, pattern(i, 1000)) {
			t.Fatalf("message %d: %v", i, err)
		}
	}
	if err := c.Send(nil, nil); err != nil {
		t.Errorf("a ring that was emptied takes nothing: %v", err)
	}
}

func TestAModuleWaitsForRoom(t *testing.T) {
	c, m := ends(t)
	const n = 40 // a MiB each
	done := make(chan error, 1)
	go func() {
		for i := range n {
			if err := m.Send(pattern(i, 1<<20), false); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for i := range n {
		receive(t, c, pattern(i, 1<<20))
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// Both sides sleep and are woken at any moment: one message more or less in flight, pauses
// of any length, also where the sleeper looks for the last time.
func TestNoWakeUpIsLost(t *testing.T) {
	c, m := ends(t)
	rounds := 100_000
	if testing.Short() {
		rounds = 10_000
	}
	failed := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		r := rand.New(rand.NewPCG(1, 2))
		for {
			message, err := m.Receive()
			if err != nil {
				failed <- err
				return
			}
			for range r.IntN(200) {
				runtime.KeepAlive(message)
			}
			if err := m.Send(message, r.IntN(2) == 0); err != nil || len(message) == 0 {
				failed <- err
				return
			}
		}
	}()
	defer time.AfterFunc(patience, c.Close).Stop() // a wake-up that is lost is an end too early
	r := rand.New(rand.NewPCG(1, 3))
	var b [8]byte
	for sent, got := 0, 0; got < rounds; {
		for ahead := 1 + r.IntN(3); sent < rounds && sent < got+ahead; sent++ {
			if err := c.Send(binary.LittleEndian.AppendUint64(nil, uint64(sent)), nil); err != nil {
				t.Fatal(err)
			}
			for range r.IntN(200) {
				runtime.KeepAlive(b)
			}
		}
		message, err := c.Receive(b[:])
		if err != nil || binary.LittleEndian.Uint64(message) != uint64(got) {
			t.Fatalf("answer %d: %v, %v", got, message, err)
		}
		got++
	}
	if err := c.Send(nil, nil); err != nil {
		t.Fatal(err)
	}
	if err := <-failed; err != nil {
		t.Error(err)
	}
}

func TestCloseEndsAWaitBehindWhatWasSent(t *testing.T) {
	c, m := ends(t)
	ended := make(chan error, 1)
	go func() {
		receiveErr := error(nil)
		for receiveErr == nil {
			_, receiveErr = c.Receive(nil)
		}
		ended <- receiveErr
	}()
	time.AfterFunc(10*time.Millisecond, c.Close)
	if err := <-ended; !errors.Is(err, ErrClosed) {
		t.Errorf("a wait ended by Close: %v", err)
	}
	if err := m.Send([]byte("last words"), true); err != nil {
		t.Fatal(err)
	}
	receive(t, c, []byte("last words"))
	if _, err := c.Receive(nil); !errors.Is(err, ErrClosed) {
		t.Errorf("behind all that was sent: %v", err)
	}
	if err := c.Send([]byte("x"), nil); !errors.Is(err, ErrClosed) {
		t.Errorf("sent through a closed port: %v", err)
	}
}

// A record that is in no hurry is found by who looks, woken or not.
func TestANudgeFindsWhatWasNotAnnounced(t *testing.T) {
	c, m := ends(t)
	for range aheadMin + 1 {
		if err := c.Send([]byte("work"), nil); err != nil {
			t.Fatal(err)
		}
	}
	got := make(chan []byte, 1)
	go func() {
		message, _ := c.Receive(nil)
		got <- message
	}()
	for c.mem.load(offChipsetSleeps)&0xffffffff == awake {
		runtime.Gosched()
	}
	if err := m.Send([]byte("done"), false); err != nil {
		t.Fatal(err)
	}
	if p := c.Progress(); !p.Unread || p.Records != 1 {
		t.Errorf("progress: %+v", p)
	}
	c.Nudge()
	select {
	case message := <-got:
		if string(message) != "done" {
			t.Errorf("received %q", message)
		}
	case <-time.After(patience):
		t.Fatal("a nudge finds nothing")
	}
}

func TestAModuleIsAbandoned(t *testing.T) {
	c, m := ends(t)
	m.SetPatience(60 * time.Millisecond)
	began := time.Now()
	if _, err := m.Receive(); !errors.Is(err, ErrAbandoned) || time.Since(began) < 60*time.Millisecond {
		t.Errorf("after %v without a beat: %v", time.Since(began), err)
	}
	stop := make(chan struct{})
	beats := make(chan struct{})
	go func() { // ten times the module's patience
		defer close(beats)
		for range 100 {
			c.Beat()
			time.Sleep(6 * time.Millisecond)
		}
		_ = c.Send([]byte("at last"), nil)
		for { // a starved test has not abandoned anyone
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
				c.Beat()
			}
		}
	}()
	m.SetPatience(600 * time.Millisecond)
	if got, err := m.Receive(); err != nil || string(got) != "at last" {
		t.Errorf("with beats: %q, %v", got, err)
	}
	close(stop)
	<-beats
}

func TestTheMemorysSizeIsSealed(t *testing.T) {
	c, _ := ends(t)
	memfd, bell := c.Descriptors()
	for _, n := range []int64{0, 4096, size - 1, size + 1} {
		if err := unix.Ftruncate(memfd, n); !errors.Is(err, unix.EPERM) {
			t.Errorf("truncate to %d: %v", n, err)
		}
	}
	if err := CheckSealed("it", memfd, size); err != nil {
		t.Error(err)
	}
	fd, err := unix.MemfdCreate("no port", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	other, err := unix.Dup(bell)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Adopt(fd, other); err == nil {
		t.Error("memory that can shrink was adopted")
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); !errors.Is(err, unix.EBADF) {
		t.Error("a descriptor that was not adopted is still open")
	}
}
