package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/term"

	"ft/ftd/api"
)

// watchStatus shows the status until interrupted: redrawn in place on a terminal,
// elsewhere printed anew at each change.
func (a *app) watchStatus(ctx context.Context) error {
	w := watcher{status: a.printOnChange(), lost: func(err error) {
		fmt.Fprintf(a.err, "ftctl: %v; waiting for it\n", err)
	}}
	if a.terminal != nil && !a.json {
		s := &screen{app: a}
		w = watcher{status: s.status, lost: s.lost, tick: time.Second}
	}
	err := a.follow(ctx, w)
	if errors.Is(err, context.Canceled) {
		return nil // that is how a watch ends
	}
	return err
}

// printOnChange prints a status that differs in its number from the one before.
func (a *app) printOnChange() func(api.Status) (bool, error) {
	var last *uint64
	return func(st api.Status) (bool, error) {
		if last != nil && *last == st.System.Seq {
			return false, nil
		}
		again := last != nil
		last = &st.System.Seq
		if a.json {
			return false, a.writeJSON(st)
		}
		text := a.statusText(st)
		if again {
			text = "\n" + text
		}
		return false, a.write(text)
	}
}

// screen redraws in place: it goes up over what it drew last and writes over it. The
// scroll-back stays as it was, and what was seen last stays when the watch ends.
type screen struct {
	app   *app
	lines int    // drawn last
	text  string // the last status
}

func (s *screen) status(st api.Status) (bool, error) {
	s.text = s.app.statusText(st)
	return false, s.draw(s.text)
}

// lost leaves the last status standing, and says how old it is.
func (s *screen) lost(err error) {
	_ = s.draw(fmt.Sprintf("%s\nas of %s, waiting for ftd: %v\n", s.text, now().Format(time.TimeOnly), err))
}

func (s *screen) draw(text string) error {
	width, height, err := term.GetSize(int(s.app.terminal.Fd()))
	if err != nil || width <= 0 || height <= 1 {
		width, height = 80, 24
	}
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if len(lines) > height-1 {
		// What does not fit cannot be redrawn in place: the verdict is on top, so the
		// end is what goes.
		lines = append(lines[:height-2], "… (the window is too small)")
	}
	var b bytes.Buffer
	if s.lines > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", min(s.lines, height-1)) // cursor up
	}
	for _, l := range lines {
		b.WriteString(clip(l, width))
		b.WriteString("\x1b[K\n") // erase to the end of the line
	}
	b.WriteString("\x1b[J") // erase below
	s.lines = len(lines)
	_, err = s.app.out.Write(b.Bytes())
	return err
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
