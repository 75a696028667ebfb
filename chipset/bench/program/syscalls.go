package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// syscalls is work that the kernel does: in each round calls that do next to nothing, a
// pipe, a file in memory that is opened, written, read, looked at and closed, and fresh
// pages that are touched and given back.
func syscalls(rounds int) (uint64, error) {
	file, err := os.CreateTemp("", "bench-")
	if err != nil {
		return 0, err
	}
	defer os.Remove(file.Name())
	if err := file.Close(); err != nil {
		return 0, err
	}
	var k kernelWork
	if err := unix.Pipe2(k.pipe[:], unix.O_CLOEXEC); err != nil {
		return 0, fmt.Errorf("make a pipe: %w", err)
	}
	defer unix.Close(k.pipe[0])
	defer unix.Close(k.pipe[1])
	k.path = file.Name()
	sum := foldStart
	for round := range rounds {
		k.buf[round%len(k.buf)]++
		for _, part := range []func() error{k.nothing, k.throughPipe, k.throughFile, k.pages} {
			if err := part(); err != nil {
				return 0, err
			}
		}
		for i := 0; i < len(k.buf); i += 64 {
			sum = fold(sum, uint64(k.buf[i]))
		}
	}
	return sum, nil
}

type kernelWork struct {
	pipe [2]int
	path string
	buf  [512]byte
}

func (k *kernelWork) nothing() error {
	for range 20 {
		unix.Getppid()
	}
	return nil
}

func (k *kernelWork) throughPipe() error {
	for range 4 {
		if _, err := unix.Write(k.pipe[1], k.buf[:]); err != nil {
			return fmt.Errorf("write to a pipe: %w", err)
		}
		if _, err := unix.Read(k.pipe[0], k.buf[:]); err != nil {
			return fmt.Errorf("read from a pipe: %w", err)
		}
	}
	return nil
}

func (k *kernelWork) throughFile() error {
	fd, err := unix.Open(k.path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a file: %w", err)
	}
	defer unix.Close(fd)
	for i := range int64(4) {
		if _, err := unix.Pwrite(fd, k.buf[:], i*int64(len(k.buf))); err != nil {
			return fmt.Errorf("write to a file: %w", err)
		}
		if _, err := unix.Pread(fd, k.buf[:], i*int64(len(k.buf))); err != nil {
			return fmt.Errorf("read from a file: %w", err)
		}
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return fmt.Errorf("look at a file: %w", err)
		}
	}
	return nil
}

// pagesTouched is how many fresh pages a round takes.
const pagesTouched = 16

func (k *kernelWork) pages() error {
	page := os.Getpagesize()
	mem, err := unix.Mmap(-1, 0, pagesTouched*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return fmt.Errorf("map memory: %w", err)
	}
	for i := range pagesTouched {
		mem[i*page] = k.buf[i]
	}
	if err := unix.Munmap(mem); err != nil {
		return fmt.Errorf("unmap memory: %w", err)
	}
	return nil
}
