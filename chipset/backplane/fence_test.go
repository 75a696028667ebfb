package backplane

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ft/chipset/lockstep"
	"ft/chipset/port"
)

func TestAModulesEndIsReportedBehindItsRecords(t *testing.T) {
	for _, tc := range []struct {
		name string
		end  func(r *rig)
		text string
	}{
		{"killed", func(r *rig) { r.signal(unix.SIGKILL) }, "was killed (signal 9)"},
		{"failed", func(r *rig) { r.fault("fail") }, "ended with exit code 1"},
		{"told to", func(r *rig) { r.send(lockstep.Command{Verb: lockstep.End}) }, "ended with exit code 0"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			log := logFile(t)
			r := start(t, Config{Side: 1, CPU: -1, Log: log})
			for i := range uint64(100) {
				r.run(i)
			}
			for i := range uint64(50) {
				r.record(i)
			}
			for r.port.Progress().Done < 99 { // it has sent them all
				time.Sleep(time.Millisecond)
			}
			tc.end(r)
			for i := uint64(50); i < 100; i++ {
				r.record(i)
			}
			r.gone(Died, fmt.Sprintf("cpu1: process %d %s", r.Pid(), tc.text))
			<-r.Done()
			if r.Refused() != 0 || r.Passed() != 100 {
				t.Errorf("%d records passed, %d were refused", r.Passed(), r.Refused())
			}
			if b, _ := os.ReadFile(log.Name()); tc.name == "failed" && string(b) != "cpu1 cannot go on: a fault was injected\n" {
				t.Errorf("its last words: %q", b)
			}
		})
	}
}

