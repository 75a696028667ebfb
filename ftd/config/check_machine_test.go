package config

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ft/bond/nic"
)

// image is a riscv64 Image (Documentation/arch/riscv/boot-image-header.rst) that asks for
// so much memory.
func image(bytes int) []byte {
	b := make([]byte, 4096)
	binary.LittleEndian.PutUint64(b[8:], 0x20_0000) // text_offset
	binary.LittleEndian.PutUint64(b[16:], uint64(bytes))
	binary.LittleEndian.PutUint32(b[32:], 2) // version 0.2
	copy(b[48:], "RISCV\x00\x00\x00")
	copy(b[56:], "RSC\x05")
	return b
}

func packed(b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, _ = w.Write(b)
	_ = w.Close()
	return out.Bytes()
}

func written(t *testing.T, name string, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// oneMachine has its kernel in line 3, its initrd, if any, in line 4.
func oneMachine(kernel, more string) string {
	return fmt.Sprintf("[[machine]]\nname = \"guest\"\nkernel = %q\n%s", kernel, more)
}

func TestTheMachinesOfThisHost(t *testing.T) {
	good := written(t, "vmlinux", image(8<<20))
	dir := filepath.Dir(good)
	initrd := func(path string) string { return fmt.Sprintf("initrd = %q\n", path) }
	leg := sized(t, "leg", 8<<20)
	loop := loopOver(t, leg)
	foreign := append([]byte("\x7fELF\x02\x01\x01"), make([]byte, 57)...)
	foreign[18] = 62 // EM_X86_64
	x86, script := written(t, "x86", foreign), written(t, "script", []byte("#!/bin/sh\n"))
	large, big := sized(t, "large", 65<<20), written(t, "big", image(80<<20))
	for _, c := range []struct {
		name, text string
		want       string // what is said; "" for nothing
		absent     bool
	}{
		{"fit", oneMachine(good, initrd(good)+fmt.Sprintf("disk = %q\n", leg)), "", false},
		{"in gzip", oneMachine(written(t, "z", packed(image(8<<20))), ""), "", false},
		{"no kernel there", oneMachine(dir+"/none", ""), "f:3: the kernel " + dir + "/none does not exist; mend the path, or put the file there", true},
		{"no initrd there", oneMachine(good, initrd("/none")), "f:4: the initrd /none does not exist; mend the path, or put the file there", true},
		{"a directory", oneMachine(dir, ""), "f:3: the kernel " + dir + " is no file; name the file itself", true},
		{"an empty file", oneMachine(sized(t, "empty", 0), ""), "f:3: the kernel ", true},
		{"another computer's kernel", oneMachine(x86, ""), "f:3: kernel " + x86 + ": an ELF for x86-64; this machine is riscv64", true},
		{"a file that is no kernel", oneMachine(script, ""), "f:3: kernel " + script + ": 10 bytes are less than a kernel's header: the file is truncated; give a riscv64 Image or ELF, as is or compressed by gzip", true},
		{"a kernel larger than the memory", oneMachine(large, "memory = \"64MiB\"\n"), "f:3: the kernel " + large + " has 68157440 bytes, more than the machine's memory of 64MiB; give the machine more memory", true},
		{"a kernel that asks for more memory", oneMachine(big, "memory = \"64MiB\"\n"), "f:3: kernel " + big + ": a riscv64 Image that needs 80 MiB from 2 MiB on, but the guest's memory is 64 MiB; give the machine more memory", true},
		{"an initrd that does not fit", oneMachine(good, initrd(sized(t, "initrd", 60<<20))+"memory = \"64MiB\"\n"), `f:3: memory = 64MiB of machine "guest": an initrd of 60 MiB does not fit `, true},
		{"a record", oneMachine(good, fmt.Sprintf("record = %q\n", dir+"/guest.record")), "", false},
		{"a record nowhere", oneMachine(good, "record = \"/none/guest.record\"\n"), "f:4: the record cannot be written: there is no directory /none; make it, or mend the path", true},
		{"a record in the place of a directory", oneMachine(good, fmt.Sprintf("record = %q\n", dir)), "f:4: the record cannot be written: " + dir + " is there, and no file; give record a file of its own", true},
		{"no disk there", oneMachine(good, "disk = \"/none\"\n"), "f:4: /none does not exist; mend the path", true},
		{"a leg by another name", oneMachine(good, fmt.Sprintf("disk = %q\n[[disk]]\nname = \"disk0\"\npci0 = %q\n", loop, leg)),
			fmt.Sprintf("f:4: %s lies on the same storage as pci0 of disk0 (%s, line 7); each machine needs a disk of its own", loop, leg), false},
		{"more memory than there is", oneMachine(good, "memory = \"64GiB\"\n"), "f:1: the machines have 64GiB of memory together, and this computer ", false},
	} {
		t.Run(c.name, func(t *testing.T) { expectOne(t, c.text, c.want, c.absent) })
	}
}

func TestTheInterfacesOfMachines(t *testing.T) {
	ns := namespace(t, "tuntap add tap0 mode tap", "link add eth9 type veth peer name p9", "link add link eth9 name mt0 type macvtap", "tuntap add tun0 mode tun")
	kernel := written(t, "vmlinux", image(8<<20))
	for _, c := range []struct {
		nic, want string
		absent    bool
	}{
		{"tap:tap0", "", false},
		{"tap:mt0", "", false},
		{"link:eth9", "", false},
		{"tap:eth9", "f:4: eth9 is no TAP; write nic = \"link:eth9\" for a macvtap on it, or name a TAP (ip tuntap add NAME mode tap)", false},
		{"tap:tun0", "f:4: tun0 is no TAP; ", false},
		{"tap:tap7", "f:4: there is no interface tap7 in the network namespace " + ns + "; make it: ip tuntap add tap7 mode tap", true},
		{"link:eth7", "f:4: there is no interface eth7 in the network namespace " + ns + "; mend the name, or plug it in", true},
	} {
		t.Run(c.nic, func(t *testing.T) {
			expectOne(t, oneMachine(kernel, fmt.Sprintf("nic = %q\nnetns = %q\n", c.nic, ns)), c.want, c.absent)
		})
	}
	expectOne(t, oneMachine(kernel, "nic = \"tap:t\"\nnetns = \"ft-none\"\n"),
		"f:4: the network namespace is not there: there is no /run/netns/ft-none; make it (ip netns add), or mend netns", true)
}

// expectOne checks a file on this host: one problem that begins with want, or none.
func expectOne(t *testing.T, text, want string, absent bool) {
	t.Helper()
	cfg, err := Parse("f", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	host := ThisHost
	host.NetAdmin = func() error { return nil }
	ps := Check(cfg, host)
	switch {
	case want == "" && len(ps) > 0:
		t.Fatal(ps)
	case want == "":
		return
	case len(ps) != 1 || !strings.HasPrefix(ps.Error(), want):
		t.Fatalf("got %v\nwant %s", ps, want)
	}
	if ps[0].Absent != absent || ps[0].Advice {
		t.Errorf("%#v", ps[0])
	}
	if ps[0].Device != "guest" && !strings.Contains(want, "together") {
		t.Errorf("it is said of %q", ps[0].Device)
	}
}

// A computer whose memory is not known is no reason to refuse a machine.
func TestOtherHostsOfMachines(t *testing.T) {
	cfg := parse(t, oneMachine("/k", "nic = \"link:eth0\"\nmemory = \"2GiB\"\n[[machine]]\nname = \"two\"\nkernel = \"/k\"\nmemory = \"2GiB\"\n"))
	host := Host{
		Leg:    func(string) (Device, error) { return Device{Kind: RegularFile, Bytes: 1}, nil },
		Boot:   func(Machine) error { return nil },
		Link:   func(_, name string) (bool, error) { return false, fmt.Errorf("find %s: %w", name, nic.ErrNone) },
		Memory: func() int64 { return 0 },
	}
	if got := Check(cfg, host).Error(); got != "ft.toml:4: there is no interface eth0; mend the name, or plug it in" {
		t.Error(got)
	}
	host.Memory = func() int64 { return 3<<30 + 12345 }
	if got := Check(cfg, host).Error(); !strings.HasSuffix(got, "ft.toml:6: the machines have 4GiB of memory together, and this computer 3GiB; lower memory, and leave some for the computer itself") {
		t.Error(got)
	}
}
