package backplane

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ft/chipset/lockstep"
)

const copyBytes = 32 << 20

func pair(t *testing.T) (dst, src *rig) {
	t.Helper()
	inbox := NewInbox()
	src = start(t, Config{Side: 0, CPU: -1, MemoryBytes: copyBytes, Inbox: inbox})
	dst = start(t, Config{Side: 1, CPU: -1, MemoryBytes: copyBytes, Inbox: inbox})
	return dst, src
}

// blocks is the memory that a module really has.
func blocks(t *testing.T, m *rig) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(m.ramfd, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

func TestAMemoryIsCopied(t *testing.T) {
	dst, src := pair(t)
	for _, at := range []int{0, 5000, 3<<20 + 17, copyBytes - 1} {
		src.RAM()[at] = byte(at) | 1
	}
	for i := 10 << 20; i < 13<<20; i++ {
		src.RAM()[i] = byte(i * 7 >> 3)
	}
	dst.RAM()[20<<20] = 99 // from an earlier life
	last, calls := int64(0), 0
	err := CopyAll(t.Context(), dst.Module, src.Module, Rate{Progress: func(done, total int64) {
		if done < last || done > total || total != copyBytes {
			t.Errorf("progress from %d to %d of %d", last, done, total)
		}
		last = done
	}, Yield: func() { calls++ }})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(dst.RAM(), src.RAM()) {
		t.Error("the memories differ")
	}
	if last != copyBytes || calls < 5 {
		t.Errorf("copied up to %d in %d steps", last, calls)
	}
	// The module has the same memory.
	dst.send(lockstep.Command{Verb: lockstep.Load, Number: 1, A: copyBytes - 1})
	if d := dst.next(); d.Record == nil || d.Record.State != uint64(src.RAM()[copyBytes-1]) {
		t.Errorf("the module does not see it: %+v", d)
	}
}

func TestHolesAreNotCopied(t *testing.T) {
	dst, src := pair(t)
	src.RAM()[0], src.RAM()[30<<20] = 1, 1
	has := blocks(t, src)
	if has >= copyBytes/2 {
		t.Fatalf("two pages of %d MiB were written, and the memory has %d KiB: there are no holes to be left", copyBytes>>20, has>>10)
	}
	if err := CopyAll(t.Context(), dst.Module, src.Module, Rate{}); err != nil {
		t.Fatal(err)
	}
	if got := blocks(t, dst); got > has {
		t.Errorf("the copy has %d KiB of memory, the original %d", got>>10, has>>10)
	}
}

func TestACopyAtARate(t *testing.T) {
	dst, src := pair(t)
	for at := 0; at < copyBytes; at += 4096 {
		src.RAM()[at] = 1
	}
	began := time.Now()
	if err := CopyAll(t.Context(), dst.Module, src.Module, Rate{BytesPerSecond: 10 * copyBytes}); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < 100*time.Millisecond {
		t.Errorf("copied in %v, at ten times a second", took)
	}
	ctx, cancel := context.WithCancel(t.Context())
	steps := 0
	err := CopyAll(ctx, dst.Module, src.Module, Rate{BytesPerSecond: 1 << 20, Yield: func() { steps++; cancel() }})
	if !errors.Is(err, context.Canceled) || steps != 1 {
		t.Errorf("cancelled at the first of %d steps: %v", steps, err)
	}
}

func TestPagesAreCopied(t *testing.T) {
	dst, src := pair(t)
	for i := range src.RAM() {
		src.RAM()[i] = byte(i>>12) ^ byte(i)
	}
	var pages []uint32
	for p := uint32(1); p < 2000; p += 3 {
		pages = append(pages, p)
	}
	pages = append(pages, copyBytes/pageSize-1)
	if err := FaultIn(dst.Module, pages); err != nil {
		t.Fatal(err)
	}
	yields := 0
	if err := CopyPages(dst.Module, src.Module, pages, func() { yields++ }); err != nil {
		t.Fatal(err)
	}
	zero := make([]byte, pageSize)
	for p, i := uint32(0), 0; p < copyBytes/pageSize; p++ {
		want := zero
		if i < len(pages) && pages[i] == p {
			want, i = src.RAM()[int(p)*pageSize:int(p+1)*pageSize], i+1
		}
		if !bytes.Equal(dst.RAM()[int(p)*pageSize:int(p+1)*pageSize], want) {
			t.Fatalf("page %d is wrong", p)
		}
	}
	if want := (len(pages) - 1) / chunkPages; yields != want {
		t.Errorf("yielded %d times, want %d", yields, want)
	}
	for _, bad := range []uint32{copyBytes / pageSize, 1 << 31, 1<<32 - 1} {
		if CopyPages(dst.Module, src.Module, []uint32{bad}, nil) == nil || FaultIn(dst.Module, []uint32{bad}) == nil {
			t.Errorf("page %d was copied", bad)
		}
	}
	if CopyPages(dst.Module, start(t, Config{CPU: -1}).Module, pages, nil) == nil {
		t.Error("a smaller memory was copied")
	}
}
