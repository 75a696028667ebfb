package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"ft/drivers"
	"ft/ftd/api"
)

// This file is a machine's console: keys go there, and what it says comes here, byte for byte.
//
//	keys ─▶ escape? ─▶ ftd ─▶ machine
//	output ◀───────── ftd ◀─┘
//
// On a terminal the keys are taken raw, so that ^C and ^Z are the guest's. The terminal is put
// back as it was on every way out.

func (a *app) consoleCmd() *cobra.Command {
	var s consoleSession
	var escape string
	c := &cobra.Command{
		Use:   "console NAME [--read-only] [--escape=CHAR]",
		Short: "A machine's console",
		Long: `console shows what a machine's console has said lately, and then what it says from now on.
What is typed goes there, ^C and ^Z too; ^] ends the session and does nothing to the machine.

Several may look on at once. To type needs root or group ftadm; members of group ft watch.

Where ftctl has no terminal, standard input is copied to the machine and its console to
standard output, without an escape character; when the input ends, the output goes on. A
session waits while ftd or the machine's driver process is started anew.`,
		Example:           "  ftctl console guest\n  ftctl console guest --read-only | tee guest.log\n  printf 'date\\r' | timeout 2 ftctl console guest",
		Args:              args(1, 1),
		ValidArgsFunction: a.completeMachine,
		RunE: a.verb(func(ctx context.Context, args []string) error {
			if a.json {
				return usagef("a console is no JSON: leave --json out")
			}
			var err error
			if s.escape, err = parseEscape(escape); err != nil {
				return err
			}
			s.app, s.name = a, args[0]
			return s.run(ctx)
		}),
	}
	c.Flags().BoolVar(&s.watch, "read-only", false, "only look")
	c.Flags().StringVar(&escape, "escape", "^]", "the `CHAR` that ends the session on a terminal: ^X, one character, or none")
	return c
}

// noEscape is no byte.
const noEscape = -1

// parseEscape reads ^], ^a, ~ or none.
func parseEscape(s string) (int, error) {
	switch {
	case s == "none":
		return noEscape, nil
	case len(s) == 1 && s[0] > ' ' && s[0] < 0x7f:
		return int(s[0]), nil
	case len(s) == 2 && s[0] == '^' && bytes.IndexByte([]byte("@[\\]^_?"), s[1]) >= 0,
		len(s) == 2 && s[0] == '^' && s[1]|0x20 >= 'a' && s[1]|0x20 <= 'z':
		if s[1] == '?' {
			return 0x7f, nil
		}
		return int(s[1] & 0x1f), nil
	}
	return 0, usagef("--escape=%q is no key: write ^] for control and ], one character, or none", s)
}

// consoleSession is a session from its beginning to its end, over restarts of what is in the way.
type consoleSession struct {
	app    *app
	name   string
	watch  bool   // only look
	why    string // what a key is answered with where the session only looks
	told   bool   // it has been
	escape int
	raw    *rawTerminal // nil where keys are no terminal's
}

// typed is a piece of input.
type typed struct {
	keys []byte
	ends bool // the escape character came after them
}

// errConsoleDone ends a session because someone wanted it.
var errConsoleDone = errors.New("the session was ended")

// consoleEndPatience is how long what was typed before the escape character may take.
const consoleEndPatience = time.Second

func (s *consoleSession) run(ctx context.Context) error {
	conn, err := s.open(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// A reader that goes away (ftctl console … | head) is an error of a write then, and no
	// death that leaves the terminal raw.
	signal.Ignore(syscall.SIGPIPE)
	defer signal.Reset(syscall.SIGPIPE)
	gone := make(chan os.Signal, 1)
	signal.Notify(gone, syscall.SIGHUP, syscall.SIGQUIT)
	defer signal.Stop(gone)
	go func() {
		select {
		case <-gone:
			cancel()
		case <-ctx.Done():
		}
	}()
	if s.app.keys != nil {
		if s.raw, err = makeRaw(s.app.keys); err != nil {
			conn.Close()
			return fmt.Errorf("take keys from the terminal: %w", err)
		}
		defer s.raw.restore()
		s.notice("%s", s.greeting())
	}
	keys := s.readKeys(ctx, cancel)
	for err == nil {
		err = s.connected(ctx, conn, keys)
		if err == nil { // it went away
			conn, err = s.again(ctx, keys)
		}
	}
	if s.raw != nil {
		fmt.Fprint(s.app.err, "\r\n")
	}
	if errors.Is(err, errConsoleDone) || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// open begins a session. Who may not type is shown on a terminal what he may see.
func (s *consoleSession) open(ctx context.Context) (io.ReadWriteCloser, error) {
	conn, err := s.app.client.Console(ctx, s.name, s.watch)
	var e *api.Error
	if s.watch || s.app.keys == nil || !errors.As(err, &e) || e.Code != api.CodeForbidden {
		return conn, err
	}
	s.watch, s.why = true, e.Sentence
	return s.app.client.Console(ctx, s.name, true)
}

func (s *consoleSession) greeting() string {
	text := "console of " + s.name
	switch {
	case s.why != "":
		text = s.why
	case s.watch:
		text += ", only to look"
	}
	if s.escape != noEscape {
		text += "; " + escapeName(s.escape) + " ends it"
	}
	return text
}

// escapeName writes a key as people know it.
func escapeName(c int) string {
	switch {
	case c == 0x7f:
		return "^?"
	case c < ' ':
		return "^" + string(rune(c|0x40))
	}
	return string(rune(c))
}

// readKeys brings what is typed, until the input ends, the escape character comes or ctx ends.
// The channel is closed at the end of the input. The escape character works also when what is
// before it is not taken: it then ends the session by stop.
func (s *consoleSession) readKeys(ctx context.Context, stop func()) <-chan typed {
	keys := make(chan typed)
	if s.app.stdin == nil || s.watch && s.raw == nil {
		return keys // nobody types
	}
	go func() {
		defer close(keys)
		defer s.restoreOnPanic()
		for {
			buf := make([]byte, 4096)
			n, err := s.app.stdin.Read(buf)
			if n > 0 {
				t := s.cut(buf[:n])
				if t.ends {
					time.AfterFunc(consoleEndPatience, stop)
				}
				select {
				case keys <- t:
				case <-ctx.Done():
				}
				if t.ends {
					<-ctx.Done()
				}
			}
			if err != nil || ctx.Err() != nil {
				return
			}
		}
	}()
	return keys
}

// restoreOnPanic is for goroutines, whose panic ends the process without run's help.
func (s *consoleSession) restoreOnPanic() {
	if p := recover(); p != nil {
		if s.raw != nil {
			s.raw.restore()
		}
		panic(p)
	}
}

// connected goes on until the connection ends, which is no error, or the session does.
func (s *consoleSession) connected(ctx context.Context, conn io.ReadWriteCloser, keys <-chan typed) error {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })() // so that no write outlasts it
	ended := make(chan error, 1)
	go func() {
		defer s.restoreOnPanic()
		ended <- s.show(conn)
	}()
	for {
		select {
		case err := <-ended:
			return err
		case <-ctx.Done():
			return ctx.Err()
		case t, ok := <-keys:
			switch {
			case !ok:
				keys = nil // the output goes on
			case len(t.keys) > 0 && s.watch:
				s.refuseKeys()
			case len(t.keys) > 0:
				if _, err := conn.Write(t.keys); err != nil && !t.ends {
					return ctx.Err() // nil: it went away
				}
			}
			if t.ends {
				return errConsoleDone
			}
		}
	}
}

