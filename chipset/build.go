package chipset

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"ft/chipset/backplane"
	"ft/chipset/firmware"
	"ft/chipset/module"
	"ft/chipset/rv64"
	"ft/chipset/virtio"
	"ft/drivers"
)

// settings are all that a machine is built from: the same settings, with the same files
// behind them, make the same machine.
type settings struct {
	Kernel      string              `json:"kernel"`
	Initrd      string              `json:"initrd,omitempty"`
	Cmdline     string              `json:"cmdline"`
	MemoryBytes int64               `json:"memory_bytes"`
	Compare     Compare             `json:"compare"`
	Seed        []byte              `json:"seed"` // of the guest's random numbers
	Disk        *virtio.BlockConfig `json:"disk,omitempty"`
	NIC         *virtio.NetConfig   `json:"nic,omitempty"`
}

// build makes the machine in this process, with its kernel in its memory, at its first step.
// The memory is the caller's to unmap when the machine is done with.
func (s *settings) build(sink module.Sink) (m *module.Machine, ram []byte, err error) {
	ram, err = unix.Mmap(-1, 0, int(s.MemoryBytes), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, nil, fmt.Errorf("%d MiB of memory for a machine: %w", s.MemoryBytes>>20, err)
	}
	_ = unix.Madvise(ram, unix.MADV_HUGEPAGE) // faster where it is to be had
	if m, _, err = s.load(ram, sink); err != nil {
		_ = unix.Munmap(ram)
		return nil, nil, err
	}
	return m, ram, nil
}

// load makes the machine on memory that is all zero. It lists the pages that are not, behind
// it. What a person has to mend is a *drivers.Refused.
func (s *settings) load(ram []byte, sink module.Sink) (m *module.Machine, pages []uint32, err error) {
	boot, err := s.boot()
	if err != nil {
		return nil, nil, drivers.Refuse(drivers.RuleUnfit, "%v", err)
	}
	touched := map[uint32]bool{}
	if m, err = s.machine(ram, sink, func(page uint64) { touched[uint32(page)] = true }); err == nil {
		err = m.Load(boot)
	}
	if err != nil {
		return nil, nil, err
	}
	return m, slices.Sorted(maps.Keys(touched)), nil
}

// machine makes the machine on memory, whatever is in it.
func (s *settings) machine(ram []byte, sink module.Sink, onFirstWrite func(page uint64)) (*module.Machine, error) {
	return module.New(module.Config{RAM: ram, Disk: s.Disk, NIC: s.NIC, Entropy: true, Compare: s.compare(), OnFirstWrite: onFirstWrite}, sink)
}

// inside is the machine as a CPU module makes it.
func (s *settings) inside() backplane.MachineConfig {
	return backplane.MachineConfig{Kind: backplane.KindMachine, Disk: s.Disk, NIC: s.NIC, Entropy: true, Compare: s.compare()}
}

func (s *settings) compare() rv64.Compare {
	switch s.Compare {
	case CompareStore:
		return rv64.StoreOnly
	case CompareOff:
		return rv64.Off
	}
	return rv64.EveryStep
}

// fileMax bounds a kernel or an initrd, in bytes.
const fileMax = 1 << 30

// boot reads kernel and initrd, and lays out the memory.
func (s *settings) boot() (*firmware.Boot, error) {
	ram := firmware.RAM{Base: firmware.RAMBase, Size: uint64(s.MemoryBytes)}
	file, err := readFile("kernel", s.Kernel)
	if err != nil {
		return nil, err
	}
	kernel, err := firmware.ReadKernel(s.Kernel, file, ram)
	if err != nil {
		return nil, err
	}
	var initrd []byte
	if s.Initrd != "" {
		if initrd, err = readFile("initrd", s.Initrd); err != nil {
			return nil, err
		}
	}
	return firmware.Place(firmware.Board{
		Memory: ram, TimebaseHz: module.TimebaseHz, Extensions: module.Extensions, MMU: "riscv,sv39", Virtio: module.Virtio,
		Bootargs: s.Cmdline, RNGSeed: s.Seed,
	}, kernel, initrd)
}

func readFile(what, path string) ([]byte, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("the %s is not there: %w", what, err)
	case err != nil:
		return nil, fmt.Errorf("the %s: %w", what, err)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("the %s %s is no regular file", what, path)
	case info.Size() > fileMax:
		return nil, fmt.Errorf("the %s %s has %d MiB, at most %d are taken", what, path, info.Size()>>20, fileMax>>20)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the %s: %w", what, err)
	}
	return b, nil
}
