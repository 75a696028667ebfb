package testbox

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ft/drivers"
	"ft/ftd/api"
	"ft/ftd/config"
	"ft/ftd/testbox/guest"
	"ft/ftd/testbox/network"
)

var debianGuest = guest.Guest{
	Kernel: "/box/guest/debian/vmlinux", Initrd: "/box/guest/initrd", Version: "6.12.1-riscv64",
	Cmdline: guest.Cmdline(guest.Address, guest.Gateway),
}

// TestBoxesConfigurationIsGood: what a box writes is what ftd reads.
func TestBoxesConfigurationIsGood(t *testing.T) {
	names := network.NamesWith("")
	bare := guest.Guest{Kernel: "/box/guest/bare.elf", Why: "no network"}
	for name, c := range map[string]struct {
		net   network.Names
		guest guest.Guest
		check func(*testing.T, *config.Config)
	}{
		"all of it": {names, debianGuest, func(t *testing.T, c *config.Config) {
			if len(c.Disks) != 2 || len(c.NICs) != 1 || len(c.Machines) != 1 {
				t.Fatalf("%d disks, %d NICs, %d machines", len(c.Disks), len(c.NICs), len(c.Machines))
			}
			m := c.Machines[0]
			if m.Name != guestName || m.Disk.Device != "disk1" || m.NIC.Device != nicName || m.Kernel.Path != debianGuest.Kernel ||
				m.Initrd.Path != debianGuest.Initrd || m.Cmdline != debianGuest.Cmdline || m.Memory != guest.MemoryMiB<<20 {
				t.Errorf("the machine is %+v", m)
			}
		}},
		"no network": {network.Names{}, debianGuest, func(t *testing.T, c *config.Config) {
			if len(c.NICs) != 0 || len(c.Machines) != 1 || c.Machines[0].NIC.Device != "" || strings.Contains(c.Machines[0].Cmdline, "ft.address") {
				t.Errorf("%d NICs, machines %+v", len(c.NICs), c.Machines)
			}
		}},
		"bare metal": {names, bare, func(t *testing.T, c *config.Config) {
			if len(c.Machines) != 1 || c.Machines[0].Initrd.Path != "" || c.Machines[0].Disk.Device != "" || c.Machines[0].NIC.Device != "" {
				t.Errorf("machines %+v", c.Machines)
			}
		}},
		"no guest": {names, guest.Guest{}, func(t *testing.T, c *config.Config) {
			if len(c.Machines) != 0 || len(c.Disks) != 2 {
				t.Errorf("%d machines, %d disks", len(c.Machines), len(c.Disks))
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			ds := disks("/box")
			for i := range ds {
				ds[i].node = [2]string{"/dev/loop10" + string(rune('0'+2*i)), "/dev/loop10" + string(rune('1'+2*i))}
			}
			path := filepath.Join(t.TempDir(), "ft.toml")
			if err := writeConfig(path, pageAddress, ds, c.net, c.guest); err != nil {
				t.Fatal(err)
			}
			cfg, err := config.Load(path)
			if err != nil {
				text, _ := os.ReadFile(path)
				t.Fatalf("%v\n%s", err, text)
			}
			c.check(t, cfg)
		})
	}
}

// TestHintNamesWhatThereIs: no command for what the box lacks.
func TestHintNamesWhatThereIs(t *testing.T) {
	b := &box{net: network.NamesWith("-1"), guest: debianGuest}
	if h := b.guestHint("ftctl"); !strings.Contains(h, "ftctl console guest") || !strings.Contains(h, "ip netns exec ft-peer-1 curl http://192.0.2.20/ ") {
		t.Errorf("the hint is %s", h)
	}
	b.net = network.Names{}
	if h := b.guestHint("ftctl"); !strings.Contains(h, "console") || strings.Contains(h, "curl") || b.served() {
		t.Errorf("without a network: %s", h)
	}
	b.guest = guest.Guest{}
	if h := b.guestHint("ftctl"); h != "" {
		t.Errorf("without a guest: %s", h)
	}
}

func TestSettled(t *testing.T) {
	device := func(kind string, state drivers.FaceState) api.DeviceStatus {
		return api.DeviceStatus{Kind: kind, State: state}
	}
	for name, c := range map[string]struct {
		devices []api.DeviceStatus
		want    bool
	}{
		"nothing yet":      {nil, false},
		"all":              {[]api.DeviceStatus{device("disk", drivers.FaceDuplex), device("machine", drivers.FaceDuplex)}, true},
		"a machine is not": {[]api.DeviceStatus{device("disk", drivers.FaceDuplex), device("machine", drivers.FaceSyncing)}, false},
		"a disk is not":    {[]api.DeviceStatus{device("disk", drivers.FaceSyncing), device("machine", drivers.FaceDuplex)}, false},
		"a machine's off":  {[]api.DeviceStatus{device("disk", drivers.FaceDuplex), device("machine", drivers.FaceDown)}, false},
	} {
		if got := settled(api.Status{Devices: c.devices}); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
