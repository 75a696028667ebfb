package asynclog

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// FileMax is the size in bytes above which a log file is set aside as PATH.1 and begun
// anew.
const FileMax = 1 << 20

// OpenFile opens a log file for appending; one that has grown above FileMax is set
// aside first.
func OpenFile(path string) (*os.File, error) {
	if st, err := os.Stat(path); err == nil && st.Size() > FileMax {
		if err := os.Rename(path, path+".1"); err != nil {
			return nil, fmt.Errorf("set the old log aside: %w", err)
		}
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the log: %w", err)
	}
	return f, nil
}

// Stderr writes to descriptor 2. When that is a file above FileMax it is set aside,
// and descriptors 1 and 2 are moved to a new one, so that also what the Go runtime
// writes when it dies goes there.
type Stderr struct {
	written int
}

func (s *Stderr) Write(p []byte) (int, error) {
	if s.written += len(p); s.written > FileMax/8 {
		s.written = 0
		rotate()
	}
	return os.Stderr.Write(p)
}

// rotate does nothing where descriptor 2 is no regular file with a name, and goes on
// with the old file where a step fails.
func rotate() {
	var st unix.Stat_t
	if unix.Fstat(2, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size <= FileMax {
		return
	}
	path, err := os.Readlink("/proc/self/fd/2")
	if err != nil {
		return
	}
	f, err := OpenFile(path)
	if err != nil {
		return
	}
	defer f.Close()
	for _, fd := range []int{1, 2} {
		_ = unix.Dup3(int(f.Fd()), fd, 0)
	}
}
