// Package keeper is the parent of the driver processes and of the CPU modules, `ftd
// keeper`: it starts them, watches them, restarts them, and holds a copy of every
// kernel handle of each, so that a successor finds its face alive. It is small and
// dull, and therefore lives. It knows nothing of disks, NICs or CPUs.
//
//	ftd ──PUT, DELETE, restart──▶ keeper ──exec, LISTEN_FDS──▶ driver processes
//	systemd ◀──FDSTORE, STATUS──  keeper ◀──sd_notify, pidfd──  driver processes
//
// Invariants:
//   - One goroutine, loop, owns all state; everything else posts functions to it and
//     it never waits for anything outside but an exec.
//   - No two processes of one name are at work without knowing of each other: a
//     successor is started when its predecessor is gone (its pidfd is readable: all of
//     its threads have ended, and with them its I/O) or, when that takes longer than
//     FenceGrace, with the predecessor's pidfd, to bar what it may still do.
//   - No process is at work that a restarted keeper would not find: each waits at a
//     gate until it has been recorded. Who is who is told by more than the pid.
//   - A descriptor is closed only when it was dropped, replaced, its process ended as
//     it should, or was deleted. Deaths do not close any.
//   - Every process is watched also when this keeper is not its parent, and none ends
//     with the keeper: each is in a session of its own and writes to a log file.
//
// Output of a process goes to RUNDIR/log/NAME.log, not to the keeper's stderr: a pipe
// would break with the keeper, and a journal may lie on a device that the process
// itself serves. What the keeper does is on its stderr and in its events.
package keeper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"ft/drivers/host"
	"ft/drivers/journal"
	"ft/drivers/notify"
	"ft/drivers/unixhttp"
)

// Options of a keeper. Zero values mean the defaults given.
type Options struct {
	Version string       // of this program, for those who ask
	RunDir  string       // sockets, state and logs; not persistent; an absolute path
	Log     *slog.Logger // must not block; by default the journal's or stderr, dropping what does not fit

	HealthyTime time.Duration   // ready this long: a death is restarted at once; 5 s
	Delays      []time.Duration // before the start after each early death; 1, 2, 4, 8, 16, 30 s
	EarlyMax    int             // early deaths in a row until failed; 10
	FenceGrace  time.Duration   // how long a successor waits for a dying process to be gone; 500 ms
	AbortGrace  time.Duration   // to write stacks after a missed watchdog; 100 ms
	StopTimeout time.Duration   // for each driver's clean stop; 30 s
}

// Times and limits of the keeper.
const (
	tickEvery      = 50 * time.Millisecond  // watchdogs, delays and fences are looked at
	probeEvery     = 200 * time.Millisecond // whether a process is exiting is looked at
	startGrace     = 10 * time.Second       // until the first sign of life, at least
	restoreTimeout = 10 * time.Second       // for a process that outlived a keeper to hand over
	handOverLimit  = 10 * time.Second       // for a requested restart to be a hand-over
	forgetTimeout  = 10 * time.Second       // for a deleted process to be gone
	eventsMax      = 1024
	inboxMax       = 256
	processesMax   = 256
	predecessorMax = 4 // dying processes of one name, beside the present one
)

func (o Options) withDefaults() Options {
	if o.HealthyTime == 0 {
		o.HealthyTime = 5 * time.Second
	}
	if len(o.Delays) == 0 {
		o.Delays = []time.Duration{1 * time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 30 * time.Second}
	}
	if o.EarlyMax == 0 {
		o.EarlyMax = 10
	}
	if o.FenceGrace == 0 {
		o.FenceGrace = 500 * time.Millisecond
	}
	if o.AbortGrace == 0 {
		o.AbortGrace = 100 * time.Millisecond
	}
	if o.StopTimeout == 0 {
		o.StopTimeout = 30 * time.Second
	}
	return o
}

// ErrSecond says that another keeper serves the run directory.
var ErrSecond = errors.New("another keeper runs on this directory")

