package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ft/ftd/alarm"
)

const goodFile = `# a box with one disk
[system]
name = "box"
bringup = "defer"
drills = true

[[disk]]
name = "disk0"
pci0 = "/dev/loop0"
pci1 = "/dev/disk/by-id/x"
frontend = "fuseloop"
no_leg = "wait"
leg_timeout = "2500ms"
resync_rate_min = "20MiB"
resync_rate_max = "0"
integrity = "none"

[[disk]]
name = "one-leg"
pci1 = "/srv/leg"

[mtbf]
threshold = "12h"
min_faults = 5
policy = "always"

[alarms]
hook = "/etc/ft/alarm"
syslog = true
severity = "warning"
`

func TestAFullFileIsRead(t *testing.T) {
	got, err := Parse("ft.toml", []byte(goodFile))
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{
		File:   "ft.toml",
		System: System{Name: "box", Bringup: "defer", Drills: true},
		Disks: []Disk{
			{Name: "disk0", Legs: [2]Leg{{"/dev/loop0", 9}, {"/dev/disk/by-id/x", 10}}, Frontend: "fuseloop", NoLeg: "wait",
				LegTimeout: 2500 * time.Millisecond, ResyncRateMin: 20 << 20, Integrity: "none", Line: 7},
			{Name: "one-leg", Legs: [2]Leg{{}, {"/srv/leg", 20}}, Frontend: "auto", NoLeg: "error",
				LegTimeout: 5 * time.Second, ResyncRateMin: 10_000_000, Integrity: "none", Line: 18},
		},
		MTBF:   MTBF{Threshold: 12 * time.Hour, MinFaults: 5, Policy: "always"},
		Alarms: Alarms{Settings: alarm.Settings{Hook: "/etc/ft/alarm", Syslog: true, Severity: "warning"}, HookLine: strings.Count(goodFile[:strings.Index(goodFile, "hook =")], "\n") + 1},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

func TestEverythingHasADefault(t *testing.T) {
	got, err := Parse("ft.toml", nil)
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{
		File:   "ft.toml",
		System: System{Name: "box", Bringup: "auto"},
		MTBF:   MTBF{Threshold: 24 * time.Hour, MinFaults: 3, Policy: "threshold"},
		Alarms: Alarms{Settings: alarm.Settings{Severity: "error"}},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

// Each case is a file and the complete list of complaints about it.
func TestMistakesAreRefusedWithLineAndWayOut(t *testing.T) {
	const disk = "[[disk]]\nname = \"disk0\"\npci0 = \"/a\"\npci1 = \"/b\"\n"
	cases := []struct {
		name, text string
		want       []string
	}{
		{"misspelt key", disk + "leg_timout = \"5s\"\n",
			[]string{`ft.toml:5: unknown key "leg_timout" in [[disk]]; did you mean leg_timeout?`}},
		{"unlike any key", "[system]\n\ncolour = 1\n",
			[]string{`ft.toml:3: unknown key "colour" in [system]; the keys are name, bringup, drills, status_page`}},
		{"misspelt table", "[[disks]]\nname = \"x\"\n",
			[]string{`ft.toml:1: unknown key "disks" at the top of the file; did you mean disk?`}},
		{"unknown table", "\n[chipset]\n",
			[]string{`ft.toml:2: unknown key "chipset" at the top of the file; the tables are [system], [[disk]], [[nic]], [[machine]], [mtbf] and [alarms]`}},
		{"one bracket", "[disk]\nname = \"x\"\n",
			[]string{`ft.toml:1: disk is a table where a table for each is meant; write [[disk]] with two brackets`}},
		{"two brackets", "[[mtbf]]\n",
			[]string{`ft.toml:1: mtbf is an array where one table is meant; write [mtbf] on a line of its own, once`}},
		{"syntax", "[system]\nname = box\n",
			[]string{`ft.toml:2: not TOML: expected value but found "box" instead; see https://toml.io for how it is written`}},
		{"key twice", "[system]\nname = \"a\"\nname = \"b\"\n",
			[]string{`ft.toml:3: not TOML: Key 'system.name' has already been defined.; see https://toml.io for how it is written`}},
		{"wrong types, all of them", disk + "leg_timeout = 5\nresync_rate_min = true\nfrontend = 1\n[mtbf]\nmin_faults = \"3\"\n[system]\ndrills = \"yes\"\n", []string{
			`ft.toml:5: leg_timeout is an integer where a duration is meant; write leg_timeout = "5s", with its unit (ms, s, m, h)`,
			`ft.toml:6: resync_rate_min is a boolean where a size is meant; write resync_rate_min = "10MB"`,
			`ft.toml:7: frontend is an integer where a string is meant; write frontend = "…"`,
			`ft.toml:9: min_faults is a string where an integer is meant; write min_faults = 3`,
			`ft.toml:11: drills is a string where a boolean is meant; write drills = true or drills = false`}},
		{"values", disk + "leg_timeout = \"5\"\nresync_rate_min = \"10 MBit\"\nno_leg = \"erorr\"\n[mtbf]\nmin_faults = 0\npolicy = \"sometimes\"\nthreshold = \"-1h\"\n", []string{
			`ft.toml:5: leg_timeout = "5" is no duration; write a number and a unit (ms, s, m, h), like "5s"`,
			`ft.toml:6: resync_rate_min: "10 MBit" is no size; write a number and a unit, like "10MB" (10 000 000) or "10MiB" (10 485 760)`,
			`ft.toml:7: no_leg = "erorr" is not known; did you mean "error"? it is one of error, wait`,
			`ft.toml:9: min_faults = 0 is out of range; 1 to 32 are possible`,
			`ft.toml:10: policy = "sometimes" is not known; it is one of threshold, never, always`,
			`ft.toml:11: threshold = "-1h" is out of range; 0s to 87600h are possible`}},
		{"rates the wrong way round", disk + "resync_rate_min = \"20MB\"\nresync_rate_max = \"10MB\"\n",
			[]string{`ft.toml:5: resync_rate_min is above resync_rate_max; lower it, or set resync_rate_max = "0" for no limit`}},
		{"name unfit for a path", "[[disk]]\nname = \"../disk\"\npci0 = \"/a\"\n",
			[]string{`ft.toml:2: "../disk" cannot be a name; use a small letter, then up to 31 small letters, digits, - and _`}},
		{"name of a module", "[[disk]]\nname = \"pci0\"\npci0 = \"/a\"\n",
			[]string{`ft.toml:2: the name "pci0" means something else to ftctl; choose another`}},
		{"no name, no leg", "\n[[disk]]\n", []string{
			`ft.toml:2: the name is missing; add name = "…"`,
			`ft.toml:2: disk "" has no leg; add pci0 = "/dev/…" and pci1 = "/dev/…"`}},
		{"same name", disk + "[[disk]]\npci0 = \"/c\"\nname = \"disk0\"\n",
			[]string{`ft.toml:7: the name "disk0" is taken already, in line 2; give this one another`}},
		{"leg twice", "[[disk]]\nname = \"d\"\npci0 = \"/dev/sda\"\npci1 = \"/dev/../dev/sda\"\n",
			[]string{`ft.toml:4: /dev/../dev/sda is used twice: as pci0 of d in line 3 already; each leg needs a device of its own`}},
		{"leg twice in two disks", disk + "[[disk]]\nname = \"d\"\npci0 = \"/b\"\n",
			[]string{`ft.toml:7: /b is used twice: as pci1 of disk0 in line 4 already; each leg needs a device of its own`}},
		{"relative leg", "[[disk]]\nname = \"d\"\npci0 = \"sda\"\n",
			[]string{`ft.toml:3: pci0 = "sda" is no absolute path; begin it with /`}},
		{"own face as leg", "[[disk]]\nname = \"d\"\npci0 = \"/dev/ft/e\"\n",
			[]string{`ft.toml:3: /dev/ft/e is a face of this box and cannot be a leg as well; give the block device or file that holds the data`}},
		{"sockets", disk + "nbd = \"/run/x\"\n[[disk]]\nname = \"d\"\npci0 = \"/c\"\nnbd = \"/run/../run/x\"\n", []string{
			`ft.toml:9: /run/../run/x is the NBD socket of disk0 already, in line 5; give each disk a socket of its own`}},
		{"NBD legs", "[[disk]]\nname = \"d\"\npci0 = \"nbd:x\"\npci1 = \"nbds://h/x\"\n[[disk]]\nname = \"e\"\nnbd = \"/run/e\"\npci0 = \"nbd+unix:///?socket=/run/e\"\npci1 = \"nbd://h/x\"\n[[disk]]\nname = \"f\"\npci0 = \"nbd://h:10809/x\"\n", []string{
			`ft.toml:3: pci0 = "nbd:x" is no address of an NBD export: it has parts that do not belong there; write it like "nbd://host:10809/export" or "nbd+unix:///export?socket=/path"`,
			`ft.toml:4: pci1 = "nbds://h/x" is no address of an NBD export: nbds: TLS is not available in this version; write it like "nbd://host:10809/export" or "nbd+unix:///export?socket=/path"`,
			`ft.toml:8: /run/e is the NBD socket of e of this box and cannot be a leg as well; give the address of another server`,
			`ft.toml:12: nbd://h:10809/x is used twice: as pci1 of e in line 9 already; each leg needs a device of its own`}},
		{"long socket", disk + "nbd = \"/run/" + strings.Repeat("x", 120) + "\"\n", []string{
			`ft.toml:5: nbd has 125 bytes, which is too long for a socket; the longest path has 103`}},
		{"page open to all", "[system]\nstatus_page = \"0.0.0.0:80\"\n", []string{
			`ft.toml:2: status_page = "0.0.0.0:80" can be reached from elsewhere; the page has no password: use a loopback address, like "127.0.0.1:80", and look at it from elsewhere through ssh -L 80:127.0.0.1:80 THIS-HOST`}},
		{"page on a host's name", "[system]\nstatus_page = \"rack7:8080\"\n", []string{
			`ft.toml:2: status_page = "rack7:8080" can be reached from elsewhere; the page has no password: use a loopback address, like "127.0.0.1:8080", and look at it from elsewhere through ssh -L 8080:127.0.0.1:8080 THIS-HOST`}},
		{"page without a port", "[system]\nstatus_page = \"127.0.0.1:0\"\n", []string{
			`ft.toml:2: status_page = "127.0.0.1:0" is no address and port; write it like "127.0.0.1:8080"`}},
		{"nic and machine", "[[nic]]\nname = \"net0\"\npci0 = \"eth0\"\naddresses = [\"192.0.2.10\"]\nprobe = [\n  \"x\" ]\n[[machine]]\nname = \"guest\"\nkernel = \"/k\"\ndisk = \"disk0\"\nnic = \"net1\"\nmemory = \"1KiB\"\n", []string{
			`ft.toml:4: addresses: "192.0.2.10" is no address with its prefix length; write it like "192.0.2.10/24" or "2001:db8::10/64"`,
			`ft.toml:5: probe: "x" is no address; write it like "192.0.2.1" or "2001:db8::1"`,
			`ft.toml:10: there is no [[disk]] named "disk0"; add a [[disk]] with this name`,
			`ft.toml:11: there is no [[nic]] named "net1"; did you mean "net0"?`,
			`ft.toml:12: memory = 1KiB is too small; 64MiB is the least`}},
		{"written inline", "disk = [\n  {name = \"d\", pci0 = \"/a\", clor = 1},\n]\n",
			[]string{`ft.toml:1: unknown key "clor" in [[disk]]; the keys are name, pci0, pci1, frontend, no_leg, leg_timeout, resync_rate_min, resync_rate_max, integrity, nbd, scrub, pci0_reads, pci1_reads`}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse("ft.toml", []byte(c.text))
			if err == nil {
				t.Fatal("accepted")
			}
			if d := cmp.Diff(strings.Join(c.want, "\n"), err.Error()); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
		})
	}
}

func TestTheListOfMistakesIsBounded(t *testing.T) {
	_, err := Parse("ft.toml", []byte(strings.Repeat("[[disk]]\n", 500)))
	if n := strings.Count(err.Error(), "\n"); n != problemsShown {
		t.Errorf("%d lines:\n%v", n+1, err)
	}
	if !strings.HasSuffix(err.Error(), "ft.toml: and 980 more") {
		t.Errorf("last line of:\n%v", err)
	}
}

func TestLinesAreFoundThroughAllOfTOML(t *testing.T) {
	text := "\xef\xbb\xbf# top\n" + `system.name = "a" # line 2
'system'."drills" = true
[[disk]] # four
note = """
[system]
name = 1 \"""
""""
list = [ # nine
  "]", ']', # [
  [[1], {a = "}"}],
]
  [disk.sub]
  x = '''
y = 1'''
[[ disk ]]
"na\u006de" = "b" # 17
[mtbf]
policy = "never"`
	x := indexLines([]byte(text))
	for path, want := range map[string]int{
		"system.name": 2, "system.drills": 3, "disk": 4, "disk[0]": 4, "disk[0].note": 5, "disk[0].list": 9,
		"disk[0].sub": 13, "disk[0].sub.x": 14, "disk[1]": 16, "disk[1].name": 17, "mtbf.policy": 19,
		"disk[1].missing": 16, "nothing": 1,
	} {
		if got := x.of(path); got != want {
			t.Errorf("%s: line %d, want %d", path, got, want)
		}
	}
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]int64{"0": 0, "512": 512, "10MB": 10_000_000, "1 KiB": 1024, "1.5GiB": 3 << 29, "2kB": 2000, "7B": 7, "1TiB": 1 << 40} {
		if got, err := ParseSize(text); err != nil || got != want {
			t.Errorf("%q: %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "MB", "-1", "1e3", "1.1", "0x10", "10mb", "99999999TB", "1.2.3", "NaN", "Inf"} {
		if got, err := ParseSize(text); err == nil {
			t.Errorf("%q: accepted as %d", text, got)
		}
	}
}

func TestLoadSaysWhatToDoWithoutAFile(t *testing.T) {
	dir := t.TempDir()
	_, err := Load(filepath.Join(dir, "ft.toml"))
	if err == nil || !strings.Contains(err.Error(), "--testbox") {
		t.Errorf("missing file: %v", err)
	}
	if _, err := Load(dir); err == nil {
		t.Error("a directory was loaded")
	}
	big := filepath.Join(dir, "big")
	if err := os.WriteFile(big, make([]byte, fileBytesMax+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(big); err == nil || !strings.Contains(err.Error(), "larger") {
		t.Errorf("huge file: %v", err)
	}
}

// Whatever the bytes: no panic; either Problems with lines inside the file, or a
// Config that keeps what the rest of ftd relies on.
func FuzzParse(f *testing.F) {
	f.Add([]byte(goodFile))
	f.Add([]byte(uncommented()))
	f.Add([]byte("[[disk]]\nname = \"a\"\npci0=\"/x\"\n[disk.sub]\n"))
	f.Add([]byte("disk = [{name = 'd', pci0 = \"/a\"}]\nsystem.name = '''x'''\n"))
	f.Add([]byte("[[nic]]\naddresses = [\"::/0\", 1]\n[[machine]]\nmemory = 1e9\n"))
	f.Add([]byte("[[nic]]\nname = \"n\"\npci1 = \"02:00:00:00:00:01\"\nmac = \"02-00-00-00-00-02\"\nnetns = \"x\"\naddresses = [\"fe80::1/64\", \"10.0.0.1/31\"]\nprobe = [\"10.0.0.0\"]\n"))
	f.Add([]byte("[[disk]]\nname = \"d\"\npci0 = \"/a\"\n[[machine]]\nname = \"m\"\nkernel = \"/k\"\ndisk = \"d\"\nnic = \"tap:t\"\nmemory = \"64MiB\"\n"))
	f.Add([]byte("\xef\xbb\xbf\"\\u0061\" = \"\"\"\\\"\"\"\"\n"))
	f.Add([]byte("[mtbf]\nthreshold = 1979-05-27T07:32:00Z\n[system"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) > 1<<16 {
			return
		}
		c, err := Parse("ft.toml", text)
		if err != nil {
			var ps Problems
			if !errors.As(err, &ps) || len(ps) == 0 {
				t.Fatalf("not Problems: %T %v", err, err)
			}
			lines := strings.Count(string(text), "\n") + 1
			for _, p := range ps {
				if p.Line < 1 || p.Line > lines || p.What == "" || p.WayOut == "" {
					t.Fatalf("bad problem %#v in a file of %d lines", p, lines)
				}
			}
			return
		}
		names := map[string]bool{}
		for _, d := range c.Disks {
			if !componentName.MatchString(d.Name) || names[d.Name] || d.Legs == [2]Leg{} || d.LegTimeout <= 0 || d.ResyncRateMin < 0 || d.ResyncRateMax < 0 {
				t.Fatalf("accepted %#v", d)
			}
			names[d.Name] = true
			for _, l := range d.Legs {
				if l.Path != "" && (!filepath.IsAbs(l.Path) || l.Line < 1) {
					t.Fatalf("accepted %#v", d)
				}
			}
		}
		for _, n := range c.NICs {
			if !componentName.MatchString(n.Name) || names[n.Name] || len(n.Name) > ifnameMax || n.Ports == [2]Port{} || n.MTU < mtuMin || n.Ports[slices.Index(moduleKeys[:], n.Primary)].NIC == "" {
				t.Fatalf("accepted %#v", n)
			}
			names[n.Name] = true
			for _, p := range n.Addresses {
				if !p.IsValid() || unusable(p.Addr()) != "" {
					t.Fatalf("accepted %#v", n)
				}
			}
		}
		for _, m := range c.Machines {
			if !componentName.MatchString(m.Name) || names[m.Name] || !filepath.IsAbs(m.Kernel.Path) || m.Kernel.Line < 1 || m.Memory < 64<<20 || m.Memory%(2<<20) != 0 {
				t.Fatalf("accepted %#v", m)
			}
			if names[m.Name] = true; m.Disk.Device != "" && !names[m.Disk.Device] || m.NIC.Device != "" && !names[m.NIC.Device] {
				t.Fatalf("accepted %#v", m)
			}
		}
		if c.MTBF.MinFaults < 1 || fmt.Sprint(c.System.Bringup) == "" {
			t.Fatalf("accepted %#v", c)
		}
	})
}
