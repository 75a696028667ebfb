package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"time"

	"ft/chipset"
)

// runReplay has a machine's run again, from its record.
func runReplay(args []string, out, errs io.Writer) int {
	f := flags()
	f.Usage = func() {
		fmt.Fprintln(out, `usage: ftd replay [--quantum STEPS] [--console] RECORD

Runs a machine again from the record of its inputs, which a machine with record = "FILE"
writes, and compares its end with the recorded one. The kernel and initrd must be where they
were. Exit status: 0 the same end, 1 not the same, no end to compare with, or not to be had,
2 usage.`)
	}
	quantum := f.Uint64("quantum", 0, "")
	console := f.Bool("console", false, "")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return exitDone
		}
		return misused(errs, err)
	}
	if f.NArg() != 1 {
		return misused(errs, errors.New("replay needs one RECORD"))
	}
	opt := chipset.ReplayOptions{Quantum: *quantum}
	if *console {
		opt.Console = out
	}
	began := time.Now()
	end, err := chipset.Replay(f.Arg(0), opt)
	if err != nil {
		return failed(errs, err)
	}
	took := time.Since(began).Seconds()
	fmt.Fprintf(out, "%d steps, fingerprint %#016x, memory %v; %.1f s, %.0f M steps/s\n", end.Steps, end.Fingerprint, end.Memory, took, float64(end.Steps)/took/1e6)
	if !end.Whole {
		return failed(errs, errors.New("the record has no end, whoever wrote it was killed: it was played as far as it goes, with nothing to compare with"))
	}
	return exitDone
}
