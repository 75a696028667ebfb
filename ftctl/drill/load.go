package drill

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"ft/ftd/api"
)

// Load works with a face for as long as a drill lasts, as its users do, and checks what it
// gets. It takes a small part of the computer: what is looked for is that nothing is lost,
// not how much goes through.
type Load interface {
	Name() string   // what it is called in the table, one word
	Device() string // that it is on
	What() string   // what it does, for a person
	// Run works until ctx ends, then checks what there is to be checked at the end. It
	// returns in bounded time, but for I/O that the kernel does not let go of.
	Run(ctx context.Context)
	// Window is what it has seen since it was last asked.
	Window(now time.Time) Window
}

// meter counts what the workers of a load do.
type meter struct {
	mu    sync.Mutex
	seen  Window
	begun map[int]time.Time // by worker: what is under way
}

// begin is called by a worker before it asks for something, end when it has its answer.
func (m *meter) begin(worker int, at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.begun == nil {
		m.begun = map[int]time.Time{}
	}
	m.begun[worker] = at
}

func (m *meter) end(worker int, at time.Time, bytes int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seen.Stall = max(m.seen.Stall, at.Sub(m.begun[worker]))
	delete(m.begun, worker)
	m.seen.Ops++
	m.seen.Bytes += int64(bytes)
}

// gap notes a while without what should come all the time.
func (m *meter) gap(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seen.Stall = max(m.seen.Stall, d)
}

func (m *meter) failed(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seen.Errors++
	m.seen.LastErr = err.Error()
}

func (m *meter) lost(n int64, format string, args ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seen.Lost += n
	m.seen.LastErr = fmt.Sprintf(format, args...)
}

func (m *meter) missed(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seen.Missed += n
}

func (m *meter) count(ops, bytes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seen.Ops += ops
	m.seen.Bytes += bytes
}

// Window takes what was counted. What is under way counts for as long as it has been.
func (m *meter) Window(now time.Time) Window {
	m.mu.Lock()
	defer m.mu.Unlock()
	w := m.seen
	for _, at := range m.begun {
		w.Stall = max(w.Stall, now.Sub(at))
	}
	m.seen = Window{}
	return w
}

// running are the loads of a drill while they run.
type running struct {
	loads []Load
	stop  context.CancelFunc
	ended []chan struct{}
	total map[string]*Window
}

func start(ctx context.Context, loads []Load) *running {
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	r := &running{loads: loads, stop: stop, total: map[string]*Window{}}
	for _, l := range loads {
		done := make(chan struct{})
		r.ended, r.total[l.Name()] = append(r.ended, done), &Window{}
		go func() {
			defer close(done)
			l.Run(ctx)
		}()
	}
	return r
}

// windows takes what all have seen since the last time.
func (r *running) windows(now time.Time) map[string]Window {
	all := map[string]Window{}
	for _, l := range r.loads {
		w := l.Window(now)
		all[l.Name()] = w
		r.total[l.Name()].add(w)
	}
	return all
}

// finish ends the loads; each checks what it has. One that does not end is left behind.
func (r *running) finish(patience time.Duration) map[string]Window {
	r.stop()
	limit := time.After(patience)
	hangs := map[string]bool{}
	for i, done := range r.ended {
		select {
		case <-done:
		case <-limit:
			limit = closed
			hangs[r.loads[i].Name()] = true
		}
	}
	all := r.windows(time.Now())
	for name := range hangs {
		w := all[name]
		w.Errors++
		w.LastErr = fmt.Sprintf("it does not end within %s: an answer is still owed to it", patience)
		all[name] = w
		r.total[name].add(Window{Errors: 1, LastErr: w.LastErr})
	}
	return all
}

// closed is a timer that has run out.
var closed = func() <-chan time.Time {
	c := make(chan time.Time)
	close(c)
	return c
}()

// looksOnly is a load that sees what becomes of a device, and not how long it stalls.
type looksOnly interface{ looksOnly() }

// primary are the loads that tell of a stall of some devices: those on them; for a device
// that carries none itself, those on what hangs on it, such as a machine on its disk.
func primary(loads []Load, st api.Status, devices []string) (names []string) {
	on := func(device string) (found bool) {
		for _, l := range loads {
			if _, looks := l.(looksOnly); l.Device() == device && !looks {
				found = true
				if !slices.Contains(names, l.Name()) {
					names = append(names, l.Name())
				}
			}
		}
		return found
	}
	for _, id := range devices {
		if on(id) {
			continue
		}
		for _, d := range st.Devices {
			if d.Kind == kindMachine && slices.Contains(needs(st, d), id) {
				on(d.ID)
			}
		}
	}
	return names
}

// needs are the devices that a machine hangs on, as its driver tells.
func needs(st api.Status, machine api.DeviceStatus) (ids []string) {
	disk, _ := machine.Stats["disk"].(map[string]any)
	nic, _ := machine.Stats["nic"].(map[string]any)
	for _, d := range st.Devices {
		if d.Kind == kindDisk && disk["path"] == d.Face || d.Kind == kindNIC && nic["link"] == d.Face {
			ids = append(ids, d.ID)
		}
	}
	return ids
}
