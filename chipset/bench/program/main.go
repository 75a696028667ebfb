// Command program is what chipset/bench has run: work of a fixed size, the same on every
// computer. It is the first process of a guest (linux/riscv64, /init of its initramfs), and
// an ordinary program on the host that guests are compared with.
//
// It takes commands, a line each, from its standard input, does one after the other, and
// answers each with a line:
//
//	float 40            →  end float 7d31c6ff1f54ae21
//	disk read …         →  failed disk: open /dev/vda: …
//
// While it waits for a command it does nothing, so that whoever asks can read clocks on
// both sides of the work. What it answers depends on the command alone: equal commands
// have equal answers on all computers of one architecture.
package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"
)

// command does something and gives the result of it, in a word or two.
type command func(args []string) (string, error)

var commands = map[string]command{
	"integer":  work(integer),
	"chase":    work(chase),
	"stream":   work(stream),
	"float":    work(float),
	"syscalls": workOrFail(syscalls),
	"disk":     disk,
	"send":     send,
	"receive":  receive,
	"clock":    clock,
	"address":  address,
	"begin":    begin,
	"cease":    cease,
	"fill":     fill,
	"panic":    panicNow,
}

func main() {
	if os.Getpid() == 1 {
		fmt.Println(userSpace)
		if err := becomeSystem(); err != nil {
			fmt.Println("failed start:", err)
		}
		defer powerOff()
	}
	fmt.Println(ready)
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		if words := strings.Fields(lines.Text()); len(words) > 0 {
			fmt.Println(answer(words[0], words[1:]))
		}
	}
}

// What it says before it takes commands.
const (
	userSpace = "bench: user space" // the first process runs
	ready     = "bench: ready"
)

func answer(name string, args []string) string {
	do := commands[name]
	if do == nil {
		return fmt.Sprintf("failed %s: there is no such command", name)
	}
	result, err := do(args)
	if err != nil {
		return fmt.Sprintf("failed %s: %v", name, err)
	}
	return strings.TrimSpace(fmt.Sprintf("end %s %s", name, result))
}

// work is a command with one argument, how much of it is to be done, whose result is a
// checksum.
func work(do func(rounds int) uint64) command {
	return workOrFail(func(rounds int) (uint64, error) { return do(rounds), nil })
}

func workOrFail(do func(rounds int) (uint64, error)) command {
	return func(args []string) (string, error) {
		var rounds int
		if err := scan(args, &rounds); err != nil {
			return "", err
		}
		sum, err := do(rounds)
		return fmt.Sprintf("%016x", sum), err
	}
}

// scan reads a command's arguments into variables, all of them.
func scan(args []string, into ...any) error {
	if len(args) != len(into) {
		return fmt.Errorf("%d arguments, %d are needed", len(args), len(into))
	}
	for i, a := range args {
		if _, err := fmt.Sscan(a, into[i]); err != nil {
			return fmt.Errorf("argument %q: %w", a, err)
		}
	}
	return nil
}

// fold puts a value into a checksum (the step of FNV-1a, with eight bytes at once).
func fold(sum, v uint64) uint64 { return (sum ^ v) * 0x100000001b3 }

// foldStart is a checksum of nothing.
const foldStart uint64 = 0xcbf29ce484222325
