package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// DefaultSocket is where ftd listens unless told otherwise.
const DefaultSocket = "/run/ft/ftd.sock"

// Limits of the client.
const (
	requestTimeout  = 30 * time.Second // one answer, but for streams and changes
	changeTimeout   = 90 * time.Second // above the server's, so that its answer arrives
	answerBytesMax  = 64 << 20
	streamLineBytes = 128 << 10
)

// Client speaks to ftd. Its methods return *Error for whatever goes wrong.
type Client struct {
	socket string
	http   *http.Client
}

// NewClient makes a client for the socket; it does not connect yet.
func NewClient(socket string) *Client {
	var d net.Dialer
	return &Client{socket: socket, http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return d.DialContext(ctx, "unix", socket)
		},
		MaxIdleConns:    2,
		IdleConnTimeout: 10 * time.Second,
	}}}
}

// Close lets go of idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Status is the status document.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return get[Status](ctx, c, "/v1/status")
}

// Components lists the box, its modules, devices and sides.
func (c *Client) Components(ctx context.Context) ([]Component, error) {
	return get[[]Component](ctx, c, "/v1/components")
}

// Component is everything about one of them.
func (c *Client) Component(ctx context.Context, id string) (Component, error) {
	return get[Component](ctx, c, componentPath(id))
}

// Version is the version of the ftd that answers.
func (c *Client) Version(ctx context.Context) (Version, error) {
	return get[Version](ctx, c, "/v1/version")
}

// Raw is an answer as ftd sent it, for programs that read more than these types know.
func (c *Client) Raw(ctx context.Context, path string) (json.RawMessage, error) {
	return get[json.RawMessage](ctx, c, path)
}

// Text is an answer that is no JSON: the metrics.
func (c *Client) Text(ctx context.Context, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	resp, err := c.send(ctx, http.MethodGet, path, nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(io.LimitReader(resp.Body, answerBytesMax))
}

// Change asks for a change of a component. It returns once ftd has accepted it.
func (c *Client) Change(ctx context.Context, ch Change) (Outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, changeTimeout)
	defer cancel()
	body, err := json.Marshal(ch)
	if err != nil {
		return Outcome{}, &Error{Code: CodeBadRequest, Sentence: err.Error()}
	}
	var out Outcome
	err = c.do(ctx, http.MethodPost, componentPath(ch.ID)+"/"+string(ch.Verb), body, &out)
	return out, err
}

// StreamItem is one line of the event stream: an event or a marker.
type StreamItem struct {
	Event  *Event
	Marker *Marker
	Raw    json.RawMessage // the line as ftd sent it
}

// EventsQuery says which events are wanted.
type EventsQuery struct {
	Since  *uint64 // those with higher numbers; nil: the latest few
	Follow bool    // go on with what happens from now
}

