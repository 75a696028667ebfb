// Package guest makes the guest of a test box: Debian's unmodified kernel for riscv64, and
// a small user space of ours (package service) that is embedded in ftd.
//
//	DIR/debian/    vmlinux, base.cpio, recipe      fetched once with apt (fetch.go)
//	DIR/initrd     base.cpio and the service       made at each start (initrd.go)
//
// Where Debian cannot be reached, or this ftd was built without the service, the guest is
// a bare-metal program instead (bare.go), and Guest.Why says so.
//
// Nothing here starts a machine: what comes out are the files and the command line for
// one, laid out like QEMU's "virt", with the disk as its first virtio-blk device.
package guest

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"ft/chipset/engine"
	"ft/ftd/testbox/guest/bare"
)

// MemoryMiB is what the guest needs: kernel, initramfs and load have room in it.
const MemoryMiB = 256

// Address is the guest's on the box's network, and Gateway who is asked for all others
// (RFC 5737).
var (
	Address = netip.MustParsePrefix("192.0.2.20/24")
	Gateway = netip.MustParseAddr("192.0.2.1")
)

// Options say where a guest is made.
type Options struct {
	Dir   string                           // of this guest; made when missing
	Cache string                           // of what is fetched, which may be shared; Dir when ""
	Say   func(format string, args ...any) // told of what takes long
}

// Guest is what a machine starts.
type Guest struct {
	Kernel  string // path: a raw Image, or the bare-metal program
	Initrd  string // path; "" for the bare-metal program
	Cmdline string
	Version string        // of the kernel, as uname -r shows it; "" for the bare-metal program
	Why     string        // why it is the bare-metal program and not Debian, "" when it is Debian
	Engine  engine.Choice // of its machine, in ft.toml; "" for what a machine has by itself
}

// Prepare makes a guest's files. It blocks for as long as Debian's packages take to come,
// the first time, and at most fetchMax. It fails only when ctx ends or Dir cannot be
// written; what else is missing makes a bare-metal guest.
func Prepare(ctx context.Context, o Options) (Guest, error) {
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return Guest{}, fmt.Errorf("make the guest's directory: %w", err)
	}
	g, err := prepareDebian(ctx, o)
	if err == nil {
		return g, nil
	}
	if ctx.Err() != nil {
		return Guest{}, fmt.Errorf("make the guest: %w", context.Cause(ctx))
	}
	return PrepareBare(o, err.Error())
}

// PrepareBare makes the guest that needs nothing; why says why it is not Debian.
func PrepareBare(o Options, why string) (Guest, error) {
	path := filepath.Join(o.Dir, "bare.elf")
	err := os.MkdirAll(o.Dir, 0o755)
	if err == nil {
		err = os.WriteFile(path, bare.Program(), 0o644)
	}
	if err != nil {
		return Guest{}, fmt.Errorf("make the bare-metal guest: %w", err)
	}
	return Guest{Kernel: path, Why: why}, nil
}

func prepareDebian(ctx context.Context, o Options) (Guest, error) {
	service, err := embedded()
	if err != nil {
		return Guest{}, err
	}
	cache := o.Cache
	if cache == "" {
		cache = o.Dir
	}
	d, err := findDebian(ctx, cache, o.Say)
	if err != nil {
		return Guest{}, err
	}
	g := Guest{Kernel: d.kernel, Initrd: filepath.Join(o.Dir, "initrd"), Cmdline: Cmdline(Address, Gateway), Version: d.version}
	if err := writeInitrd(g.Initrd, d.base, service); err != nil {
		return Guest{}, fmt.Errorf("make the guest's initramfs: %w", err)
	}
	return g, nil
}

// Cmdline is the kernel's command line. Without an address the guest has no network.
//
//   - A panic ends in a warm reset, by which the chipset knows it.
//   - The guest's clock goes on while a busy host gives its hart no time: what the kernel
//     takes for a lockup or a stall is longer than by default, two minutes.
//   - The rest spares what a machine with known parts need not spend, some 540 M of 930 M
//     steps to the first process: the self-tests of the kernel's own cryptography, and the
//     start of a source of randomness that measures jitter (the device tree has a seed).
func Cmdline(address netip.Prefix, gateway netip.Addr) string {
	words := []string{
		"console=ttyS0", "quiet", "panic=-1", "reboot=panic_warm",
		"watchdog_thresh=60", "rcupdate.rcu_cpu_stall_timeout=120",
		"cryptomgr.notests", "initcall_blacklist=jent_mod_init",
	}
	if address.IsValid() {
		words = append(words, "ft.address="+address.String())
	}
	if gateway.IsValid() {
		words = append(words, "ft.gateway="+gateway.String())
	}
	return strings.Join(words, " ")
}
