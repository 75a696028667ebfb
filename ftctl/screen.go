package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode/utf8"

	"ft/ftd/api"
)

// screen is the live view of `status --watch`. It draws on the terminal's alternate screen,
// so that the window may change its size at any moment and what was there before comes back;
// what was seen last is printed below that when the watch ends. Each drawing is one write,
// over what is there: nothing is erased first, so nothing flickers.
type screen struct {
	app *app

	mu     sync.Mutex // guards the fields below and the terminal
	shown  bool       // the alternate screen is on
	text   string     // the last status, as it was drawn
	at     time.Time  // when that came
	broken string     // why nothing newer comes, "" while it does
}

// Control sequences (ECMA-48, and the private modes of xterm that all terminals have).
const (
	enterScreen = "\x1b[?1049h\x1b[?25l\x1b[?7l" // alternate screen; no cursor, no wrapping
	leaveScreen = "\x1b[?7h\x1b[?25h\x1b[?1049l"
	cursorHome  = "\x1b[H"
	eraseLine   = "\x1b[K" // to its end
	eraseBelow  = "\x1b[J"
)

// staleAfter is how old a status may be before its age is said: they come once a second.
const staleAfter = 3 * time.Second

func newScreen(a *app) *screen { return &screen{app: a} }

// status shows what ftd says now.
func (s *screen) status(st api.Status) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text, s.at, s.broken = s.app.statusText(st), now(), ""
	return false, s.draw()
}

// lost leaves the last status standing, and says how old it is.
func (s *screen) lost(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken = visible(err.Error())
	_ = s.draw()
}

// keep draws again when the window has another size, when the view comes back from being
// stopped (Ctrl-Z), and as what is shown grows old, until ctx ends.
func (s *screen) keep(ctx context.Context) {
	sized, stopped := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(sized, syscall.SIGWINCH)
	signal.Notify(stopped, syscall.SIGTSTP)
	defer signal.Stop(sized)
	defer signal.Stop(stopped)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-stopped:
			s.stop()
		case <-sized:
		case <-tick.C:
			if !s.stale() {
				continue
			}
		}
		s.mu.Lock()
		if s.text != "" {
			_ = s.draw()
		}
		s.mu.Unlock()
	}
}

func (s *screen) stale() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.broken != "" || now().Sub(s.at) >= staleAfter
}

// stop is Ctrl-Z: the terminal is given back, and taken again when the view goes on.
func (s *screen) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shown {
		_, _ = s.app.out.Write([]byte(leaveScreen))
		s.shown = false
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
}

// leave gives the terminal back, and leaves on it what was seen last.
func (s *screen) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.shown {
		return
	}
	s.shown = false
	_, _ = s.app.out.Write([]byte(leaveScreen + strings.Join(s.lines(), "\n") + "\n"))
}

// lines are what there is to show: the status, and under it its age when it is no more live.
func (s *screen) lines() []string {
	lines := strings.Split(strings.TrimSuffix(visible(s.text), "\n"), "\n")
	age := now().Sub(s.at)
	switch as := fmt.Sprintf("as of %s, %s old", s.at.Local().Format(time.TimeOnly), humanDuration(age)); {
	case s.broken != "":
		lines = append(lines, "", s.app.paint(red, as)+"; waiting for ftd: "+s.broken)
	case age >= staleAfter:
		lines = append(lines, "", s.app.paint(red, as)+"; ftd does not answer")
	}
	return lines
}

// draw is called with mu held.
func (s *screen) draw() error {
	width, height := s.app.window()
	var b bytes.Buffer
	if !s.shown {
		b.WriteString(enterScreen)
		s.shown = true
	}
	b.WriteString(cursorHome)
	for i, l := range fit(s.lines(), width, height) {
		if i > 0 {
			b.WriteString("\r\n")
		}
		b.WriteString(l)
		b.WriteString(eraseLine)
	}
	b.WriteString(eraseBelow)
	_, err := s.app.out.Write(b.Bytes())
	return err
}

// fit makes lines fit into a window. Sentences are folded, as they are what counts; lines of
// the table are cut. What is too much goes from the middle: the verdict is on top, and what
// is said of the age at the end.
func fit(lines []string, width, height int) []string {
	var out []string
	table := false
	for i, l := range lines {
		table = table || l == ""
		if last := i == len(lines)-1; !table || last {
			out = append(out, fold(l, width)...)
			continue
		}
		out = append(out, clip(l, width))
	}
	if more := len(out) - height; more > 0 && height > 2 {
		tail := out[len(out)-1]
		out = append(out[:height-2:height-2], clip(fmt.Sprintf("… %d more lines: make the window higher, or see ftctl status", more+1), width), tail)
	}
	return out[:min(len(out), height)]
}

// fold breaks a line at spaces; what follows is indented as far as a key is wide.
func fold(line string, width int) []string {
	const indent = keyWidth
	var out []string
	for visibleWidth(line) > width && width > 2*indent {
		cut, seen, escape := 0, 0, false
		for i, r := range line {
			switch {
			case escape:
				escape = r != 'm'
				continue
			case r == '\x1b':
				escape = true
				continue
			case seen == width:
			case r == ' ' && seen > indent:
				cut = i
			}
			if seen == width {
				break
			}
			seen++
		}
		if cut == 0 {
			break // one long word
		}
		out = append(out, line[:cut])
		line = strings.Repeat(" ", indent) + line[cut+1:]
	}
	return append(out, clip(line, width))
}

// visibleWidth is how many characters a line takes on a terminal.
func visibleWidth(line string) int {
	n, escape := 0, false
	for _, r := range line {
		switch {
		case escape:
			escape = r != 'm'
		case r == '\x1b':
			escape = true
		default:
			n++
		}
	}
	return n
}

// clip cuts a line to a width in characters; escapes take no room.
func clip(line string, width int) string {
	seen, escape := 0, false
	for i, r := range line {
		switch {
		case escape:
			escape = r != 'm'
		case r == '\x1b':
			escape = true
		case seen == width-1 && utf8.RuneCountInString(line[i:]) > 1:
			return line[:i] + "…\x1b[0m"
		default:
			seen++
		}
	}
	return line
}

// visible keeps what comes from elsewhere (names, sentences of drivers) from commanding the
// terminal: of control characters only ends of lines, tabs and the colours of paint.go pass.
func visible(text string) string {
	clean := true
	for i := 0; i < len(text) && clean; i++ {
		clean = text[i] >= ' ' && text[i] < 0x7f || text[i] == '\n'
	}
	if clean {
		return text
	}
	var b strings.Builder
	for i := 0; i < len(text); {
		if n := colourAt(text[i:]); n > 0 {
			b.WriteString(text[i : i+n])
			i += n
			continue
		}
		r, n := utf8.DecodeRuneInString(text[i:])
		i += n
		switch {
		case r == '\n', r == '\t':
			b.WriteRune(r)
		case r < ' ', r >= 0x7f && r < 0xa0, r >= 0x202a && r <= 0x202e, r >= 0x2066 && r <= 0x2069:
			b.WriteRune('�')
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// colourAt is the length of a colour sequence at the beginning of a text, 0 for none.
func colourAt(text string) int {
	if !strings.HasPrefix(text, "\x1b[") {
		return 0
	}
	for i := 2; i < len(text) && i < 12; i++ {
		switch c := text[i]; {
		case c == 'm':
			return i + 1
		case c != ';' && (c < '0' || c > '9'):
			return 0
		}
	}
	return 0
}