// Events calls each with every line of the stream, in order, until it ends, ctx
// ends, or each returns an error, which is returned.
func (c *Client) Events(ctx context.Context, q EventsQuery, each func(StreamItem) error) error {
	v := url.Values{}
	if q.Since != nil {
		v.Set("since", strconv.FormatUint(*q.Since, 10))
	}
	if q.Follow {
		v.Set("follow", "1")
	}
	resp, err := c.send(ctx, http.MethodGet, "/v1/events?"+v.Encode(), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	sc := bufio.NewScanner(resp.Body)
	sc.Buffer(make([]byte, 0, 4096), streamLineBytes)
	for sc.Scan() {
		item, err := decodeLine(sc.Bytes())
		if err != nil {
			return &Error{Code: CodeProtocol, Sentence: fmt.Sprintf("ftd sent an event that makes no sense: %v", err)}
		}
		if err := each(item); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err := sc.Err(); err != nil {
		return &Error{Code: CodeUnreachable, Sentence: fmt.Sprintf("the connection to ftd broke: %v", err)}
	}
	if q.Follow {
		return &Error{Code: CodeUnreachable, Sentence: "ftd ended the event stream: it is stopping or was restarted"}
	}
	return nil
}

func decodeLine(line []byte) (StreamItem, error) {
	item := StreamItem{Raw: bytes.Clone(line)}
	var m Marker
	if err := json.Unmarshal(line, &m); err != nil {
		return item, err
	}
	if m.Marker != "" {
		item.Marker = &m
		return item, nil
	}
	item.Event = &Event{}
	return item, json.Unmarshal(line, item.Event)
}

func componentPath(id string) string {
	parts := strings.Split(id, "/")
	for i := range parts {
		parts[i] = url.PathEscape(parts[i])
	}
	return "/v1/components/" + strings.Join(parts, "/")
}

func get[T any](ctx context.Context, c *Client, path string) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var v T
	err := c.do(ctx, http.MethodGet, path, nil, &v)
	return v, err
}

// do sends a request and decodes the answer into v.
func (c *Client) do(ctx context.Context, method, path string, body []byte, v any) error {
	resp, err := c.send(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, answerBytesMax))
	if err != nil {
		return c.unreachable(err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return &Error{Code: CodeProtocol, Sentence: fmt.Sprintf("what answers on %s is not ftd, or another version of it: %v", c.socket, err)}
	}
	return nil
}

// send returns a response whose status is 200, or an *Error.
func (c *Client) send(ctx context.Context, method, path string, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://ftd"+path, bytes.NewReader(body))
	if err != nil {
		return nil, &Error{Code: CodeBadRequest, Sentence: err.Error()}
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	// An ftd that died with the question in hand: under systemd the socket has stayed, and
	// the next ftd answers.
	gone := func() bool { return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) }
	if method == http.MethodGet && gone() {
		resp, err = c.http.Do(req)
	}
	if err != nil {
		if method == http.MethodPost && gone() {
			return nil, &Error{Code: CodeUnreachable, Sentence: "ftd went away before it answered; `ftctl status` shows whether it was done"}
		}
		return nil, c.unreachable(err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, c.refusal(resp)
}

// refusal reads what an answer says that is none.
func (c *Client) refusal(resp *http.Response) *Error {
	b, _ := io.ReadAll(io.LimitReader(resp.Body, streamLineBytes))
	var e Error
	if json.Unmarshal(b, &e) != nil || e.Sentence == "" {
		return &Error{Code: CodeProtocol, Sentence: fmt.Sprintf("what answers on %s is not ftd, or another version of it: HTTP %s", c.socket, resp.Status)}
	}
	return &e
}

// unreachable says why ftd did not answer, and what to do.
func (c *Client) unreachable(err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	var sentence string
	gone := errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
	switch why := startRefused(c.socket); {
	case why != "" && (gone || errors.Is(err, context.DeadlineExceeded)):
		sentence = fmt.Sprintf("ftd does not run: its start was refused, faces that were up stay up: %s; when that is mended, %s", why, c.startFtd())
	case errors.Is(err, fs.ErrNotExist):
		sentence = fmt.Sprintf("ftd is not running: there is no %s; %s, or name its socket with --socket", c.socket, c.startFtd())
	case gone:
		sentence = fmt.Sprintf("ftd is not running: nobody listens on %s; %s", c.socket, c.startFtd())
	case errors.Is(err, fs.ErrPermission):
		sentence = fmt.Sprintf("%s cannot be opened: permission denied; the directories above it must be open to you", c.socket)
	case errors.Is(err, context.DeadlineExceeded):
		sentence = fmt.Sprintf("ftd does not answer on %s in time; %s", c.socket, c.askWhy())
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, io.EOF):
		sentence = "ftd went away before it answered; try again, and where it stays away " + c.startFtd()
	default:
		sentence = fmt.Sprintf("ftd cannot be reached on %s: %v", c.socket, err)
	}
	return &Error{Code: CodeUnreachable, Sentence: sentence}
}

// startFtd says how the ftd of this socket is started: systemd's is the one of the default.
func (c *Client) startFtd() string {
	if c.socket == DefaultSocket {
		return "start it with `systemctl start ftd`"
	}
	return fmt.Sprintf("start the one of this socket: `ftd --socket %s`, or its test box", c.socket)
}

// askWhy says where an ftd tells of itself.
func (c *Client) askWhy() string {
	if c.socket == DefaultSocket {
		return "`systemctl status ftd` and `journalctl -u ftd` say more"
	}
	return "what it writes to its log says more"
}

// RefusalName is the file beside the socket that says why ftd has not started. Who it is no
// business of cannot read it.
const RefusalName = "refused"

// startRefused is what it says, "" for nothing.
func startRefused(socket string) string {
	f, err := os.Open(filepath.Join(filepath.Dir(socket), RefusalName))
	if err != nil {
		return ""
	}
	defer f.Close()
	text, _ := io.ReadAll(io.LimitReader(f, streamLineBytes))
	return strings.TrimSpace(string(text))
}
