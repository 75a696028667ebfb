package journal

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ft/drivers/asynclog"
)

// fake is a journald that understands the protocol's text and binary fields.
type fake struct {
	path string
	conn *net.UnixConn
}

func newFake(t *testing.T) *fake {
	t.Helper()
	f := &fake{path: filepath.Join(t.TempDir(), "socket")}
	var err error
	if f.conn, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: f.path, Net: "unixgram"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.conn.Close() })
	return f
}

func (f *fake) entry(t *testing.T) map[string]string {
	t.Helper()
	_ = f.conn.SetReadDeadline(time.Now().Add(time.Minute))
	b := make([]byte, 64<<10)
	n, err := f.conn.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	fields, err := parse(b[:n])
	if err != nil {
		t.Fatalf("%v in %q", err, b[:n])
	}
	return fields
}

func parse(b []byte) (map[string]string, error) {
	fields := map[string]string{}
	for len(b) > 0 {
		line, rest, ok := strings.Cut(string(b), "\n")
		if !ok {
			return nil, fmt.Errorf("no end of line")
		}
		key, value, text := strings.Cut(line, "=")
		if !text {
			if len(rest) < 8 {
				return nil, fmt.Errorf("no length of %s", key)
			}
			n := binary.LittleEndian.Uint64([]byte(rest))
			if uint64(len(rest)) < 8+n+1 || rest[8+n] != '\n' {
				return nil, fmt.Errorf("%s has not %d bytes", key, n)
			}
			value, rest = rest[8:8+n], rest[8+n+1:]
		}
		fields[key] = value
		b = []byte(rest)
	}
	return fields, nil
}

func (f *fake) logger(t *testing.T) *slog.Logger {
	w := asynclog.New(&sink{path: f.path})
	t.Cleanup(func() { w.Close(time.Minute) })
	return slog.New(&handler{w: w, name: "ftd"})
}

func TestChangeIsAnEntryWithFields(t *testing.T) {
	f := newFake(t)
	log := f.logger(t)
	log.Log(t.Context(), LevelCritical, "disk0: simplex → down, no leg is left", "component", "disk0", "from", "simplex", "to", "down", "reason", "no leg is left", "seq", 7, "gap_us", int64(12))
	want := map[string]string{
		"PRIORITY": "2", "SYSLOG_IDENTIFIER": "ftd", "MESSAGE_ID": ChangeID, "MESSAGE": "disk0: simplex → down, no leg is left",
		"FT_COMPONENT": "disk0", "FT_FROM": "simplex", "FT_TO": "down", "FT_REASON": "no leg is left", "FT_SEQ": "7", "FT_GAP_US": "12",
	}
	if diff := cmp.Diff(want, f.entry(t)); diff != "" {
		t.Error(diff)
	}
}

func TestOtherRecordsSayAllInTheMessage(t *testing.T) {
	f := newFake(t)
	log := f.logger(t).With("a", 1).WithGroup("g").With("b", "x y")
	log.Warn("two\nlines", "c", slog.GroupValue(slog.Int("d", 2)), "=ö", "")
	want := map[string]string{
		"PRIORITY": "4", "SYSLOG_IDENTIFIER": "ftd", "MESSAGE": "two\nlines a=1 g_b=\"x y\" g_c_d=2 g_=ö=\"\"",
		"FT_A": "1", "FT_G_B": "x y", "FT_G_C_D": "2", "FT_G___": "",
	}
	if diff := cmp.Diff(want, f.entry(t)); diff != "" {
		t.Error(diff)
	}
	log.Debug("not for the journal")
	f.logger(t).Error("e", "k", strings.Repeat("y", 100<<10), "l", strings.Repeat("\n", 100<<10), "m", strings.Repeat("z", 100<<10))
	got := f.entry(t)
	if got["PRIORITY"] != "3" || len(got["FT_K"]) < valueMax || len(got["FT_K"]) > valueMax+8 {
		t.Errorf("a huge record: priority %s, a field of %d bytes", got["PRIORITY"], len(got["FT_K"]))
	}
}

func TestWordsOfTheQueueAreEntriesToo(t *testing.T) {
	f := newFake(t)
	s := &sink{path: f.path}
	_, _ = s.Write([]byte("level=WARN msg=\"3 log lines were dropped\"\n"))
	if got := f.entry(t); got["PRIORITY"] != "4" || !strings.Contains(got["MESSAGE"], "3 log lines") {
		t.Errorf("got %v", got)
	}
}

// TestNoJournal: what cannot be sent is written to stderr, and nobody is held up.
func TestNoJournal(t *testing.T) {
	s := &sink{path: filepath.Join(t.TempDir(), "none")}
	if n, err := s.Write([]byte("PRIORITY=6\nMESSAGE=m\n")); n == 0 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if m := message([]byte("PRIORITY=6\nMESSAGE=m\nX=y\n")); string(m) != "m" {
		t.Errorf("the message is given as %q", m)
	}
	t.Setenv("JOURNAL_STREAM", "1:2")
	if connected() {
		t.Error("somebody else's stream is taken for ours")
	}
}
