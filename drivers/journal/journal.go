// Package journal is the log of a service: under systemd it goes to the journal with
// structured fields, elsewhere to stderr as lines of text. It never blocks its caller:
// a journal may lie on a disk that the box itself serves, so that what does not fit
// into a bounded queue is dropped and counted (asynclog).
//
//	slog ─▶ handler: one datagram a record ─▶ asynclog's queue ─▶ sink ─▶ journald
//
// A record's attributes become fields: from=… is FT_FROM=…. One with the attribute
// "component" tells of a change of that part of the box and says all in its message; it
// has a MESSAGE_ID, by which all changes are found:
//
//	journalctl MESSAGE_ID=d6d7fbd3c3a5430c8cbee3b2ef8ec0d7
//	journalctl FT_COMPONENT=pci1/disk0
//
// The protocol is systemd's "Native Journal Protocol": a datagram of KEY=value lines,
// and for values of several lines KEY, their length as 64 bits little-endian, and they.
package journal

import (
	"context"
	"encoding/binary"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ft/drivers/asynclog"
)

// ChangeID is the MESSAGE_ID of a change of a component's state.
const ChangeID = "d6d7fbd3c3a5430c8cbee3b2ef8ec0d7"

// LevelCritical is for what needs a person at once: PRIORITY 2.
const LevelCritical = slog.LevelError + 4

// Limits of a record, in bytes: asynclog cuts longer ones, which the journal would not
// understand.
const (
	valueMax  = 4 << 10
	recordMax = 15 << 10
)

// componentKey is the attribute that makes a record one of a change.
const componentKey = "component"

// Open is the log of the service called name. Close ends it.
func Open(name string) (log *slog.Logger, close func(time.Duration)) {
	if connected() {
		w := asynclog.New(&sink{path: socketPath})
		return slog.New(&handler{w: w, name: name}), w.Close
	}
	w := asynclog.New(&asynclog.Stderr{})
	return slog.New(slog.NewTextHandler(w, nil)), w.Close
}

// connected says whether stderr is the journal's (JOURNAL_STREAM in systemd.exec(5)): a
// process that was started by a service but writes elsewhere means that.
func connected() bool {
	var st unix.Stat_t
	dev, ino, _ := strings.Cut(os.Getenv("JOURNAL_STREAM"), ":")
	return dev != "" && unix.Fstat(int(os.Stderr.Fd()), &st) == nil &&
		dev == strconv.FormatUint(st.Dev, 10) && ino == strconv.FormatUint(st.Ino, 10)
}

// handler makes a datagram of each record.
type handler struct {
	w      *asynclog.Writer
	name   string
	prefix string      // of the groups that are open
	attrs  []slog.Attr // of the logger, their keys with the prefix
}

func (h *handler) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }

func (h *handler) WithAttrs(as []slog.Attr) slog.Handler {
	n := *h
	n.attrs = append(h.attrs[:len(h.attrs):len(h.attrs)], flatten(nil, h.prefix, as)...)
	return &n
}

func (h *handler) WithGroup(name string) slog.Handler {
	n := *h
	if name != "" {
		n.prefix += name + "_"
	}
	return &n
}

func (h *handler) Handle(_ context.Context, r slog.Record) error {
	attrs := h.attrs[:len(h.attrs):len(h.attrs)]
	r.Attrs(func(a slog.Attr) bool {
		attrs = flatten(attrs, h.prefix, []slog.Attr{a})
		return true
	})
	_, err := h.w.Write(h.encode(r, attrs))
	return err
}

// flatten appends attributes with groups turned into prefixes.
func flatten(to []slog.Attr, prefix string, as []slog.Attr) []slog.Attr {
	for _, a := range as {
		a.Value = a.Value.Resolve()
		switch {
		case a.Equal(slog.Attr{}): // to be ignored, says slog.Handler
		case a.Value.Kind() == slog.KindGroup && a.Key == "":
			to = flatten(to, prefix, a.Value.Group())
		case a.Value.Kind() == slog.KindGroup:
			to = flatten(to, prefix+a.Key+"_", a.Value.Group())
		default:
			a.Key = prefix + a.Key
			to = append(to, a)
		}
	}
	return to
}

// priority is a level as syslog(3) has it.
func priority(l slog.Level) string {
	switch {
	case l >= LevelCritical:
		return "2"
	case l >= slog.LevelError:
		return "3"
	case l >= slog.LevelWarn:
		return "4"
	}
	return "6"
}

// nativeStart begins every datagram of the handler's, and nothing else that asynclog
// writes.
const nativeStart = "PRIORITY="

func (h *handler) encode(r slog.Record, attrs []slog.Attr) []byte {
	b := append([]byte(nativeStart), priority(r.Level)+"\n"...)
	b = field(b, "SYSLOG_IDENTIFIER", h.name)
	message := r.Message
	change := false
	for _, a := range attrs {
		change = change || a.Key == componentKey
	}
	if change {
		b = field(b, "MESSAGE_ID", ChangeID)
	} else {
		for _, a := range attrs {
			message += " " + a.Key + "=" + quote(a.Value.String())
		}
	}
	b = field(b, "MESSAGE", message)
	for _, a := range attrs {
		if len(b) > recordMax-2*valueMax {
			break
		}
		b = field(b, fieldName(a.Key), a.Value.String())
	}
	return b
}

func quote(s string) string {
	if s == "" || strings.ContainsAny(s, " \"=\n\t") {
		return strconv.Quote(s)
	}
	return s
}

// fieldName is an attribute's key as the name of a field: at most 64 characters, A-Z, 0-9
// and _ alone. One that began with _ would be the journal's own, and be dropped.
func fieldName(key string) string {
	name := strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z':
			return r - 'a' + 'A'
		case 'A' <= r && r <= 'Z', '0' <= r && r <= '9':
			return r
		}
		return '_'
	}, key)
	return "FT_" + name[:min(len(name), 61)]
}

func field(b []byte, name, value string) []byte {
	if len(value) > valueMax {
		value = strings.ToValidUTF8(value[:valueMax], "") + " …"
	}
	b = append(b, name...)
	if strings.IndexByte(value, '\n') < 0 {
		b = append(append(b, '='), value...)
		return append(b, '\n')
	}
	b = append(b, '\n')
	b = binary.LittleEndian.AppendUint64(b, uint64(len(value)))
	return append(append(b, value...), '\n')
}
