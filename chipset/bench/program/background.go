package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// What a guest does while something is done to its machine.

// background is work that goes on beside the conversation, at most one.
var background struct {
	quit *atomic.Bool // nil: none
	done sync.WaitGroup
	laps atomic.Uint64
}

// laps are pieces of work that are done over and over, each a fraction of a second.
var laps = map[string]func() (lap func(), end func() error, err error){
	"integer": func() (func(), func() error, error) {
		return func() { integer(20) }, nothingToEnd, nil
	},
	"stream": func() (func(), func() error, error) {
		a, b, c := make([]uint64, streamLen), make([]uint64, streamLen), make([]uint64, streamLen)
		return func() { triad(a, b, c, 3) }, nothingToEnd, nil
	},
	"dirty": dirty,
}

func nothingToEnd() error { return nil }

// begin is the command
//
//	begin WORK
//
// which has a piece of work done over and over, until
//
//	cease
//
// whose answer is how often.
func begin(args []string) (string, error) {
	var what string
	if err := scan(args, &what); err != nil {
		return "", err
	}
	prepare := laps[what]
	switch {
	case prepare == nil:
		return "", fmt.Errorf("there is no work %q to be done over and over", what)
	case background.quit != nil:
		return "", errors.New("there is work that goes on already")
	}
	lap, end, err := prepare()
	if err != nil {
		return "", err
	}
	quit := &atomic.Bool{}
	background.quit = quit
	background.laps.Store(0)
	background.done.Go(func() {
		for !quit.Load() {
			lap()
			background.laps.Add(1)
		}
		if err := end(); err != nil {
			fmt.Println("failed", what+":", err)
		}
	})
	return "", nil
}

func cease(args []string) (string, error) {
	if err := scan(args); err != nil {
		return "", err
	}
	if background.quit == nil {
		return "", errors.New("there is no work that goes on")
	}
	background.quit.Store(true)
	background.done.Wait()
	background.quit = nil
	return fmt.Sprint(background.laps.Load()), nil
}

// dirty writes a word into each page of most of the memory that is to be had: the fewest steps
// a page that a program can do.
func dirty() (lap func(), end func() error, err error) {
	mem, err := takeMemory()
	if err != nil {
		return nil, nil, err
	}
	n := byte(0)
	return func() {
		n++
		for at := 0; at < len(mem); at += 4096 {
			mem[at] = n
		}
	}, func() error { return unix.Munmap(mem) }, nil
}

// takeMemory maps three quarters of the memory that is to be had.
func takeMemory() ([]byte, error) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return nil, err
	}
	free, err := available(text)
	if err != nil {
		return nil, err
	}
	size := int(free/4*3) &^ 4095
	mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("map %d bytes: %w", size, err)
	}
	return mem, nil
}

// available reads /proc/meminfo: what programs can have, in bytes.
func available(meminfo []byte) (bytesFree uint64, err error) {
	for s := bufio.NewScanner(bytes.NewReader(meminfo)); s.Scan(); {
		if n, _ := fmt.Sscanf(s.Text(), "MemAvailable: %d kB", &bytesFree); n == 1 {
			return bytesFree << 10, nil
		}
	}
	return 0, errors.New("/proc/meminfo has no MemAvailable")
}

// fill is the command that writes to most of the memory that is to be had, once, and gives it
// back. The answer is how many bytes.
func fill(args []string) (string, error) {
	if err := scan(args); err != nil {
		return "", err
	}
	mem, err := takeMemory()
	if err != nil {
		return "", err
	}
	for at := 0; at < len(mem); at += 4096 {
		mem[at] = 1
	}
	return fmt.Sprint(len(mem)), unix.Munmap(mem)
}

// panicNow is the command that has no answer: it makes the kernel panic.
func panicNow(args []string) (string, error) {
	if err := scan(args); err != nil {
		return "", err
	}
	if os.Getpid() != 1 {
		return "", errors.New("this is no guest")
	}
	return "", os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0)
}