type keeper struct {
	o        Options
	log      *slog.Logger
	instance string
	since    time.Time
	upstream *upstream
	watchdog time.Duration // systemd's, towards us; 0 for none
	receiver *notify.Receiver
	events   *unixhttp.Stream[Event]

	inbox chan func()   // to the loop
	quit  chan struct{} // closed by the loop when all is stopped
	done  chan struct{} // closed when the loop has ended

	// What follows belongs to the loop.
	procs    map[string]*process
	seq      uint64
	lastTick time.Time
	lastPing time.Time
	unsaved  bool // the state file is behind
	stopping bool
	leaving  bool          // ends alone: everything else stays for a successor
	force    chan struct{} // closed when a clean stop is to be forced
}

// Run is the keeper from beginning to end. It takes over what an earlier keeper of the
// run directory left, serves until it has been stopped with all its processes, and
// returns nil then. ctx's end, SIGTERM and SIGINT ask for the clean stop, which waits
// while faces are in use; a second signal forces it. SIGUSR2 ends the keeper alone, as
// its death would, but with nothing on its way to systemd lost: for `systemctl restart`.
func Run(ctx context.Context, o Options) error {
	runtime.UnlockOSThread() // see host's init: the loop need not have a thread for itself
	o = o.withDefaults()
	inherited, err := notify.Inherit()
	if err != nil {
		return fmt.Errorf("the descriptors from systemd: %w", err)
	}
	if o.Log == nil {
		log, closeLog := journal.Open("ft-keeper")
		defer closeLog(time.Second)
		o.Log = log
	}
	if !filepath.IsAbs(o.RunDir) {
		return fmt.Errorf("the run directory must be an absolute path, not %q", o.RunDir)
	}
	if err := os.MkdirAll(filepath.Join(o.RunDir, "log"), 0o700); err != nil {
		return fmt.Errorf("make the run directory: %w", err)
	}
	unlock, err := lock(filepath.Join(o.RunDir, "keeper.lock"))
	if err != nil {
		return err
	}
	defer unlock()
	signal.Ignore(unix.SIGPIPE, unix.SIGHUP)
	host.Harden(o.Log)
	go host.Prefault()
	k := &keeper{
		o: o, log: o.Log, since: time.Now(),
		instance: strconv.Itoa(os.Getpid()) + "." + strconv.FormatInt(time.Now().UnixNano(), 36),
		watchdog: notify.WatchdogFromEnv(),
		inbox:    make(chan func(), inboxMax),
		quit:     make(chan struct{}),
		done:     make(chan struct{}),
		procs:    map[string]*process{},
		force:    make(chan struct{}),
	}
	k.events = unixhttp.NewStream[Event](k.instance, eventsMax)
	k.upstream = newUpstream(notify.SenderFromEnv(), k.log)
	defer k.upstream.close()
	return k.run(ctx, inherited)
}

// run opens the sockets, takes over, and loops.
func (k *keeper) run(ctx context.Context, inherited map[string][]int) error {
	var err error
	if k.receiver, err = notify.Listen(k.notifyPath()); err != nil {
		return err
	}
	defer os.Remove(k.notifyPath())
	defer k.receiver.Close()
	ln, err := unixhttp.Listen(SocketPath(k.o.RunDir))
	if err != nil {
		return err
	}
	srv := unixhttp.NewServer(k.mux(), k.log, dieOf)
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT)
	defer signal.Stop(signals)
	leave := make(chan os.Signal, 1)
	signal.Notify(leave, unix.SIGUSR2)
	defer signal.Stop(leave)

	if err := k.takeOver(inherited); err != nil {
		ln.Close()
		return err
	}
	go k.receive()
	go k.serve(srv, ln)
	go k.signals(ctx, signals)
	go k.leaveAt(leave)
	k.upstream.send(notify.Message{Ready: true})
	k.upstream.text("%s", k.summary())
	k.loop()
	k.events.Close()
	end, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := srv.Shutdown(end); err != nil {
		srv.Close()
	}
	if k.leaving { // the loop has ended
		k.log.Info("the keeper ends, its processes do not: the next one finds them", "processes", len(k.procs))
		return nil
	}
	if err := os.Remove(k.statePath()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the state file: %w", err)
	}
	return nil
}