func logFile(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestAModuleThatCannotBeBuiltSaysWhy(t *testing.T) {
	log := logFile(t)
	r := start(t, Config{CPU: -1, Log: log, Machine: MachineConfig{Kind: "unbuildable"}})
	r.gone(Died, "ended with exit code 1")
	if b, _ := os.ReadFile(log.Name()); string(b) != "cpu0 cannot go on: build the machine: no such machine\n" {
		t.Errorf("its last words: %q", b)
	}
}

func TestAProgramThatIsNotThere(t *testing.T) {
	if _, err := Start(Config{Exe: "/nowhere/ftd", CPU: -1, MemoryBytes: 1 << 20, Inbox: NewInbox()}); !errors.Is(err, unix.ENOENT) || !strings.Contains(err.Error(), "start cpu0: start /nowhere/ftd") {
		t.Errorf("%v", err)
	}
}

// Nothing comes out behind the fence, though the module sends as fast as it can, and
// though what it sent before lies there to be taken.
func TestAFence(t *testing.T) {
	for range 50 { // on a busy computer it may have sent nothing when the fence comes
		if fenceAFlood(t) || t.Failed() {
			return
		}
	}
	t.Error("there was never anything to be refused")
}

// fenceAFlood says whether the fence has refused anything.
func fenceAFlood(t *testing.T) bool {
	inbox := NewInbox()
	r := start(t, Config{Side: 0, CPU: -1, Inbox: inbox})
	other := start(t, Config{Side: 1, CPU: -1, Inbox: inbox})
	r.fault("flood")
	<-inbox.Wake()
	passed := len(inbox.Take(nil))
	<-inbox.Wake() // there is more
	began := time.Now()
	r.Fence("cpu0 differs from cpu1")
	if took := time.Since(began); took > patience/2 {
		t.Errorf("the fence took %v", took)
	}
	if got := inbox.Take(nil); len(got) != 0 {
		t.Errorf("%d records came out behind the fence", len(got))
	}
	if err := r.Send(&lockstep.Command{Verb: lockstep.Run}); err == nil || errors.Is(err, port.ErrFull) {
		t.Errorf("a command to a fenced module: %v", err)
	}
	<-r.Done()
	if got := inbox.Take(nil); len(got) != 0 {
		t.Errorf("%d things came out behind its end: %+v", len(got), got[0])
	}
	if r.Passed() != uint64(passed) {
		t.Errorf("%d records passed; %d were taken", r.Passed(), passed)
	}
	if why, fenced := r.Fenced(); !fenced || why != "cpu0 differs from cpu1" {
		t.Errorf("fenced: %v, %q", fenced, why)
	}
	if r.RAM()[4095] != 0 {
		t.Error("its memory is not there any more")
	}
	other.run(1)
	other.record(1)
	return r.Refused() > 0
}

// A module that is out of its mind and writes everywhere in its port.
func TestGarbage(t *testing.T) {
	t.Run("before the fence", func(t *testing.T) {
		r := start(t, Config{Side: 1, CPU: -1})
		r.run(1)
		r.record(1)
		r.fault("scribble")
		// Where the chipset sleeps and the module never rings, the watcher finds it.
		r.gone(Garbage, "sent what no module sends")
		r.Fence("garbage")
		<-r.Done()
		if r.Refused() == 0 {
			t.Error("nothing was refused")
		}
	})
	t.Run("behind the fence", func(t *testing.T) {
		r := start(t, Config{Side: 1, CPU: -1})
		r.run(1)
		r.record(1)
		r.fault("scribble")
		r.Fence("drill")
		<-r.Done()
		if got := r.inbox.Take(nil); len(got) != 0 {
			t.Errorf("%+v came out", got[0])
		}
	})
	t.Run("a record", func(t *testing.T) {
		r := start(t, Config{Side: 1, CPU: -1})
		r.run(1)
		r.fault("nonsense")
		r.run(2)
		r.record(1)
		r.gone(Garbage, fmt.Sprintf("cpu1: process %d sent what no module sends: ", r.Pid()))
		for r.Refused() < 2 { // the record, and what came behind it
			time.Sleep(time.Millisecond)
		}
	})
}

func TestAModuleCannotTakeMemoryAway(t *testing.T) {
	r := start(t, Config{CPU: -1})
	r.fault("truncate")
	r.record(0)
	r.RAM()[len(r.RAM())-1] = 1
}

// Both rings and the inbox are full of what nobody takes; then all of it comes, whole.
func TestWhatNobodyTakes(t *testing.T) {
	r := start(t, Config{CPU: -1})
	data := make([]byte, 1<<20)
	sent, full := uint64(0), 0
	for full < 200 { // all is at a standstill
		data[0], data[len(data)-1] = byte(sent), ^byte(sent)
		switch err := r.Send(&lockstep.Command{Verb: lockstep.Save, Number: sent, Data: data}); {
		case err == nil:
			sent, full = sent+1, 0
		case errors.Is(err, port.ErrFull):
			full++
			time.Sleep(time.Millisecond)
		default:
			t.Fatal(err)
		}
	}
	if sent < 20 || sent > 40 {
		t.Errorf("%d MiB are under way: want what two rings and an inbox hold", sent)
	}
	for i := range sent {
		got := r.record(i)
		if len(got.Data) != len(data) || got.Data[0] != byte(i) || got.Data[len(data)-1] != ^byte(i) {
			t.Fatalf("answer %d is not whole", i)
		}
	}
}

func TestReleaseLeavesNothing(t *testing.T) {
	before := held()
	r := start(t, Config{CPU: -1})
	r.run(1)
	r.record(1)
	pid := r.Pid()
	if err := r.Release(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(pid, 0); !errors.Is(err, unix.ESRCH) {
		t.Errorf("process %d: %v", pid, err)
	}
	if after := held(); after != before {
		t.Errorf("%s before, %s behind it", before, after)
	}
	r.Fence("again")
	if err := r.Release(); err != nil {
		t.Error(err)
	}
	if _, ok := r.Tail(1); ok {
		t.Error("a module that was released has a tail")
	}
	if err := CopyPages(r.Module, r.Module, []uint32{0}, nil); err == nil {
		t.Error("memory that was released was copied")
	}
}
