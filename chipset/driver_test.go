package chipset_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ft/chipset"
	"ft/drivers"
	"ft/ftd/testbox/guest/bare"
)

const patience = time.Minute

// box is a driver with a machine, and what a test sees of it.
type box struct {
	drivers.Driver
	t      *testing.T
	run    string
	cfg    drivers.Config
	events chan drivers.Event

	mu     sync.Mutex
	stored map[string][]int // as a keeper has them
}

// store keeps copies of descriptors, as a keeper does.
func (b *box) store(name string, fds ...int) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, fd := range fds {
		mine, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return err
		}
		b.stored[name] = append(b.stored[name], mine)
	}
	return nil
}

func (b *box) unstore(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, fd := range b.stored[name] {
		_ = unix.Close(fd)
	}
	delete(b.stored, name)
}

// boxWith makes the driver of a machine whose kernel is the bytes of a program.
func boxWith(t *testing.T, program []byte, set func(*chipset.Options)) *box {
	t.Helper()
	dir := t.TempDir()
	opt := chipset.Options{Kernel: filepath.Join(dir, "kernel"), MemoryBytes: 64 << 20}
	if program != nil {
		if err := os.WriteFile(opt.Kernel, program, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if set != nil {
		set(&opt)
	}
	options, err := json.Marshal(opt)
	if err != nil {
		t.Fatal(err)
	}
	b := &box{t: t, run: dir, events: make(chan drivers.Event, 1000), stored: map[string][]int{}}
	b.cfg = drivers.Config{
		Kind: chipset.Kind, Name: "guest", RunDir: dir, StateDir: dir, Options: options, Drills: true,
		Sides: [2]drivers.SideConfig{{Resource: drivers.Resource{Path: "cpu0"}}, {Resource: drivers.Resource{Path: "cpu1"}}},
	}
	b.start(drivers.Fresh, nil)
	t.Cleanup(func() {
		if err := b.Stop(context.Background(), drivers.Remove); err != nil {
			t.Error(err)
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		for name := range b.stored {
			if name != "journal" {
				t.Errorf("%s is still kept", name)
			}
		}
	})
	return b
}

// start makes and starts a driver, the first one or a successor.
func (b *box) start(mode drivers.StartMode, inherited map[string][]int) {
	b.t.Helper()
	drv, err := chipset.New(b.cfg, drivers.Env{
		Log: slog.New(slog.NewTextHandler(b.t.Output(), nil)), Predecessor: -1, Text: func(string) {},
		Store: b.store, Unstore: b.unstore, Inherited: inherited,
		Fatal: func(err error) { b.t.Error(err) },
	})
	if err != nil {
		b.t.Fatal(err)
	}
	b.Driver = drv
	go func() {
		for e := range drv.Events() {
			b.events <- e
		}
	}()
	if err := drv.Start(context.Background(), mode); err != nil {
		b.t.Fatal(err)
	}
}

// event waits for one that says something.
func (b *box) event(what string) drivers.Event {
	b.t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case e := <-b.events:
			if strings.Contains(e.From+" → "+e.To+": "+e.Reason, what) {
				return e
			}
		case <-deadline:
			b.t.Fatalf("no event says %q; %+v", what, b.Status())
		}
	}
}

func (b *box) power(action string) error {
	_, err := b.Driver.(drivers.Commander).Command(context.Background(), "machine", map[string]string{"action": action})
	return err
}

func (b *box) state() string { return fmt.Sprint(b.Status().Stats["state"]) }

func (b *box) refused(err error, code, words string) {
	b.t.Helper()
	var r *drivers.Refused
	if !errors.As(err, &r) || r.Code != code || !strings.Contains(r.Sentence, words) {
		b.t.Errorf("%v; want a refusal %q with %q", err, code, words)
	}
}

// screen is a watcher of the console.
type screen struct {
	t    *testing.T
	conn net.Conn
	seen []byte
}

func (b *box) console() *screen {
	b.t.Helper()
	c, err := net.Dial("unix", chipset.ConsolePath(b.run, "guest"))
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { c.Close() })
	return &screen{t: b.t, conn: c}
}

// shows waits until text has been seen, and forgets what came up to it.
func (s *screen) shows(text string) {
	s.t.Helper()
	_ = s.conn.SetReadDeadline(time.Now().Add(patience))
	var buf [512]byte
	for !bytes.Contains(s.seen, []byte(text)) {
		n, err := s.conn.Read(buf[:])
		s.seen = append(s.seen, buf[:n]...)
		if err != nil {
			s.t.Fatalf("the console does not show %q but %q: %v", text, s.seen, err)
		}
	}
	_, s.seen, _ = bytes.Cut(s.seen, []byte(text))
}

