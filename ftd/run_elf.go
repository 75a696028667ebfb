package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ft/chipset/bare"
	"ft/chipset/cpu"
	"ft/chipset/engine"
	"ft/chipset/rv64"
	"ft/ftd/config"
)

// Exit codes of run-elf, beside the program's own status.
const (
	exitUnfinished = 124 // as timeout(1) has it: the program did not end
	exitUndecided  = 125 // no CPU module can go on
	exitStatusMax  = 255 // stands for every status above, too
)

// programMax is how large an ELF may be.
const programMax = 1 << 30

const runELFUsage = `ftd run-elf FILE runs a bare-metal riscv64 program, as Spike does

  ftd run-elf FILE [--engine ENGINE] [--memory SIZE] [--max-steps N]
              [--signature FILE [--signature-granularity BYTES]]
              [--stats] [--fingerprint]
              [--lockstep [--inject "SIDE FAULT…"]… [--undecided WHOM] [--rejoin=no]]

FILE is a static ELF for physical addresses. It starts in M mode, with a0 the number of
the hart and a1 the address of a device tree, on a board like Spike's: memory from
0x80000000 on, a CLINT at 0x2000000, a PLIC at 0xc000000, a 16550 at 0x10000000. It
prints and ends through the doublewords tohost and fromhost (HTIF); what it prints goes
to standard output. Runs are deterministic: time is counted in steps.

  --engine ENGINE     what runs it: %s. With unlike, which needs
                      --lockstep, cpu0 interprets and cpu1 runs translated code
  --memory SIZE       (2GiB; 64MiB with --lockstep)
  --max-steps N       the end, also if the program has not ended (no limit)
  --signature FILE    write the memory from begin_signature to end_signature to FILE
                      when the program has ended: lines of BYTES (4) in hexadecimal
  --stats             print steps, seconds and steps a second to standard error
  --fingerprint       fold every step into a fingerprint and print it to standard error

  --lockstep          run it on two CPU modules, step by step alike. Nothing is printed that
                      both have not come to. A module that is wrong is named, with the first
                      step at which it was, and cut off; the other one goes on
  --inject "SIDE FAULT [ARG…] [--at-step N] [--seed N]"
                      put a fault into SIDE, cpu0 or cpu1, before step N, or the first one;
                      as often as there are to be faults. Those of a side follow each other.
                      Seeds decide what is not said. The faults:
                        flip-register [REG [BIT]]   a bit of x1…x31, f0…f31 changes
                        flip-pc [BIT]               … of the pc
                        flip-csr [NAME [BIT]]       … of a CSR
                        flip-memory [ADDRESS [BIT]] … of a byte of memory
                        stuck [REG [BIT]]           a bit of a register keeps its value
                        wrong-result [CLASS]        a wrong bit in all results of %s
                        lose-store, double-store    a store is lost, or done twice
                        bad-code                    the translator makes code that crashes
                        kill, stop                  the module's process is, behind step N
                        slow                        it takes much more processor time
  --undecided WHOM    whom to believe when it cannot be decided which module is wrong:
                      stop (nobody: the run ends), cpu0 or cpu1
  --rejoin=no         leave a module that was shot out; it is replaced otherwise, while the
                      program stands, unless what comes into its place fails its self-test

For example:  ftd run-elf FILE --lockstep --inject "cpu1 flip-register x14 3 --at-step 100000"

Exit status: what the program stored in tohost, shifted right by one: 0 is success; 255
stands for all that is above, too. 124: the program did not end in N steps, or waits for
an interrupt that never comes. 125: no CPU module could go on, or nothing could be
decided, and both are stopped. With --lockstep, steps are counted by quanta: a program that
is to end at step N is stopped at most one quantum behind it. 1: it cannot be run, which is said. 2: wrong usage.
`

// runELF runs a bare-metal program.
func runELF(args []string, out, errs io.Writer) int {
	o, err := parseRunELF(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprintf(out, runELFUsage, strings.Join(engine.Choices, ", "), strings.Join(cpu.Classes(), ", "))
		return exitDone
	case err != nil:
		fmt.Fprintf(errs, "ftd run-elf: %v\n(ftd run-elf --help says more)\n", err)
		return exitUsage
	}
	code, err := o.run(out, errs)
	if err != nil {
		return failed(errs, err)
	}
	return code
}

// runELFOptions is what was asked for.
type runELFOptions struct {
	file        string
	engines     [2]engine.Kind // of the modules; the second one is the program's without lockstep
	memory      uint64
	maxSteps    uint64
	signature   string
	granularity uint64
	stats       bool
	fingerprint bool
	lockstep    lockstepOptions
}

