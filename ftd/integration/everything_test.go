package integration_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ft/drivers/kerneltest"
	"ft/ftd/api"
	"ft/ftd/testbox/network"
)

// client uses the guest's service all the time: it has requests counted and stores files, and
// reads them again.
type client struct {
	p    *peer
	boot string
	end  func()        // once
	done chan struct{} // closed at the end, with what is below

	asked int
	err   error
}

const clientEvery = 50 * time.Millisecond

func (p *peer) client() *client {
	p.b.t.Helper()
	stop := make(chan struct{})
	c := &client{p: p, boot: p.boot(), end: sync.OnceFunc(func() { close(stop) }), done: make(chan struct{})}
	count := p.requests()
	go func() {
		defer close(c.done)
		tick := time.NewTicker(clientEvery)
		defer tick.Stop()
		for ; c.err == nil; c.asked++ {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			count, c.err = c.round(count)
		}
	}()
	p.b.t.Cleanup(func() { c.end(); <-c.done })
	return c
}

// round is one request of each sort. The count is on the guest's disk, and only goes up.
func (c *client) round(count int) (int, error) {
	text, err := c.p.ask("GET", "/", "")
	if err != nil {
		return count, err
	}
	var n int
	if _, err := fmt.Sscanf(text, "request %d\n", &n); err != nil || n <= count {
		return count, fmt.Errorf("after request %d it counts %q", count, text[:min(len(text), 30)])
	}
	body := pattern(4<<10, uint64(n))
	if _, err := c.p.ask("PUT", "/files/everything", body); err != nil {
		return n, err
	}
	if got, err := c.p.ask("GET", "/files/everything", ""); err != nil || got != body {
		return n, fmt.Errorf("a file is not there as it was stored (%d bytes of %d): %w", len(got), len(body), err)
	}
	return n, nil
}

// running fails the test when anything has gone wrong.
func (c *client) running() {
	c.p.b.t.Helper()
	select {
	case <-c.done:
		c.p.b.t.Fatalf("the guest's service, after %d rounds: %v", c.asked, c.err)
	default:
	}
}

// finish ends it. The guest is the one that it was.
func (c *client) finish() {
	t := c.p.b.t
	t.Helper()
	c.running()
	c.end()
	<-c.done
	if c.err != nil {
		t.Errorf("the guest's service: %v", c.err)
	}
	if now := c.p.boot(); now != c.boot {
		t.Error("the guest was started anew")
	}
	c.p.quiet()
	t.Logf("the guest's service: %d rounds", c.asked)
}

