package asynclog

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// sink is a writer that can be made to hang.
type sink struct {
	gate chan struct{} // closed: lets writes through

	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *sink) Write(p []byte) (int, error) {
	<-s.gate
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(p)
}

func TestHungSinkDropsAndCounts(t *testing.T) {
	s := &sink{gate: make(chan struct{})}
	w := New(s)
	const n = 3 * queueMax
	began := time.Now()
	for range n {
		if _, err := w.Write([]byte("line\n")); err != nil {
			t.Fatal(err)
		}
	}
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("%d lines to a hung sink took %v", n, d)
	}
	drops := w.Drops()
	if drops < n-queueMax-1 || drops > n-queueMax {
		t.Errorf("%d of %d lines dropped, want all but the %d that fit", drops, n, queueMax)
	}
	close(s.gate)
	w.Close(10 * time.Second)
	text := s.buf.String()
	if got := strings.Count(text, "line\n"); got != n-int(drops) {
		t.Errorf("%d lines written, want %d", got, n-int(drops))
	}
	if !strings.Contains(text, "log lines were dropped") {
		t.Error("the log does not say that lines are missing")
	}
}

func TestCloseDoesNotWaitForAHungSink(t *testing.T) {
	s := &sink{gate: make(chan struct{})}
	w := New(s)
	_, _ = w.Write([]byte("line\n"))
	w.Close(10 * time.Millisecond)
	if _, err := w.Write([]byte("late\n")); err != nil || w.Drops() != 1 {
		t.Errorf("a line after Close: %v, %d dropped", err, w.Drops())
	}
	close(s.gate)
	<-w.done
}

func TestLongLinesAreCut(t *testing.T) {
	s := &sink{gate: make(chan struct{})}
	close(s.gate)
	w := New(s)
	_, _ = w.Write(bytes.Repeat([]byte("x"), 10*lineMax))
	w.Close(10 * time.Second)
	if n := s.buf.Len(); n > lineMax+10 {
		t.Errorf("a line of %d bytes", n)
	}
}

// TestStderrFileIsBounded runs this test binary as a process that logs much to a file
// as its stderr.
func TestStderrFileIsBounded(t *testing.T) {
	const env, total = "FT_TEST_ASYNCLOG", 5 * FileMax
	if os.Getenv(env) != "" {
		s := &Stderr{}
		line := append(bytes.Repeat([]byte("x"), 1023), '\n')
		for range total / len(line) {
			_, _ = s.Write(line)
		}
		os.Exit(0)
	}
	path := filepath.Join(t.TempDir(), "x.log")
	f, err := OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestStderrFileIsBounded$")
	cmd.Env, cmd.Stdout, cmd.Stderr = append(os.Environ(), env+"=1"), f, f
	err = cmd.Run()
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	var sum int64
	for _, p := range []string{path, path + ".1"} {
		st, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		if st.Size() > FileMax*5/4 {
			t.Errorf("%s has %d bytes", p, st.Size())
		}
		sum += st.Size()
	}
	if sum < FileMax {
		t.Errorf("only %d bytes of the log are left", sum)
	}
}
