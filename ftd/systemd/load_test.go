package systemd_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The test binary is also what makes load on the network in the box, under other
// arguments: an echo server, and a client that counts.

func TestMain(m *testing.M) {
	if len(os.Args) == 3 {
		var err error
		switch os.Args[1] {
		case "echo":
			err = echo(os.Args[2])
		case "count":
			err = count(os.Args[2])
		default:
			os.Exit(m.Run())
		}
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// loadProgram is this binary in the box.
const loadProgram = "/usr/libexec/ft-load"

// echo answers one connection after the other with what comes.
func echo(address string) error {
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	for {
		c, err := ln.Accept()
		if err != nil {
			return err
		}
		_, _ = io.Copy(c, c)
		c.Close()
	}
}

// count sends numbers over one connection and wants each back, until SIGTERM.
func count(address string) error {
	end := make(chan os.Signal, 1)
	signal.Notify(end, unix.SIGTERM)
	c, err := net.DialTimeout("tcp", address, limit)
	for deadline := time.Now().Add(limit); err != nil && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		c, err = net.DialTimeout("tcp", address, limit) // the server is about to listen
	}
	if err != nil {
		return err
	}
	fmt.Println("connected")
	var worst time.Duration
	var b [8]byte
	for n := uint64(1); ; n++ {
		select {
		case <-end:
			fmt.Printf("%d answers, the slowest after %v\n", n-1, worst)
			return nil
		default:
		}
		began := time.Now()
		_ = c.SetDeadline(began.Add(limit))
		binary.LittleEndian.PutUint64(b[:], n)
		if _, err := c.Write(b[:]); err != nil {
			return fmt.Errorf("number %d: %w", n, err)
		}
		if _, err := io.ReadFull(c, b[:]); err != nil {
			return fmt.Errorf("the answer to number %d: %w", n, err)
		}
		if got := binary.LittleEndian.Uint64(b[:]); got != n {
			return fmt.Errorf("number %d came back as %d", n, got)
		}
		worst = max(worst, time.Since(began))
		time.Sleep(500 * time.Microsecond) // the box is tried, not the network
	}
}

// load is a program in the box that goes on until it is told to end, and must not fail.
type load struct {
	b    *box
	name string
	cmd  *exec.Cmd
	done chan error

	mu  sync.Mutex
	out bytes.Buffer
}

func (l *load) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.Write(p)
}

func (l *load) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.String()
}

// start starts a load for the rest of test t.
func (b *box) start(t *testing.T, name string, args ...string) *load {
	b.t.Helper()
	l := &load{b: b, name: name, cmd: b.command(args...), done: make(chan error, 1)}
	l.cmd = exec.Command(l.cmd.Path, l.cmd.Args[1:]...) // without the time limit
	l.cmd.WaitDelay = time.Second                       // what it started may have its output for longer
	l.cmd.Stdout, l.cmd.Stderr = l, l
	if err := l.cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	go func() { l.done <- l.cmd.Wait() }()
	t.Cleanup(func() {
		_ = l.cmd.Process.Kill()
		l.done <- <-l.done
	})
	return l
}

// runs fails the test when a load has ended, which it does at the first error.
func (l *load) runs() {
	l.b.t.Helper()
	select {
	case err := <-l.done:
		l.done <- err
		l.b.t.Fatalf("%s has ended: %v\n%s\n%s", l.name, err, l.text(), l.b.log())
	default:
	}
}

// stop ends a load, which then must find that all went well.
func (l *load) stop(sig string) {
	l.b.t.Helper()
	l.runs()
	// To the program itself: nsenter with a PID namespace waits for it.
	l.b.do("pkill", "-"+sig, "-f", "--", l.cmd.Args[len(l.cmd.Args)-1])
	select {
	case err := <-l.done:
		l.done <- err
		// fio that was interrupted says 128 after a good run on some versions.
		if code := l.cmd.ProcessState.ExitCode(); code != 0 && code != 128 || strings.Contains(l.text(), "err=") && !strings.Contains(l.text(), "err= 0") {
			l.b.t.Fatalf("%s: %v\n%s", l.name, err, l.text())
		}
	case <-time.After(limit):
		l.b.t.Fatalf("%s does not end\n%s", l.name, l.text())
	}
}

