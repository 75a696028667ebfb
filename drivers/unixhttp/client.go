package unixhttp

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"ft/drivers"
)

// ErrUnreachable says that nobody listens on the socket.
var ErrUnreachable = errors.New("not reachable")

// ErrNotFound says that the other end knows no such thing.
var ErrNotFound = errors.New("not found")

// maxLine bounds one record of a stream.
const maxLine = 1 << 20

// dialTimeout bounds the connect: a listener whose backlog is full is a wedged one.
const dialTimeout = 2 * time.Second

// Client speaks to one socket. Each request takes a connection of its own, so that a
// peer that was replaced meanwhile is never spoken to by mistake.
type Client struct {
	path string
	who  string
	http *http.Client
}

// NewClient makes a client of the socket at path; who names the peer in errors.
// It does not connect.
func NewClient(path, who string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		addr, release, err := Address(path)
		if err != nil {
			return nil, err
		}
		defer release()
		d := net.Dialer{Timeout: dialTimeout}
		return d.DialContext(ctx, "unix", addr)
	}
	return &Client{path: path, who: who, http: &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}}
}

// Do sends in as JSON (nil: no body) and decodes the answer into out (nil: ignored).
// A refusal comes back as *drivers.Refused.
func (c *Client) Do(ctx context.Context, method, path string, in, out any) error {
	resp, err := c.send(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxLine))
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("%s: the answer to %s %s: %w", c.who, method, path, err)
	}
	return nil
}

// Lines reads a stream of JSON lines until it ends, ctx is done, or each returns an
// error, which is then returned.
func (c *Client) Lines(ctx context.Context, path string, each func(line []byte) error) error {
	return c.lines(ctx, http.MethodGet, path, nil, each)
}

// Post sends in as JSON and reads the answer as a stream of JSON lines, like Lines.
func (c *Client) Post(ctx context.Context, path string, in any, each func(line []byte) error) error {
	return c.lines(ctx, http.MethodPost, path, in, each)
}

func (c *Client) lines(ctx context.Context, method, path string, in any, each func(line []byte) error) error {
	resp, err := c.send(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	sc := bufio.NewScanner(resp.Body)
	sc.Buffer(make([]byte, 0, 64<<10), maxLine)
	for sc.Scan() {
		if err := each(sc.Bytes()); err != nil {
			return err
		}
	}
	if err := sc.Err(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("%s: the stream broke off: %w", c.who, err)
	}
	return nil
}

// send makes the request and turns everything but a 2xx into an error.
func (c *Client) send(ctx context.Context, method, path string, in any) (*http.Response, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("%s: encode the request: %w", c.who, err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://unix"+path, body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.who, err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%s: no answer to %s %s: %w", c.who, method, path, ctx.Err())
		}
		var op *net.OpError
		if errors.As(err, &op) && op.Op == "dial" {
			return nil, fmt.Errorf("%s %w on %s: %w", c.who, ErrUnreachable, c.path, op.Err)
		}
		return nil, fmt.Errorf("%s: %s %s: %w", c.who, method, path, err)
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, c.failed(resp, method, path)
}

// failed decodes the error that the peer answered with.
func (c *Client) failed(resp *http.Response, method, path string) error {
	var f failure
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if json.Unmarshal(b, &f) != nil || f.Sentence == "" {
		return fmt.Errorf("%s: %s %s: answered %s", c.who, method, path, resp.Status)
	}
	switch {
	case f.Code != "":
		return &drivers.Refused{Code: f.Code, Sentence: f.Sentence}
	case resp.StatusCode == http.StatusNotFound:
		return fmt.Errorf("%s: %s: %w", c.who, f.Sentence, ErrNotFound)
	default:
		return fmt.Errorf("%s: %s", c.who, f.Sentence)
	}
}
