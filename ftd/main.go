// Command ftd is the daemon of a fault-tolerant box, in all its roles:
//
//	ftd                      the control daemon: policy, states, API; in no data path
//	ftd --testbox DIR        the same on a throw-away box of loop devices, of NICs in
//	                         network namespaces, and with a machine that boots Debian
//	ftd keeper               the parent of the driver processes
//	ftd driver KIND NAME     one driver process: the data path of one device
//	ftd cpu-module N         one CPU module of a machine: a hart and its memory
//	ftd run-elf FILE         a bare-metal riscv64 program, on one CPU module or in lockstep
//	ftd campaign FILE        the same with many faults, and what became of them
//	ftd replay RECORD        a machine's run, again
//	ftd version
//
// One binary, so that the parts of a box are always of the same version. Nothing here
// decides anything: each role is a package.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"ft/chipset/backplane"
	"ft/ftd/alarm"
	"ft/ftd/api"
	"ft/ftd/testbox"
)

// Exit codes, beside those that a driver process has towards the keeper.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
	exitConfig = 78 // EX_CONFIG of sysexits.h: ft.toml is to be mended first (RestartPreventExitStatus= in ftd.service)
)

// runningVersion is what this process says of itself.
func runningVersion() api.Version {
	v := api.BuildVersion()
	v.Pid, v.Since = os.Getpid(), time.Now()
	v.Supervised = os.Getenv("NOTIFY_SOCKET") != "" || testbox.Child() // systemd, or a test box
	return v
}

const usage = `ftd: duplex devices that never stop while one side is good

  ftd [--config FILE] [--socket PATH] [--state DIR] [--check-config | --test-alarm]
                              the control daemon
  ftd --testbox DIR [--socket PATH] [--guest debian|bare|none] [--engine ENGINE]
                              a throw-away box on loop devices, until Ctrl-C
  ftd --testbox DIR --clean   remove what a box of DIR left behind that was killed;
                              the data stay
  ftd keeper [--run DIR]      the parent of the driver processes
  ftd driver KIND NAME --config FILE [--netns NAME]
                              a driver process; the keeper starts it
  ftd cpu-module N            a CPU module, 0 or 1; the driver of a machine starts it
  ftd run-elf FILE            run a bare-metal riscv64 program; ftd run-elf --help says more
  ftd campaign FILE           try lockstep with many faults; ftd campaign --help says more
  ftd replay RECORD           have a machine's run again; ftd replay --help says more
  ftd version

  --config FILE    configuration             (/etc/ft/ft.toml)
  --socket PATH    where ftctl reaches ftd   (/run/ft/ftd.sock); its directory is the run directory
  --state DIR      what survives a restart   (/var/lib/ft; of a test box DIR/state)
  --run DIR        the run directory         (/run/ft)
  --guest KIND     what the test box's machine runs: Debian's kernel for riscv64, fetched
                   once with apt (debian); a program that is built in (bare); none
  --engine ENGINE  what executes the test box's machine: auto, interpret, translate, unlike
                   (one CPU module of each)
  --netns NAME     the network namespace that a driver lives in, by name or path
  --no-keeper      start no keeper: somebody else does (ft-keeper.service)
  --check-config   look at the configuration and all that it names, start nothing
  --test-alarm     run the hook of [alarms], tell syslog, and say what came of it

ftctl is the admin's command.
`

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// roles are the words that can come first; without one it is the control daemon.
var roles = map[string]func(args []string, out, errs io.Writer) int{
	"keeper":       runKeeper,
	"driver":       runDriver,
	backplane.Role: runCPUModule,
	"run-elf":      runELF,
	"campaign":     runCampaign,
	"replay":       runReplay,
	"version":      runVersion,
	"help":         runHelp,
	"man":          runMan,       // not in the usage: for packaging
	alarm.Role:     runHookGuard, // nor is this: ftd runs it
}

func run(args []string, out, errs io.Writer) int {
	if len(args) == 0 || strings.HasPrefix(args[0], "-") {
		return runControl(args, out, errs)
	}
	if role := roles[args[0]]; role != nil {
		return role(args[1:], out, errs)
	}
	return misused(errs, fmt.Errorf("there is no role %q", args[0]))
}

func runHookGuard(args []string, _, errs io.Writer) int { return alarm.Guard(args, errs) }

func runHelp(_ []string, out, _ io.Writer) int {
	fmt.Fprint(out, usage)
	return exitDone
}

func runVersion(args []string, out, errs io.Writer) int {
	if len(args) > 0 {
		return misused(errs, errors.New("version takes no arguments"))
	}
	v := api.BuildVersion()
	fmt.Fprintf(out, "ftd %s (%s)\n", v.Version, v.Go)
	return exitDone
}

// misused says what is wrong with the command line.
func misused(errs io.Writer, err error) int {
	fmt.Fprintf(errs, "ftd: %v\n\n%s", err, usage)
	return exitUsage
}

// failed says what went wrong.
func failed(errs io.Writer, err error) int {
	fmt.Fprintf(errs, "ftd: %v\n", err)
	return exitFailed
}

// flags makes a flag set whose mistakes are answered by misused.
func flags() *flag.FlagSet {
	f := flag.NewFlagSet("ftd", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	return f
}

// parse reads flags that no other arguments may follow. done says that the process has
// nothing else to do, and ends with code.
func parse(f *flag.FlagSet, args []string, out, errs io.Writer) (code int, done bool) {
	err := f.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return runHelp(nil, out, errs), true
	case err != nil:
		return misused(errs, err), true
	case f.NArg() > 0:
		return misused(errs, fmt.Errorf("unexpected argument %q", f.Arg(0))), true
	}
	return 0, false
}

// absolute makes the paths independent of the directory that a child is started in.
func absolute(paths ...*string) error {
	for _, p := range paths {
		abs, err := filepath.Abs(*p)
		if err != nil {
			return fmt.Errorf("find %s: %w", *p, err)
		}
		*p = abs
	}
	return nil
}
