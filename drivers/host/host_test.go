package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ft/drivers"
	"ft/drivers/drivertest"
	"ft/drivers/notify"
)

// The test binary is also the driver process.
func TestMain(m *testing.M) {
	if len(os.Args) > 4 && os.Args[1] == "driver" {
		os.Exit(Run(context.Background(), os.Args[2], os.Args[3], os.Args[4]))
	}
	os.Exit(m.Run())
}

const limit = time.Minute

// process is a driver process without a keeper; the test itself may play one.
type process struct {
	*testing.T
	*Client
	dir    string
	config drivers.Config
	cmd    *exec.Cmd
	exited chan struct{}
}

func newProcess(t *testing.T, opts drivertest.Options) *process {
	t.Helper()
	raw, err := json.Marshal(opts)
	if err != nil {
		t.Fatal(err)
	}
	p := &process{T: t, dir: t.TempDir()}
	p.config = drivers.Config{Kind: drivertest.Kind, Name: "disk0", RunDir: p.dir, Options: raw}
	p.Client = Dial(SocketPath(p.dir, "disk0"))
	return p
}

// run starts the process with files as its inherited descriptors.
func (p *process) run(env []string, files ...*os.File) {
	p.Helper()
	b, err := json.Marshal(p.config)
	if err != nil {
		p.Fatal(err)
	}
	path := filepath.Join(p.dir, "disk0.json")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		p.Fatal(err)
	}
	out, err := os.OpenFile(filepath.Join(p.dir, "out"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		p.Fatal(err)
	}
	defer out.Close()
	p.cmd = exec.Command(os.Args[0], "driver", drivertest.Kind, "disk0", path)
	p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr, p.cmd.ExtraFiles = append(os.Environ(), env...), out, out, files
	if err := p.cmd.Start(); err != nil {
		p.Fatal(err)
	}
	p.exited = make(chan struct{})
	cmd, exited := p.cmd, p.exited
	go func() { _ = cmd.Wait(); close(exited) }()
	p.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		<-exited
		text := p.output()
		if strings.Contains(text, "DATA RACE") {
			p.Error("a data race in the driver process")
		}
		if p.Failed() {
			p.Logf("%s", text)
		}
	})
}

// serving waits until the driver is up.
func (p *process) serving() {
	p.Helper()
	p.eventually("the driver serves", func() bool {
		st, err := p.Status(p.Context())
		return err == nil && st.State == drivers.FaceDuplex && p.Switch(p.Context()) == nil
	})
}

func (p *process) eventually(what string, ok func() bool) {
	p.Helper()
	for deadline := time.Now().Add(limit); !ok(); {
		select {
		case <-p.exited:
			p.Fatalf("the process ended: %v; waiting until %s", p.cmd.ProcessState, what)
		case <-time.After(2 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			p.Fatalf("not within %v: %s", limit, what)
		}
	}
}

// ended waits for the process to end and returns its exit code.
func (p *process) ended() int {
	p.Helper()
	select {
	case <-p.exited:
	case <-time.After(limit):
		p.Fatal("the process does not end")
	}
	return p.cmd.ProcessState.ExitCode()
}

func (p *process) command(name string, args map[string]string) {
	p.Helper()
	if err := p.Command(p.Context(), name, args, nil); err != nil {
		p.Fatal(err)
	}
}

func (p *process) output() string {
	b, _ := os.ReadFile(filepath.Join(p.dir, "out"))
	return string(b)
}

func wantRefused(t *testing.T, err error, code string) {
	t.Helper()
	var r *drivers.Refused
	if !errors.As(err, &r) || r.Code != code {
		t.Errorf("got %v, want a refusal with code %s", err, code)
	}
}

func TestVerbsReachTheDriver(t *testing.T) {
	p := newProcess(t, drivertest.Options{})
	p.run(nil)
	p.serving()
	ctx := t.Context()
	if err := p.Attach(ctx, 1, drivers.Resource{Path: "good"}); err != nil {
		t.Error(err)
	}
	wantRefused(t, p.Attach(ctx, 1, drivers.Resource{Path: "stale"}), drivers.RuleStale)
	if err := p.Attach(ctx, 1, drivers.Resource{Path: "missing"}); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("a failure came back as %v", err)
	}
	wantRefused(t, p.Attach(ctx, 2, drivers.Resource{}), drivers.RuleState)
	wantRefused(t, p.Inject(ctx, 0, drivers.Fault{Name: "hang"}), drivers.RuleNoDrills)
	wantRefused(t, p.Command(ctx, "no-such", nil, nil), drivers.RuleState)
	if err := p.Command(ctx, "write", map[string]string{"text": "x"}, nil); err != nil {
		t.Error(err)
	}
	st, err := p.Status(ctx)
	if err != nil || st.Face != "x" || st.Pid != p.cmd.Process.Pid || st.Seq != 2 {
		t.Errorf("status %+v, %v", st, err)
	}
	if err := p.Stop(ctx, "no-such-mode"); err == nil {
		t.Error("a stop mode that is none was taken")
	}
}

