package config

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestFullMachinesAreRead(t *testing.T) {
	got := parse(t, `[[disk]]
name = "disk1"
pci0 = "/a"
[[nic]]
name = "net0"
pci0 = "eth0"
[[machine]]
name = "guest"
kernel = "/boot/vmlinux"
initrd = "/boot/initrd"
cmdline = "console=ttyS0 quiet"
memory = "1GiB"
disk = "disk1"
nic = "net0"
mac = "02-46-54-00-00-05"
engine = "interpret"
compare = "store"
console_log = "1MiB"
record = "/srv/guest.record"
blackout_max = "5ms"
throttle = true
undecided = "cpu1"

[[machine]]
name = "small"
kernel = "/k"

[[machine]]
name = "other"
kernel = "/k"
disk = "/srv/disk.img"
nic = "tap:tap0"
netns = "blue"

[[machine]]
name = "third"
kernel = "/k"
nic = "link:eth2"
`)
	line := 23 // of [[machine]] "small"
	want := []Machine{
		{Name: "guest", Kernel: File{"/boot/vmlinux", 9}, Initrd: File{"/boot/initrd", 10}, Cmdline: "console=ttyS0 quiet", Memory: 1 << 30,
			Disk: MachineDisk{Device: "disk1", Line: 13}, NIC: MachineNIC{Device: "net0", MAC: "02:46:54:00:00:05", Line: 14},
			Engine: "interpret", Compare: "store", ConsoleLog: 1 << 20, Record: File{"/srv/guest.record", 19}, BlackoutMax: 5 * time.Millisecond,
			Throttle: true, Undecided: "cpu1", Line: 7},
		{Name: "small", Kernel: File{"/k", line + 3}},
		{Name: "other", Kernel: File{"/k", line + 7}, Disk: MachineDisk{Path: "/srv/disk.img", Line: line + 8}, NIC: MachineNIC{TAP: "tap0", Netns: "blue", Line: line + 9}},
		{Name: "third", Kernel: File{"/k", line + 14}, NIC: MachineNIC{Link: "eth2", Line: line + 15}},
	}
	for i, at := range []int{0, line + 1, line + 5, line + 12} {
		if i == 0 {
			continue
		}
		m := &want[i]
		m.Cmdline, m.Memory, m.Engine, m.Compare = "console=ttyS0 root=/dev/vda", 256<<20, "auto", "step"
		m.ConsoleLog, m.BlackoutMax, m.Undecided, m.Line = 256<<10, 20*time.Millisecond, "stop", at
	}
	if d := cmp.Diff(want, got.Machines); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

// Each case is what is added to a good box, from line 10 on, and the complaints.
func TestMistakesInAMachine(t *testing.T) {
	const good = "[[disk]]\nname = \"disk0\"\npci0 = \"/a\"\n[[nic]]\nname = \"net0\"\npci0 = \"eth0\"\n[[machine]]\nname = \"guest\"\nkernel = \"/k\"\n"
	const second = "[[machine]]\nname = \"two\"\nkernel = \"/k\"\n"
	for _, c := range []struct {
		name, text string
		want       []string
	}{
		{"misspelt key", "memmory = \"1GiB\"\n", []string{`10: unknown key "memmory" in [[machine]]; did you mean memory?`}},
		{"values", "engine = \"jit\"\ncompare = \"stpe\"\nblackout_max = \"0s\"\nmemory = \"63MiB\"\nconsole_log = \"1KiB\"\nundecided = \"cpu2\"\nthrottle = 1\n", []string{
			`10: engine = "jit" is not known; it is one of auto, interpret, translate, unlike`,
			`11: compare = "stpe" is not known; did you mean "step"? it is one of step, store, off`,
			`12: blackout_max = "0s" is out of range; 1ms to 1m are possible`,
			`13: memory = 63MiB is too small; 64MiB is the least`,
			`14: console_log = 1KiB is too small; 4KiB is the least`,
			`15: undecided = "cpu2" is not known; did you mean "cpu0"? it is one of stop, cpu0, cpu1`,
			`16: throttle is an integer where a boolean is meant; write throttle = true or throttle = false`}},
		{"memory that a kernel would lose", "memory = \"300MB\"\n", []string{
			`10: memory is 300000000 bytes, no multiple of 2 MiB; write it like "256MiB"; memory = "286MiB" is the next less`}},
		{"too much of everything", "memory = \"1TiB\"\nconsole_log = \"1GiB\"\n", []string{
			`10: memory = 1TiB is too much; 64GiB is the most`,
			`11: console_log = 1GiB is too large; 64MiB is the most`}},
		{"a command line that is cut off", "cmdline = \"" + strings.Repeat("x", 1024) + "\"\n", []string{
			`10: cmdline has 1024 bytes, and a kernel drops what is beyond 1023; shorten it`}},
		{"a command line of two lines", "cmdline = \"a\\nb\"\n", []string{`10: cmdline contains a control character; remove it`}},
		{"no kernel", "[[machine]]\nname = \"two\"\n", []string{`10: machine "two" has no kernel; add kernel = "/path/to/vmlinux"`}},
		{"relative paths", "initrd = \"initrd\"\ndisk = \"./disk\"\n", []string{
			`10: initrd = "initrd" is no absolute path; begin it with /`,
			`11: disk = "./disk" is neither the name of a [[disk]] nor an absolute path; write it like "disk0", or "/dev/…"`}},
		{"unknown disk and nic", "disk = \"dsik0\"\nnic = \"net1\"\n", []string{
			`10: there is no [[disk]] named "dsik0"; did you mean "disk0"?`,
			`11: there is no [[nic]] named "net1"; did you mean "net0"?`}},
		{"a face by its path", "disk = \"/dev/ft/disk0\"\n", []string{
			`10: /dev/ft/disk0 is a face of this box; write disk = "disk0", the name of the [[disk]]: the machine is then started when the disk is up`}},
		{"a leg", "disk = \"/a\"\n", []string{`10: /a is used already: as pci0 of disk0 in line 3; each machine needs a disk of its own`}},
		{"one disk for two", "disk = \"disk0\"\n" + second + "disk = \"disk0\"\n", []string{
			`14: disk0 is used already: as the disk of guest in line 10; each machine needs a disk of its own`}},
		{"one file for two", "disk = \"/srv/x\"\n" + second + "disk = \"/srv/../srv/x\"\n", []string{
			`14: /srv/x is used already: as the disk of guest in line 10; each machine needs a disk of its own`}},
		{"one nic for two", "nic = \"net0\"\n" + second + "nic = \"net0\"\n", []string{
			`14: net0 is used already, in line 10; each machine needs a NIC of its own`}},
		{"one TAP for two", "nic = \"tap:t0\"\n" + second + "nic = \"tap:t0\"\n", []string{
			`14: t0 is used already, in line 10; each machine needs a NIC of its own`}},
		{"a port, and a face as any interface", "nic = \"link:eth0\"\n" + second + "nic = \"link:net0\"\n", []string{
			`10: eth0 is a port of net0; a port carries its face and nothing else: write nic = "net0"`,
			`14: net0 is the face of a [[nic]]; write nic = "net0": the machine is then started when it is up`}},
		{"nothing that a NIC can hang on", "nic = \"tun:x\"\n" + second + "nic = \"tap:much-too-long-name\"\n", []string{
			`10: nic = "tun:x" names nothing that a NIC can hang on; give the name of a [[nic]], like "net0"; or "tap:NAME" for a TAP that is there, "link:NAME" for a macvtap on another interface`,
			`14: nic = "tap:much-too-long-name" names nothing that a NIC can hang on; give the name of a [[nic]], like "net0"; or "tap:NAME" for a TAP that is there, "link:NAME" for a macvtap on another interface`}},
		{"of a NIC that is not there", "mac = \"02:00:00:00:00:01\"\nnetns = \"x\"\n", []string{
			`10: mac is given, and no nic; add nic, or leave mac out`,
			`11: netns is given, and no nic; add nic, or leave netns out`}},
		{"a namespace beside a [[nic]]", "nic = \"net0\"\nnetns = \"x\"\n", []string{
			`11: net0 says itself which network namespace it is in; leave netns out`}},
		{"one MAC for two", "nic = \"net0\"\nmac = \"02:00:00:00:00:01\"\n" + second + "nic = \"tap:t0\"\nmac = \"02:00:00:00:00:01\"\n", []string{
			`15: the MAC 02:00:00:00:00:01 is given twice: in line 10 already; leave mac out: a machine has one of its own then`}},
		{"a record over something else", "initrd = \"/i\"\nrecord = \"/srv/../i\"\n" + second + "record = \"/r\"\n[[machine]]\nname = \"three\"\nkernel = \"/k\"\nrecord = \"/r\"\n", []string{
			`11: /i is the initrd of guest, and would be overwritten by a record; give record a file of its own`,
			`19: /r is the record of two, and would be overwritten by a record; give record a file of its own`}},
		{"a name that is taken", "[[machine]]\nname = \"disk0\"\nkernel = \"/k\"\n", []string{
			`11: the name "disk0" is taken already, in line 2; give this one another`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse("f", []byte(good+c.text))
			if err == nil {
				t.Fatal("accepted")
			}
			if d := cmp.Diff("f:"+strings.Join(c.want, "\nf:"), err.Error()); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
		})
	}
}

// A TAP of the same name in another network namespace is another.
func TestNamespacesKeepTAPsApart(t *testing.T) {
	const one = "[[machine]]\nname = \"a\"\nkernel = \"/k\"\nnic = \"tap:t0\"\n[[machine]]\nname = \"b\"\nkernel = \"/k\"\nnic = \"tap:t0\"\nnetns = \"blue\"\n"
	if _, err := Parse("f", []byte(one)); err != nil {
		t.Error(err)
	}
}

func TestSizesAreWrittenAsTheyAreRead(t *testing.T) {
	for _, s := range []string{"0", "512", "4KiB", "256MiB", "3GiB", "2TiB", "10MB"} {
		n, err := ParseSize(s)
		if err != nil {
			t.Fatal(err)
		}
		if got := sizeText(n); got != s {
			t.Errorf("%s is written %s", s, got)
		}
	}
}
