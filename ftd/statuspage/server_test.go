package statuspage

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

var discard = slog.New(slog.DiscardHandler)

// echo stands for what is served beneath the page.
var echo = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.URL.Path) })

func TestWhoMayAskForWhat(t *testing.T) {
	for _, c := range []struct {
		name, method, path, host string
		header                   [2]string
		want                     int
	}{
		{"the page", "GET", "/", "127.0.0.1:8080", [2]string{}, 200},
		{"its head", "HEAD", "/", "localhost", [2]string{}, 200},
		{"through a tunnel, under another port", "GET", "/v1/status", "localhost:9000", [2]string{}, 200},
		{"over IPv6", "GET", "/v1/status", "[::1]:8080", [2]string{}, 200},
		{"over IPv6 without a port", "GET", "/", "[::1]", [2]string{}, 200},
		{"anywhere in 127/8", "GET", "/", "127.8.8.8:1", [2]string{}, 200},
		{"a name that was led here", "GET", "/v1/status", "evil.example:8080", [2]string{}, 421},
		{"a name that looks like it", "GET", "/v1/status", "localhost.evil.example", [2]string{}, 421},
		{"an address that is not local", "GET", "/", "192.0.2.7:8080", [2]string{}, 421},
		{"no host", "GET", "/", "", [2]string{}, 421},
		{"a change", "POST", "/v1/components/pci1/bringdown", "localhost", [2]string{}, 405},
		{"any other method", "PROPFIND", "/", "localhost", [2]string{}, 405},
		{"the page's own script", "GET", "/v1/status", "localhost", [2]string{"Sec-Fetch-Site", "same-origin"}, 200},
		{"a bookmark", "GET", "/v1/status", "localhost", [2]string{"Sec-Fetch-Site", "none"}, 200},
		{"another site", "GET", "/v1/status", "localhost", [2]string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"another port of this computer", "GET", "/metrics", "localhost", [2]string{"Sec-Fetch-Site", "same-site"}, 403},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := httptest.NewRequest(c.method, "http://x"+c.path, nil)
			r.Host = c.host
			if c.header[0] != "" {
				r.Header.Set(c.header[0], c.header[1])
			}
			w := httptest.NewRecorder()
			Handler(echo).ServeHTTP(w, r)
			if w.Code != c.want {
				t.Errorf("%d %s", w.Code, w.Body)
			}
			for name := range headers {
				if w.Header().Get(name) == "" {
					t.Errorf("%s is missing", name)
				}
			}
		})
	}
	link := httptest.NewRequest("GET", "http://localhost/", nil)
	link.Header.Set("Sec-Fetch-Site", "cross-site")
	link.Header.Set("Sec-Fetch-Mode", "navigate")
	w := httptest.NewRecorder()
	if Handler(echo).ServeHTTP(w, link); w.Code != 200 {
		t.Errorf("a link to the page: %d", w.Code)
	}
}

// What is in the page can be read off its text: nothing from elsewhere, nothing inline but
// what the policy has the hash of.
func TestThePageIsOneDocument(t *testing.T) {
	for _, bad := range []string{"http://", "https://", " src=", " onclick", "javascript:", "innerHTML", "insertAdjacentHTML", "document.write", "eval(", " style="} {
		rest := strings.ReplaceAll(page.html, svgNamespace, "")
		if strings.Contains(rest, bad) {
			t.Errorf("%q is in the page", bad)
		}
	}
	for _, want := range []string{"default-src 'none'", "script-src 'sha256-", "style-src 'sha256-", "frame-ancestors 'none'", "require-trusted-types-for 'script'"} {
		if !strings.Contains(page.policy, want) {
			t.Errorf("%q is missing in %s", want, page.policy)
		}
	}
	if strings.Contains(page.policy, "unsafe") || strings.Contains(page.html, "/*SCRIPT*/") {
		t.Error(page.policy)
	}
	entries, err := files.ReadDir("page")
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1+len(styles)+len(scripts) {
		t.Errorf("%d files are embedded, 1 + %d + %d are used", len(entries), len(styles), len(scripts))
	}
}

const svgNamespace = "http://www.w3.org/2000/svg"

func listen(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

func TestConnectionsAreBounded(t *testing.T) {
	ln := listen(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, ln, echo, discard) }()
	ask := func(c net.Conn) error {
		c.SetDeadline(time.Now().Add(30 * time.Second))
		if _, err := io.WriteString(c, "GET /v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
			return err
		}
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, resp.Body)
		return err
	}
	var open []net.Conn
	defer func() {
		for _, c := range open {
			c.Close()
		}
	}()
	dial := func() net.Conn {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
		return c
	}
	for i := range connsMax {
		if err := ask(dial()); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
	}
	if err := ask(dial()); err == nil {
		t.Fatal("one too many is answered")
	}
	open[0].Close()
	for deadline := time.Now().Add(30 * time.Second); ask(dial()) != nil; {
		if time.Now().After(deadline) {
			t.Fatal("room that was made is not used")
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// A port that is taken is tried again, and ftd goes on.
func TestAPortThatIsTakenIsSaid(t *testing.T) {
	ln := listen(t)
	defer ln.Close()
	said := make(chan string, 16)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		Run(ctx, ln.Addr().String(), echo, slog.New(slog.NewTextHandler(writer(said), nil)))
	}()
	if s := <-said; !strings.Contains(s, "address already in use") || !strings.Contains(s, "tried again") {
		t.Error(s)
	}
	cancel()
	<-ended
}

type writer chan string

func (w writer) Write(b []byte) (int, error) {
	select {
	case w <- string(b):
	default:
		return 0, errors.New("too much is said")
	}
	return len(b), nil
}