func TestDetachTellsTwice(t *testing.T) {
	p := newProcess(t, drivertest.Options{})
	p.run(nil)
	p.serving()
	why := drivers.Reason{Text: "bringdown"}
	if drained, err := p.Detach(t.Context(), 1, why, false); err != nil || drained {
		t.Errorf("drained %v, %v; the side's I/O is under way", drained, err)
	}
	// Who gives up waiting knows all the same that the side is out.
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second) // for the first answer to come
	defer cancel()
	if drained, err := p.Detach(ctx, 1, why, true); err != nil || drained {
		t.Errorf("drained %v, %v after giving up", drained, err)
	}
	type result struct {
		drained bool
		err     error
	}
	done := make(chan result, 1)
	go func() {
		drained, err := p.Detach(t.Context(), 1, why, true)
		done <- result{drained, err}
	}()
	// The third detach is seen as an event before its drain is ended.
	n := 0
	enough := errors.New("enough")
	err := p.Events(t.Context(), Cursor{}, true, func(i Item) error {
		if i.Record != nil && i.Record.To == "offline" {
			if n++; n == 3 {
				return enough
			}
		}
		return nil
	})
	if !errors.Is(err, enough) {
		t.Fatal(err)
	}
	p.command("drain", nil)
	if r := <-done; r.err != nil || !r.drained {
		t.Errorf("drained %v, %v", r.drained, r.err)
	}
}

func TestEventsComeInOrderAndEndWithTheDriver(t *testing.T) {
	p := newProcess(t, drivertest.Options{})
	p.run(nil)
	p.serving()
	p.command("events", map[string]string{"count": fmt.Sprint(eventsMax + 100)})
	st, err := p.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	total := st.Seq
	p.eventually("all events have reached the host", func() bool {
		var last uint64
		if err := p.Events(t.Context(), Cursor{}, false, func(i Item) error { last = i.Seq; return nil }); err != nil {
			t.Fatal(err)
		}
		return last == total
	})
	var last uint64
	gap, current, after := false, false, 0
	ended := make(chan error, 1)
	follow := make(chan struct{})
	go func() {
		ended <- p.Events(t.Context(), Cursor{}, true, func(i Item) error {
			switch {
			case i.Gap:
				gap, last = true, i.Seq
			case i.Current:
				current = true
				close(follow)
			case i.Seq != last+1 || i.Record.Seq != i.Seq:
				t.Errorf("event %d (%d) after %d", i.Seq, i.Record.Seq, last)
				fallthrough
			default:
				last = i.Seq
				if current {
					after++
				}
			}
			return nil
		})
	}()
	<-follow
	p.command("events", map[string]string{"count": "7"})
	if err := p.Stop(t.Context(), drivers.Remove); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("the stream ended with %v", err)
	}
	if !gap || after != 7 || last != total+7 {
		t.Errorf("gap %v, %d events after the marker, last %d; want a gap, 7, %d", gap, after, last, total+7)
	}
}

func TestStopEndsTheProcessAndItsTraces(t *testing.T) {
	for mode, code := range map[drivers.StopMode]int{drivers.Remove: ExitStopped, drivers.RemoveForce: ExitStopped} {
		p := newProcess(t, drivertest.Options{})
		p.run(nil)
		p.serving()
		if err := p.Stop(t.Context(), mode); err != nil {
			t.Fatal(err)
		}
		if got := p.ended(); got != code {
			t.Errorf("%s: exit code %d, want %d", mode, got, code)
		}
		if left, _ := filepath.Glob(p.dir + "/drivers/*"); len(left) > 0 {
			t.Errorf("%s: %v are left", mode, left)
		}
		if err := p.Switch(t.Context()); !errors.Is(err, ErrUnreachable) {
			t.Errorf("%s: the socket answers %v", mode, err)
		}
	}
}

