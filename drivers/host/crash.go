package host

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"time"
)

// Sizes of crash files, in bytes: above crashKeep the file is set aside as NAME.crash.1
// at the next start, cut to crashMax, for a dump of very many goroutines.
const (
	crashKeep = 256 << 10
	crashMax  = 1 << 20
)

// crashMark ends the reports that a later process has found.
const crashMark = " ---\n"

// crashFile collects the stacks of the crashes of one device's processes. The Go
// runtime writes to it when a goroutine of the driver panics, fatal for all else.
type crashFile struct {
	f *os.File
}

// openCrashFile prepares the file at path. It stays empty until something crashes.
func openCrashFile(path string) (*crashFile, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	if st, err := os.Stat(path); err == nil && st.Size() > crashKeep {
		if st.Size() > crashMax {
			if err := os.Truncate(path, crashMax); err != nil {
				return nil, err
			}
		}
		if err := os.Rename(path, path+".1"); err != nil {
			return nil, err
		}
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	c := &crashFile{f}
	c.mark()
	debug.SetTraceback("all")
	if err := debug.SetCrashOutput(f, debug.CrashOptions{}); err != nil {
		return c, fmt.Errorf("direct the runtime's crash output to %s: %w", path, err)
	}
	return c, nil
}

// mark ends the reports of predecessors with a line that says when they were found:
// what the runtime writes carries no time.
func (c *crashFile) mark() {
	st, err := c.f.Stat()
	if err != nil || st.Size() == 0 {
		return
	}
	tail := make([]byte, len(crashMark))
	if _, err := c.f.ReadAt(tail, max(0, st.Size()-int64(len(tail)))); err == nil && bytes.Equal(tail, []byte(crashMark)) {
		return
	}
	fmt.Fprintf(c.f, "--- found at %s by its successor, pid %d%s", time.Now().Format(time.RFC3339), os.Getpid(), crashMark)
}

// discard removes the file if nothing crashed.
func (c *crashFile) discard() {
	if c == nil {
		return
	}
	if st, err := c.f.Stat(); err == nil && st.Size() == 0 {
		os.Remove(c.f.Name())
	}
}

// dying lets one goroutine report; the others wait for the end of the process.
var dying sync.Mutex

// fatal ends the process with ExitCrash, its reason and all stacks on stderr and in
// the crash file. It does not return.
func (h *host) fatal(err error) {
	dying.Lock() // never unlocked
	buf := make([]byte, crashKeep)
	buf = buf[:runtime.Stack(buf, true)]
	report := fmt.Appendf(nil, "%s driver %s, pid %d: fatal: %v\n\n%s\n", time.Now().Format(time.RFC3339Nano), h.cfg.Name, os.Getpid(), err, buf)
	if h.crash != nil {
		_, _ = h.crash.f.Write(report) // stderr has it too
	}
	h.lastWords(fmt.Errorf("crashed: %w", err))
	h.logw.Close(logCloseLimit)
	_, _ = os.Stderr.Write(report)
	os.Exit(ExitCrash)
}
