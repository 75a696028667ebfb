package drill

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"ft/drivers/netns"
)

// The load on a machine is a client of its guest's service, the one of the test box: it
// counts requests, on its disk, and stores files. So a guest that starts anew shows, by its
// boot id and its count; what it has acknowledged is there for all that; and what its kernel
// complains of is an error.
//
// A machine without such a service is only looked at (steps.go).

const (
	testBoxGuest   = "http://192.0.2.20" // from the neighbour's namespace
	guestEvery     = 100 * time.Millisecond
	guestTimeout   = time.Minute     // no fault takes that long
	guestFirst     = 5 * time.Second // for its first answer
	guestBoots     = 3 * time.Minute // until it gives that
	guestFiles     = 4
	guestFileBytes = 8 << 10
	guestStatus    = 20 // requests between two looks at the guest's state
	guestAnswerMax = 1 << 20
	guestPause     = 500 * time.Millisecond // after an error
)

type guestLoad struct {
	meter
	device string
	url    string
	http   *http.Client
	drill  uint64

	first    guestState
	requests uint64             // the last number that was counted
	stored   [guestFiles]uint64 // generation that was acknowledged, 0: none
}

// guestState is what the guest's service tells of itself.
type guestState struct {
	BootID     string `json:"boot_id"`
	Requests   uint64 `json:"requests"`
	Complaints struct {
		Total int      `json:"total"`
		Lines []string `json:"lines"`
	} `json:"complaints"`
}

var errStranger = errors.New("what answers there is not the service of a test box's guest")

func newGuestLoad(ctx context.Context, device, url, from string, drill uint64) (*guestLoad, error) {
	// A socket stays in the namespace of the thread that made it.
	dial := func(ctx context.Context, kind, address string) (conn net.Conn, err error) {
		err = netns.Do(from, func() (err error) {
			conn, err = (&net.Dialer{FallbackDelay: -1}).DialContext(ctx, kind, address)
			return err
		})
		return conn, err
	}
	l := &guestLoad{device: device, url: strings.TrimSuffix(url, "/"), drill: drill,
		http: &http.Client{Transport: &http.Transport{DialContext: dial, MaxIdleConnsPerHost: 1}}}
	ctx, cancel := context.WithTimeout(ctx, guestFirst)
	defer cancel()
	state, err := l.state(ctx)
	if err != nil {
		return nil, err
	}
	if state.BootID == "" {
		return nil, errStranger
	}
	l.first, l.requests = state, state.Requests
	return l, nil
}

func (l *guestLoad) Name() string   { return l.device }
func (l *guestLoad) Device() string { return l.device }
func (l *guestLoad) What() string {
	return fmt.Sprintf("%d requests a second to %s, which counts them and stores files", time.Second/guestEvery, l.url)
}

// Run asks until ctx ends, and looks at all files at the end.
func (l *guestLoad) Run(ctx context.Context) {
	defer l.http.CloseIdleConnections()
	// A request that is under way when the drill ends is waited for: it was a good one.
	whole := context.WithoutCancel(ctx)
	tick := time.NewTicker(guestEvery)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			l.last(whole)
			return
		case <-tick.C:
		}
		var err error
		file := n / 3 % guestFiles
		switch {
		case n%guestStatus == 0:
			err = l.look(whole)
		case n%3 == 0:
			err = l.count(whole)
		case n%3 == 1:
			err = l.put(whole, file)
		default:
			err = l.get(whole, file)
		}
		if err != nil {
			l.failed(err)
			time.Sleep(guestPause)
		}
	}
}

// ask does one request and measures it.
func (l *guestLoad) ask(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, guestTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, l.url+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	l.begin(0, time.Now())
	answer, err := l.http.Do(r)
	var got []byte
	if err == nil {
		got, err = io.ReadAll(io.LimitReader(answer.Body, guestAnswerMax))
		answer.Body.Close()
		if err == nil && answer.StatusCode/100 != 2 {
			err = fmt.Errorf("%s: %s", answer.Status, strings.TrimSpace(string(got[:min(len(got), 200)])))
		}
	}
	l.end(0, time.Now(), len(got)+len(body))
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, l.url+path, err)
	}
	return got, nil
}

// count has the guest count one more: the number never goes back.
func (l *guestLoad) count(ctx context.Context) error {
	text, err := l.ask(ctx, http.MethodGet, "/", nil)
	if err != nil {
		return err
	}
	var n uint64
	if _, err := fmt.Sscanf(string(text), "request %d\n", &n); err != nil {
		return fmt.Errorf("the guest counts %q", text[:min(len(text), 40)])
	}
	if n <= l.requests {
		l.lost(int64(l.requests-n+1), "the guest counts request %d, after %d", n, l.requests)
	}
	l.requests = n
	return nil
}

func fileNamed(file int) string { return fmt.Sprintf("/files/ftctl-drill-%d", file) }

func (l *guestLoad) content(file int, generation uint64) []byte {
	b := make([]byte, guestFileBytes)
	fillPattern(b, l.drill^uint64(file)<<56, generation*guestFileBytes)
	return b
}

// put stores the next content of a file. When that fails, it is not known which is there.
func (l *guestLoad) put(ctx context.Context, file int) error {
	next := l.requests<<8 + uint64(file) + 1 // never the same: the count goes up
	l.stored[file] = 0
	if _, err := l.ask(ctx, http.MethodPut, fileNamed(file), l.content(file, next)); err != nil {
		return err
	}
	l.stored[file] = next
	return nil
}

// get compares a file with what was acknowledged.
func (l *guestLoad) get(ctx context.Context, file int) error {
	if l.stored[file] == 0 {
		return nil
	}
	got, err := l.ask(ctx, http.MethodGet, fileNamed(file), nil)
	if err == nil && !bytes.Equal(got, l.content(file, l.stored[file])) {
		l.lost(1, "the guest's file %s (%d bytes) is not what was stored", fileNamed(file), len(got))
		l.stored[file] = 0
	}
	return err
}

// look finds out whether the guest is still the one that it was, and content.
func (l *guestLoad) look(ctx context.Context) error {
	state, err := l.state(ctx)
	if err != nil {
		return err
	}
	if state.BootID != l.first.BootID {
		l.lost(1, "the guest was started anew: what it was computing is gone")
	}
	if more := state.Complaints.Total - l.first.Complaints.Total; more > 0 {
		line := ""
		if n := len(state.Complaints.Lines); n > 0 {
			line = ": " + state.Complaints.Lines[n-1]
		}
		l.failed(fmt.Errorf("the guest's kernel complains%s", line))
	}
	l.first.BootID, l.first.Complaints = state.BootID, state.Complaints
	return nil
}

func (l *guestLoad) state(ctx context.Context) (state guestState, err error) {
	text, err := l.ask(ctx, http.MethodGet, "/status", nil)
	if err == nil {
		err = json.Unmarshal(text, &state)
	}
	return state, err
}

// last looks at everything once more, and removes the files.
func (l *guestLoad) last(ctx context.Context) {
	errs := []error{l.count(ctx), l.look(ctx)}
	for file := range guestFiles {
		errs = append(errs, l.get(ctx, file))
		if l.stored[file] != 0 {
			_, err := l.ask(ctx, http.MethodDelete, fileNamed(file), nil)
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		l.failed(err)
	}
}