// loads are the three things that a box is for, in use.
type loads struct {
	b    *box
	disk *load
	net  *load
}

// startLoads puts disk0, net0 and guest to use: fio with verification on a file system,
// numbers to and fro over one TCP connection, and a program that counts seconds.
func (b *box) startLoads(t *testing.T) *loads {
	b.t.Helper()
	b.sh("mkfs.ext4 -q /dev/ft/disk0 && mkdir -p /mnt/disk0 && mount /dev/ft/disk0 /mnt/disk0")
	exe, err := os.Executable()
	if err != nil {
		b.t.Fatal(err)
	}
	b.put(exe, loadProgram)
	l := &loads{b: b}
	b.start(t, "the echo server", loadProgram, "echo", ":7")
	l.disk = b.start(t, "fio", "fio", "--name=mixed", "--directory=/mnt/disk0", "--size=16m", "--numjobs=2",
		"--rw=randrw", "--bsrange=4k-64k", "--ioengine=libaio", "--iodepth=8", "--direct=1", "--fsync=32", "--verify=crc32c",
		"--verify_fatal=1", "--verify_backlog=64", "--serialize_overlap=1", "--thread", "--rate_iops=300,300",
		"--aux-path=/tmp", "--time_based", "--runtime=6000")
	l.net = b.start(t, "the TCP connection", "ip", "netns", "exec", "peer", loadProgram, "count", faceAddress+":7")
	b.eventually("the connection is there", func() (bool, string) {
		l.net.runs()
		return strings.Contains(l.net.text(), "connected"), l.net.text()
	})
	l.going()
	return l
}

// going waits until disk and guest have done something, and nothing has failed.
func (l *loads) going() {
	l.b.t.Helper()
	l.disk.runs()
	l.net.runs()
	writes, seconds := l.writes(), l.seconds()
	// A driver's successor counts from 0.
	l.b.eventually("the disk is written to", func() (bool, string) { n := l.writes(); return n < writes || n > writes+20, fmt.Sprint(n) })
	l.b.eventually("the guest counts on", func() (bool, string) { n := l.seconds(); return n > seconds, fmt.Sprint(n) })
}

// writes are those that disk0's driver has counted.
func (l *loads) writes() int64 {
	l.b.t.Helper()
	var shown struct {
		Detail struct{ Stats struct{ Writes int64 } }
	}
	out, _ := l.b.try("ftctl", "--json", "show", "disk0")
	_ = json.Unmarshal([]byte(out), &shown)
	return shown.Detail.Stats.Writes
}

var second = regexp.MustCompile(`(\d+) s`)

// console is all that the guest has said, and seconds the last that it has counted.
func (l *loads) console() string {
	out, _ := l.b.try("timeout", "0.3", "ftctl", "console", "--read-only", "guest")
	return out
}

func (l *loads) seconds() int {
	all := second.FindAllStringSubmatch(l.console(), -1)
	if len(all) == 0 {
		return 0
	}
	n, _ := strconv.Atoi(all[len(all)-1][1])
	return n
}

// finish ends the loads, and fails the test if any of them saw an error.
func (l *loads) finish() {
	l.b.t.Helper()
	l.disk.stop("INT")
	l.net.stop("TERM")
	l.b.t.Logf("network: %s", strings.TrimSpace(l.net.text()))
	console := l.console()
	if n := strings.Count(console, "counts the seconds"); n != 1 {
		l.b.t.Errorf("the guest has started %d times:\n%s", n, console)
	}
	last := 0
	for _, m := range second.FindAllStringSubmatch(console, -1) {
		n, _ := strconv.Atoi(m[1])
		if n != last+1 {
			l.b.t.Errorf("the guest counts %d after %d", n, last)
		}
		last = n
	}
	l.b.t.Logf("guest: %d seconds", last)
}
