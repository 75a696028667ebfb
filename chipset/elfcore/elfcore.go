// Package elfcore writes a machine that stands still as an ELF core for gdb and crash: its
// memory, its hart and, of a Linux guest, what the kernel says about itself.
//
//	ELF header, program headers
//	PT_NOTE   NT_PRSTATUS, NT_PRPSINFO, NT_FPREGSET   the hart as a thread (notes.go)
//	          VMCOREINFO                              the kernel's own note (vmcoreinfo.go)
//	          FT                                      the whole hart, as text
//	PT_LOAD   the kernel's image at its link address  of Linux (layout.go)
//	PT_LOAD   memory at the kernel's linear map       or at its physical addresses
//
// The layouts are Linux's: struct elf_prstatus of include/linux/elfcore.h with struct
// user_regs_struct and struct __riscv_d_ext_state of arch/riscv/include/uapi/asm/ptrace.h;
// the note VMCOREINFO of kernel/vmcore_info.c with the numbers of
// arch/riscv/kernel/vmcore_info.c; the segments of crash_prepare_elf64_headers() in
// kernel/crash_core.c, as /proc/vmcore has them.
//
// Invariants:
//   - What lies in the guest's memory is untrusted: it decides at which virtual addresses
//     memory is shown, and a note's text of bounded length; nothing else.
//   - Memory is read in order and at most twice, each piece into a buffer of our own, so that
//     a file is consistent in itself whatever happens to memory meanwhile.
//   - Memory that a file has holes for (a memfd that was never touched there) is not read.
//   - Both programs find all of memory, physically from Config.Base on, once in the file.
package elfcore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"ft/chipset/rv64"
)

// Config is the machine to be written.
type Config struct {
	// Memory is the guest's, from physical address Base on. An *os.File is asked where it has
	// holes, by which its offset moves.
	Memory io.ReaderAt
	Base   uint64 // a multiple of 4 KiB
	Size   uint64 // in bytes; a multiple of 4 KiB

	Hart rv64.State
	Name string // of the machine; debuggers show it as the program's
	Why  string // it is written; shown behind the name

	// Progress, if it is set, is told how many bytes of memory are in the core, after each
	// piece and when all are.
	Progress func(done, total uint64)
}

const (
	pageBytes  = 4096
	chunkBytes = 1 << 20 // read and written at once
)

func (c *Config) validate() error {
	switch {
	case c.Size == 0 || c.Size%pageBytes != 0 || c.Base%pageBytes != 0 || c.Base+c.Size < c.Base:
		return fmt.Errorf("write a core: memory of %d bytes at %#x: want whole pages of 4 KiB", c.Size, c.Base)
	case c.Memory == nil:
		return errors.New("write a core: there is no memory to read")
	}
	return nil
}

// Write writes the core to a stream. It blocks until that is done, fails or ctx ends.
func Write(ctx context.Context, w io.Writer, cfg Config) error {
	return write(ctx, &stream{w: w}, cfg)
}

// WriteFile writes the core to a new file, which must not exist, and only its owner may
// read; pages of zeros are holes in it. When it returns without an error, the file is on
// the disk; with one, there is no file. It blocks until then.
func WriteFile(ctx context.Context, path string, cfg Config) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("write a core: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(path))
		}
	}()
	out := &file{f: f}
	err = write(ctx, out, cfg)
	if err == nil {
		err = out.finish()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return syncDirectory(filepath.Dir(path))
}

func syncDirectory(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("write a core: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("write a core: flush its directory: %w", err)
	}
	return nil
}

func write(ctx context.Context, out output, cfg Config) error {
	if err := cfg.validate(); err != nil {
		return err
	}
	info, err := findInfo(ctx, &cfg)
	if err != nil {
		return err
	}
	if err := out.data(head(&cfg, info)); err != nil {
		return fmt.Errorf("write a core's headers: %w", err)
	}
	at := uint64(0) // of memory, how much is in the core
	err = pieces(ctx, &cfg, func(from uint64, p []byte) error {
		err := errors.Join(out.zeros(from-at), pages(out, p))
		at = from + uint64(len(p))
		if err == nil && cfg.Progress != nil {
			cfg.Progress(at, cfg.Size)
		}
		return err
	})
	if err == nil && at < cfg.Size {
		err = out.zeros(cfg.Size - at)
		if err == nil && cfg.Progress != nil {
			cfg.Progress(cfg.Size, cfg.Size)
		}
	}
	if err != nil {
		return fmt.Errorf("write a core, %d of %d MiB of memory done: %w", at>>20, cfg.Size>>20, err)
	}
	return nil
}

// pages hands on whole pages, those of zeros as such.
func pages(out output, p []byte) error {
	for len(p) > 0 {
		n, zero := 0, isZero(p[:pageBytes])
		for n < len(p) && isZero(p[n:n+pageBytes]) == zero {
			n += pageBytes
		}
		var err error
		if zero {
			err = out.zeros(uint64(n))
		} else {
			err = out.data(p[:n])
		}
		if err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}