func (k *keeper) notifyPath() string { return filepath.Join(k.o.RunDir, "keeper.notify") }

// dieOf ends the keeper for a panic in a handler: systemd starts another one, which
// takes over; the processes go on.
func dieOf(p any) {
	fmt.Fprintf(os.Stderr, "keeper: panic: %v\n%s", p, debug.Stack())
	os.Exit(notify.CodeCrash)
}

func (k *keeper) serve(srv *http.Server, ln net.Listener) {
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		dieOf(fmt.Errorf("the keeper's socket: %w", err))
	}
}

// lock makes sure that there is one keeper for a directory. Processes do not inherit
// it: it goes with the keeper. unlock removes the file, so that whoever waits for
// nothing of ours to be left finds that; who locks a file that was removed meanwhile
// tries again.
func lock(path string) (unlock func(), err error) {
	for {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, fmt.Errorf("the keeper's lock: %w", err)
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			f.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				return nil, fmt.Errorf("%w: %s is locked; stop that keeper first, or use another run directory", ErrSecond, path)
			}
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		mine, err1 := f.Stat()
		there, err2 := os.Stat(path)
		if err1 == nil && err2 == nil && os.SameFile(mine, there) {
			return func() { os.Remove(path); f.Close() }, nil
		}
		f.Close()
	}
}

// post hands f to the loop. It waits while the loop is behind.
func (k *keeper) post(f func()) {
	select {
	case k.inbox <- f:
	case <-k.done:
	}
}

// loop is the only place where state changes.
func (k *keeper) loop() {
	defer close(k.done)
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	k.lastTick = time.Now()
	for {
		select {
		case f := <-k.inbox:
			f()
		case <-tick.C:
			k.tick(time.Now())
		case <-k.quit:
			return
		}
	}
}

// tick looks at everything that depends on time.
func (k *keeper) tick(now time.Time) {
	late := now.Sub(k.lastTick) - tickEvery
	k.lastTick = now
	if k.unsaved {
		k.save()
	}
	if k.watchdog > 0 && now.Sub(k.lastPing) >= k.watchdog/4 {
		k.lastPing = now
		k.upstream.send(notify.Message{Watchdog: true})
	}
	for _, name := range k.names() {
		p := k.procs[name]
		switch c := p.cur; {
		case c == nil && p.state == Waiting && !now.Before(p.nextAt) && k.mayStart(p):
			k.start(p, now)
		case c == nil:
		case !c.dyingSince.IsZero():
			k.fence(p, c, now)
		default:
			k.probe(p, c, now)
			k.checkWatchdog(p, c, now, late)
		}
	}
}

// names are the processes in order, so that what happens does not depend on a map's.
func (k *keeper) names() []string {
	names := make([]string, 0, len(k.procs))
	for name := range k.procs {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// receive moves notifications to the loop.
func (k *keeper) receive() {
	for {
		p, err := k.receiver.Receive()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				dieOf(fmt.Errorf("the notify socket: %w", err))
			}
			return
		}
		select {
		case k.inbox <- func() { k.notified(&p) }:
		case <-k.done:
			p.Close()
			return
		}
	}
}

// signals turns a signal, or ctx's end, into a clean stop, a second one into a forced
// one.
func (k *keeper) signals(ctx context.Context, signals <-chan os.Signal) {
	select {
	case s := <-signals:
		k.log.Info("clean stop: waiting until no face is in use", "signal", s.String())
	case <-ctx.Done():
		k.log.Info("clean stop: waiting until no face is in use")
	case <-k.done:
		return
	}
	go k.stopWhenFree()
	select {
	case s := <-signals:
		k.log.Warn("forced stop: faces are taken down while they are in use", "signal", s.String())
		k.post(k.forceNow)
	case <-k.done:
	}
}

// leaveAt waits for the wish that this keeper makes room for another one.
func (k *keeper) leaveAt(wish <-chan os.Signal) {
	select {
	case <-wish:
	case <-k.done:
		return
	}
	k.post(func() {
		select {
		case <-k.quit: // it has just ended as it should
		default:
			k.save()
			k.leaving = true
			close(k.quit)
		}
	})
}
