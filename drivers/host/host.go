// Package host is the main loop of a driver process, `ftd driver KIND NAME`: what
// every driver needs around it and no driver should have to write. It stands between
// three others:
//
//	keeper  ──exec, descriptors──▶  host  ◀──control socket──  ftd
//	keeper  ◀──sd_notify───────────  │
//	                              drivers.Driver (the data path is all its own)
//
// Invariants:
//   - Nothing here stands in the data path, and no reader, log or notification can
//     hold the driver up: events are read without pause into a bounded ring, logs and
//     notifications are dropped and counted when they cannot go out at once.
//   - The process does nothing before the keeper has recorded that it exists (Gate).
//   - A descriptor that the driver stored is in two processes until it is unstored: the
//     host keeps a copy of its own, so that it can hand it to a restarted keeper.
//   - A panic anywhere ends the process, with the stacks in NAME.crash; a successor
//     adopts. Nothing is recovered and carried on with.
//   - A process ends by itself only after Driver.Stop has returned nil. SIGTERM and
//     SIGINT ask for Stop(Remove); while that is refused the process lives on.
package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ft/drivers"
	"ft/drivers/asynclog"
	"ft/drivers/notify"
	"ft/drivers/unixhttp"
)

// Exit codes of a driver process; the keeper acts on them.
const (
	ExitStopped  = notify.CodeStopped  // stopped on request, the face is down: not restarted
	ExitFailed   = notify.CodeFailed   // could not start: restarted after a delay
	ExitCrash    = notify.CodeCrash    // a panic or Env.Fatal: a successor adopts
	ExitHandOver = notify.CodeHandOver // the face waits for a successor: started at once
	ExitConfig   = notify.CodeConfig   // the configuration makes no sense: not restarted until reset
)

// Limits of a driver process.
const (
	eventsMax     = 4096             // events kept for readers
	configMax     = 1 << 20          // bytes of a configuration
	callTimeout   = 60 * time.Second // one call into the driver for a client
	endTimeout    = 2 * time.Second  // telling the keeper, and ending the last answers
	logCloseLimit = 200 * time.Millisecond
	prefaultAfter = time.Second // the driver has caught up with what waited for it
)

// Liveness is implemented by drivers that know more about their own health than that
// Status answers. An error withholds the watchdog's sign of life; the process is
// killed and succeeded when it lasts.
type Liveness interface {
	Alive() error
}

// host is one driver process.
type host struct {
	cfg      drivers.Config
	log      *slog.Logger
	logw     *asynclog.Writer
	instance string // tells this process's event numbers from another's
	sender   *notify.Sender
	report   *reporter
	kept     *descriptors
	crash    *crashFile
	drv      drivers.Driver
	events   *unixhttp.Stream[drivers.Event]

	mu      sync.Mutex
	harden  []string // what could not be hardened
	started bool
	ended   drivers.StopMode // "" while the driver runs

	stopMu sync.Mutex    // one Stop at a time
	end    chan struct{} // closed when ended is set
}

// init keeps the main thread free: locked in an init, the main goroutine has it for
// itself, and in a driver process that goroutine only waits. So no request of a
// driver's ever holds the main thread in the kernel, it ends the moment that the
// process is killed, and the keeper can tell a process that is ending behind a hung
// leg from one that is well.
func init() { runtime.LockOSThread() }

// Run is a driver process from beginning to end; it returns the exit code. It reads
// the drivers.Config at configPath, starts a driver of the kind, afresh or with the
// descriptors that the process was started with, and serves RUNDIR/drivers/NAME.sock
// until the driver has been stopped. ctx's end asks for a stop like SIGTERM does. Run
// is called by main itself: the main goroutine must have nothing else to do.
//
// The driver is asked for its Status from before Start on, as its sign of life.
func Run(ctx context.Context, kind, name, configPath string) int {
	code := make(chan int, 1)
	go func() { code <- serve(ctx, kind, name, configPath) }()
	return <-code
}

