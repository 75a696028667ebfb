package main

import (
	"bytes"
	"fmt"
	"strings"

	"golang.org/x/term"
)

// inPlace is a few lines at the end of what is printed that are drawn anew: it goes up over
// what it drew last and writes over it. The scroll-back stays as it was.
type inPlace struct {
	app   *app
	lines int // drawn last; 0: what is there stays
}

func (p *inPlace) draw(text string) error {
	width, height := p.app.window()
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	lines = lines[:min(len(lines), height-1)] // more cannot be gone up over
	var b bytes.Buffer
	if p.lines > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", min(p.lines, height-1)) // cursor up
	}
	for _, l := range lines {
		b.WriteString(clip(visible(l), width) + eraseLine + "\n")
	}
	b.WriteString(eraseBelow)
	p.lines = len(lines)
	_, err := p.app.out.Write(b.Bytes())
	return err
}

// clear takes away what was drawn last, for something that stays.
func (p *inPlace) clear() error {
	if p.lines == 0 {
		return nil
	}
	_, height := p.app.window()
	up := min(p.lines, height-1)
	p.lines = 0
	_, err := fmt.Fprintf(p.app.out, "\x1b[%dA%s", up, eraseBelow)
	return err
}

// window is the size of the terminal.
func (a *app) window() (width, height int) {
	width, height, err := term.GetSize(int(a.terminal.Fd()))
	if err != nil || width <= 0 || height <= 1 {
		return 80, 24
	}
	return width, height
}
