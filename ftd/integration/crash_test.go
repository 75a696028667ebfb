package integration_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The keeper restarts a driver at once when it had served healthily for 5 s; one that
// dies earlier is delayed, more and more. So each life here is a healthy one.
const (
	driverKills = 20
	healthyLife = 5 * time.Second
)

// duplexBox is a box in duplex on two plain loop devices, with ext4 and a load on it.
func duplexBox(t *testing.T) (b *box, files [2]string, dir string, l *load) {
	t.Helper()
	var devs [2]string
	for i := range devs {
		devs[i], files[i] = legLoop(t, legBytes)
	}
	b = newBox(t, devs[0], devs[1])
	b.start()
	b.wait("disk0", "duplex")
	b.mkfs()
	dir = b.mount()
	return b, files, dir, b.fio(dir)
}

func TestDriverIsKilledUnderLoad(t *testing.T) {
	t.Parallel()
	b, files, dir, l := duplexBox(t)
	var slowest time.Duration
	for i := range driverKills {
		await(t, 30*time.Second, "the driver to have served healthily", func() bool {
			p := b.processOf("disk0")
			return p.State == "running" && time.Since(p.Since) > healthyLife
		})
		pid, killed := b.driverPid(), time.Now()
		if i%2 == 0 {
			b.do("inject", "disk0", "crash")
		} else if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		b.awaitSuccessor("disk0", pid)
		slowest = max(slowest, time.Since(killed))
		b.wait("disk0", "duplex")
		b.progress(20)
		l.running()
	}
	t.Logf("killed %d times, the slowest successor was ready after %s", driverKills, slowest)
	backAgain(b, l, dir, files[0], files[1])
}

// A driver that stands still is replaced when its watchdog ends.
func TestStoppedDriverIsReplaced(t *testing.T) {
	t.Parallel()
	b, files, dir, l := duplexBox(t)
	pid := b.driverPid()
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	b.awaitSuccessor("disk0", pid)
	b.progress(20)
	l.running()
	backAgain(b, l, dir, files[0], files[1])
}

func TestFtdAndKeeperAreKilledUnderLoad(t *testing.T) {
	t.Parallel()
	b, files, dir, l := duplexBox(t)
	driver := b.driverPid()

	b.killFtd()
	l.running()
	b.start()
	// Nothing has happened to the disk, and nobody is told otherwise.
	if st := deviceOf(t, b.status(), "disk0").State.String(); st != "duplex" {
		t.Errorf("the next ftd begins with disk0 %s", st)
	}
	b.progress(20)

	keeper := b.keeperPid()
	if err := unix.Kill(keeper, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	await(t, 20*time.Second, "ftd to start another keeper", func() bool {
		for _, pid := range b.processes() {
			if line := commandLine(pid); len(line) > 1 && line[1] == "keeper" && pid != keeper {
				return true
			}
		}
		return false
	})
	await(t, 20*time.Second, "the keeper to know the driver again", func() bool {
		out, code := b.ftctl("--json", "show", "disk0")
		return code == done && strings.Contains(out, `"restored":true`)
	})
	if now := b.driverPid(); now != driver {
		t.Errorf("the driver was replaced (pid %d, now %d) although only ftd and the keeper were killed", driver, now)
	}
	l.running()

	// The new keeper has the face's descriptors: the driver may die now.
	if err := unix.Kill(driver, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	b.awaitSuccessor("disk0", driver)
	b.progress(20)
	l.running()
	backAgain(b, l, dir, files[0], files[1])
}

// `systemctl stop ftd` is no end of the faces, and `systemctl start` finds them.
func TestFacesOutliveFtd(t *testing.T) {
	t.Parallel()
	b, files, dir, l := duplexBox(t)
	driver := b.driverPid()
	_ = b.ftd.Process.Signal(unix.SIGTERM)
	b.awaitFtdGone()
	l.running()
	b.start()
	b.wait("disk0", "duplex")
	if now := b.driverPid(); now != driver {
		t.Errorf("the driver was replaced (pid %d, now %d) by a restart of ftd", driver, now)
	}
	backAgain(b, l, dir, files[0], files[1])
}

// Every process is killed at once in the middle of writes. After the start the legs are
// made equal where they may differ, and there alone; what was acknowledged is there.
func TestAllAreKilledInTheMiddleOfWrites(t *testing.T) {
	t.Parallel()
	dev0, file0 := legLoop(t, legBytes)
	dev1, file1 := legLoop(t, legBytes)
	b := newBox(t, dev0, dev1)
	b.start()
	b.wait("disk0", "duplex")

	w := startWriter(t, b.face())
	w.await(2000)
	b.killAll()
	acknowledged := w.ended()

	b.start()
	b.wait("disk0", "duplex")
	marked := b.stat("resynced_bytes")
	if size := b.stat("size_bytes"); marked == 0 || marked > size/2 {
		t.Errorf("%d bytes were resynced of %d: want the marked extents, not nothing and not the disk", marked, size)
	}
	w.check(b.face(), acknowledged)
	b.equalLegs(file0, file1)
}

// writer is a process that writes numbered blocks to a device, durably, and says each
// number once the write was acknowledged.
type writer struct {
	t    *testing.T
	cmd  *exec.Cmd
	out  io.ReadCloser
	last map[int64]uint64 // slot → number of the last write acknowledged
	n    int
	scan *bufio.Scanner
}

const (
	writerEnv   = "FT_INTEGRATION_WRITER"
	writerSlots = 512
	writerBlock = 4096
)

// startWriter runs this test binary as a writer (TestWriterProcess).
func startWriter(t *testing.T, device string) *writer {
	t.Helper()
	w := &writer{t: t, last: map[int64]uint64{}}
	w.cmd = exec.Command(os.Args[0], "-test.run=^TestWriterProcess$")
	w.cmd.Env = append(os.Environ(), writerEnv+"="+device)
	w.cmd.Stderr = os.Stderr
	var err error
	if w.out, err = w.cmd.StdoutPipe(); err != nil {
		t.Fatal(err)
	}
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.cmd.Process.Kill() })
	w.scan = bufio.NewScanner(w.out)
	return w
}