func (s *screen) types(text string) {
	s.t.Helper()
	if _, err := io.WriteString(s.conn, text); err != nil {
		s.t.Fatal(err)
	}
}

func TestMachineRuns(t *testing.T) {
	began := time.Now()
	b := boxWith(t, bare.Program(), nil)
	st := b.Status()
	if st.State != drivers.FaceSimplex || st.Sides[0].State != drivers.Simplex || st.Sides[1].State != drivers.Offline || b.state() != "running" {
		t.Errorf("%+v", st)
	}
	s := b.console()
	s.shows("It counts the seconds")
	s.types("who is there")
	s.shows("who is there")
	second := b.console() // shown what was before, too
	second.shows("It counts the seconds")
	s.shows("1 s")
	second.shows("1 s")
	for _, want := range []string{"2 s", "3 s", "4 s"} {
		s.shows(want)
	}
	if took := time.Since(began); took < 3900*time.Millisecond {
		t.Errorf("four of the guest's seconds took %v", took)
	}
	stats := b.Status().Stats
	if steps, _ := stats["steps"].(uint64); steps == 0 {
		t.Errorf("stats %+v", stats)
	}
	if idle, _ := stats["idle_share"].(float64); idle < 0.5 {
		t.Errorf("a guest that sleeps is idle %.2f of its time", idle)
	}
}

func TestMachineIsSwitched(t *testing.T) {
	b := boxWith(t, bare.Program(), nil)
	s := b.console()
	s.shows("It counts the seconds")
	b.refused(b.power("start"), drivers.RuleState, "machine reset")
	if err := b.power("reset"); err != nil {
		t.Fatal(err)
	}
	s.shows("It counts the seconds")
	_, err := b.Detach(context.Background(), 0, drivers.Reason{Text: "why not"})
	b.refused(err, drivers.RuleLastSide, "--accept-risk=last-side")
	if err := b.power("stop"); err != nil {
		t.Fatal(err)
	}
	if st := b.Status(); st.State != drivers.FaceDown || st.Sides[0].State != drivers.Offline || b.state() != "stopped" {
		t.Errorf("%+v", st)
	}
	b.refused(b.power("reset"), drivers.RuleState, "machine start")
	b.refused(b.power("dance"), drivers.RuleState, "dance")
	if err := b.power("stop"); err != nil { // already
		t.Error(err)
	}
	if err := b.Attach(context.Background(), 0, drivers.Resource{}); err != nil {
		t.Fatal(err)
	}
	s.shows("It counts the seconds")
	if _, err := b.Detach(context.Background(), 0, drivers.Reason{AcceptRisk: drivers.RiskLastSide}); err != nil {
		t.Fatal(err)
	}
	b.event("simplex → offline")
	if err := b.Attach(context.Background(), 1, drivers.Resource{}); err != nil { // on which it starts as well
		t.Fatal(err)
	}
	s.shows("It counts the seconds")
	b.refused(b.Attach(context.Background(), 1, drivers.Resource{}), drivers.RuleState, "simplex already")
}

// A machine that is reset is on all the time: whoever asks for the next reset must not find
// it off, and nobody is alarmed.
func TestResetIsNoChangeOfState(t *testing.T) {
	b := boxWith(t, bare.Program(), nil)
	b.event("down → simplex")
	for range 3 {
		if err := b.power("reset"); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.power("stop"); err != nil {
		t.Fatal(err)
	}
	resets := 0
	for e := range b.events {
		if e.Kind == drivers.EventNote && e.Reason == "reset by a person" {
			resets++
		} else if e.Kind != drivers.EventNote {
			if e.To != drivers.Offline.String() || resets != 3 {
				t.Errorf("after %d resets %+v", resets, e)
			}
			return
		}
	}
}

// A record takes the place of a record, and of nothing else.
func TestRecordMovesNothingElse(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dir")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	b := boxWith(t, bare.Program(), func(o *chipset.Options) { o.Record = dir })
	b.refused(b.power("start"), drivers.RuleUnfit, dir)
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		t.Errorf("%v, %v", info, err)
	}
}

