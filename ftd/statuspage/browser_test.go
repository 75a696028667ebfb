package statuspage

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// This file drives a real Chromium by the DevTools protocol over two pipes: messages are JSON,
// each followed by a zero byte (--remote-debugging-pipe). What it needs of the protocol is a
// handful of commands, see https://chromedevtools.github.io/devtools-protocol/.

// browserPatience bounds every wait for the browser.
const browserPatience = time.Minute

// browser is a Chromium of its own profile, shared by the tests of this package.
type browser struct {
	in *os.File

	mu     sync.Mutex // guards what follows, and writes
	last   int
	calls  map[int]chan message
	hear   map[string]func(method string, params json.RawMessage) // by session
	closed error
}

type message struct {
	ID        int             `json:"id,omitempty"`
	Method    string          `json:"method,omitempty"`
	Params    json.RawMessage `json:"params,omitempty"`
	Result    json.RawMessage `json:"result,omitempty"`
	SessionID string          `json:"sessionId,omitempty"`
	Error     *struct {
		Message string `json:"message"`
	} `json:"error,omitempty"`
}

var (
	browserOnce sync.Once
	theBrowser  *browser
	browserErr  error
	browserEnd  = func() {}
)

func TestMain(m *testing.M) {
	code := m.Run()
	browserEnd()
	os.Exit(code)
}

// chromium starts the browser at the first call. Where there is none the test fails: make
// test installs it (.ci/needs).
func chromium(t *testing.T) *browser {
	t.Helper()
	browserOnce.Do(func() { theBrowser, browserErr = startBrowser() })
	if browserErr != nil {
		t.Fatalf("the page is tried in a real browser: %v", browserErr)
	}
	return theBrowser
}

func startBrowser() (*browser, error) {
	path, err := exec.LookPath("chromium")
	if err != nil {
		return nil, fmt.Errorf("%w; apt-get install --no-install-recommends chromium", err)
	}
	profile, err := os.MkdirTemp("", "ft-chromium-")
	if err != nil {
		return nil, err
	}
	toIt, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	out, fromIt, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	var said bytes.Buffer
	cmd := exec.Command(path, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
		"--disable-extensions", "--hide-scrollbars", "--force-color-profile=srgb", "--user-data-dir="+profile, "--remote-debugging-pipe", "about:blank")
	cmd.ExtraFiles = []*os.File{toIt, fromIt} // descriptors 3 and 4
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	toIt.Close()
	fromIt.Close()
	b := &browser{in: in, calls: map[int]chan message{}, hear: map[string]func(string, json.RawMessage){}}
	listened := make(chan struct{})
	go func() { defer close(listened); b.listen(out) }()
	browserEnd = func() {
		_, _ = b.call("", "Browser.close", nil)
		in.Close()
		ended := make(chan struct{})
		go func() { _ = cmd.Wait(); close(ended) }()
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			_ = cmd.Process.Kill()
			<-ended
		}
		out.Close()
		<-listened
		os.RemoveAll(profile)
	}
	if _, err := b.call("", "Browser.getVersion", nil); err != nil {
		browserEnd()
		browserEnd = func() {}
		return nil, fmt.Errorf("chromium does not answer: %w\n%s", err, said.String())
	}
	return b, nil
}

func (b *browser) listen(out *os.File) {
	r := bufio.NewReaderSize(out, 1<<20)
	for {
		text, err := r.ReadBytes(0)
		if err != nil {
			b.mu.Lock()
			b.closed = fmt.Errorf("the browser has gone: %w", err)
			for _, c := range b.calls {
				close(c)
			}
			b.calls = nil
			b.mu.Unlock()
			return
		}
		var m message
		if json.Unmarshal(text[:len(text)-1], &m) != nil {
			continue
		}
		b.mu.Lock()
		answer, hear := b.calls[m.ID], b.hear[m.SessionID]
		delete(b.calls, m.ID)
		b.mu.Unlock()
		switch {
		case answer != nil:
			answer <- m
		case m.Method != "" && hear != nil:
			hear(m.Method, m.Params)
		}
	}
}

// call sends a command and waits for its answer.
func (b *browser) call(session, method string, params any) (json.RawMessage, error) {
	p, err := json.Marshal(params)
	if err != nil {
		return nil, err
	}
	answer := make(chan message, 1)
	b.mu.Lock()
	if b.closed != nil {
		b.mu.Unlock()
		return nil, b.closed
	}
	b.last++
	text, _ := json.Marshal(message{ID: b.last, Method: method, Params: p, SessionID: session})
	b.calls[b.last] = answer
	_, err = b.in.Write(append(text, 0))
	b.mu.Unlock()
	if err != nil {
		return nil, err
	}
	select {
	case m, ok := <-answer:
		switch {
		case !ok:
			return nil, b.closed
		case m.Error != nil:
			return nil, fmt.Errorf("%s: %s", method, m.Error.Message)
		}
		return m.Result, nil
	case <-time.After(browserPatience):
		return nil, fmt.Errorf("%s: no answer", method)
	}
}

// tab is a page in the browser.
type tab struct {
	t       *testing.T
	b       *browser
	session string

	mu       sync.Mutex
	requests []string // URLs that were asked for
	trouble  []string // exceptions and errors on the console
}

// look is how a tab is looked at.
type look struct {
	width, height int
	dark, print   bool
	motion        string // "reduce": none
}