// TestKernelEverythingRunsThrough is the acceptance of the whole: PostgreSQL on disk0, TCP over
// net0 and the guest's service, which has disk1 and net0 under it, see no error while every
// module is pulled and put back, and every process is killed in turn.
func TestKernelEverythingRunsThrough(t *testing.T) {
	cache, unlock := kerneltest.Own(t, map[string]string{"xz": "xz-utils", "apt-get": "apt"})
	defer unlock()
	t.Setenv("FT_KERNELS", cache)
	b := newThrowaway(t)
	b.guest = "debian"
	b.start()
	if said := b.out.String(); strings.Contains(said, "not Debian's kernel") {
		kerneltest.Missing(t, said[strings.Index(said, "not Debian's"):][:200])
	}
	b.wait("disk0", "duplex")
	b.mkfs()
	dir := b.mountOpen()
	pg := newPostgres(t, dir)
	bench := pg.bench("-R", "100") // so that the guest has its share of the computer
	await(t, guestPatience, "the guest's service to answer", func() bool {
		return strings.Contains(b.out.String(), "its service answers at http://192.0.2.20/")
	})
	b.wait("box", "duplex")
	guest := b.peer().client()
	names, err := network.Of(b.dir + "/box")
	if err != nil {
		t.Fatal(err)
	}
	n := &nicBox{box: b.box, net: network.NamesWith(strings.TrimPrefix(names[0], network.NamesWith("").Box))}
	n.awaitFace()
	tcp := [2]*transfer{n.transfer(boxIP4), n.transfer(boxIP6)}
	runThrough := func(what string) {
		t.Helper()
		b.wait("box", "duplex")
		bench.running()
		guest.running()
		for _, x := range tcp {
			x.goesOn()
		}
		t.Logf("%s: no error", what)
	}
	runThrough("nothing")

	for _, module := range []string{"pci0", "cpu1", "pci1", "cpu0"} {
		b.do("inject", module, "power-off")
		b.wait(module, "removed")
		b.wait("box", "simplex")
		b.do("inject", module, "power-on")
		runThrough(module + " pulled and put back")
	}

	for _, device := range []string{"disk0", "disk1", "net0", "guest"} {
		b.killed(device, func() int { return deviceOf(t, b.status(), device).Pid })
		runThrough("the process of " + device + " killed")
	}
	for _, module := range []string{"cpu0", "cpu1"} {
		b.killed(module, func() int {
			modules, _ := b.stats("guest")["modules"].(map[string]any)
			pid, _ := modules[module].(float64)
			return int(pid)
		})
		runThrough("the process of " + module + " killed")
	}
	b.killed("ftd", b.ftdPid)
	runThrough("ftd killed")
	b.restartFtd()
	runThrough("ftd restarted")
	b.killed("keeper", b.keeperNow)
	await(t, 20*time.Second, "the new keeper to know the processes", func() bool {
		out, code := b.ftctl("--json", "show", "guest")
		return code == done && strings.Contains(out, `"restored":true`)
	})
	runThrough("the keeper killed")

	for _, x := range tcp {
		x.finish()
	}
	guest.finish()
	bench.finish()
	pg.stop()
	pg.run("pg_checksums", "--check", "-D", pg.data)
	unmount(t, dir)
	b.signal(unix.SIGINT)
	b.ends()
}

// killed kills a process and waits until another has its place.
func (b *throwaway) killed(what string, pid func() int) {
	b.t.Helper()
	was := pid()
	if was == 0 {
		b.t.Fatalf("%s has no process", what)
	}
	if err := unix.Kill(was, unix.SIGKILL); err != nil {
		b.t.Fatalf("kill %s, pid %d: %v", what, was, err)
	}
	await(b.t, 30*time.Second, "a successor of "+what, func() bool {
		if _, err := b.statusNow(); err != nil {
			return false
		}
		for _, p := range b.processes() {
			if p == was {
				return false // it is still to be reaped
			}
		}
		now := pid()
		return now != 0 && now != was
	})
}

// restartFtd ends ftd as systemctl does, and starts it again: for a test box one that has
// ended of itself was wanted to, and so this one is ours.
func (b *throwaway) restartFtd() {
	b.t.Helper()
	was := b.ftdPid()
	if err := unix.Kill(was, unix.SIGTERM); err != nil {
		b.t.Fatalf("end ftd, pid %d: %v", was, err)
	}
	await(b.t, 20*time.Second, "ftd to end", func() bool { return !slices.Contains(b.processes(), was) })
	box := filepath.Join(b.dir, "box")
	cmd := exec.Command(filepath.Join(binDir, "ftd"), "--config", filepath.Join(box, "ft.toml"), "--socket", b.sock,
		"--state", filepath.Join(box, "state"), "--dev-dir", filepath.Join(b.dir, "dev"), "--no-keeper")
	cmd.Env = append(os.Environ(), "FT_TESTBOX="+box) // so that it goes with the box
	cmd.Stdout, cmd.Stderr = b.log, b.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }()
	b.t.Cleanup(func() { _ = cmd.Process.Kill(); <-ended })
	await(b.t, 20*time.Second, "ftd to answer again", func() bool { return b.ftdPid() == cmd.Process.Pid })
}

// ftdPid is the control daemon, 0 while none answers.
func (b *box) ftdPid() int {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), busy*5*time.Second)
	defer cancel()
	c := api.NewClient(b.sock)
	defer c.Close()
	v, err := c.Version(ctx)
	if err != nil {
		return 0
	}
	return v.Pid
}