// serve is Run, beside the main goroutine.
func serve(ctx context.Context, kind, name, configPath string) int {
	inherited, inheritErr := notify.Inherit()
	if err := notify.Gate(inherited); err != nil {
		fmt.Fprintf(os.Stderr, "driver %s: %v: nothing was touched\n", name, err)
		return ExitFailed
	}
	// A closed terminal or a broken log must not end a driver.
	signal.Ignore(unix.SIGPIPE, unix.SIGHUP)
	h := &host{
		logw:     asynclog.New(&asynclog.Stderr{}),
		instance: strconv.Itoa(os.Getpid()) + "." + strconv.FormatInt(time.Now().UnixNano(), 36),
		end:      make(chan struct{}),
	}
	defer h.logw.Close(logCloseLimit)
	h.log = slog.New(slog.NewTextHandler(h.logw, nil)).With("driver", name, "pid", os.Getpid())
	watchdog := notify.WatchdogFromEnv()
	h.sender = notify.SenderFromEnv()

	newDriver, err := h.configure(kind, name, configPath)
	if err != nil {
		h.log.Error("the driver cannot be set up", "err", err)
		h.lastWords(err)
		return ExitConfig
	}
	if inheritErr != nil {
		// Going on would make a second face beside the one that these belong to.
		h.log.Error("the descriptors of the predecessor cannot be taken", "err", inheritErr)
		h.lastWords(inheritErr)
		return ExitFailed
	}
	if err := Restrict(drivers.Rights(kind)); err != nil {
		h.log.Warn("the process keeps rights that it does not need", "err", err)
	}
	if h.crash, err = openCrashFile(CrashPath(h.cfg.RunDir, name)); err != nil {
		h.log.Warn("no crash file: the stack of a panic goes to the log alone", "err", err)
	}
	return h.run(ctx, newDriver, inherited, watchdog)
}

// configure reads the configuration and finds the kind.
func (h *host) configure(kind, name, path string) (drivers.New, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("the configuration: %w", err)
	}
	if st.Size() > configMax {
		return nil, fmt.Errorf("the configuration %s has %d bytes, more than %d", path, st.Size(), configMax)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("the configuration: %w", err)
	}
	if err := json.Unmarshal(b, &h.cfg); err != nil {
		return nil, fmt.Errorf("the configuration %s: %w", path, err)
	}
	switch {
	case h.cfg.Kind != kind || h.cfg.Name != name:
		return nil, fmt.Errorf("the configuration %s is for %s %q, this process was started as %s %q", path, h.cfg.Kind, h.cfg.Name, kind, name)
	case name == "" || filepath.Base(name) != name:
		return nil, fmt.Errorf("%q cannot name a device", name)
	case !filepath.IsAbs(h.cfg.RunDir):
		return nil, fmt.Errorf("the configuration %s: run_dir must be an absolute path, not %q", path, h.cfg.RunDir)
	}
	return drivers.Lookup(kind)
}

// run makes the driver, serves it, and ends when it has been stopped.
func (h *host) run(ctx context.Context, newDriver drivers.New, inherited map[string][]int, watchdog time.Duration) int {
	predecessors := inherited[notify.PredecessorName]
	delete(inherited, notify.PredecessorName)
	predecessor, err := mergePidfds(predecessors)
	if err == nil {
		h.kept, err = newDescriptors(h.sender, h.log, inherited)
	}
	if err != nil {
		h.log.Error("the descriptors of the predecessor cannot be kept", "err", err)
		h.lastWords(err)
		return ExitFailed
	}
	h.report = newReporter(h.sender, h.log, watchdog)
	h.drv, err = newDriver(h.cfg, drivers.Env{
		Log: h.log, Inherited: inherited, Predecessor: predecessor,
		Store: h.kept.Store, Unstore: h.kept.Unstore, Text: h.report.Text, Fatal: h.fatal,
	})
	if err != nil {
		h.log.Error("the driver cannot be made", "err", err)
		h.lastWords(err)
		return ExitConfig
	}
	h.events = unixhttp.NewStream[drivers.Event](h.instance, eventsMax)
	go h.pump()
	h.report.start(h.alive)
	defer h.report.stop()

	ln, err := unixhttp.Listen(SocketPath(h.cfg.RunDir, h.cfg.Name))
	if err != nil {
		h.log.Error("no control socket", "err", err)
		h.lastWords(err)
		return ExitFailed
	}
	srv := unixhttp.NewServer(h.mux(), h.log, func(p any) { h.fatal(fmt.Errorf("panic: %v", p)) })
	go h.listen(srv, ln)

	mode := drivers.Fresh
	if len(inherited) > 0 {
		mode = drivers.Adopt
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT)
	defer signal.Stop(signals)
	hardened := make(chan []string, 1)
	go func() { hardened <- Harden(h.log) }() // beside the start: applications wait for that
	if err := h.drv.Start(ctx, mode); err != nil {
		// The face's descriptors stay with the keeper for the next attempt.
		h.log.Error("the driver did not start", "adopting", mode == drivers.Adopt, "err", err)
		h.lastWords(err)
		srv.Close()
		return ExitFailed
	}
	notes := <-hardened
	h.mu.Lock()
	h.started, h.harden = true, notes
	h.mu.Unlock()
	h.report.Ready()
	prefault := time.AfterFunc(prefaultAfter, Prefault)
	defer prefault.Stop()
	h.wait(ctx, signals)
	return h.finish(srv)
}

