package api

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// This file is the way to a machine's console: an HTTP request that is upgraded to a stream
// of raw bytes,
//
//	ftctl ─ ftd's socket ─ Server ─ Backend.Console ─ the driver's socket
//
// The driver's socket is root's alone; who may watch and who may type is decided here. What
// is in the way never holds up the driver, and holds up a session only until its deadline.

const (
	consolePath     = "/console"
	consoleProtocol = "ft-console"
	// consoleWatch asks, as ?mode=watch, for a session that only watches.
	consoleWatch = "watch"
)

// Limits of consoles.
const (
	consoleWatchersMax = 16               // of one machine
	consoleTypersMax   = 8                // so that watchers lock out nobody who must type
	consoleStuckMax    = 30 * time.Second // for one who does not take what the other has said
	consoleChunk       = 16 << 10
)

// consoles are the sessions of a server.
type consoles struct {
	wg    sync.WaitGroup
	stuck time.Duration // consoleStuckMax, but for tests

	mu   sync.Mutex     // guards the field below
	open map[string]int // by machine and mode
}

// enter takes a place; leave gives it back.
func (c *consoles) enter(key string, limit int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open[key] >= limit {
		return false
	}
	c.open[key]++
	c.wg.Add(1)
	return true
}

func (c *consoles) leave(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open[key]--; c.open[key] == 0 {
		delete(c.open, key)
	}
	c.wg.Done()
}

// getConsole answers GET /v1/components/ID/console. That the caller may read has been
// checked; to type takes more.
func (s *Server) getConsole(w http.ResponseWriter, r *http.Request, id string) {
	if !strings.EqualFold(r.Header.Get("Upgrade"), consoleProtocol) {
		s.fail(w, badRequest("a console is a stream of bytes: ask with the headers `Connection: Upgrade` and `Upgrade: %s`, as `ftctl console` does", consoleProtocol))
		return
	}
	p := r.Context().Value(peerKey{}).(peer)
	key, limit, watch := id+" typing", consoleTypersMax, r.URL.Query().Get("mode") == consoleWatch
	if watch {
		key, limit = id+" watching", consoleWatchersMax
	} else if e := s.groups.mayType(p, id); e != nil {
		s.fail(w, e)
		return
	}
	if !s.consoles.enter(key, limit) {
		s.fail(w, &Error{Code: CodeBusyServer, Sentence: fmt.Sprintf("%d sessions are %s on the console of %s already; end one of them", limit, strings.TrimPrefix(key, id+" "), id)})
		return
	}
	defer s.consoles.leave(key)
	machine, err := s.backend.Console(r.Context(), id)
	if err != nil {
		s.fail(w, err)
		return
	}
	defer machine.Close()
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		s.fail(w, fmt.Errorf("take the connection over for a console: %w", err))
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Time{})
	s.log.Info("console", "machine", id, "user", p.name(), "pid", p.pid, "watch", watch)
	session := consoleSession{client: conn, typed: buffered, machine: machine, stuck: s.consoles.stuck}
	if watch {
		session.refuse = s.groups.mayType(p, id)
		if session.refuse == nil {
			session.refuse = &Error{Sentence: "this session only watches: end it, and open another one to type"}
		}
	}
	session.run(s.stopping)
}

// consoleSession is one connection between a client and a machine.
type consoleSession struct {
	client  net.Conn
	typed   io.Reader // the client, with what it has sent ahead
	machine net.Conn
	refuse  *Error // why the client may not type; nil when it may
	stuck   time.Duration
}

// run ends when either end does, when one does not take what the other has said, or when
// ctx ends.
func (s *consoleSession) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { // no read or write outlasts this
		s.client.Close()
		s.machine.Close()
	})
	defer stop()
	if err := s.tell("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + consoleProtocol + "\r\n\r\n"); err != nil {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer cancel()
		s.copy(s.client, s.machine)
	}()
	if s.refuse == nil {
		s.copy(s.machine, s.typed)
	} else if n, _ := s.typed.Read(make([]byte, 1)); n > 0 {
		_ = s.tell("\r\nftd: " + s.refuse.Sentence + "\r\n")
	}
	cancel()
	<-done
}

func (s *consoleSession) tell(text string) error {
	_ = s.client.SetWriteDeadline(time.Now().Add(s.stuck))
	_, err := io.WriteString(s.client, text)
	return err
}

// copy goes on until an end closes, or takes nothing for too long. from may be silent for as
// long as it likes.
func (s *consoleSession) copy(to net.Conn, from io.Reader) {
	buf := make([]byte, consoleChunk)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			_ = to.SetWriteDeadline(time.Now().Add(s.stuck))
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// Console opens a machine's console. watch: only to look; else what is written is typed.
// Closing it ends the session.
func (c *Client) Console(ctx context.Context, id string, watch bool) (io.ReadWriteCloser, error) {
	path := componentPath(id) + consolePath
	if watch {
		path += "?mode=" + consoleWatch
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://ftd"+path, nil)
	if err != nil {
		return nil, &Error{Code: CodeBadRequest, Sentence: err.Error()}
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", consoleProtocol)
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(err)
	}
	if stream, ok := resp.Body.(io.ReadWriteCloser); ok && resp.StatusCode == http.StatusSwitchingProtocols {
		return stream, nil
	}
	defer resp.Body.Close()
	return nil, c.refusal(resp)
}