// sbi is a program that calls the firmware once: extension, function 0, two arguments.
func sbi(extension, a0, a1 uint32) []byte {
	const regA0, regA1, regA6, regA7 = 10, 11, 16, 17
	lui := func(rd, v uint32) uint32 { return 0x37 | rd<<7 | (v+0x800)&^0xfff }
	addiw := func(rd, v uint32) uint32 { return 0x1b | rd<<7 | rd<<15 | v<<20 }
	var code []byte
	for _, set := range [][2]uint32{{regA7, extension}, {regA6, 0}, {regA0, a0}, {regA1, a1}} {
		code = binary.LittleEndian.AppendUint32(code, lui(set[0], set[1]))
		code = binary.LittleEndian.AppendUint32(code, addiw(set[0], set[1]))
	}
	code = binary.LittleEndian.AppendUint32(code, 0x0000_0073) // ecall
	code = binary.LittleEndian.AppendUint32(code, 0x0000_006f) // jal x0, 0
	return executable(code)
}

// executable is an ELF of one segment at 0x80200000.
func executable(code []byte) []byte {
	const at, head = 0x8020_0000, 64 + 56
	e := []byte("\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00")
	for _, field := range []any{
		uint16(2), uint16(243), uint32(1), uint64(at), uint64(64), uint64(0), uint32(0), uint16(64), uint16(56), uint16(1), uint16(64), uint16(0), uint16(0),
		uint32(1), uint32(5), uint64(head), uint64(at), uint64(at), uint64(len(code)), uint64(len(code)), uint64(4),
	} {
		e, _ = binary.Append(e, binary.LittleEndian, field)
	}
	return append(e, code...)
}

const extensionReset = 0x5352_5354

func TestGuestSwitchesItselfOff(t *testing.T) {
	disk := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(disk, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	b := boxWith(t, sbi(extensionReset, 0, 0), func(o *chipset.Options) { o.Disk = disk })
	e := b.event("simplex → offline")
	if e.Detail["out_by"] != drivers.OutByGuest {
		t.Errorf("%+v", e)
	}
	if st := b.Status(); st.Sides[0].OutBy != drivers.OutByGuest || b.state() != "powered-off" {
		t.Errorf("%+v", st)
	}
	if err := b.power("start"); err != nil { // which finds its disk free
		t.Fatal(err)
	}
	b.event("simplex → offline")
}

func TestGuestReboots(t *testing.T) {
	b := boxWith(t, sbi(extensionReset, 1, 0), nil)
	for range 3 {
		b.event("the guest asked for a cold reboot")
	}
	if err := b.power("stop"); err != nil {
		t.Fatal(err)
	}
	if boots, _ := b.Status().Stats["boots"].(uint64); boots < 3 {
		t.Errorf("booted %d times", boots)
	}
}

// A machine that cannot start says why, and starts when that is mended.
func TestMachineThatCannotStart(t *testing.T) {
	program := bare.Program()
	wrong := bytes.Clone(program)
	wrong[18] = 62 // EM_X86_64
	for _, c := range []struct {
		name    string
		kernel  []byte
		set     func(*chipset.Options)
		because string
	}{
		{"no kernel", nil, nil, "no such file"},
		{"empty", []byte{}, nil, "empty"},
		{"truncated", program[:200], nil, "truncated"},
		{"wrong architecture", wrong, nil, "x86"},
		{"no program", []byte("#!/bin/sh\necho hello\n"), nil, "riscv64"},
		{"no initrd", program, func(o *chipset.Options) { o.Initrd = "/nonexistent/initrd" }, "initrd"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var kernel string
			b := boxWith(t, c.kernel, func(o *chipset.Options) {
				kernel = o.Kernel
				if c.set != nil {
					c.set(o)
				}
			})
			st := b.Status()
			if st.State != drivers.FaceDown || st.Sides[0].State != drivers.Offline || !strings.Contains(st.Reason, c.because) {
				t.Errorf("%+v; want a reason with %q", st, c.because)
			}
			b.refused(b.Attach(context.Background(), 0, drivers.Resource{}), drivers.RuleUnfit, c.because)
			if c.set != nil {
				return
			}
			if err := os.WriteFile(kernel, program, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := b.Attach(context.Background(), 0, drivers.Resource{}); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestDiskInUseElsewhere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	b := boxWith(t, bare.Program(), func(o *chipset.Options) { o.Disk = path })
	if st := b.Status(); st.State != drivers.FaceDown || !strings.Contains(st.Reason, path) || !strings.Contains(st.Reason, "in use") {
		t.Errorf("%+v", st)
	}
	f.Close()
	if err := b.power("start"); err != nil {
		t.Error(err)
	}
}
