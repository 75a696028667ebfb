// Package statuspage is the read-only web page of a box: one HTML document that shows the
// status document as the box, drawn, and keeps up with it.
//
// The way of data: the browser polls /v1/status and, when the number of the last event has
// grown, /v1/events; both are answered by api.Server.Public. The page asks for nothing
// else and nobody else. page/*.js say how it is drawn; page.go puts them together.
//
// Invariants:
//   - Nothing can be changed through this port: there is no method but GET and HEAD, and no
//     handler that changes anything.
//   - It listens on a loopback address only (ftd/config refuses others). Who reaches that may
//     look; there is no password. Another web site that a local browser has open may not:
//     its requests are known by Host (DNS rebinding) and Sec-Fetch-Site.
//   - Connections, their time and what one request costs are bounded.
//   - ftd does not need it: a port that is taken is tried again, and said in the log.
package statuspage

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// Limits of the port.
const (
	connsMax       = 64
	headerTimeout  = 5 * time.Second
	answerTimeout  = 15 * time.Second
	idleTimeout    = 30 * time.Second
	headerBytesMax = 16 << 10
	lastWords      = time.Second     // for answers under way at the end
	listenRetry    = 5 * time.Second // when the port is taken
)

// Run serves the page on a loopback address, and what public answers beneath it, until ctx
// ends. An address that cannot be had now is tried again.
func Run(ctx context.Context, address string, public http.Handler, log *slog.Logger) {
	told := ""
	for ctx.Err() == nil {
		ln, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
		if err == nil {
			log.Info("the status page is up", "url", "http://"+ln.Addr().String()+"/")
			told, err = "", Serve(ctx, ln, public, log)
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil && err.Error() != told {
			told = err.Error()
			log.Warn("the status page is not up; it is tried again", "address", address, "error", err)
		}
		select {
		case <-time.After(listenRetry):
		case <-ctx.Done():
		}
	}
}

// Serve answers on a listener until ctx ends; then it returns nil.
func Serve(ctx context.Context, ln net.Listener, public http.Handler, log *slog.Logger) error {
	hs := &http.Server{
		Handler:           Handler(public),
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       headerTimeout,
		WriteTimeout:      answerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    headerBytesMax,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug), // of what a browser may do
	}
	ended := make(chan error, 1)
	go func() { ended <- hs.Serve(&limited{Listener: ln, room: make(chan struct{}, connsMax)}) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	patience, cancel := context.WithTimeout(context.Background(), lastWords)
	defer cancel()
	if hs.Shutdown(patience) != nil {
		hs.Close()
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// limited bounds the open connections: one too many is closed at once.
type limited struct {
	net.Listener
	room chan struct{}
}

func (l *limited) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case l.room <- struct{}{}:
			return &conn{Conn: c, leave: sync.OnceFunc(func() { <-l.room })}, nil
		default:
			c.Close()
		}
	}
}

type conn struct {
	net.Conn
	leave func()
}

func (c *conn) Close() error {
	c.leave()
	return c.Conn.Close()
}

// headers of every answer. The page has its own policy besides (page.go).
var headers = map[string]string{
	"Cache-Control":                "no-store",
	"Content-Security-Policy":      "default-src 'none'; frame-ancestors 'none'",
	"Cross-Origin-Embedder-Policy": "require-corp",
	"Cross-Origin-Opener-Policy":   "same-origin",
	"Cross-Origin-Resource-Policy": "same-origin",
	"Permissions-Policy":           "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
	"Referrer-Policy":              "no-referrer",
	"X-Content-Type-Options":       "nosniff",
	"X-Frame-Options":              "DENY",
}

// Handler is the page at / and, for whoever may ask, what public answers.
func Handler(public http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for name, value := range headers {
			w.Header().Set(name, value)
		}
		switch {
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "this port shows the state of the box and changes nothing; `ftctl` does", http.StatusMethodNotAllowed)
		case !localHost(r.Host):
			http.Error(w, "this page is served under localhost or a loopback address only; from another computer: ssh -L 8080:"+servedOn(r)+" THIS-HOST, then http://localhost:8080/", http.StatusMisdirectedRequest)
		case foreign(r):
			http.Error(w, "another web site asks for this", http.StatusForbidden)
		case r.URL.Path == "/":
			page.serve(w)
		default:
			public.ServeHTTP(w, r)
		}
	})
}

// localHost says whether a request's Host is this computer, under any port: at the other
// end of a tunnel the page has another one. A name that somebody else's DNS leads here
// (rebinding) is not.
func localHost(host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	if strings.EqualFold(name, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(strings.Trim(name, "[]"))
	return err == nil && ip.IsLoopback()
}

func servedOn(r *http.Request) string {
	if a, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		return a.String()
	}
	return "127.0.0.1:PORT"
}

// foreign says whether another site's page asks. A link to the page itself is none of that.
func foreign(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "none", "same-origin":
		return false
	}
	return r.URL.Path != "/" || r.Header.Get("Sec-Fetch-Mode") != "navigate"
}
