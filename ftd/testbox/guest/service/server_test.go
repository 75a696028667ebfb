package main

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func serviceIn(t *testing.T, dir string) (*server, *httptest.Server) {
	t.Helper()
	s, err := newServer(dir)
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(s.routes())
	t.Cleanup(func() {
		web.Close()
		s.load.stop()
		s.requests.close()
	})
	return s, web
}

func ask(t *testing.T, method, url, body string) (int, string) {
	t.Helper()
	r, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(text)
}

func TestService(t *testing.T) {
	_, web := serviceIn(t, t.TempDir())
	for i, c := range []struct {
		method, path, body string
		status             int
		begins             string
	}{
		{"GET", "/", "", 200, "request 1\n"},
		{"GET", "/", "", 200, "request 2\n"},
		{"GET", "/nothing", "", 404, ""},
		{"PUT", "/files/a", "hello", 201, "a 5 " + sumOf("hello") + "\n"},
		{"PUT", "/files/a", "hullo", 200, "a 5 " + sumOf("hullo") + "\n"},
		{"PUT", "/files/..a", "x", 400, "a name is of"},
		{"GET", "/files/a", "", 200, "hullo"},
		{"GET", "/files/b", "", 404, ""},
		{"GET", "/files/", "", 200, "a\n"},
		{"GET", "/sum", "", 200, "a 5 " + sumOf("hullo") + "\ntotal: 1 files, 5 bytes, sha256 " + sumOf("a 5 "+sumOf("hullo")+"\n")},
		{"DELETE", "/files/a", "", 204, ""},
		{"DELETE", "/files/a", "", 404, ""},
		{"GET", "/sum", "", 200, "total: 0 files, 0 bytes, sha256 " + sumOf("")},
		{"POST", "/stream", "abc", 200, "3 bytes, sha256 " + sumOf("abc")},
		{"POST", "/stream?sum=none", "abc", 200, "3 bytes\n"},
		{"GET", "/stream?bytes=-1", "", 400, ""},
		{"POST", "/load", "", 400, "that is no load"},
		{"POST", "/load?cpu=0", "", 400, "that is no load"},
		{"POST", "/load?disk=1&speed=1", "", 400, "that is no load: \"speed\""},
		{"PATCH", "/files/a", "", 405, ""},
	} {
		if status, text := ask(t, c.method, web.URL+c.path, c.body); status != c.status || !strings.HasPrefix(text, c.begins) {
			t.Errorf("%d: %s %s: %d %q, want %d %q", i, c.method, c.path, status, text, c.status, c.begins)
		}
	}
}

func TestStreamIsWhatItsSeedSays(t *testing.T) {
	_, web := serviceIn(t, t.TempDir())
	const bytes = 3*patternBytes + 17
	want := make([]byte, (bytes+7)/8*8)
	fill(want, 7)
	status, text := ask(t, "GET", fmt.Sprintf("%s/stream?bytes=%d&seed=7", web.URL, bytes), "")
	if status != 200 || sha256.Sum256([]byte(text)) != sha256.Sum256(want[:bytes]) {
		t.Errorf("status %d, %d bytes that are others", status, len(text))
	}
}

// TestLoadChecksItself: all kinds run on this machine, and none finds an error.
func TestLoadChecksItself(t *testing.T) {
	s, web := serviceIn(t, t.TempDir())
	if status, text := ask(t, "POST", web.URL+"/load?cpu=1&memory=1&fault=1&fork=1&disk=1&seconds=60", ""); status != http.StatusAccepted {
		t.Fatalf("%d %s", status, text)
	}
	if status, _ := ask(t, "POST", web.URL+"/load?cpu=1", ""); status != http.StatusConflict {
		t.Errorf("a second load: %d", status)
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		idle := ""
		r := s.load.report()
		for _, k := range r.Kinds {
			if k.Errors > 0 {
				t.Fatalf("%s: %s", k.Kind, k.LastError)
			}
			if k.Rounds == 0 {
				idle = k.Kind
			}
		}
		if !r.Running || len(r.Kinds) != len(kindsOfLoad) {
			t.Fatalf("not running: %+v", r)
		}
		if idle == "" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("no round of %s", idle)
		}
	}
	if status, text := ask(t, "DELETE", web.URL+"/load", ""); status != 200 || !strings.Contains(text, `"running": false`) {
		t.Errorf("ending it: %d %s", status, text)
	}
}

// TestLoadFindsWhatIsWrong: a bit that flips in memory is an error.
func TestLoadFindsWhatIsWrong(t *testing.T) {
	page := make([]byte, pageBytes)
	fill(page, 1)
	if err := check(page, 1); err != nil {
		t.Error(err)
	}
	page[100] ^= 4
	if err := check(page, 1); err == nil {
		t.Error("a flipped bit was not found")
	}
	if n, x := compute(computeSteps - 1); n == computeInteger || x == computeFloat {
		t.Error("a step that was left out was not found")
	}
}

func TestStatusIsADocument(t *testing.T) {
	_, web := serviceIn(t, t.TempDir())
	ask(t, "GET", web.URL+"/", "")
	_, text := ask(t, "GET", web.URL+"/status", "")
	var st status
	if err := json.Unmarshal([]byte(text), &st); err != nil {
		t.Fatal(err)
	}
	if st.Requests != 1 || st.Kernel == "" || st.BootID == "" || st.Uptime <= 0 || st.Memory.Total == 0 || st.Disk.Total == 0 || st.Complaints.Lines == nil {
		t.Errorf("%s", text)
	}
}
