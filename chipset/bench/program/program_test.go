package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What integers come to is the same on all architectures. (Floating point is not: additions
// of products are fused where the processor can.)
func TestChecksums(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(int) uint64
		want uint64
	}{
		{"integer", integer, 0xa59a248f964dc92d},
		{"chase", chase, 0xd94d12186c0f2fb7},
		{"stream", stream, 0xd3c59b2ffc32c476},
	} {
		if got := c.do(3); got != c.want {
			t.Errorf("%s: %016x, want %016x", c.name, got, c.want)
		}
	}
}

func TestListIsSorted(t *testing.T) {
	w := newMix()
	w.head = sortList(reverse(w.head), func(a, b *node) bool { return a.data <= b.data })
	n := 1
	for p := w.head; p.next != nil; p = p.next {
		if n++; p.data > p.next.data {
			t.Errorf("%d comes before %d", p.data, p.next.data)
		}
	}
	if n != listLength {
		t.Errorf("%d of %d are left", n, listLength)
	}
	if found := find(w.head, 7); found == nil || found.at != 7 {
		t.Errorf("the node 7 is not found: %+v", found)
	}
	if find(w.head, listLength) != nil {
		t.Error("a node that is not there is found")
	}
}

func TestNumbersAreRead(t *testing.T) {
	for text, want := range map[string]int{
		"": start, "-": sign, "512": whole, "-.5": fraction, "3.": fraction, "1e": exponentMark, "1.5e-": exponentSign,
		"+4.5E12": exponent, "x": invalid, "1e--": invalid, "--1": invalid, "T5": invalid,
	} {
		var ends, moves [stateCount]uint16
		readNumbers([]byte(text), &ends, &moves)
		if ends[want] != 1 {
			t.Errorf("%q ends in %v, want state %d", text, ends, want)
		}
	}
}

// TestCRC is CRC-16/ARC, whose check value is that of the digits 1 to 9; two at a time, of
// an even number of them.
func TestCRC(t *testing.T) {
	crc := uint16(0)
	for i := 0; i < 8; i += 2 {
		crc = crc16(crc, uint16('1'+i)|uint16('2'+i)<<8)
	}
	for bit := range 8 { // and the ninth
		low := (crc ^ '9'>>bit) & 1
		if crc >>= 1; low != 0 {
			crc ^= 0xa001
		}
	}
	if crc != 0xbb3d {
		t.Errorf("%04x", crc)
	}
}

func disks(t *testing.T, format string, args ...any) string {
	t.Helper()
	sum, err := disk(strings.Fields(fmt.Sprintf(format, args...)))
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

// Every block that is written is found, and one that has changed since is noticed.
func TestDiskIsRead(t *testing.T) {
	dir, err := os.MkdirTemp("/var/tmp", "bench-") // direct I/O wants a real file system
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "disk")
	const size = 4 << 20
	if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, shape := range []string{"4096 1 1024", "4096 16 700", "131072 4 32"} {
		written := disks(t, "write %s %s 5", path, shape)
		if read := disks(t, "read %s %s 5", path, shape); read != written {
			t.Errorf("%s: %s was written, %s read", shape, written, read)
		}
	}
	whole := disks(t, "read %s 4096 4 1024 5", path)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{1, 2, 3, 4, 5, 6, 7, 8}, 512*1001); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if damaged := disks(t, "read %s 4096 4 1024 5", path); damaged == whole {
		t.Error("a sector that has changed is not noticed")
	}
	if _, err := disk(strings.Fields("read " + path + " 4096 1 1025 5")); err == nil {
		t.Error("more blocks than there are were read")
	}
}

func TestBlocksAreTakenOnce(t *testing.T) {
	for _, blocks := range []int64{1, 2, 30, 1000, 1024} {
		d := diskWork{size: 4096, blocks: blocks}
		seen := map[int64]bool{}
		for i := range blocks {
			seen[d.place(i)] = true
		}
		if int64(len(seen)) != blocks {
			t.Errorf("of %d blocks %d are taken", blocks, len(seen))
		}
	}
}

func TestStreamsArrive(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	const bytes = 1_000_000
	peer := func(do func(net.Conn) int) chan int {
		moved := make(chan int, 1)
		go func() {
			c, err := l.Accept()
			if err != nil {
				moved <- -1
				return
			}
			defer c.Close()
			moved <- do(c)
		}()
		return moved
	}
	args := []string{l.Addr().String(), fmt.Sprint(bytes)}
	took := peer(func(c net.Conn) (n int) {
		for buf := make([]byte, 4096); ; {
			got, err := c.Read(buf)
			if n += got; err != nil {
				return n
			}
		}
	})
	if _, err := send(args); err != nil || <-took != bytes {
		t.Errorf("send: %v", err)
	}
	for _, given := range []int{bytes, bytes - 1} {
		gave := peer(func(c net.Conn) int { n, _ := c.Write(make([]byte, given)); return n })
		if _, err := receive(args); <-gave != given || (err == nil) != (given == bytes) {
			t.Errorf("receive %d of %d bytes: %v", given, bytes, err)
		}
	}
}

// Work in the background goes on until it is told to cease, and no two of them.
func TestWorkInTheBackground(t *testing.T) {
	for _, what := range []string{"integer", "stream"} {
		if got := answer("begin", []string{what}); got != "end begin" {
			t.Fatal(got)
		}
		if got := answer("begin", []string{what}); !strings.HasPrefix(got, "failed begin: ") {
			t.Error(got)
		}
		if got := answer("cease", nil); !strings.HasPrefix(got, "end cease ") {
			t.Error(got)
		}
	}
	for _, wrong := range [][]string{{"cease"}, {"begin"}, {"begin", "nothing"}, {"panic"}} {
		if got := answer(wrong[0], wrong[1:]); !strings.HasPrefix(got, "failed "+wrong[0]+": ") {
			t.Errorf("%v: %s", wrong, got)
		}
	}
}

func TestAvailableMemory(t *testing.T) {
	got, err := available([]byte("MemTotal:         251000 kB\nMemFree:           1000 kB\nMemAvailable:     200000 kB\n"))
	if got != 200000<<10 || err != nil {
		t.Errorf("%d, %v", got, err)
	}
	if _, err := available([]byte("MemTotal: 1 kB\n")); err == nil {
		t.Error("none is enough")
	}
}