func parseRunELF(args []string) (runELFOptions, error) {
	o := runELFOptions{maxSteps: math.MaxUint64, granularity: 4}
	f := flags()
	chosen := f.String("engine", engine.Choices[0], "")
	f.StringVar(&o.signature, "signature", "", "")
	f.BoolVar(&o.stats, "stats", false, "")
	f.BoolVar(&o.fingerprint, "fingerprint", false, "")
	f.Func("memory", "", func(s string) (err error) {
		o.memory, err = parseMemory(s)
		return err
	})
	f.Func("max-steps", "", func(s string) (err error) {
		o.maxSteps, err = strconv.ParseUint(s, 0, 64)
		return err
	})
	f.Func("signature-granularity", "", func(s string) (err error) {
		o.granularity, err = strconv.ParseUint(s, 0, 64)
		if err == nil && (o.granularity == 0 || o.granularity > 1024) {
			err = errors.New("lines are of 1 to 1024 bytes")
		}
		return err
	})
	f.BoolVar(&o.lockstep.on, "lockstep", false, "")
	f.StringVar(&o.lockstep.undecided, "undecided", "stop", "")
	rejoin := f.String("rejoin", "yes", "")
	f.Func("inject", "", func(s string) error {
		fault, err := parseInjection(s)
		o.lockstep.faults = append(o.lockstep.faults, fault)
		return err
	})
	files, err := parseAround(f, args)
	if err != nil {
		return o, err
	}
	switch {
	case len(files) == 0 || files[0] == "":
		return o, errors.New("it needs a FILE to run")
	case len(files) > 1:
		return o, fmt.Errorf("unexpected argument %q: one program is run, and takes no arguments", files[1])
	}
	o.file = files[0]
	if *chosen == "interpreter" { // its other name
		*chosen = string(engine.Interpret)
	}
	if o.engines, err = engine.Choice(*chosen).Of(); err != nil {
		return o, err
	}
	if *chosen == string(engine.Unlike) && !o.lockstep.on {
		return o, errors.New("engine unlike is for two modules: add --lockstep")
	}
	switch *rejoin {
	case "yes", "no":
		o.lockstep.rejoin = *rejoin == "yes"
	default:
		return o, fmt.Errorf("--rejoin %q: it is yes or no", *rejoin)
	}
	if o.memory == 0 {
		o.memory = 2 << 30
		if o.lockstep.on {
			o.memory = 64 << 20
		}
	}
	return o, o.lockstep.check(o.memory)
}

// parseAround reads options that may stand before what is no option, and behind it.
func parseAround(f *flag.FlagSet, args []string) (rest []string, err error) {
	for len(args) > 0 {
		if err := f.Parse(args); err != nil {
			return nil, err
		}
		if args = f.Args(); len(args) > 0 {
			rest, args = append(rest, args[0]), args[1:]
		}
	}
	return rest, nil
}

// parseMemory reads how much memory there is to be.
func parseMemory(s string) (uint64, error) {
	n, err := config.ParseSize(s)
	switch {
	case err != nil:
		return 0, err
	case n <= 0 || n%4096 != 0 || n > 64<<30:
		return 0, errors.New("memory is a multiple of 4KiB, up to 64GiB")
	}
	return uint64(n), nil
}

// run runs the program and returns the exit status.
func (o *runELFOptions) run(out, errs io.Writer) (code int, err error) {
	file, err := readProgram(o.file)
	if err != nil {
		return 0, err
	}
	program, err := bare.Read(o.file, file, o.memory)
	if err != nil {
		return 0, err
	}
	// What could not be written at the end is found out at the start.
	var where bare.Signature
	var sink *os.File
	if o.signature != "" {
		if where, err = program.Signature(o.memory); err != nil {
			return 0, err
		}
		if sink, err = os.Create(o.signature); err != nil {
			return 0, fmt.Errorf("write the signature: %w", err)
		}
		defer sink.Close()
	}
	if o.lockstep.on {
		return o.runLockstep(program, sink, where, out, errs)
	}
	ram, err := unix.Mmap(-1, 0, int(o.memory), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return 0, fmt.Errorf("get %d bytes of memory for the program: %w; --memory asks for less", o.memory, err)
	}
	defer unix.Munmap(ram)
	compare := rv64.Off
	if o.fingerprint {
		compare = rv64.EveryStep
	}
	m, err := bare.New(bare.Config{RAM: ram, Engine: o.engines[1], Compare: compare, Console: out, Errors: errs}, program)
	if err != nil {
		return 0, err
	}
	defer m.Close()
	start := time.Now()
	result, err := m.Run(o.maxSteps)
	if err != nil {
		return 0, fmt.Errorf("%s, after %d steps: %w", o.file, m.Steps(), err)
	}
	o.report(errs, m.Steps(), m.Fingerprint(), time.Since(start))
	if result.Ending == bare.Exited && sink != nil {
		if err := errors.Join(where.Write(sink, ram, o.granularity), sink.Close()); err != nil {
			return 0, fmt.Errorf("write the signature: %w", err)
		}
	}
	return o.conclude(errs, m.Steps(), result), nil
}

// readProgram reads FILE.
func readProgram(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is no regular file", path)
	case info.Size() > programMax:
		return nil, fmt.Errorf("%s has %d bytes, more than any bare-metal program", path, info.Size())
	}
	return io.ReadAll(f)
}

// report prints what was asked for beside the program's own output.
func (o *runELFOptions) report(errs io.Writer, steps, fingerprint uint64, took time.Duration) {
	if o.stats {
		seconds := took.Seconds()
		fmt.Fprintf(errs, "steps %d\nseconds %.6f\nsteps/s %.0f\n", steps, seconds, float64(steps)/max(seconds, 1e-9))
	}
	if o.fingerprint {
		fmt.Fprintf(errs, "fingerprint %016x\n", fingerprint)
	}
}

// conclude says how the program ended, unless it is success, and makes an exit status of it.
func (o *runELFOptions) conclude(errs io.Writer, steps uint64, r bare.Result) int {
	switch {
	case r.Ending == bare.OutOfSteps:
		fmt.Fprintf(errs, "ftd: %s has not ended after %d steps, the most that --max-steps allows\n", o.file, steps)
		return exitUnfinished
	case r.Ending == bare.Stuck:
		fmt.Fprintf(errs, "ftd: %s waits for an interrupt that never comes (WFI), after %d steps\n", o.file, steps)
		return exitUnfinished
	case r.Status != 0:
		fmt.Fprintf(errs, "ftd: %s ended with status %d after %d steps\n", o.file, int64(r.Status), steps)
	}
	return int(min(r.Status, exitStatusMax))
}
