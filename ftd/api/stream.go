package api

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"time"
)

// Limits of the event stream.
const (
	eventsShownDefault = 50       // without since
	streamBatch        = 256      // live entries written at a time
	streamBytes        = 32 << 10 // of the past written at a time
)

// getEvents writes JSON lines: the past, the marker "live", and with follow=1 what
// happens from then on, without a gap in between. A reader that is too slow gets the
// marker "gap"; one that does not read at all is let go.
func (s *Server) getEvents(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	since, latest := uint64(0), true
	if v := q.Get("since"); v != "" {
		n, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			s.fail(w, badRequest("since=%s: a number is meant, that of the last event already seen", v))
			return
		}
		since, latest = n, false
	}
	follow := q.Get("follow") != "" && q.Get("follow") != "0"

	w.Header().Set("Content-Type", "application/jsonl")
	out := &lineWriter{w: w, rc: http.NewResponseController(w)}
	// A stream has no body to wait for; its reads only tell when the reader has gone.
	_ = out.rc.SetReadDeadline(time.Time{})
	seq, err := s.sendPast(out, since, latest)
	if err != nil {
		s.log.Warn("event stream ended", "error", err)
		return
	}
	// A number from another log (the state directory was cleared) may lie ahead of this
	// one: what is to come is new all the same.
	seq = min(seq, s.backend.Events().LastSeq())
	out.line(Marker{Marker: MarkerLive, Seq: seq})
	out.flush()
	if follow && out.err == nil {
		s.follow(r.Context(), out, seq)
	}
}

// sendPast writes the entries after since, or the latest few, and returns the number
// of the last one.
func (s *Server) sendPast(out *lineWriter, since uint64, latest bool) (uint64, error) {
	seq := since
	send := func(e Event) error {
		if seq == since && since > 0 && e.Seq > since+1 {
			out.line(Marker{Marker: MarkerGap, Seq: since, Lost: e.Seq - since - 1})
		}
		seq = e.Seq
		out.line(e)
		if out.buf.Len() > streamBytes {
			out.flush()
		}
		return out.err
	}
	if !latest {
		return seq, s.backend.Events().Each(since, send)
	}
	for _, e := range s.backend.Events().Latest(eventsShownDefault) {
		if err := send(e); err != nil {
			return seq, err
		}
	}
	return seq, nil
}

// follow ends when the reader has gone or does not read, or the server stops.
func (s *Server) follow(ctx context.Context, out *lineWriter, seq uint64) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.stopping, cancel)()
	f := s.backend.Events().Follow(seq)
	for out.err == nil {
		b, err := f.Next(ctx, streamBatch)
		if err != nil {
			return
		}
		if b.Lost > 0 {
			out.line(Marker{Marker: MarkerGap, Seq: seq, Lost: b.Lost})
		}
		for _, e := range b.Entries {
			out.line(e)
			seq = e.Seq
		}
		out.flush()
	}
}

// lineWriter gathers JSON lines and writes them with a deadline for each piece. After
// the first error it does nothing.
type lineWriter struct {
	w   http.ResponseWriter
	rc  *http.ResponseController
	buf bytes.Buffer
	err error
}

func (l *lineWriter) line(v any) {
	if l.err != nil {
		return
	}
	var b []byte
	if b, l.err = json.Marshal(v); l.err == nil {
		l.buf.Write(b)
		l.buf.WriteByte('\n')
	}
}

func (l *lineWriter) flush() {
	if l.err != nil {
		return
	}
	_ = l.rc.SetWriteDeadline(time.Now().Add(answerTimeout))
	if _, l.err = l.w.Write(l.buf.Bytes()); l.err == nil {
		l.err = l.rc.Flush()
	}
	l.buf.Reset()
}
