package config

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

// The TOML library keeps no positions of keys, and of arrays of tables only the last
// one's. So the lines are found here, in text that the library has already accepted:
// this needs to know no more of TOML than where keys begin and values end. Where it
// finds nothing (a table written inline), the line of what is around it is given.

// lineIndex maps a key's path, such as disk[1].pci0, to its line, from 1.
type lineIndex map[string]int

// of is the line of a path, or of the nearest one around it.
func (x lineIndex) of(path string) int {
	for path != "" {
		if n := x[path]; n > 0 {
			return n
		}
		path = path[:max(0, strings.LastIndexAny(path, ".["))]
	}
	return 1
}

func (x lineIndex) note(path string, line int) {
	if x[path] == 0 {
		x[path] = line
	}
}

// scanner walks through valid TOML.
type scanner struct {
	text []byte
	pos  int
	line int
}

// indexLines finds where each key and table begins.
func indexLines(text []byte) lineIndex {
	x := lineIndex{}
	s := &scanner{text: bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")), line: 1}
	arrays := map[string]int{} // how many tables [[path]] so far
	prefix := ""
	for {
		s.blank(true)
		if s.pos >= len(s.text) {
			return x
		}
		line, start := s.line, s.pos
		if s.peek() != '[' {
			x.keyAndValue(s, prefix, line)
		} else {
			prefix = x.header(s, arrays, line)
		}
		if s.pos == start {
			s.advance() // cannot be in valid TOML; whatever it is, the end must come
		}
	}
}

// keyAndValue notes a line a.b = value.
func (x lineIndex) keyAndValue(s *scanner, prefix string, line int) {
	path := prefix
	for _, part := range s.key() {
		path = join(path, part)
		x.note(path, line)
	}
	s.blank(false)
	if s.peek() == '=' {
		s.advance()
		s.value()
	}
}

// header notes a line [a.b] or [[a.b]] and returns the path of the keys below it.
func (x lineIndex) header(s *scanner, arrays map[string]int, line int) string {
	s.advance()
	isArray := s.peek() == '['
	if isArray {
		s.advance()
	}
	path := ""
	parts := s.key()
	for i, part := range parts {
		path = join(path, part)
		x.note(path, line)
		switch n := arrays[path]; {
		case isArray && i == len(parts)-1:
			arrays[path]++
			path = fmt.Sprintf("%s[%d]", path, n)
			x.note(path, line)
		case n > 0: // below the latest table of that array
			path = fmt.Sprintf("%s[%d]", path, n-1)
		}
	}
	s.blank(false)
	for s.peek() == ']' {
		s.advance()
	}
	return path
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func (s *scanner) peek() byte {
	if s.pos < len(s.text) {
		return s.text[s.pos]
	}
	return 0
}

func (s *scanner) advance() {
	if s.peek() == '\n' {
		s.line++
	}
	s.pos++
}

// blank passes over spaces and comments, and with newlines set over line ends.
func (s *scanner) blank(newlines bool) {
	for s.pos < len(s.text) {
		switch c := s.peek(); {
		case c == ' ' || c == '\t' || c == '\r':
			s.advance()
		case c == '\n' && newlines:
			s.advance()
		case c == '#':
			for s.pos < len(s.text) && s.peek() != '\n' {
				s.advance()
			}
		default:
			return
		}
	}
}

// key reads a dotted key.
func (s *scanner) key() []string {
	var parts []string
	for {
		s.blank(false)
		start := s.pos
		switch c := s.peek(); c {
		case '"', '\'':
			s.str()
			raw := string(s.text[start:min(s.pos, len(s.text))])
			if u, err := strconv.Unquote(raw); c == '"' && err == nil {
				parts = append(parts, u)
			} else {
				parts = append(parts, strings.Trim(raw, string(c)))
			}
		default:
			for s.pos < len(s.text) && !bytes.ContainsRune([]byte(" \t\r\n.=]#"), rune(s.peek())) {
				s.advance()
			}
			parts = append(parts, string(s.text[start:s.pos]))
		}
		s.blank(false)
		if s.peek() != '.' {
			return parts
		}
		s.advance()
	}
}

// value passes over a value: up to the line's end, and further inside brackets.
func (s *scanner) value() {
	depth := 0
	for s.pos < len(s.text) {
		switch s.peek() {
		case '\n':
			if depth == 0 {
				return
			}
			s.advance()
		case '#':
			s.blank(false)
		case '"', '\'':
			s.str()
		case '[', '{':
			depth++
			s.advance()
		case ']', '}':
			depth--
			s.advance()
		default:
			s.advance()
		}
	}
}

// str passes over a string of any of the four kinds.
func (s *scanner) str() {
	quote := s.peek()
	long := bytes.Repeat([]byte{quote}, 3)
	if bytes.HasPrefix(s.text[s.pos:], long) {
		s.pos += 3
		for s.pos < len(s.text) && !bytes.HasPrefix(s.text[s.pos:], long) {
			s.char(quote)
		}
		// Up to two quotes may stand before the closing three.
		for n := 0; n < 5 && s.peek() == quote; n++ {
			s.advance()
		}
		return
	}
	s.advance()
	for s.pos < len(s.text) && s.peek() != quote && s.peek() != '\n' {
		s.char(quote)
	}
	if s.peek() == quote {
		s.advance()
	}
}

// char passes over one character of a string, escapes included.
func (s *scanner) char(quote byte) {
	if quote == '"' && s.peek() == '\\' {
		s.advance()
	}
	if s.pos < len(s.text) {
		s.advance()
	}
}
