package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// This file is what a status page may show to whoever reaches its port: reading alone, and
// of that only what costs little however often it is asked for. On a TCP port it is not
// known who asks, so there is no right to check, and nothing here may need one.

const (
	publicStatusAge = 200 * time.Millisecond // the core is asked no more often than this
	publicEventsMax = 500                    // in one answer
)

// Public answers GET and HEAD of /v1/status, /v1/events?since=N and /metrics, in the form
// that they have on the socket, but for the events: at most the newest few, and no
// following, which would keep a connection for each reader.
func (s *Server) Public() http.Handler {
	p := &public{server: s}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", p.getStatus)
	mux.HandleFunc("GET /v1/events", p.getEvents)
	mux.HandleFunc("GET /metrics", s.getMetrics)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, &Error{Code: CodeNotFound, Sentence: fmt.Sprintf("there is no %s %s here: this port shows the state of the box and changes nothing; `ftctl` on the box does more", r.Method, r.URL.Path)})
	})
	return mux
}

type public struct {
	server *Server

	mu   sync.Mutex
	text []byte // the status document as of at
	at   time.Time
}

func (p *public) getStatus(w http.ResponseWriter, _ *http.Request) {
	text, err := p.status()
	if err != nil {
		p.server.fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(text)
}

// status is the document, made anew when it has grown old. Readers that come together
// wait for one another here, and not in the queue of the core.
func (p *public) status() ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Since(p.at) < publicStatusAge {
		return p.text, nil
	}
	st := p.server.backend.Status()
	if st.System.Name == "" {
		return nil, &Error{Code: CodeBusyServer, Sentence: "ftd has no status now: " + st.System.Verdict}
	}
	text, err := json.Marshal(st)
	if err != nil {
		return nil, fmt.Errorf("encode the status: %w", err)
	}
	p.text, p.at = append(text, '\n'), time.Now()
	return p.text, nil
}

func (p *public) getEvents(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	since, latest := uint64(0), eventsShownDefault
	if v := q.Get("since"); v != "" {
		n, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			p.server.fail(w, badRequest("since=%s: a number is meant, that of the last event already seen", v))
			return
		}
		since, latest = n, publicEventsMax
	}
	if f := q.Get("follow"); f != "" && f != "0" {
		p.server.fail(w, badRequest("this port does not follow; ask again with since=N, or use `ftctl events --follow` on the box"))
		return
	}
	w.Header().Set("Content-Type", "application/jsonl")
	_, _ = w.Write(recentLines(p.server.backend.Events().Latest(latest), since))
}

// recentLines are the entries after since, and the markers that the socket's stream has too.
func recentLines(entries []Event, since uint64) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	last := since
	for _, e := range entries {
		if e.Seq <= since {
			continue
		}
		if last == since && since > 0 && e.Seq > since+1 {
			_ = enc.Encode(Marker{Marker: MarkerGap, Seq: since, Lost: e.Seq - since - 1})
		}
		_ = enc.Encode(e) // an entry that cannot be encoded was never logged
		last = e.Seq
	}
	if len(entries) > 0 {
		last = min(last, entries[len(entries)-1].Seq) // since may come from another log
	}
	_ = enc.Encode(Marker{Marker: MarkerLive, Seq: last})
	return b.Bytes()
}
