package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"ft/chipset/engine"
	"ft/drivers/journal"
	"ft/drivers/notify"
	"ft/ftd/alarm"
	"ft/ftd/api"
	"ft/ftd/config"
	"ft/ftd/daemon"
	"ft/ftd/testbox"
)

const (
	defaultState = "/var/lib/ft"
	defaultDev   = "/dev/ft"
	logPatience  = time.Second // to write out what is queued at the end
)

// controlFlags is the command line of the control daemon and of the test box.
type controlFlags struct {
	config, socket, state, dev, testbox string
	guest, engine                       string
	check, clean, noKeeper, testAlarm   bool
	set                                 map[string]bool // flags that were given
}

func parseControl(args []string, out, errs io.Writer) (c controlFlags, code int, done bool) {
	f := flags()
	f.StringVar(&c.config, "config", config.DefaultPath, "")
	f.StringVar(&c.socket, "socket", api.DefaultSocket, "")
	f.StringVar(&c.state, "state", defaultState, "")
	f.StringVar(&c.testbox, "testbox", "", "")
	f.BoolVar(&c.clean, "clean", false, "")
	f.StringVar(&c.guest, "guest", string(testbox.GuestKinds[0]), "")
	f.StringVar(&c.engine, "engine", engine.Choices[0], "")
	f.BoolVar(&c.check, "check-config", false, "")
	f.BoolVar(&c.testAlarm, "test-alarm", false, "")
	f.BoolVar(&c.noKeeper, "no-keeper", false, "")
	// Not in the usage: for the test box and for tests, which must not meet a real box.
	f.StringVar(&c.dev, "dev-dir", defaultDev, "")
	if code, done = parse(f, args, out, errs); done {
		return c, code, true
	}
	c.set = map[string]bool{}
	f.Visit(func(f *flag.Flag) { c.set[f.Name] = true })
	if c.testbox != "" && (c.set["config"] || c.set["state"] || c.check) {
		return c, misused(errs, errors.New("a test box makes its own configuration and state: --testbox goes with --socket, --guest, --engine and --clean alone")), true
	}
	if c.set["testbox"] && c.testbox == "" {
		return c, misused(errs, errors.New("--testbox needs a directory")), true
	}
	if c.clean && c.testbox == "" {
		return c, misused(errs, errors.New("--clean is for test boxes: it goes with --testbox DIR")), true
	}
	if c.set["guest"] && (c.testbox == "" || c.clean) {
		return c, misused(errs, errors.New("--guest is for test boxes: it goes with --testbox DIR")), true
	}
	if c.set["engine"] && (c.testbox == "" || c.clean) {
		return c, misused(errs, errors.New("--engine is for test boxes: it goes with --testbox DIR; a machine of a configuration has engine in its [[machine]]")), true
	}
	if _, err := engine.Choice(c.engine).Of(); err != nil {
		return c, misused(errs, err), true
	}
	if !slices.Contains(testbox.GuestKinds, testbox.GuestKind(c.guest)) {
		return c, misused(errs, fmt.Errorf("there is no guest %q; there are %q", c.guest, testbox.GuestKinds)), true
	}
	if err := absolute(&c.config, &c.socket, &c.state, &c.dev); err != nil {
		return c, failed(errs, err), true
	}
	return c, 0, false
}

func runControl(args []string, out, errs io.Writer) int {
	c, code, done := parseControl(args, out, errs)
	switch {
	case done:
		return code
	case c.check:
		return checkConfig(c.config, out, errs)
	case c.testAlarm:
		return testAlarm(c.config, out, errs)
	}
	log, closeLog := journal.Open("ftd")
	defer closeLog(logPatience)
	var err error
	if c.testbox != "" {
		if !c.set["dev-dir"] {
			c.dev = "" // its own
		}
		o := testbox.Options{Dir: c.testbox, Socket: c.socket, DevDir: c.dev, Guest: testbox.GuestKind(c.guest), Engine: engine.Choice(c.engine), Out: out, Log: log}
		if c.clean {
			err = testbox.Clean(o)
		} else {
			err = testbox.Run(o)
		}
	} else {
		err = runDaemon(c, log)
	}
	var mend *daemon.Misconfigured
	switch {
	case errors.As(err, &mend):
		failed(errs, err)
		return exitConfig
	case err != nil:
		return failed(errs, err)
	}
	return exitDone
}

func runDaemon(c controlFlags, log *slog.Logger) error {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, unix.SIGHUP)
	defer signal.Stop(reload)
	signal.Ignore(unix.SIGPIPE)
	if os.Geteuid() != 0 {
		return errors.New("ftd makes block devices and network interfaces: it must run as root")
	}
	inherited, err := notify.Inherit()
	if err != nil {
		return fmt.Errorf("what systemd hands over: %w", err)
	}
	return daemon.Run(ctx, daemon.Options{
		ConfigFile:  c.config,
		Socket:      c.socket,
		StateDir:    c.state,
		DevDir:      c.dev,
		StartKeeper: !c.noKeeper,
		Inherited:   inherited,
		Version:     runningVersion(),
		Log:         log,
	}, reload)
}

// checkConfig looks at everything that a start would look at, and starts nothing.
func checkConfig(path string, out, errs io.Writer) int {
	cfg, err := config.Load(path)
	if err != nil {
		return failed(errs, err)
	}
	bad := false
	for _, p := range config.Check(cfg, config.ThisHost) {
		if p.Advice {
			fmt.Fprintf(out, "advice: %v\n", p)
			continue
		}
		bad = true
		fmt.Fprintln(errs, p.Error())
	}
	if bad {
		return exitFailed
	}
	fmt.Fprintf(out, "%s is good: %d disks, %d NICs, %d machines\n", filepath.Clean(path), len(cfg.Disks), len(cfg.NICs), len(cfg.Machines))
	return exitDone
}

// testAlarm has the hook run, and syslog told, of an event of no meaning.
func testAlarm(path string, out, errs io.Writer) int {
	cfg, err := config.Load(path)
	if err != nil {
		return failed(errs, err)
	}
	s := cfg.Alarms.Settings
	if s.Hook == "" && !s.Syslog {
		return failed(errs, fmt.Errorf("%s says of no one who is to hear of alarms: set hook or syslog in [alarms]", path))
	}
	if s.Hook != "" {
		if err := config.LookAtHook(s.Hook); err != nil {
			return failed(errs, err)
		}
	}
	a := &alarm.Alarms{Box: cfg.System.Name}
	a.Set(s)
	if err := a.Test(context.Background()); err != nil {
		return failed(errs, fmt.Errorf("the test of the alarms failed: %w", err))
	}
	for _, told := range []struct {
		is  bool
		who string
	}{{s.Hook != "", s.Hook}, {s.Syslog, "syslog"}} {
		if told.is {
			fmt.Fprintf(out, "%s was told\n", told.who)
		}
	}
	return exitDone
}
