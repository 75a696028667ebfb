package backend

import (
	"fmt"
	"io"
	"os"
	"time"
)

// consoleLog is a log file of bounded size: when it is full it becomes PATH.1, in the place
// of the one before, and a new one begins. What cannot be written is left out; a full file
// system does not end the machine.
type consoleLog struct {
	path   string
	max    int64
	size   int64
	file   *os.File // nil: it could not be opened anew
	failed func(error)
}

// logPause is between two writes to the log, so that a guest that writes byte for byte
// makes few of them.
const logPause = 20 * time.Millisecond

// openLog opens or makes a log, and returns the end of what is in it and its predecessor.
func openLog(path string, max int64, failed func(error)) (*consoleLog, []byte, error) {
	l := &consoleLog{path: path, max: max, failed: failed}
	past := tail(path, ConsoleReplay)
	if room := ConsoleReplay - len(past); room > 0 {
		past = append(tail(path+".1", room), past...)
	}
	if err := l.open(); err != nil {
		return nil, nil, err
	}
	return l, past, nil
}

func (l *consoleLog) open() error {
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file", l.path)
	}
	if err != nil {
		f.Close()
		return err
	}
	l.file, l.size = f, info.Size()
	return nil
}

// Write never fails; see failed.
func (l *consoleLog) Write(p []byte) (int, error) {
	if err := l.write(p); err != nil {
		l.failed(err)
	}
	if len(p) < readerBuffer { // it has caught up
		time.Sleep(logPause)
	}
	return len(p), nil
}

func (l *consoleLog) write(p []byte) error {
	if l.file != nil && l.size > 0 && l.size+int64(len(p)) > l.max {
		l.close()
		if err := os.Rename(l.path, l.path+".1"); err != nil {
			return fmt.Errorf("turn the console's log over: %w", err)
		}
	}
	if l.file == nil {
		if err := l.open(); err != nil {
			return fmt.Errorf("open the console's log anew: %w", err)
		}
	}
	n, err := l.file.Write(p)
	l.size += int64(n)
	return err
}

func (l *consoleLog) close() {
	if l.file != nil {
		l.file.Close()
		l.file = nil
	}
}

// tail is up to n bytes from the end of a file; nothing if it cannot be read.
func tail(path string, n int) []byte {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return nil
	}
	_, _ = f.Seek(max(info.Size()-int64(n), 0), io.SeekStart)
	p, _ := io.ReadAll(io.LimitReader(f, int64(n)))
	return p
}