func TestSigtermIsACleanStopAndMayBeRefused(t *testing.T) {
	p := newProcess(t, drivertest.Options{})
	p.run(nil)
	p.serving()
	p.command("busy", map[string]string{"by": "postgres"})
	for range 2 { // however often
		if err := p.cmd.Process.Signal(unix.SIGTERM); err != nil {
			t.Fatal(err)
		}
		p.eventually("the log names the user", func() bool { return strings.Contains(p.output(), "in use by postgres") })
	}
	wantRefused(t, p.Stop(t.Context(), drivers.Remove), drivers.RuleBusy)
	p.serving()
	p.command("free", nil)
	p.eventually("the refusals are through", func() bool { return strings.Count(p.output(), "not stopped") >= 1 })
	if err := p.cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := p.ended(); code != ExitStopped {
		t.Errorf("exit code %d", code)
	}
}

func TestHandOverNeedsAKeeper(t *testing.T) {
	p := newProcess(t, drivertest.Options{})
	p.run(nil)
	p.serving()
	wantRefused(t, p.Stop(t.Context(), drivers.HandOver), drivers.RuleState)
	st, err := p.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	h, _ := st.Stats["host"].(map[string]any)
	if h["kept"] != false || !strings.Contains(fmt.Sprint(h["notes"]), "no keeper") {
		t.Errorf("the status does not say that nobody keeps it: %v", h)
	}
}

func TestConfigurationIsChecked(t *testing.T) {
	for what, change := range map[string]func(*drivers.Config){
		"another name":      func(c *drivers.Config) { c.Name = "disk1" },
		"another kind":      func(c *drivers.Config) { c.Kind = "bond" },
		"relative run_dir":  func(c *drivers.Config) { c.RunDir = "run" },
		"options of no use": func(c *drivers.Config) { c.Options = json.RawMessage(`"x"`) },
	} {
		p := newProcess(t, drivertest.Options{})
		change(&p.config)
		p.run(nil)
		if code := p.ended(); code != ExitConfig {
			t.Errorf("%s: exit code %d, want %d", what, code, ExitConfig)
		}
	}
}

// keeper plays the keeper's end of the notify socket.
type keeper struct {
	path    string
	packets chan notify.Packet // all but watchdogs and barriers
	pings   chan struct{}
}

func newKeeper(t *testing.T, answer string) *keeper {
	t.Helper()
	k := &keeper{path: filepath.Join(t.TempDir(), "notify"), packets: make(chan notify.Packet, 1000), pings: make(chan struct{}, 1000)}
	r, err := notify.Listen(k.path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			p, err := r.Receive()
			switch {
			case err != nil:
				return
			case p.Barrier:
				_, _ = unix.Write(p.Fds[0], []byte(answer))
				p.Close()
			case p.Watchdog:
				k.pings <- struct{}{}
			default:
				k.packets <- p
			}
		}
	}()
	t.Cleanup(func() { r.Close(); <-done })
	return k
}

func (k *keeper) env(names string, count int) []string {
	return []string{notify.EnvSocket + "=" + k.path, notify.EnvToken + "=tok", notify.EnvListenFds + "=" + fmt.Sprint(count), notify.EnvListenNames + "=" + names}
}

// next waits for a packet that match accepts.
func (k *keeper) next(t *testing.T, what string, match func(notify.Packet) bool) notify.Packet {
	t.Helper()
	deadline := time.After(limit)
	for {
		select {
		case p := <-k.packets:
			if match(p) {
				return p
			}
			p.Close()
		case <-deadline:
			t.Fatalf("no notification: %s", what)
		}
	}
}

func TestDriverReportsToItsKeeper(t *testing.T) {
	k := newKeeper(t, "ok\n")
	p := newProcess(t, drivertest.Options{})
	p.run(append(k.env("", 0), notify.EnvWatchdogUsec+"=200000"))
	stored := k.next(t, "the face is stored", func(m notify.Packet) bool { return m.Store == "face" })
	defer stored.Close()
	if len(stored.Fds) != 1 || !stored.Replace || stored.Token != "tok" || stored.Pid != p.cmd.Process.Pid {
		t.Errorf("stored with %+v", stored)
	}
	k.next(t, "READY", func(m notify.Packet) bool { return m.Ready && m.Status != nil && *m.Status == "start 1" })
	for range 3 {
		select {
		case <-k.pings:
		case <-time.After(limit):
			t.Fatal("no sign of life")
		}
	}
	// A restarted keeper asks for everything again, and gets the same memfd.
	counts, err := p.Restore(t.Context())
	if err != nil || counts["face"] != 1 {
		t.Fatalf("restored %v, %v", counts, err)
	}
	again := k.next(t, "the face again", func(m notify.Packet) bool { return m.Store == "face" })
	defer again.Close()
	var a, b unix.Stat_t
	if unix.Fstat(stored.Fds[0], &a) != nil || unix.Fstat(again.Fds[0], &b) != nil || a.Ino != b.Ino || a.Dev != b.Dev {
		t.Errorf("another file was handed over: %d, %d", a.Ino, b.Ino)
	}
	k.next(t, "READY again", func(m notify.Packet) bool { return m.Ready })
	if err := p.Stop(t.Context(), drivers.Remove); err != nil {
		t.Fatal(err)
	}
	k.next(t, "the face is dropped", func(m notify.Packet) bool { return m.Remove == "face" })
	k.next(t, "the end is announced", func(m notify.Packet) bool { return m.Stopping && m.Exit == notify.ExitStopped })
	if code := p.ended(); code != ExitStopped {
		t.Errorf("exit code %d", code)
	}
}

