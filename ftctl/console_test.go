package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ft/ftd/api"
)

// guestConsole is the machine's end of consoles that are opened.
type guestConsole struct {
	opened chan *net.UnixConn
	refuse chan error // answers to those who open it, before any is let in
}

// guestOf gives the box a machine with a console.
func guestOf(b *box) *guestConsole {
	g := &guestConsole{opened: make(chan *net.UnixConn, 8), refuse: make(chan error, 8)}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.console = func() (net.Conn, error) {
		select {
		case err := <-g.refuse:
			return nil, err
		default:
		}
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		var ends [2]*net.UnixConn
		for i, fd := range fds {
			f := os.NewFile(uintptr(fd), "console")
			c, err := net.FileConn(f)
			f.Close()
			if err != nil {
				return nil, err
			}
			ends[i] = c.(*net.UnixConn)
		}
		g.opened <- ends[1]
		return ends[0], nil
	}
	return g
}

func (g *guestConsole) wait(t *testing.T) *net.UnixConn {
	t.Helper()
	select {
	case c := <-g.opened:
		t.Cleanup(func() { c.Close() })
		return c
	case <-time.After(time.Minute):
		t.Fatal("nobody opens the console")
		return nil
	}
}

func gets(t *testing.T, c net.Conn, want string) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(time.Minute))
	got := make([]byte, len(want))
	if n, err := io.ReadFull(c, got); err != nil || string(got) != want {
		t.Fatalf("the machine got %q (%v), want %q", got[:n], err, want)
	}
}

// getsNothing holds at the end of a session: all that was sent is there by then.
func getsNothing(t *testing.T, c net.Conn) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(time.Minute))
	if rest, err := io.ReadAll(c); err != nil || len(rest) > 0 {
		t.Errorf("the machine got %q besides (%v)", rest, err)
	}
}

func says(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
}

