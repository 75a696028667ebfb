package main

import (
	"debug/elf"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"ft/drivers/kerneltest"
)

// guestMax is how long the guest has, which is some 10 times slower than this machine.
const guestMax = 20 * time.Minute

// inGuest runs this program in a guest whose kernel has bonding; what it prints there is
// printed here.
func (b *bench) inGuest() (code int) {
	p := &program{}
	in := &inProgram{program: p}
	p.guarded(func() error {
		exe, err := os.Executable()
		if err != nil {
			return err
		}
		if err := static(exe); err != nil {
			return err
		}
		fmt.Print("In a guest: an emulated machine with Debian's kernel, which has bonding.\n\n")
		code = kerneltest.Run(in, kerneltest.Options{
			Modules: []string{"bonding", "veth", "bridge", "sch_ingress", "cls_u32", "act_gact"},
			Binary:  exe,
			Args:    []string{"-rounds", strconv.Itoa(b.rounds), "-seconds", strconv.Itoa(b.seconds), "-only", b.only},
			Timeout: guestMax,
		})
		return nil
	})
	p.clean()
	if p.failed {
		code = 1
	}
	if code != 0 {
		fmt.Fprintf(os.Stderr, "The guest's console and what was done with it:\n%s", in.rest.String())
	}
	return code
}

// static says how to build a program that runs where there are no libraries.
func static(exe string) error {
	f, err := elf.Open(exe)
	if err != nil {
		return fmt.Errorf("look whether %s can run in a guest: %w", exe, err)
	}
	defer f.Close()
	for _, segment := range f.Progs {
		if segment.Type == elf.PT_INTERP {
			return fmt.Errorf("a guest has no libraries, and %s needs some: build it with CGO_ENABLED=0", exe)
		}
	}
	return nil
}

// inProgram has a guest run for a program. What cannot be had fails.
type inProgram struct {
	*program
	rest strings.Builder // what is not the table
}

func (p *inProgram) Skip(args ...any)                 { p.Fatal(args...) }
func (p *inProgram) Skipf(format string, args ...any) { p.Fatalf(format, args...) }

// Logf passes on what the program in the guest says.
func (p *inProgram) Logf(format string, args ...any) {
	if text, said := strings.CutPrefix(fmt.Sprintf(format, args...), "guest: "); said {
		fmt.Println(text)
	} else {
		fmt.Fprintln(&p.rest, text)
	}
}