// open opens a URL in a tab of its own, until the test ends.
func open(t *testing.T, url string, as look) *tab {
	t.Helper()
	b := chromium(t)
	var target struct{ TargetID, BrowserContextID, SessionID string }
	tb := &tab{t: t, b: b}
	tb.into(&target, "Target.createBrowserContext", nil)
	tb.into(&target, "Target.createTarget", map[string]any{"url": "about:blank", "browserContextId": target.BrowserContextID})
	tb.into(&target, "Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true})
	tb.session = target.SessionID
	b.mu.Lock()
	b.hear[tb.session] = tb.note
	b.mu.Unlock()
	t.Cleanup(func() {
		tb.session = ""
		tb.do("Target.disposeBrowserContext", map[string]any{"browserContextId": target.BrowserContextID})
	})
	for _, domain := range []string{"Page", "Runtime", "Network", "Log"} {
		tb.do(domain+".enable", nil)
	}
	tb.as(as)
	tb.do("Page.navigate", map[string]any{"url": url})
	return tb
}

func (tb *tab) note(method string, params json.RawMessage) {
	var p struct {
		Request          struct{ URL string }
		ExceptionDetails json.RawMessage
		Entry            struct{ Level, Text, URL string }
	}
	_ = json.Unmarshal(params, &p)
	tb.mu.Lock()
	defer tb.mu.Unlock()
	switch method {
	case "Network.requestWillBeSent":
		tb.requests = append(tb.requests, p.Request.URL)
	case "Runtime.exceptionThrown":
		tb.trouble = append(tb.trouble, string(p.ExceptionDetails))
	case "Log.entryAdded":
		// That ftd does not answer is the browser's to say, and no trouble of the page.
		if p.Entry.Level == "error" && !strings.Contains(p.Entry.Text, "Failed to load resource") {
			tb.trouble = append(tb.trouble, p.Entry.Text)
		}
	}
}

// noTrouble fails the test when the page threw, broke its own policy, or asked another host.
func (tb *tab) noTrouble(host string) {
	tb.t.Helper()
	tb.mu.Lock()
	defer tb.mu.Unlock()
	for _, x := range tb.trouble {
		tb.t.Errorf("the page has trouble: %s", x)
	}
	for _, url := range tb.requests {
		if !strings.HasPrefix(url, "http://"+host+"/") && !strings.HasPrefix(url, "data:") {
			tb.t.Errorf("the page asks for %s", url)
		}
	}
}

func (tb *tab) as(as look) {
	tb.t.Helper()
	scheme, media := "light", ""
	if as.dark {
		scheme = "dark"
	}
	if as.print {
		media = "print"
	}
	tb.do("Emulation.setDeviceMetricsOverride", map[string]any{"width": as.width, "height": as.height, "deviceScaleFactor": 1, "mobile": as.width < 600})
	tb.do("Emulation.setEmulatedMedia", map[string]any{"media": media, "features": []map[string]string{{"name": "prefers-color-scheme", "value": scheme}, {"name": "prefers-reduced-motion", "value": as.motion}}})
}

func (tb *tab) do(method string, params any) json.RawMessage {
	tb.t.Helper()
	result, err := tb.b.call(tb.session, method, params)
	if err != nil {
		tb.t.Fatal(err)
	}
	return result
}

func (tb *tab) into(v any, method string, params any) {
	tb.t.Helper()
	if err := json.Unmarshal(tb.do(method, params), v); err != nil {
		tb.t.Fatalf("%s: %v", method, err)
	}
}

// eval runs a script in the page and decodes what it (or its promise) comes to.
func (tb *tab) eval(v any, script string) {
	tb.t.Helper()
	var r struct {
		Result           struct{ Value json.RawMessage }
		ExceptionDetails *struct {
			Text      string
			Exception struct{ Description string }
		}
	}
	tb.into(&r, "Runtime.evaluate", map[string]any{"expression": script, "returnByValue": true, "awaitPromise": true})
	if r.ExceptionDetails != nil {
		tb.t.Fatalf("%s\n%s %s", script, r.ExceptionDetails.Text, r.ExceptionDetails.Exception.Description)
	}
	if v == nil {
		return
	}
	if err := json.Unmarshal(r.Result.Value, v); err != nil {
		tb.t.Fatalf("%s: %s: %v", script, r.Result.Value, err)
	}
}

// text is what an element shows.
func (tb *tab) text(selector string) (s string) {
	tb.t.Helper()
	tb.eval(&s, fmt.Sprintf(`document.querySelector(%q)?.innerText.replace(/\s+/g, " ").trim() ?? "no " + %[1]q`, selector))
	return s
}

// until waits until a script comes to true.
func (tb *tab) until(script string) {
	tb.t.Helper()
	ctx, cancel := context.WithTimeout(tb.t.Context(), browserPatience)
	defer cancel()
	for {
		var ok bool
		if tb.eval(&ok, "Boolean("+script+")"); ok {
			return
		}
		select {
		case <-ctx.Done():
			tb.t.Fatalf("it never came: %s\nthe page shows\n%.2000s", script, tb.text("body"))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// key presses a key; text is what it types, "" for nothing.
func (tb *tab) key(name string, code int, text string) {
	tb.t.Helper()
	down := map[string]any{"type": "rawKeyDown", "key": name, "code": name, "windowsVirtualKeyCode": code}
	if text != "" {
		down["type"], down["text"] = "keyDown", text
	}
	tb.do("Input.dispatchKeyEvent", down)
	tb.do("Input.dispatchKeyEvent", map[string]any{"type": "keyUp", "key": name, "code": name, "windowsVirtualKeyCode": code})
}
