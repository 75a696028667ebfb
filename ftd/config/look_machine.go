package config

import (
	"fmt"
	"os"
	"runtime/debug"

	"golang.org/x/sys/unix"

	"ft/bond/nic"
	"ft/chipset/firmware"
	"ft/drivers/netns"
)

// unfitFile is a file that a machine cannot be started from.
type unfitFile struct {
	line         int
	what, wayOut string
}

func (u *unfitFile) Error() string { return u.what + "; " + u.wayOut }

// LookAtBoot reads a machine's kernel and initrd and lays them out in its memory, as its
// driver does when it starts it.
func LookAtBoot(m Machine) error {
	defer debug.FreeOSMemory() // tens of MiB, of no further use
	kernel, err := readFile(m.Kernel, m.Memory, "the kernel")
	if err != nil {
		return err
	}
	var initrd []byte
	if m.Initrd.Path != "" {
		if initrd, err = readFile(m.Initrd, m.Memory, "the initrd"); err != nil {
			return err
		}
	}
	board := firmware.Board{
		Memory:     firmware.RAM{Base: firmware.RAMBase, Size: uint64(m.Memory)},
		TimebaseHz: 1, Extensions: []string{"i"}, // whatever the hart is
		Bootargs: m.Cmdline,
	}
	k, err := firmware.ReadKernel(m.Kernel.Path, kernel, board.Memory)
	if err != nil {
		return err
	}
	if _, err := firmware.Place(board, k, initrd); err != nil {
		return fmt.Errorf("memory = %s of machine %q: %w", sizeText(m.Memory), m.Name, err)
	}
	return nil
}

// readFile reads no more than fits in the machine.
func readFile(f File, memory int64, what string) ([]byte, error) {
	st, err := os.Stat(f.Path)
	if err == nil && st.Size() > memory {
		return nil, &unfitFile{f.Line, fmt.Sprintf("%s %s has %d bytes, more than the machine's memory of %s", what, f.Path, st.Size(), sizeText(memory)), "give the machine more memory"}
	}
	var b []byte
	if err == nil {
		b, err = os.ReadFile(f.Path)
	}
	if err != nil {
		return nil, &unfitFile{f.Line, fmt.Sprintf("%s cannot be read: %v", what, err), "make it readable for root"}
	}
	return b, nil
}

// LookAtLink finds an interface by its name, and says whether it is a TAP or macvtap.
func LookAtLink(space, name string) (tap bool, err error) {
	err = netns.Do(space, func() error {
		l, err := nic.ByName(name)
		tap = (l.Kind == "tuntap" || l.Kind == "macvtap") && l.Type == "ether" // a TUN has no frames
		return err
	})
	return tap, err
}

// hostMemory is the computer's memory, in bytes; 0 when the kernel does not say.
func hostMemory() int64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 0
	}
	return int64(info.Totalram) * int64(info.Unit)
}