// await reads until n writes were acknowledged.
func (w *writer) await(n int) {
	w.t.Helper()
	for w.n < n && w.scan.Scan() {
		w.note()
	}
	if w.n < n {
		w.t.Fatalf("the writer ended after %d writes", w.n)
	}
}

func (w *writer) note() {
	var slot int64
	var number uint64
	if _, err := fmt.Sscanf(w.scan.Text(), "%d %d", &slot, &number); err == nil {
		w.last[slot] = number
		w.n++
	}
}

// ended reads what was acknowledged before the device died under the writer.
func (w *writer) ended() map[int64]uint64 {
	w.t.Helper()
	for w.scan.Scan() {
		w.note()
	}
	_ = w.cmd.Wait() // with an error: its device died
	return w.last
}

// check reads each slot: it has the last acknowledged write, or the one after it, which
// was under way, whole.
func (w *writer) check(device string, acknowledged map[int64]uint64) {
	w.t.Helper()
	f, err := os.OpenFile(device, os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		w.t.Fatal(err)
	}
	defer f.Close()
	buf := aligned(w.t)
	for slot, number := range acknowledged {
		if _, err := f.ReadAt(buf, slot*writerBlock); err != nil {
			w.t.Fatal(err)
		}
		got := binary.LittleEndian.Uint64(buf)
		if got < number || !bytes.Equal(buf, filled(w.t, got)) {
			w.t.Errorf("slot %d has write %d (whole: %v), write %d was acknowledged", slot, got, bytes.Equal(buf, filled(w.t, got)), number)
		}
	}
	w.t.Logf("%d writes acknowledged, %d slots checked", w.n, len(acknowledged))
}

func aligned(t *testing.T) []byte {
	t.Helper()
	b, err := unix.Mmap(-1, 0, writerBlock, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(b) })
	return b
}

// filled is the block of a write: its number again and again.
func filled(t *testing.T, number uint64) []byte {
	t.Helper()
	b := make([]byte, writerBlock)
	fill(b, number)
	return b
}

func fill(b []byte, number uint64) {
	for i := 0; i < len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], number+uint64(i)<<40)
	}
}

// TestWriterProcess is not a test but the writer, when it is started as one.
func TestWriterProcess(t *testing.T) {
	device := os.Getenv(writerEnv)
	if device == "" {
		return
	}
	f, err := os.OpenFile(device, os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	buf := aligned(t)
	for number := uint64(1); ; number++ {
		slot := int64(number * 2654435761 % writerSlots)
		fill(buf, number)
		if _, err := f.WriteAt(buf, slot*writerBlock); err != nil {
			return // the device has died
		}
		if number%16 == 0 && f.Sync() != nil {
			return
		}
		fmt.Printf("%d %d\n", slot, number)
	}
}
