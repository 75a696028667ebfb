// Package drivertest has a driver without a device, for the tests of what stands
// around drivers: host, keeper and the daemon. Its face is a text in a memfd, which
// lives exactly as long as somebody holds the descriptor: a successor that can read it
// has adopted, one that finds it empty has not.
//
// Importing it registers the kind "memory".
package drivertest

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ft/drivers"
)

// Kind is the name that the driver is registered under.
const Kind = "memory"

// faceName names the face's descriptor in the store.
const faceName = "face"

// Options are the driver's part of a drivers.Config.
type Options struct {
	DieAtStart bool   `json:"die_at_start,omitempty"` // Start panics
	Busy       string `json:"busy,omitempty"`         // from the start on, see the command "busy"
}

func init() { drivers.Register(Kind, New) }

// Driver is the memory driver. The memfd holds the number of starts in 8 bytes and the
// text behind them.
type Driver struct {
	cfg  drivers.Config
	env  drivers.Env
	opts Options

	events chan drivers.Event
	drain  chan struct{}

	mu      sync.Mutex
	status  drivers.Status
	memory  *os.File
	starts  uint64
	adopted bool
	busy    string // who uses the face: Stop(Remove) is refused
	seq     uint64
}

// New makes one.
func New(cfg drivers.Config, env drivers.Env) (drivers.Driver, error) {
	d := &Driver{cfg: cfg, env: env, events: make(chan drivers.Event, 1<<16), drain: make(chan struct{})}
	if len(cfg.Options) > 0 {
		if err := json.Unmarshal(cfg.Options, &d.opts); err != nil {
			return nil, fmt.Errorf("options: %w", err)
		}
	}
	d.busy = d.opts.Busy
	d.status = drivers.Status{Kind: cfg.Kind, Name: cfg.Name, State: drivers.FaceDown, Since: time.Now()}
	return d, nil
}

// Start makes the memfd or adopts it.
func (d *Driver) Start(_ context.Context, mode drivers.StartMode) error {
	if d.opts.DieAtStart {
		panic("die at start")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if mode == drivers.Adopt {
		fds := d.env.Inherited[faceName]
		if len(fds) != 1 {
			return fmt.Errorf("adopt: %d descriptors of the face, not one", len(fds))
		}
		d.memory, d.adopted = os.NewFile(uintptr(fds[0]), faceName), true
	} else {
		fd, err := unix.MemfdCreate("face of "+d.cfg.Name, unix.MFD_CLOEXEC)
		if err != nil {
			return err
		}
		d.memory = os.NewFile(uintptr(fd), faceName)
		if err := d.env.Store(faceName, fd); err != nil {
			return err
		}
	}
	var n [8]byte
	_, _ = d.memory.ReadAt(n[:], 0) // nothing there at a fresh start
	d.starts = binary.LittleEndian.Uint64(n[:]) + 1
	binary.LittleEndian.PutUint64(n[:], d.starts)
	if _, err := d.memory.WriteAt(n[:], 0); err != nil {
		return err
	}
	d.status.State = drivers.FaceDuplex
	d.env.Text("start " + strconv.FormatUint(d.starts, 10))
	d.emit(drivers.Event{Kind: drivers.EventFace, Side: drivers.Whole, To: "duplex"})
	return nil
}

// emit runs under mu.
func (d *Driver) emit(ev drivers.Event) {
	d.seq++
	ev.Seq, ev.Time = d.seq, time.Now()
	select {
	case d.events <- ev:
	default:
		d.env.Fatal(errors.New("the host does not read events"))
	}
}

// Attach reports the side as syncing; a path that says so is refused.
func (d *Driver) Attach(_ context.Context, s drivers.Side, res drivers.Resource) error {
	switch res.Path {
	case "stale":
		return drivers.Refuse(drivers.RuleStale, "%s is behind", res.Path)
	case "missing":
		return errors.New("open missing: no such file or directory")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.emit(drivers.Event{Kind: drivers.EventSide, Side: s, From: "offline", To: "syncing"})
	return nil
}

// Detach gives a drain that the command "drain" ends.
func (d *Driver) Detach(_ context.Context, s drivers.Side, why drivers.Reason) (drivers.Drain, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.emit(drivers.Event{Kind: drivers.EventSide, Side: s, From: "duplex", To: "offline", Reason: why.Text})
	return d.drain, nil
}

// Switch does nothing.
func (d *Driver) Switch(context.Context) error { return nil }

// Inject is refused where drills are.
func (d *Driver) Inject(_ context.Context, _ drivers.Side, f drivers.Fault) error {
	if !d.cfg.Drills {
		return drivers.Refuse(drivers.RuleNoDrills, "%s: this box allows no drills", f.Name)
	}
	return nil
}

// Status has the text as the face and the number of starts in its Stats.
func (d *Driver) Status() drivers.Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	st := d.status
	st.Seq = d.seq
	st.Stats = map[string]any{"starts": d.starts, "adopted": d.adopted, "predecessor": d.predecessor()}
	if d.memory != nil {
		b := make([]byte, 256)
		n, _ := d.memory.ReadAt(b, 8)
		st.Face = string(b[:n])
	}
	return st
}

// predecessor is none, alive or gone.
func (d *Driver) predecessor() string {
	if d.env.Predecessor < 0 {
		return "none"
	}
	fds := []unix.PollFd{{Fd: int32(d.env.Predecessor), Events: unix.POLLIN}}
	if n, err := unix.Poll(fds, 0); err == nil && n == 1 {
		return "gone"
	}
	return "alive"
}

// Events is the channel of events.
func (d *Driver) Events() <-chan drivers.Event { return d.events }

// Stop drops the memfd.
func (d *Driver) Stop(_ context.Context, mode drivers.StopMode) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if mode == drivers.Remove && d.busy != "" {
		return drivers.Refuse(drivers.RuleBusy, "%s is in use by %s", d.cfg.Name, d.busy)
	}
	if mode != drivers.HandOver {
		d.env.Unstore(faceName)
	}
	close(d.events)
	return nil
}

