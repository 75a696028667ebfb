package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"

	"ft/drivers"
	"ft/drivers/unixhttp"
)

// SocketPath is where the driver process of a device has its control socket.
func SocketPath(runDir, name string) string {
	return filepath.Join(runDir, "drivers", name+".sock")
}

// CrashPath is where a driver process leaves the stack of a panic.
func CrashPath(runDir, name string) string {
	return filepath.Join(runDir, "drivers", name+".crash")
}

// ErrUnreachable says that no driver process listens on the socket (errors.Is).
var ErrUnreachable = unixhttp.ErrUnreachable

// Cursor is a place in a driver's events; numbers start anew in each process.
type Cursor = unixhttp.Cursor

// Item is a line of a driver's event stream: an event, a gap, or the marker between
// what had happened and what happens.
type Item = unixhttp.Item[drivers.Event]

// Client speaks to one driver process. Its methods mirror drivers.Driver; a refusal
// comes back as *drivers.Refused. Safe for concurrent use.
type Client struct {
	c *unixhttp.Client
}

// Dial makes a client of the control socket at sock. It does not connect: a driver
// may be restarted between any two calls.
func Dial(sock string) *Client {
	name := filepath.Base(sock)
	return &Client{unixhttp.NewClient(sock, "driver "+name[:len(name)-len(filepath.Ext(name))])}
}

// Status is the driver's own snapshot, with the host's notes under Stats["host"].
func (c *Client) Status(ctx context.Context) (drivers.Status, error) {
	var st drivers.Status
	err := c.c.Do(ctx, http.MethodGet, "/status", nil, &st)
	return st, err
}

// Events calls each for every event behind from, then for a marker (Current), and
// with follow for every further one until ctx is done, the driver process ends (nil)
// or each returns an error. An item with Gap means that events were lost and the
// status must be read anew.
func (c *Client) Events(ctx context.Context, from Cursor, follow bool, each func(Item) error) error {
	return unixhttp.Follow(ctx, c.c, "/events", from, follow, each)
}

// Attach takes a side in.
func (c *Client) Attach(ctx context.Context, s drivers.Side, res drivers.Resource) error {
	return c.c.Do(ctx, http.MethodPost, "/attach", attachRequest{s, res}, nil)
}

// Detach takes a side out. With waitDrain it returns when I/O on the side has ended,
// or at ctx's end with drained false and no error: the side is out in any case.
func (c *Client) Detach(ctx context.Context, s drivers.Side, why drivers.Reason, waitDrain bool) (drained bool, err error) {
	if !waitDrain {
		var ans detachAnswer
		err = c.c.Do(ctx, http.MethodPost, "/detach", detachRequest{Side: s, Reason: why}, &ans)
		return ans.Drained, err
	}
	var lines int
	err = c.c.Post(ctx, "/detach", detachRequest{Side: s, Reason: why, WaitDrain: true}, func(line []byte) error {
		var ans detachAnswer
		if err := json.Unmarshal(line, &ans); err != nil {
			return fmt.Errorf("the answer to detach: %w", err)
		}
		lines++
		drained = ans.Drained
		return nil
	})
	if lines > 0 && ctx.Err() != nil {
		err = nil
	}
	if err == nil && lines == 0 {
		err = errors.New("the driver ended before it answered detach")
	}
	return drained, err
}

// Switch makes the other side the active one.
func (c *Client) Switch(ctx context.Context) error {
	return c.c.Do(ctx, http.MethodPost, "/switch", nil, nil)
}

// Inject puts a fault into a side.
func (c *Client) Inject(ctx context.Context, s drivers.Side, f drivers.Fault) error {
	return c.c.Do(ctx, http.MethodPost, "/inject", injectRequest{s, f}, nil)
}

// Command runs a command of the driver's own (drivers.Commander); the answer is
// decoded into out, which may be nil.
func (c *Client) Command(ctx context.Context, name string, args map[string]string, out any) error {
	return c.c.Do(ctx, http.MethodPost, "/command", commandRequest{name, args}, out)
}

// Stop ends the driver and its process. When it returns nil the face is down
// (Remove, RemoveForce) or waits for a successor (HandOver); the process ends within
// moments.
func (c *Client) Stop(ctx context.Context, mode drivers.StopMode) error {
	return c.c.Do(ctx, http.MethodPost, "/stop", stopRequest{mode}, nil)
}

// Restore makes the driver process hand all its stored descriptors, READY and STATUS
// to the keeper again, and returns how many it handed over under each name.
func (c *Client) Restore(ctx context.Context) (map[string]int, error) {
	var ans restoreAnswer
	err := c.c.Do(ctx, http.MethodPost, "/restore", nil, &ans)
	return ans.Stored, err
}

// The bodies of requests and answers.
type (
	attachRequest struct {
		Side     drivers.Side     `json:"side"`
		Resource drivers.Resource `json:"resource"`
	}
	detachRequest struct {
		Side      drivers.Side   `json:"side"`
		Reason    drivers.Reason `json:"reason"`
		WaitDrain bool           `json:"wait_drain,omitempty"`
	}
	detachAnswer struct {
		Drained bool `json:"drained"`
	}
	injectRequest struct {
		Side  drivers.Side  `json:"side"`
		Fault drivers.Fault `json:"fault"`
	}
	commandRequest struct {
		Name string            `json:"name"`
		Args map[string]string `json:"args,omitempty"`
	}
	stopRequest struct {
		Mode drivers.StopMode `json:"mode"`
	}
	restoreAnswer struct {
		Stored map[string]int `json:"stored"`
	}
)
