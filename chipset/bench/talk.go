package main

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"time"
)

// talk is a conversation with the program (package program): it says that it is ready, is
// given commands, and answers each. On a guest's console its kernel may say something in
// between.
type talk struct {
	to    io.Writer
	lines chan string // closed at the end of what it says
	said  []string    // the last of them, for people
}

// What the program says before it takes commands.
const (
	userSpace = "bench: user space"
	ready     = "bench: ready"
)

// saidMax is how many lines are kept, and linesMax how many may wait to be read.
const (
	saidMax  = 30
	linesMax = 10_000
)

func newTalk(to io.Writer, from io.Reader) *talk {
	t := &talk{to: to, lines: make(chan string, linesMax)}
	go func() {
		defer close(t.lines)
		for s := bufio.NewScanner(from); s.Scan(); {
			t.lines <- strings.TrimRight(s.Text(), "\r")
		}
	}()
	return t
}

// await returns the first line that is wanted. It blocks until that comes, or fails.
func (t *talk) await(what string, wanted func(line string) bool) (string, error) {
	late := time.After(within)
	for {
		select {
		case line, more := <-t.lines:
			if !more {
				return "", fmt.Errorf("waiting for %s: it has ended; its last words:\n%s", what, strings.Join(t.said, "\n"))
			}
			if t.said = append(t.said, line); len(t.said) > saidMax {
				t.said = t.said[1:]
			}
			if wanted(line) {
				return line, nil
			}
		case <-late:
			return "", fmt.Errorf("waiting for %s: nothing came in %v; its last words:\n%s", what, within, strings.Join(t.said, "\n"))
		}
	}
}

// awaitLine waits for a line that the program says of itself.
func (t *talk) awaitLine(text string) error {
	_, err := t.await(fmt.Sprintf("%q", text), func(line string) bool { return line == text })
	return err
}

// ask gives a command and returns the result. It blocks as long as the work takes.
func (t *talk) ask(command string) (result string, err error) {
	if _, err := io.WriteString(t.to, command+"\n"); err != nil {
		return "", fmt.Errorf("give the command %q: %w", command, err)
	}
	name, _, _ := strings.Cut(command, " ")
	line, err := t.await("the answer to "+command, func(line string) bool {
		_, _, answered := answer(line, name)
		return answered
	})
	if err != nil {
		return "", err
	}
	result, ok, _ := answer(line, name)
	if !ok {
		return "", fmt.Errorf("%s: %s", command, result)
	}
	return result, nil
}

// answer reads a line of the program: the result of a command, or why it failed.
func answer(line, name string) (text string, ok, answered bool) {
	for _, how := range []struct {
		word string
		ok   bool
	}{{"end " + name, true}, {"failed " + name + ":", false}} {
		if text, found := strings.CutPrefix(line, how.word); found && (text == "" || text[0] == ' ') {
			return strings.TrimSpace(text), how.ok, true
		}
	}
	return "", false, false
}
