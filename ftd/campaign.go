package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/bits"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"golang.org/x/term"

	"ft/chipset/bare"
	"ft/chipset/campaign"
)

const campaignUsage = `ftd campaign FILE tries lockstep with many faults, and counts what became of them

  ftd campaign FILE [--faults N] [--seed S] [--kinds KIND,…] [--memory SIZE]
               [--max-steps N] [--json] [--verbose]

FILE is a bare-metal program as for ftd run-elf. It is run by itself, to know what is right,
and then N times on two CPU modules, each time with one fault: of a kind, into a side, at a
step, a register, a bit, an address that are drawn from the seed. A table says, for each kind,
by what the faults were detected (records that differ, an epoch's end, the memory patrol, the
death of a module, its self-test), how many were overwritten before anything used them, which
is proved: both modules and what they print are in the end what they are without a fault; and
of those that were detected, how many were named rightly: the module, and the first step at
which it was wrong, or the word of memory. Nothing may be pending, escape, or be named wrongly.

  --faults N       (100)
  --seed S         (1)
  --kinds KIND,…   only these: %s
  --memory SIZE    of the machine (what the program occupies, to the next power of two)
  --max-steps N    that the program may take (100000000)
  --json           print the result as JSON
  --verbose        print each run

Exit status: 0 all faults were found and named rightly, or are proved to be gone; 1 not so,
and the runs are listed with the command that has one again, or it cannot be run; 2 wrong
usage.
`

// campaignOptions is what was asked for.
type campaignOptions struct {
	file          string
	memory        uint64
	config        campaign.Config
	json, verbose bool
}

func runCampaign(args []string, out, errs io.Writer) int {
	o, err := parseCampaign(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprintf(out, campaignUsage, strings.Join(campaign.Kinds, ", "))
		return exitDone
	case err != nil:
		fmt.Fprintf(errs, "ftd campaign: %v\n(ftd campaign --help says more)\n", err)
		return exitUsage
	}
	ok, err := o.run(out, errs)
	switch {
	case err != nil:
		return failed(errs, err)
	case !ok:
		return exitFailed
	}
	return exitDone
}

func parseCampaign(args []string) (o campaignOptions, err error) {
	f := flags()
	f.IntVar(&o.config.Faults, "faults", 100, "")
	f.Uint64Var(&o.config.Seed, "seed", 1, "")
	f.Uint64Var(&o.config.MaxSteps, "max-steps", 100_000_000, "")
	f.BoolVar(&o.json, "json", false, "")
	f.BoolVar(&o.verbose, "verbose", false, "")
	f.Func("memory", "", func(s string) (err error) {
		o.memory, err = parseMemory(s)
		return err
	})
	f.Func("kinds", "", func(s string) error {
		o.config.Kinds = strings.Split(s, ",")
		return nil
	})
	files, err := parseAround(f, args)
	switch {
	case err != nil:
		return o, err
	case len(files) == 0 || files[0] == "":
		return o, errors.New("it needs a FILE to run")
	case len(files) > 1:
		return o, fmt.Errorf("unexpected argument %q: one program is run, and takes no arguments", files[1])
	}
	o.file = files[0]
	return o, o.config.Check()
}

// programMost is where a program is read that is still to say how much memory it needs.
const programMost = 64 << 30

// smallest is how much memory a program is given that does not ask for more.
const smallest = 64 << 10

func (o *campaignOptions) run(out, errs io.Writer) (ok bool, err error) {
	file, err := readProgram(o.file)
	if err != nil {
		return false, err
	}
	if o.memory == 0 {
		program, err := bare.Read(o.file, file, programMost)
		if err != nil {
			return false, err
		}
		o.memory = max(uint64(1)<<bits.Len64(program.Size()-1), smallest)
	}
	if o.config.Program, err = bare.Read(o.file, file, o.memory); err != nil {
		return false, err
	}
	o.config.Memory = int64(o.memory)
	p := newProgress(errs, o.config.Faults)
	o.config.Done = func(t *campaign.Trial) {
		if o.verbose {
			p.clear()
			o.tell(errs, t)
		}
		p.done()
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	report, err := o.config.Run(ctx)
	p.clear()
	if err != nil {
		return false, fmt.Errorf("%s: %w", o.file, err)
	}
	if o.json {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		if err := e.Encode(report); err != nil {
			return false, err
		}
	} else {
		report.Print(out)
		o.list(out, report)
	}
	if ctx.Err() != nil {
		return false, fmt.Errorf("interrupted after %d of %d faults", report.Total.Injected, o.config.Faults)
	}
	return report.OK(), nil
}

// tell prints a run.
func (o *campaignOptions) tell(w io.Writer, t *campaign.Trial) {
	fmt.Fprintf(w, "%d: %s: %s", t.Number, t.Fault, t.Outcome)
	if t.Told != "" {
		fmt.Fprintf(w, " (%s)", t.Told)
	}
	if t.Wrong != "" {
		fmt.Fprintf(w, " WRONG: %s", t.Wrong)
	}
	fmt.Fprintln(w)
}

// list prints the runs in which not all was as it should be.
func (o *campaignOptions) list(w io.Writer, r *campaign.Report) {
	if r.OK() {
		fmt.Fprintln(w, "\nAll of them were found and named rightly, or are proved to be gone.")
		return
	}
	fmt.Fprintf(w, "\nIn %d runs not all was as it should be:\n\n", len(r.Failed))
	for _, t := range r.Failed {
		o.tell(w, t)
		fmt.Fprintf(w, "    ftd run-elf %s --memory %dKiB --lockstep --inject %q\n", o.file, o.memory>>10, t.Fault)
	}
}

// progress tells how far it is, on a terminal.
type progress struct {
	w     io.Writer // nil: nobody looks
	total int
	n     int
	began time.Time
}

func newProgress(w io.Writer, total int) *progress {
	p := &progress{total: total, began: time.Now()}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		p.w = w
	}
	return p
}

func (p *progress) done() {
	p.n++
	if p.w == nil {
		return
	}
	took := time.Since(p.began)
	left := time.Duration(float64(took) / float64(p.n) * float64(p.total-p.n))
	fmt.Fprintf(p.w, "\r\x1b[K%d of %d faults, %.1f a second, %v left", p.n, p.total, float64(p.n)/took.Seconds(), left.Round(time.Second))
}

func (p *progress) clear() {
	if p.w != nil {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}