func TestConsoleWithoutATerminal(t *testing.T) {
	b, socket, _ := startBox(t, "machine")
	g := guestOf(b)
	out, errs := newOutput(), newOutput()
	input, keys := io.Pipe()
	end := run(t, &app{out: out, err: errs, stdin: input}, "--socket", socket, "console", "guest")
	m := g.wait(t)
	says(t, m, "Linux version 6.12\r\n\x00\xff# ")
	if out.until(t, "# $"); out.String() != "Linux version 6.12\r\n\x00\xff# " {
		t.Errorf("shown: %q", out)
	}
	says(t, keysOf(keys), "date\r\x1d\x03") // no character is special
	gets(t, m, "date\r\x1d\x03")
	keys.Close()
	says(t, m, "Fri Jan  2")
	out.until(t, "Fri Jan  2$") // the output goes on when the input has ended
	if code := end(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	getsNothing(t, m)
	if errs.String() != "" {
		t.Errorf("ftctl said %q", errs)
	}
}

// keysOf lets a pipe's writer be written to as a connection is.
func keysOf(w *io.PipeWriter) net.Conn { return pipeConn{PipeWriter: w} }

type pipeConn struct {
	net.Conn
	*io.PipeWriter
}

func (p pipeConn) Write(b []byte) (int, error) { return p.PipeWriter.Write(b) }
func (p pipeConn) Close() error                { return p.PipeWriter.Close() }

func TestConsoleReadOnlyLeavesTheInputAlone(t *testing.T) {
	b, socket, _ := startBox(t, "machine")
	g := guestOf(b)
	out := newOutput()
	end := run(t, &app{out: out, err: out, stdin: untouched{t}}, "--socket", socket, "console", "guest", "--read-only")
	m := g.wait(t)
	says(t, m, "login: ")
	out.until(t, "^login: $")
	end()
	getsNothing(t, m)
}

type untouched struct{ t *testing.T }

func (u untouched) Read([]byte) (int, error) {
	u.t.Error("the input is read")
	return 0, io.EOF
}

// terminal is a pseudo-terminal: what a person has before him, and what a program is started on.
func terminal(t *testing.T) (person, program *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { person.Close() })
	if err := unix.IoctlSetPointerInt(int(person.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(person.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	return person, program
}

func modes(t *testing.T, f *os.File) unix.Termios {
	t.Helper()
	m, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return *m
}

// onTerminal starts a session on a terminal, and waits until keys are the guest's.
func onTerminal(t *testing.T, b *box, g *guestConsole, socket string, args ...string) (*terminalSession, *net.UnixConn) {
	t.Helper()
	s := &terminalSession{t: t, out: newOutput(), errs: newOutput()}
	s.person, s.program = terminal(t)
	s.before = modes(t, s.program)
	a := &app{out: s.out, err: s.errs, stdin: s.program, keys: s.program}
	a.in = append([]string{"--socket", socket, "console", "guest"}, args...)
	s.ctx, s.interrupt = context.WithCancel(t.Context())
	s.code = make(chan int, 1)
	go func() { s.code <- a.run(s.ctx) }()
	m := g.wait(t)
	s.errs.until(t, `\r\n$`)
	if modes(t, s.program).Lflag&(unix.ECHO|unix.ISIG|unix.ICANON) != 0 {
		t.Fatal("the terminal is not raw: ^C would be ftctl's")
	}
	return s, m
}

type terminalSession struct {
	t               *testing.T
	person, program *os.File
	before          unix.Termios
	out, errs       *output
	ctx             context.Context
	interrupt       func()
	code            chan int
}

func (s *terminalSession) types(keys string) {
	s.t.Helper()
	if _, err := s.person.WriteString(keys); err != nil {
		s.t.Fatal(err)
	}
}

// ended waits for the end of ftctl, which leaves the terminal as it was.
func (s *terminalSession) ended(want int) {
	s.t.Helper()
	select {
	case code := <-s.code:
		if code != want {
			s.t.Errorf("exit code %d, want %d; it said %q", code, want, s.errs)
		}
	case <-time.After(time.Minute):
		s.t.Fatal("ftctl does not end")
	}
	if after := modes(s.t, s.program); after != s.before {
		s.t.Errorf("the terminal was %+v and is left %+v", s.before, after)
	}
}

func TestConsoleOnATerminal(t *testing.T) {
	b, socket, _ := startBox(t, "machine")
	g := guestOf(b)
	s, m := onTerminal(t, b, g, socket)
	if s.errs.String() != "\rftctl: console of guest; ^] ends it\r\n" {
		t.Errorf("the greeting is %q", s.errs)
	}
	says(t, m, "\x1b[1mlogin:\x1b[0m ")
	s.out.until(t, `^\x1b\[1mlogin:\x1b\[0m $`)
	s.types("root\r\x03\x1a\x04") // ^C, ^Z and ^D are the guest's
	gets(t, m, "root\r\x03\x1a\x04")
	s.types("ps\x1dreboot\r") // what comes after ^] is nobody's
	s.ended(0)
	gets(t, m, "ps")
	getsNothing(t, m)
}

func TestConsoleWithAnotherEscape(t *testing.T) {
	for _, c := range []struct{ escape, named, key string }{{"^a", "^A", "\x01"}, {"~", "~", "~"}, {"^?", "^?", "\x7f"}} {
		t.Run(c.escape, func(t *testing.T) {
			b, socket, _ := startBox(t, "machine")
			g := guestOf(b)
			s, m := onTerminal(t, b, g, socket, "--escape", c.escape)
			s.errs.until(t, "console of guest; "+strings.NewReplacer("^", `\^`, "?", `\?`).Replace(c.named)+" ends it")
			s.types("\x1d")
			gets(t, m, "\x1d")
			s.types(c.key)
			s.ended(0)
		})
	}
	b, socket, _ := startBox(t, "machine")
	g := guestOf(b)
	s, m := onTerminal(t, b, g, socket, "--escape=none")
	s.types("\x1d\x01~")
	gets(t, m, "\x1d\x01~")
	s.interrupt()
	s.ended(0)
}

func TestConsoleWaitsOutARestart(t *testing.T) {
	b, socket, stop := startBox(t, "machine")
	g := guestOf(b)
	s, m := onTerminal(t, b, g, socket)
	// The driver's process ends with its machine, and is started anew.
	g.refuse <- errAway
	m.Close()
	s.errs.until(t, "the console of guest has gone away; waiting for it\r\n")
	s.types("lost") // there is nobody to take it
	m = g.wait(t)
	s.errs.until(t, "the console of guest is there again\r\n")
	says(t, m, "booting")
	s.out.until(t, "booting")
	// And so is ftd.
	stop()
	again, err := b.start(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer again()
	m = g.wait(t)
	s.types("x")
	gets(t, m, "x")
	// The escape character works while nobody is there.
	g.refuse <- errAway
	g.refuse <- errAway
	g.refuse <- errAway
	m.Close()
	s.errs.until(t, "(?s)(waiting for it.*){3}")
	s.types("\x1d")
	s.ended(0)
}

var errAway = &api.Error{Code: "state", Refused: true, Sentence: "guest has no console now"}

// A signal, or ftd that will not any more: the terminal is put back on every way out.
func TestConsoleRestoresTheTerminal(t *testing.T) {
	b, socket, _ := startBox(t, "machine")
	g := guestOf(b)
	t.Run("SIGTERM or SIGINT", func(t *testing.T) {
		s, _ := onTerminal(t, b, g, socket)
		s.interrupt() // as main does
		s.ended(0)
	})
	t.Run("an error", func(t *testing.T) {
		s, m := onTerminal(t, b, g, socket)
		g.refuse <- errors.New("broken")
		m.Close()
		s.ended(1)
		s.errs.until(t, "ftctl: broken\n$")
	})
	t.Run("nobody takes the keys", func(t *testing.T) {
		s, m := onTerminal(t, b, g, socket)
		go func() { // more than fits into what is on the way
			for range 64 {
				if _, err := s.person.WriteString(strings.Repeat("paste", 4000)); err != nil {
					return
				}
			}
		}()
		gets(t, m, "paste")
		s.interrupt()
		s.ended(0)
	})
	t.Run("nobody takes the output", func(t *testing.T) {
		s, m := onTerminal(t, b, g, socket)
		s.out.fail(syscall.EPIPE)
		says(t, m, "x")
		s.ended(0)
	})
}

// fail lets every later write fail.
func (o *output) fail(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.broken = err
}

// A real ftctl is hung up on: its terminal is gone, or belongs to somebody else by then.
func TestConsoleOfARealProcessThatIsHungUp(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGTERM} {
		t.Run(signal.String(), func(t *testing.T) {
			b, socket, _ := startBox(t, "machine")
			g := guestOf(b)
			person, program := terminal(t)
			before := modes(t, program)
			exe, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(exe, "--socket", socket, "console", "guest")
			cmd.Args[0] = "ftctl" // see TestMain
			cmd.Stdin, cmd.Stdout, cmd.Stderr = program, program, program
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			m := g.wait(t)
			said := make([]byte, 256)
			n, err := person.Read(said)
			if err != nil || !strings.Contains(string(said[:n]), "^] ends it") {
				t.Fatalf("it said %q (%v)", said[:n], err)
			}
			if err := cmd.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err != nil {
				t.Error(err)
			}
			if after := modes(t, program); after != before {
				t.Errorf("the terminal was %+v and is left %+v", before, after)
			}
			getsNothing(t, m)
		})
	}
}

// Members of group ft see what they may, and are told at each beginning, and at the first key.
func TestConsoleOfOneWhoMayOnlyWatch(t *testing.T) {
	refusal := &api.Error{Code: api.CodeForbidden, Refused: true, Sentence: "anna may watch the console of guest, not type on it"}
	b, socket, _ := startBox(t, "machine")
	g := guestOf(b)
	g.refuse <- refusal
	s, m := onTerminal(t, b, g, socket)
	s.errs.until(t, "^\rftctl: anna may watch the console of guest, not type on it; \\^] ends it\r\n$")
	s.types("rm -rf /\r")
	s.errs.until(t, "(?s)(anna may watch.*){2}")
	s.types("\x1d")
	s.ended(0)
	getsNothing(t, m)

	// Without a terminal there is nobody to be told: it is an error.
	g.refuse <- refusal
	out := newOutput()
	a := &app{out: out, err: out, stdin: strings.NewReader("x"), in: []string{"--socket", socket, "console", "guest"}}
	if code := a.run(t.Context()); code != 3 {
		t.Errorf("exit code %d, want 3: %s", code, out)
	}
}