// listen runs the control socket. A driver that can no longer be spoken to is replaced.
func (h *host) listen(srv *http.Server, ln net.Listener) {
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		h.fatal(fmt.Errorf("the control socket of %s: %w", h.cfg.Name, err))
	}
}

// pump moves events from the driver into the ring, without pause.
func (h *host) pump() {
	var last uint64
	for ev := range h.drv.Events() {
		if ev.Seq <= last {
			h.log.Error("the driver numbers its events wrongly", "seq", ev.Seq, "last", last)
			continue
		}
		last = ev.Seq
		h.events.Add(ev.Seq, ev)
	}
}

// alive asks the driver whether it is well. It blocks when the driver is wedged, and
// so withholds the watchdog's sign of life.
func (h *host) alive() error {
	if l, ok := h.drv.(Liveness); ok {
		if err := l.Alive(); err != nil {
			return err
		}
	}
	h.drv.Status()
	return nil
}

// wait returns when the driver has been stopped, by a client or for a signal.
func (h *host) wait(ctx context.Context, signals <-chan os.Signal) {
	done := ctx.Done()
	var asked <-chan error
	ask := func(why string) {
		if asked != nil {
			return // one is under way
		}
		h.log.Info("asked to stop", "by", why)
		ch := make(chan error, 1)
		asked = ch
		go func() {
			c, cancel := context.WithTimeout(context.Background(), callTimeout)
			defer cancel()
			ch <- h.stop(c, drivers.Remove)
		}()
	}
	for {
		select {
		case <-h.end:
			return
		case s := <-signals:
			ask(s.String())
		case <-done:
			done = nil
			ask("its parent")
		case err := <-asked:
			asked = nil
			if err != nil {
				h.log.Warn("not stopped", "err", err)
				h.report.Text("not stopped: " + err.Error())
			}
		}
	}
}

// stop stops the driver once. Concurrent callers wait for each other; who comes after
// a success has it too.
func (h *host) stop(ctx context.Context, mode drivers.StopMode) error {
	h.stopMu.Lock()
	defer h.stopMu.Unlock()
	h.mu.Lock()
	started, ended := h.started, h.ended
	h.mu.Unlock()
	switch {
	case ended != "":
		return nil
	case !started:
		return drivers.Refuse(drivers.RuleState, "%s is still starting; try again when it is ready", h.cfg.Name)
	case mode == drivers.HandOver && !h.sender.Watched():
		return drivers.Refuse(drivers.RuleState, "nobody would start a successor of %s: it was not started by a keeper", h.cfg.Name)
	}
	if err := h.drv.Stop(ctx, mode); err != nil {
		return err
	}
	h.mu.Lock()
	h.ended = mode
	h.mu.Unlock()
	close(h.end)
	return nil
}

// finish ends the process after the driver: readers get the last events, clients
// their answers, and the keeper is told that this end is as it should be.
func (h *host) finish(srv *http.Server) int {
	h.events.Close()
	ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
	defer cancel()
	if err := srv.Shutdown(ctx); err != nil {
		srv.Close()
	}
	exit, code := notify.ExitStopped, ExitStopped
	if h.ended == drivers.HandOver {
		exit, code = notify.ExitHandOver, ExitHandOver
	}
	ctx, cancel = context.WithTimeout(context.Background(), endTimeout)
	defer cancel()
	if err := h.sender.Confirm(ctx, notify.Message{Stopping: true, Exit: exit}); err != nil {
		h.log.Warn("the keeper was not told of the end", "err", err)
	}
	h.crash.discard()
	h.log.Info("stopped", "mode", string(h.ended))
	return code
}

// lastWords leaves the reason of a failed start in the keeper's status text.
func (h *host) lastWords(err error) {
	text := err.Error()
	h.sender.Send(notify.Message{Status: &text})
}

// hostStats is what the host adds to a driver's Stats, under "host".
func (h *host) hostStats() map[string]any {
	h.mu.Lock()
	started, notes := h.started, h.harden
	h.mu.Unlock()
	if !h.sender.Kept() {
		notes = append(slices.Clip(notes), "no keeper: a crash of this process is not survived")
	}
	return map[string]any{
		"instance":     h.instance,
		"started":      started, // else the driver still looks at its sides
		"kept":         h.sender.Kept(),
		"stored":       h.kept.counts(),
		"notify_drops": h.sender.Drops(),
		"log_drops":    h.logw.Drops(),
		"notes":        notes,
	}
}