// show copies what the console says. Its error is one of the output: nobody looks any more.
func (s *consoleSession) show(conn io.Reader) error {
	buf := make([]byte, 32<<10)
	for {
		n, err := conn.Read(buf)
		if n > 0 {
			if _, err := s.app.out.Write(buf[:n]); err != nil {
				return errConsoleDone
			}
		}
		if err != nil {
			return nil
		}
	}
}

// cut finds the escape character. Only on a terminal is there one.
func (s *consoleSession) cut(b []byte) typed {
	if s.raw == nil || s.escape == noEscape {
		return typed{keys: b}
	}
	before, _, found := bytes.Cut(b, []byte{byte(s.escape)})
	return typed{before, found}
}

// refuseKeys tells once that nothing is sent.
func (s *consoleSession) refuseKeys() {
	if s.told {
		return
	}
	s.told = true
	if s.why == "" {
		s.why = "this session only looks: leave --read-only out to type"
	}
	s.notice("%s", s.why)
}

// again waits for the console after it has gone away: ftd, or the machine's driver process, is
// being started anew.
func (s *consoleSession) again(ctx context.Context, keys <-chan typed) (io.ReadWriteCloser, error) {
	s.notice("the console of %s has gone away; waiting for it", s.name)
	try := time.NewTicker(reconnectEvery)
	defer try.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case t, ok := <-keys:
			if !ok {
				keys = nil
			}
			if t.ends {
				return nil, errConsoleDone
			}
			continue // there is nobody to take it
		case <-try.C:
		}
		conn, err := s.app.client.Console(ctx, s.name, s.watch)
		var e *api.Error
		switch {
		case err == nil:
			s.notice("the console of %s is there again", s.name)
			return conn, nil
		case errors.As(err, &e) && (e.Code == api.CodeUnreachable || e.Code == drivers.RuleState || e.Code == api.CodeNotFound):
		default:
			return nil, err
		}
	}
}

// notice says something of ftctl's own, on a line of its own.
func (s *consoleSession) notice(format string, args ...any) {
	text := "ftctl: " + fmt.Sprintf(format, args...) + "\n"
	if s.raw != nil {
		text = "\r" + strings.ReplaceAll(text, "\n", "\r\n")
	}
	_, _ = io.WriteString(s.app.err, text)
}

// rawTerminal is a terminal that hands over keys as they are typed.
type rawTerminal struct {
	fd    int
	saved *term.State
	conts chan os.Signal

	mu       sync.Mutex // guards the field below
	restored bool
}

func makeRaw(f *os.File) (*rawTerminal, error) {
	t := &rawTerminal{fd: int(f.Fd()), conts: make(chan os.Signal, 1)}
	var err error
	if t.saved, err = term.MakeRaw(t.fd); err != nil {
		return nil, err
	}
	// Whoever stopped this process (kill -TSTP) has had the terminal meanwhile.
	signal.Notify(t.conts, syscall.SIGCONT)
	go func() {
		for range t.conts {
			t.again()
		}
	}()
	return t, nil
}

func (t *rawTerminal) again() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.restored {
		_, _ = term.MakeRaw(t.fd)
	}
}

// restore puts the terminal back as it was.
func (t *rawTerminal) restore() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.restored {
		return
	}
	t.restored = true
	signal.Stop(t.conts)
	close(t.conts)
	_ = term.Restore(t.fd, t.saved)
}
