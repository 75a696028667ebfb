package daemon

import (
	"encoding/json"
	"net"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"ft/chipset"
	"ft/drivers"
)

const (
	disk1 = "[[disk]]\nname = \"disk1\"\npci0 = \"/dev/a\"\npci1 = \"/dev/b\"\n"
	guest = "[[machine]]\nname = \"guest\"\nkernel = \"/boot/vmlinux\"\ndisk = \"disk1\"\nnic = \"net0\"\n"
)

// What the file leaves out is what the driver itself takes.
func TestTheDefaultsOfAMachineAreItsDrivers(t *testing.T) {
	got := machineOptions(parsed(t, "[[machine]]\nname = \"guest\"\nkernel = \"/k\"\n").Machines[0], "/dev/ft", "")
	want := chipset.Options{
		Kernel: "/k", Cmdline: "console=ttyS0 root=/dev/vda", MemoryBytes: chipset.DefaultMemoryBytes,
		ConsoleLogBytes: chipset.DefaultConsoleLogBytes, Engine: chipset.EngineAuto, Compare: chipset.CompareStep,
		BlackoutMax: chipset.DefaultBlackoutMax,
	}
	if got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// Every setting reaches the driver: a new one that is forgotten here stays zero.
func TestEverySettingOfAMachineReachesItsDriver(t *testing.T) {
	cfg := parsed(t, disk1+net0+"netns = \"box\"\n"+guest+`initrd = "/boot/initrd"
cmdline = "quiet"
memory = "1GiB"
mac = "02:00:00:00:00:09"
engine = "interpret"
compare = "off"
console_log = "1MiB"
blackout_max = "5ms"
`)
	c := configuredMachine(cfg.Machines[0], cfg.NICs)
	options := c.options("/x/dev")
	want := chipset.Options{
		Kernel: "/boot/vmlinux", Initrd: "/boot/initrd", Cmdline: "quiet", MemoryBytes: 1 << 30,
		Disk: "/x/dev/disk1", DiskSerial: "disk1", Link: "net0", Netns: "box", MAC: "02:00:00:00:00:09",
		ConsoleLogBytes: 1 << 20, Engine: chipset.EngineInterpret, Compare: chipset.CompareOff, BlackoutMax: 5 * time.Millisecond,
	}
	if options != want {
		t.Errorf("got  %+v\nwant %+v", options, want)
	}
	v := reflect.ValueOf(options)
	for i := range v.NumField() {
		if name := v.Type().Field(i).Name; v.Field(i).IsZero() && name != "TAP" { // or Link
			t.Errorf("%s is not set", name)
		}
	}
	b, err := json.Marshal(options)
	if err != nil {
		t.Fatal(err)
	}
	var back chipset.Options
	if err := json.Unmarshal(b, &back); err != nil || back != want {
		t.Errorf("over JSON it becomes %+v (%v)", back, err)
	}
	if !slices.Equal(c.needs, []string{"disk1", "net0"}) || c.paths != [2]string{"cpu0", ""} || c.sideID(0) != "cpu0/guest" {
		t.Errorf("it needs %q, is made of %q, and has the side %s", c.needs, c.paths, c.sideID(0))
	}
	d := &device{as: c, config: drivers.Config{Name: "guest", RunDir: "/run/x"}, configPath: "/run/x/guest.json"}
	spec, err := d.spec()
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"driver", "machine", "guest", "--config", "/run/x/guest.json", "--netns", "/run/netns/box"}; !slices.Equal(spec.Argv[1:], want) {
		t.Errorf("the driver is started with %q, want %q", spec.Argv[1:], want)
	}
}

func TestAMachineOnOtherThings(t *testing.T) {
	cfg := parsed(t, "[[machine]]\nname = \"guest\"\nkernel = \"/k\"\ndisk = \"/srv/a-rather-long-name-of-a-disk.img\"\nnic = \"tap:tap0\"\nnetns = \"blue\"\n")
	c := configuredMachine(cfg.Machines[0], nil)
	o := c.options("/dev/ft").(chipset.Options)
	if o.Disk != "/srv/a-rather-long-name-of-a-disk.img" || o.DiskSerial != "a-rather-long-name-o" || o.TAP != "tap0" || o.Link != "" || o.Netns != "blue" {
		t.Errorf("%+v", o)
	}
	if len(c.needs) != 0 || c.netns != "blue" {
		t.Errorf("it needs %q and lives in %q", c.needs, c.netns)
	}
}

func TestAMachinesMACIsItsOwn(t *testing.T) {
	mac := machineMAC("3d1219c7c4c5404aaa1f6d2a48adfda4", "guest")
	if again := machineMAC("3d1219c7c4c5404aaa1f6d2a48adfda4", "guest"); mac != again {
		t.Errorf("%s, and then %s", mac, again)
	}
	seen := map[string]bool{mac: true}
	for _, other := range []string{machineMAC("3d1219c7c4c5404aaa1f6d2a48adfda4", "guest2"), machineMAC("another", "guest")} {
		if seen[other] {
			t.Errorf("%s twice", other)
		}
		seen[other] = true
	}
	for m := range seen {
		if hw, err := net.ParseMAC(m); err != nil || len(hw) != 6 || hw[0]&3 != 2 {
			t.Errorf("%s is not one that we may give away", m)
		}
	}
	if o := configuredMachine(parsed(t, disk1+net0+guest).Machines[0], nil).options("").(chipset.Options); o.MAC != machineMAC(hostID(), "guest") {
		t.Errorf("the driver is given %s", o.MAC)
	}
}

func TestAMachineAtAReload(t *testing.T) {
	const box = disk1 + net0
	for _, c := range []struct {
		name, now, next, refused string
		added                    []string
	}{
		{"new", box, box + guest, "", []string{"guest"}},
		{"with all that it hangs on", "", box + guest, "", []string{"disk1", "net0", "guest"}},
		{"moved in the file", box + guest, "\n\n" + guest + box, "", nil},
		{"more memory", box + guest, box + guest + "memory = \"1GiB\"\n", `the machine "guest" has other settings`, nil},
		{"another kernel", box + guest, box + strings.Replace(guest, "vmlinux", "vmlinux-6", 1), "has other settings", nil},
		{"without its disk", box + guest, box + strings.Replace(guest, "disk = \"disk1\"\n", "", 1), "has other settings", nil},
		{"removed", box + guest, box, `the machine "guest" is gone`, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			added, err := newDevices(parsed(t, c.now), parsed(t, c.next))
			if c.refused == "" && err != nil || c.refused != "" && (err == nil || !strings.Contains(err.Error(), c.refused)) {
				t.Fatalf("error %v, want %q", err, c.refused)
			}
			var names []string
			for _, a := range added {
				names = append(names, a.name)
			}
			if !slices.Equal(names, c.added) {
				t.Errorf("added %q, want %q", names, c.added)
			}
		})
	}
}
