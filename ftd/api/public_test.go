package api

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

func publicAsk(s *Server, method, path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	s.Public().ServeHTTP(w, httptest.NewRequest(method, path, nil))
	return w
}

func TestThePublicPartShowsAndChangesNothing(t *testing.T) {
	b := newFake(t)
	for i := range 700 {
		if _, err := b.log.Append(Event{ID: "box", Reason: fmt.Sprint("event ", i)}); err != nil {
			t.Fatal(err)
		}
	}
	s := NewServer(b, Version{Version: "v1"}, discardLog)
	for _, c := range []struct {
		method, path string
		code         int
		want         string
	}{
		{"GET", "/v1/status", 200, `"verdict":"a leg is gone"`},
		{"GET", "/metrics", 200, "ft_build_info"},
		{"GET", "/v1/events?since=698", 200, "{\"seq\":699,"},
		{"GET", "/v1/events?since=10", 200, `{"marker":"gap","seq":10,"lost":190}` + "\n" + `{"seq":201,`},
		{"GET", "/v1/events", 200, `{"marker":"live","seq":700}`},
		{"GET", "/v1/events?since=9999", 200, `{"marker":"live","seq":700}`},
		{"GET", "/v1/events?since=-1", 400, "a number is meant"},
		{"GET", "/v1/events?follow=1", 400, "does not follow"},
		{"GET", "/v1/components/disk0", 404, "changes nothing"},
		{"GET", "/v1/components/guest/console", 404, "changes nothing"},
		{"POST", "/v1/components/pci1/bringdown", 404, "changes nothing"},
		{"POST", "/v1/status", 404, "changes nothing"},
	} {
		w := publicAsk(s, c.method, c.path)
		if w.Code != c.code || !strings.Contains(w.Body.String(), c.want) {
			t.Errorf("%s %s: %d\n%.300s\nwant %d, %s", c.method, c.path, w.Code, w.Body, c.code, c.want)
		}
	}
	if len(b.changes()) > 0 {
		t.Error("something was asked of the daemon")
	}
	if n := strings.Count(publicAsk(s, "GET", "/v1/events?since=1").Body.String(), "\n"); n > publicEventsMax+2 {
		t.Errorf("%d lines in one answer", n)
	}
}

// counting is a Backend that counts how often it is asked for the status.
type counting struct {
	*fake
	asked atomic.Int32
}

func (c *counting) Status() Status {
	c.asked.Add(1)
	return c.fake.Status()
}

func TestManyLookersCostTheCoreOneLook(t *testing.T) {
	b := &counting{fake: newFake(t)}
	h := NewServer(b, Version{}, discardLog).Public()
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() { h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/v1/status", nil)) })
	}
	wg.Wait()
	if n := b.asked.Load(); n > 25 { // one each 200 ms, however slow this computer is
		t.Errorf("the core was asked %d times for 50 answers", n)
	}
}

func TestAnFtdThatIsStoppingHasNoStatus(t *testing.T) {
	b := newFake(t)
	b.status = Status{System: SystemStatus{Verdict: "ftd is stopping"}}
	if w := publicAsk(NewServer(b, Version{}, discardLog), "GET", "/v1/status"); w.Code != 503 || !strings.Contains(w.Body.String(), "ftd is stopping") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
