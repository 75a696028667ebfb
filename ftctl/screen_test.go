package main

import (
	"context"
	"os"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ft/ftd/api"
)

// window is a pseudo-terminal (pty(7)) and what it shows.
type window struct {
	t             *testing.T
	outer, inner  *os.File
	got           chan struct{} // something was written
	mu            sync.Mutex    // guards what follows
	width, height int
	text          strings.Builder
}

func newWindow(t *testing.T, width, height int) *window {
	t.Helper()
	outer, inner := terminal(t)
	tm := &window{t: t, outer: outer, inner: inner, got: make(chan struct{}, 1)}
	tm.size(width, height)
	read := make(chan struct{})
	go func() {
		defer close(read)
		b := make([]byte, 1<<16)
		for {
			n, err := outer.Read(b)
			if err != nil {
				return // EIO: nobody has it open any more
			}
			tm.mu.Lock()
			tm.text.Write(b[:n])
			tm.mu.Unlock()
			select {
			case tm.got <- struct{}{}:
			default:
			}
		}
	}()
	t.Cleanup(func() { inner.Close(); <-read })
	return tm
}

// size changes the window, as a person does who drags its corner.
func (tm *window) size(width, height int) {
	tm.t.Helper()
	tm.mu.Lock()
	tm.width, tm.height = width, height
	tm.mu.Unlock()
	if err := unix.IoctlSetWinsize(int(tm.outer.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(height), Col: uint16(width)}); err != nil {
		tm.t.Fatal(err)
	}
	if err := syscall.Kill(os.Getpid(), syscall.SIGWINCH); err != nil { // it is not our controlling terminal
		tm.t.Fatal(err)
	}
}

var (
	control  = regexp.MustCompile(`^\x1b\[(\??[0-9;]*)([A-Za-z])`)
	unclosed = regexp.MustCompile(`^\x1b(\[[?0-9;]*)?$`) // a sequence whose end is still to come
)

// shows plays what was written on a screen of the present size. cursor says whether it is to
// be seen.
func (tm *window) shows() (lines []string, alternate, cursor bool) {
	tm.mu.Lock()
	defer tm.mu.Unlock()
	var saved []string
	cursor = true
	row, col := 0, 0
	put := func(r rune) {
		for len(lines) <= row {
			lines = append(lines, "")
		}
		l := []rune(lines[row])
		for len(l) <= col {
			l = append(l, ' ')
		}
		l[col] = r
		lines[row] = string(l)
		col++
	}
	for text := tm.text.String(); text != ""; {
		m := control.FindStringSubmatch(text)
		switch {
		case m == nil && unclosed.MatchString(text):
			text = ""
			continue
		case m == nil:
			r := []rune(text[:min(len(text), 4)])[0]
			switch text = strings.TrimPrefix(text, string(r)); r {
			case '\r':
				col = 0
			case '\n':
				row++
			default:
				put(r)
			}
			continue
		case m[0] == "\x1b[?1049h":
			saved, lines, alternate, row, col = lines, nil, true, 0, 0
		case m[0] == "\x1b[?1049l":
			lines, alternate, row, col = saved, false, len(saved), 0
		case m[0] == "\x1b[?25h", m[0] == "\x1b[?25l":
			cursor = m[2] == "h"
		case m[2] == "H":
			row, col = 0, 0
		case m[2] == "K" && row < len(lines):
			l := []rune(lines[row])
			lines[row] = string(l[:min(col, len(l))])
		case m[2] == "J":
			lines = lines[:min(row+1, len(lines))]
		}
		text = text[len(m[0]):]
	}
	return lines, alternate, cursor
}

// until waits until what is shown matches.
func (tm *window) until(pattern string) string {
	tm.t.Helper()
	re := regexp.MustCompile(pattern)
	deadline := time.After(time.Minute)
	for {
		lines, alternate, _ := tm.shows()
		text := strings.Join(lines, "\n")
		if !alternate {
			text = "given back\n" + text
		}
		if re.MatchString(text) {
			return text
		}
		select {
		case <-tm.got:
		case <-deadline:
			tm.t.Fatalf("no %q in\n%s", pattern, text)
		}
	}
}

