package port

import (
	"errors"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"ft/chipset/lockstep"
)

func duplicate(t testing.TB, fd int) int {
	t.Helper()
	d, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// successor adopts a port as a successor does, from descriptors that are its own.
func successor(t testing.TB, c *Chipset) *Chipset {
	t.Helper()
	memfd, bell := c.Descriptors()
	next, err := Adopt(duplicate(t, memfd), duplicate(t, bell))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(next.Release)
	return next
}

func stream(t testing.TB, c *Chipset, from, to uint64, data int) {
	t.Helper()
	for n := from; n <= to; n++ {
		if err := c.Send(command(n, data), nil); err != nil {
			t.Fatal(err)
		}
	}
}

func command(n uint64, data int) []byte {
	c := lockstep.Command{Verb: lockstep.Run, Number: n, A: n * 10, Data: pattern(int(n), data)}
	return c.Append(nil)
}

func wantTail(t testing.TB, c *Chipset, from, first, last uint64) {
	t.Helper()
	got, ok := c.Tail(from)
	if !ok || uint64(len(got)) != last+1-first {
		t.Fatalf("tail from %d: %d commands, %v; want %d to %d", from, len(got), ok, first, last)
	}
	for i, c := range got {
		if n := first + uint64(i); c.Number != n || c.A != n*10 || !slices.Equal(c.Data, pattern(int(n), len(c.Data))) {
			t.Fatalf("tail from %d: command %d is %+v", from, n, c)
		}
	}
}

func noTail(t testing.TB, c *Chipset, from uint64) {
	t.Helper()
	if got, ok := c.Tail(from); ok {
		t.Errorf("tail from %d: %d commands are all, it says", from, len(got))
	}
}

func TestASuccessorFindsWhatWasSent(t *testing.T) {
	c, m := ends(t)
	if got, ok := c.Tail(1); !ok || len(got) != 0 {
		t.Errorf("before anything was sent: %d, %v", len(got), ok)
	}
	stream(t, c, 1, 10, 5)
	for range 4 {
		if _, err := m.Receive(); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Send([]byte("one"), true); err != nil {
		t.Fatal(err)
	}
	if err := m.Send([]byte("two"), true); err != nil {
		t.Fatal(err)
	}
	receive(t, c, []byte("one"))
	next := successor(t, c)
	wantTail(t, next, 7, 7, 10)
	wantTail(t, next, 1, 1, 10)
	if got, ok := next.Tail(11); !ok || len(got) != 0 {
		t.Errorf("from behind the last: %d, %v", len(got), ok)
	}
	if n, ok := next.Last(); !ok || n != 10 {
		t.Errorf("the last is %d, %v", n, ok)
	}
	// Both directions go on where they were.
	receive(t, next, []byte("two"))
	stream(t, next, 11, 12, 5)
	for n := uint64(5); n <= 12; n++ {
		got, err := m.Receive()
		var c lockstep.Command
		if err != nil || c.Decode(got) != nil || c.Number != n {
			t.Fatalf("command %d: %+v, %v", n, c, err)
		}
	}
	wantTail(t, next, 9, 9, 12)
	if p := next.Progress(); p.Sent != 12 || p.Done != 11 {
		t.Errorf("progress: %+v", p)
	}
}

// Commands that are not of the stream lie between those that are.
// A commit is sent whenever an epoch has been agreed on, and so it is often what was sent last.
func TestACommitHasNoNumberInTheStream(t *testing.T) {
	c, _ := ends(t)
	commit := lockstep.Command{Verb: lockstep.Commit, A: 7}
	for n := uint64(1); n <= 3; n++ {
		stream(t, c, n, n, 5)
		if err := c.Send(commit.Append(nil), nil); err != nil {
			t.Fatal(err)
		}
	}
	if n, ok := successor(t, c).Last(); n != 3 || !ok {
		t.Errorf("the last number is %d, %v", n, ok)
	}
	wantTail(t, c, 2, 2, 3)
}

func TestATailIsOfTheStreamAlone(t *testing.T) {
	c, _ := ends(t)
	other := lockstep.Command{Verb: lockstep.Digest, Number: 3}
	stream(t, c, 100, 102, 0)
	for range 2 {
		if err := c.Send(other.Append(nil), nil); err != nil {
			t.Fatal(err)
		}
	}
	stream(t, c, 103, 104, 0)
	if err := c.Send(other.Append(nil), nil); err != nil {
		t.Fatal(err)
	}
	wantTail(t, c, 102, 102, 104)
	if n, ok := c.Last(); !ok || n != 104 {
		t.Errorf("the last is %d, %v", n, ok)
	}
	noTail(t, c, 99) // it came in at 100
}

func TestATailGoesBackAsFarAsTheRing(t *testing.T) {
	c, m := ends(t)
	const data = 64 << 10
	for n := uint64(1); n <= 400; n++ {
		stream(t, c, n, n, data)
		if _, err := m.Receive(); err != nil {
			t.Fatal(err)
		}
	}
	kept := uint64(RingBytes) / space(len(command(1, data)))
	first := 400 - kept + 1
	wantTail(t, c, first, first, 400)
	noTail(t, c, first-1)

	// A chipset that dies in the middle of a message has spoilt what the message was to lie
	// on, and nothing else.
	c.mem.store(offCommandReserve, c.head+space(3*data))
	next := successor(t, c)
	noTail(t, next, first)
	wantTail(t, next, first+4, first+4, 400)
	stream(t, next, 401, 401, 0) // a shorter one in its place does not bring that back
	noTail(t, next, first)
}

func TestATailThatTheModuleHasSpoilt(t *testing.T) {
	c, m := ends(t)
	stream(t, c, 1, 5, 0)
	each := space(len(command(1, 0)))
	m.mem.commands().put(2*each+8, []byte{200}) // no verb
	noTail(t, c, 2)
	m.mem.commands().put(2*each+8, []byte{byte(lockstep.Run), 77}) // another number
	noTail(t, c, 2)
	m.mem.commands().setLength(3*each-8, 1000)
	noTail(t, c, 2)
	wantTail(t, c, 4, 4, 5)
	m.mem.store(offMagic, 1)
	memfd, bell := c.Descriptors()
	if _, err := Adopt(duplicate(t, memfd), duplicate(t, bell)); !errors.Is(err, ErrBroken) {
		t.Errorf("adopted: %v", err)
	}
}