func TestAStoreThatTheKeeperRefusesFails(t *testing.T) {
	k := newKeeper(t, "no room for more\n")
	p := newProcess(t, drivertest.Options{})
	p.run(k.env("", 0))
	if code := p.ended(); code != ExitFailed {
		t.Errorf("exit code %d: the driver started with a face that nobody holds", code)
	}
	if !strings.Contains(p.output(), "no room for more") {
		t.Error("the log does not say why")
	}
}

func TestInheritedDescriptorsMakeItAdopt(t *testing.T) {
	k := newKeeper(t, "ok\n")
	fd, err := unix.MemfdCreate("face", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	face := os.NewFile(uintptr(fd), "face")
	defer face.Close()
	if _, err := face.WriteAt([]byte("what was there"), 8); err != nil {
		t.Fatal(err)
	}
	gateR, gateW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer gateR.Close()
	p := newProcess(t, drivertest.Options{})
	p.run(k.env("face:gate", 2), face, gateR)
	if _, err := os.Lstat(SocketPath(p.dir, "disk0")); err == nil {
		t.Error("it did something before the gate was opened")
	}
	if _, err := gateW.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	gateW.Close()
	p.serving()
	st, err := p.Status(t.Context())
	if err != nil || st.Face != "what was there" || st.Stats["adopted"] != true {
		t.Errorf("status %+v, %v", st, err)
	}
	if counts, err := p.Restore(t.Context()); err != nil || counts["face"] != 1 {
		t.Errorf("what was inherited is not handed over again: %v, %v", counts, err)
	}
	// What the driver may start does not inherit the face.
	proc := fmt.Sprintf("/proc/%d/", p.cmd.Process.Pid)
	fds, err := os.ReadDir(proc + "fd")
	if err != nil {
		t.Fatal(err)
	}
	copies := 0
	for _, f := range fds {
		if link, err := os.Readlink(proc + "fd/" + f.Name()); err != nil || !strings.Contains(link, "memfd:face") {
			continue
		}
		copies++
		info, err := os.ReadFile(proc + "fdinfo/" + f.Name())
		var pos, flags uint64
		if _, scanErr := fmt.Sscanf(string(info), "pos:\t%d\nflags:\t%o", &pos, &flags); err != nil || scanErr != nil || flags&unix.O_CLOEXEC == 0 {
			t.Errorf("descriptor %s is not close-on-exec: %q, %v", f.Name(), info, err)
		}
	}
	if copies != 2 {
		t.Errorf("%d descriptors of the face, want the driver's and the host's copy", copies)
	}
}

func TestAProcessThatIsNotLetGoTouchesNothing(t *testing.T) {
	k := newKeeper(t, "ok\n")
	gateR, gateW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer gateR.Close()
	p := newProcess(t, drivertest.Options{})
	p.run(k.env("gate", 1), gateR)
	gateW.Close() // the keeper died
	if code := p.ended(); code != ExitFailed {
		t.Errorf("exit code %d", code)
	}
	if _, err := os.Lstat(p.dir + "/drivers"); err == nil {
		t.Error("it made its run directory")
	}
}

func TestAStandingKeeperBlocksNobody(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	r, err := notify.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	answering := make(chan struct{})
	go func() { // answers the store of the start, then stands still
		defer close(answering)
		for range 2 {
			p, err := r.Receive()
			if err != nil {
				return
			}
			if p.Barrier {
				_, _ = unix.Write(p.Fds[0], []byte("ok\n"))
			}
			p.Close()
		}
	}()
	p := newProcess(t, drivertest.Options{})
	p.run([]string{notify.EnvSocket + "=" + path, notify.EnvToken + "=tok"})
	p.serving()
	<-answering
	var ms int64
	if err := p.Command(t.Context(), "flood", nil, &ms); err != nil {
		t.Fatal(err)
	}
	if ms > limit.Milliseconds()/2 {
		t.Errorf("100000 texts took %d ms", ms)
	}
	st, err := p.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("100000 texts in %d ms; host: %v", ms, st.Stats["host"])
}