// Command does what a test asks for:
//
//	write TEXT      set the face's text
//	busy BY, free   be in use
//	panic           in a goroutine of the driver's own
//	panic-here      in the call
//	fatal           Env.Fatal
//	wedge           Status blocks for ever
//	flood           many status texts; answers how long it took
//	events COUNT    emit events
//	drain           end the drain of Detach
//	read PATH       a thread of the driver reads PATH, for ever if that hangs
func (d *Driver) Command(_ context.Context, name string, args map[string]string) (any, error) {
	switch name {
	case "write":
		return nil, d.write(args["text"])
	case "busy", "free":
		d.mu.Lock()
		defer d.mu.Unlock()
		d.busy = args["by"]
	case "panic":
		go panic("a panic in the driver")
	case "panic-here":
		panic("a panic in a call")
	case "fatal":
		d.env.Fatal(errors.New("a fatal error"))
	case "wedge":
		d.mu.Lock() // never unlocked: that is the fault
	case "flood":
		began := time.Now()
		for i := range 100_000 {
			d.env.Text("text " + strconv.Itoa(i))
		}
		return time.Since(began).Milliseconds(), nil
	case "events":
		n, err := strconv.Atoi(args["count"])
		if err != nil {
			return nil, err
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		for range n {
			d.emit(drivers.Event{Kind: drivers.EventNote, Side: drivers.Whole})
		}
	case "drain":
		close(d.drain)
	case "read":
		f, err := os.Open(args["path"])
		if err != nil {
			return nil, err
		}
		go func() {
			defer f.Close()
			_, _ = unix.Pread(int(f.Fd()), make([]byte, 1), 0)
		}()
	default:
		return nil, drivers.Refuse(drivers.RuleState, "no command %q", name)
	}
	return nil, nil
}

func (d *Driver) write(text string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.memory.Truncate(8); err != nil {
		return err
	}
	_, err := d.memory.WriteAt([]byte(text), 8)
	return err
}
