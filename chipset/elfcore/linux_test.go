package elfcore

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ft/chipset/firmware"
	"ft/chipset/module"
	"ft/chipset/rv64"
	"ft/chipset/virtio"
	"ft/drivers/kerneltest"
	"ft/ftd/testbox/guest"
)

const (
	linuxMemory = 256 << 20
	// stepsMax is several times what the kernel needs to find that it has no root.
	stepsMax = 3_000_000_000
)

// console keeps what a guest says.
type console struct{ bytes.Buffer }

func (c *console) Console(p []byte)             { c.Write(p) }
func (c *console) Request(int, *virtio.Request) { panic("the machine has no devices") }

// panicked is a machine with Debian's kernel, which has panicked for want of a root.
func panicked(t *testing.T, kernel string) (m *module.Machine, ram []byte) {
	t.Helper()
	file, err := os.ReadFile(kernel)
	if err != nil {
		t.Fatal(err)
	}
	where := firmware.RAM{Base: firmware.RAMBase, Size: linuxMemory}
	image, err := firmware.ReadKernel(kernel, file, where)
	if err != nil {
		t.Fatal(err)
	}
	boot, err := firmware.Place(firmware.Board{
		Memory: where, TimebaseHz: module.TimebaseHz, Extensions: module.Extensions, MMU: "riscv,sv39", Virtio: module.Virtio,
		Bootargs: guest.Cmdline(netip.Prefix{}, netip.Addr{}), RNGSeed: bytes.Repeat([]byte("seed"), 8),
	}, image, nil)
	if err != nil {
		t.Fatal(err)
	}
	ram = make([]byte, linuxMemory)
	var said console
	if m, err = module.New(module.Config{RAM: ram, Compare: rv64.Off}, &said); err == nil {
		err = m.Load(boot)
	}
	if err != nil {
		t.Fatal(err)
	}
	grant := func(base uint64) {
		if err := m.Apply(&module.Input{Kind: module.InputTime, Base: base, Num: 1, Den: 10}); err != nil {
			t.Fatal(err)
		}
	}
	grant(0)
	for m.Steps() < stepsMax {
		_, why := m.Run(stepsMax - m.Steps())
		due, waits := m.Due()
		switch {
		case why == module.StopReset && m.Reset().Kind == firmware.WarmReboot:
			t.Logf("the kernel panicked at step %d", m.Steps())
			return m, ram
		case why == module.StopWFI && waits:
			grant(max(due, m.Time()))
		case why != module.StopBudget:
			t.Fatalf("the machine stopped for %v at step %d; it said\n%s", why, m.Steps(), said.String())
		}
	}
	t.Fatalf("the kernel has not panicked after %d steps; it said\n%s", m.Steps(), said.String())
	return nil, nil
}

// read reads memory at a virtual address, as a debugger does.
func read(t *testing.T, loads []*elf.Prog, addr uint64, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	for _, p := range loads {
		if addr-p.Vaddr < p.Filesz && uint64(n) <= p.Filesz-(addr-p.Vaddr) {
			if _, err := p.ReadAt(b, int64(addr-p.Vaddr)); err != nil {
				t.Fatal(err)
			}
			return b
		}
	}
	t.Fatalf("the core has not %d bytes at %#x", n, addr)
	return nil
}

// symbols are those that the kernel has in itself (kernel/kallsyms.c), by the addresses of
// its tables that VMCOREINFO has.
func symbols(t *testing.T, loads []*elf.Prog, info *kernelInfo) map[string]uint64 {
	t.Helper()
	table := func(name string, n int) []byte {
		at, ok := info.hex("SYMBOL(kallsyms_" + name + ")")
		if !ok {
			t.Fatalf("VMCOREINFO has no kallsyms_%s:\n%s", name, info.text)
		}
		return read(t, loads, at, n)
	}
	le := binary.LittleEndian
	n := int(le.Uint32(table("num_syms", 4)))
	base := le.Uint64(table("relative_base", 8))
	offsets, index := table("offsets", 4*n), table("token_index", 512)
	last := int(le.Uint16(index[510:]))
	tokens := table("token_table", last+64)
	names := table("names", 32*n) // more than there are, of the same image
	found := make(map[string]uint64, n)
	for i := range n {
		length := int(names[0])
		names = names[1:]
		if length&0x80 != 0 {
			length = length&0x7f | int(names[0])<<7
			names = names[1:]
		}
		var name []byte
		for _, token := range names[:length] {
			text, _, _ := bytes.Cut(tokens[le.Uint16(index[2*int(token):]):], []byte{0})
			name = append(name, text...)
		}
		names = names[length:]
		found[string(name[1:])] = base + uint64(le.Uint32(offsets[4*i:])) // behind its type
	}
	return found
}

// TestKernelCore: a core of Debian's kernel that has panicked is one that debuggers find
// their way in.
func TestKernelCore(t *testing.T) {
	cache, done := kerneltest.Own(t, map[string]string{"gdb-multiarch": "gdb-multiarch", "readelf": "binutils", "xz": "xz-utils"})
	defer done()
	kernel, version, err := guest.Kernel(t.Context(), filepath.Join(cache, "guest-riscv64"), t.Logf)
	if err != nil {
		kerneltest.Missing(t, fmt.Sprintf("no kernel to boot: %v", err))
	}
	m, ram := panicked(t, kernel)
	cfg := Config{Memory: bytes.NewReader(ram), Base: firmware.RAMBase, Size: linuxMemory, Hart: m.Hart().State(), Name: "guest", Why: "panic"}
	core := dump(t, cfg)
	f, err := os.Open(core)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	notes, loads := parts(t, f)
	info := &kernelInfo{notes["VMCOREINFO 0"]}
	if release, _ := info.value("OSRELEASE"); string(release) != version {
		t.Fatalf("VMCOREINFO is\n%s", info.text)
	}
	if len(loads) != 2 || loads[0].Vaddr < 0xffff_ffff_8000_0000 || loads[1].Paddr != firmware.RAMBase || loads[1].Filesz != linuxMemory {
		t.Fatalf("segments %+v and %+v", loads[0].ProgHeader, loads[1].ProgHeader)
	}

	known := symbols(t, loads, info)
	banner, ok := known["linux_banner"]
	if !ok {
		t.Fatalf("linux_banner is none of the %d symbols", len(known))
	}
	text := "Linux version " + version
	linear := loads[1].Vaddr + (loads[0].Paddr + banner - loads[0].Vaddr - loads[1].Paddr)
	got := gdb(t, core, fmt.Sprintf("x/s %#x", banner), fmt.Sprintf("x/s %#x", linear), `printf "pc %lx\n", $pc`, `printf "sp %lx\n", $sp`)
	if strings.Count(got, text) != 2 || !strings.Contains(got, fmt.Sprintf("pc %x\nsp %x\n", cfg.Hart.PC, cfg.Hart.X[2])) {
		t.Errorf("linux_banner is at %#x and, in the linear map, at %#x; gdb says\n%s", banner, linear, got)
	}
	within := ""
	for name, at := range known {
		if at <= cfg.Hart.PC && (within == "" || at > known[within]) {
			within = name
		}
	}
	if !strings.Contains(within, "sbi") { // where it asks for the reset
		t.Errorf("the hart is in %s", within)
	}
	got = tool(t, "readelf", "binutils", "-lnW", core)
	if !strings.Contains(got, "VMCOREINFO") || !strings.Contains(got, fmt.Sprintf("0x%016x 0x%016x", loads[0].Vaddr, loads[0].Paddr)) {
		t.Errorf("readelf says\n%s", got)
	}
}