func TestWatchIsALiveViewOnATerminal(t *testing.T) {
	defer testLater.Store(0)
	b, socket, stop := startBox(t, "duplex", "syncing")
	tm := newWindow(t, 100, 24)
	end := run(t, &app{out: tm.inner, err: tm.inner, terminal: tm.inner, colour: true}, "--socket", socket, "status", "--watch")
	screen := tm.until(`SYNCING`)
	if !strings.HasPrefix(screen, "box      SYNCING for 0:12\ncause") || strings.Contains(screen, "DUPLEX") || strings.Contains(screen, "as of") {
		t.Errorf("the terminal shows\n%s", screen)
	}
	if _, alternate, cursor := tm.shows(); !alternate || cursor {
		t.Error("it is drawn over what was there before, or the cursor is in the way")
	}

	// Smaller: sentences are folded, the table is cut, the verdict stays.
	tm.size(40, 6)
	screen = tm.until(`more lines: make the window higher,…`)
	lines := strings.Split(screen, "\n")
	if len(lines) > 6 || !strings.HasPrefix(screen, "box      SYNCING for 0:12\ncause    pci1/disk0 is being brought up\n         to date: resync 61 %\n") {
		t.Errorf("the small terminal shows\n%s", screen)
	}
	for _, l := range lines {
		if len([]rune(l)) > 40 {
			t.Errorf("wider than the window: %q", l)
		}
	}
	tm.size(100, 24)
	tm.until(`(?s)faces    disk0 syncing /dev/ft/disk0$`)

	// ftd away: what was last known stays, and its age is said and grows.
	stop()
	tm.until(`(?s)box      SYNCING for 0:12\n.*\n\nas of 03:04:17, 0:00 old; waiting for ftd: `)
	testLater.Store(int64(65 * time.Second))
	tm.until(`(?s)box      SYNCING for 0:12\n.*\n\nas of 03:04:17, 1:05 old; waiting for ftd: `)
	again, err := b.start(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer again()
	if screen = tm.until(`box      SYNCING for 1:17`); strings.Contains(screen, "as of") {
		t.Errorf("with ftd back the terminal shows\n%s", screen)
	}

	if code := end(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	screen = tm.until(`(?s)^given back\nbox      SYNCING .*disk0 syncing /dev/ft/disk0\n?$`)
	if _, _, cursor := tm.shows(); !cursor {
		t.Errorf("the cursor is not given back:\n%s", screen)
	}
}

// An ftd that takes connections and does not answer looks live to whoever does not look at
// the clock.
func TestWatchSaysTheAgeWhenFtdHangs(t *testing.T) {
	defer testLater.Store(0)
	tm := newWindow(t, 100, 24)
	s := newScreen(&app{out: tm.inner, terminal: tm.inner})
	if _, err := s.status(api.Status{System: api.SystemStatus{Name: "box"}}); err != nil {
		t.Fatal(err)
	}
	if screen := tm.until(`box      DOWN`); strings.Contains(screen, "old") {
		t.Error(screen)
	}
	testLater.Store(int64(10 * time.Second))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); s.keep(ctx) }()
	tm.until(`as of 03:04:17, 0:10 old; ftd does not answer`)
	cancel()
	<-done
}

func TestWhatComesFromElsewhereDoesNotCommandTheTerminal(t *testing.T) {
	for text, want := range map[string]string{
		"plain, ÄÖ 漢字 → ·\n":             "plain, ÄÖ 漢字 → ·\n",
		"\x1b[31;1mred\x1b[0m":           "\x1b[31;1mred\x1b[0m",
		"\x1b]0;title\a\x1b[2J\x1b[1;1H": "�]0;title��[2J�[1;1H",
		"a\rb\x9b2Jc\x7f":                "a�b�2Jc�",
		"to the \u202eleft":              "to the �left",
		"\x1b[":                          "�[",
	} {
		if got := visible(text); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
}

func FuzzFit(f *testing.F) {
	f.Add("cause    a sentence of some words\n\n  table  \x1b[31mred\x1b[0m", 20, 5)
	f.Fuzz(func(t *testing.T, text string, width, height int) {
		if width < 1 || width > 300 || height < 2 || height > 100 || len(text) > 10000 {
			return
		}
		out := fit(strings.Split(visible(text), "\n"), width, height)
		if len(out) > height {
			t.Fatalf("%d lines in a window of %d", len(out), height)
		}
		for _, l := range out {
			if n := visibleWidth(l); n > width {
				t.Fatalf("%d characters in a window of %d: %q", n, width, l)
			}
		}
	})
}
