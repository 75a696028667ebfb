package api

import (
	"net"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// listening is a descriptor as systemd hands it over: of a socket that it listens on.
func listening(t *testing.T, path string) int {
	t.Helper()
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false)
	f, err := ln.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ln.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

func TestSocketFromSystemd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	if ln, err := Inherited(nil, path); ln != nil || err != nil {
		t.Fatalf("without a socket: %v, %v", ln, err)
	}
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pipe[0])
	ln, err := Inherited(map[string][]int{InheritedName: {listening(t, path)}, "other": {pipe[1]}}, path)
	if err != nil {
		t.Fatal(err)
	}
	_ = unix.SetNonblock(pipe[0], true)
	if n, err := unix.Read(pipe[0], make([]byte, 1)); n != 0 || err != nil {
		t.Errorf("a descriptor that is no use is still open: %d, %v", n, err)
	}
	done := make(chan error, 1)
	go func() {
		c, err := ln.Accept()
		if err == nil {
			c.Close()
		}
		done <- err
	}()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	// The file is systemd's, which still listens: ftd's end must not take it away.
	ln.Close()
	if err := unix.Access(path, unix.F_OK); err != nil {
		t.Errorf("the socket's file went with ftd: %v", err)
	}

	_, err = Inherited(map[string][]int{InheritedName: {listening(t, path+"-elsewhere")}}, path)
	if err == nil || !strings.Contains(err.Error(), "ftd.socket") {
		t.Errorf("a socket at another path: %v", err)
	}
}
