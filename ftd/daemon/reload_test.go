package daemon

import (
	"strings"
	"testing"

	"ft/ftd/config"
)

func parsed(t *testing.T, text string) *config.Config {
	t.Helper()
	c, err := config.Parse("ft.toml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestOnlyNewDevicesAreTakenInAtAReload(t *testing.T) {
	const disk0 = "[[disk]]\nname = \"disk0\"\npci0 = \"/dev/a\"\npci1 = \"/dev/b\"\n"
	const disk1 = "[[disk]]\nname = \"disk1\"\npci0 = \"/dev/c\"\npci1 = \"/dev/d\"\n"
	now := parsed(t, disk0)
	for _, c := range []struct {
		name, next, refused string
		added               int
	}{
		{"nothing new", disk0, "", 0},
		{"moved in the file", "# a comment\n\n" + disk0, "", 0},
		{"a new disk before it", disk1 + disk0, "", 1},
		{"a leg moved", strings.Replace(disk0, "/dev/b", "/dev/e", 1), `ft.toml:1: the disk "disk0" has other settings`, 0},
		{"another setting", disk0 + "no_leg = \"wait\"\n", "has other settings", 0},
		{"a leg's part in reads", disk0 + "pci1_reads = \"avoid\"\n", "", 0},
		{"removed", disk1, `the disk "disk0" is gone`, 0},
		{"drills", "[system]\ndrills = true\n" + disk0, "restart ftd", 0},
		{"mtbf", "[mtbf]\nmin_faults = 5\n" + disk0, "restart ftd", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			added, err := newDevices(now, parsed(t, c.next))
			if c.refused == "" && err != nil || c.refused != "" && (err == nil || !strings.Contains(err.Error(), c.refused)) {
				t.Fatalf("error %v, want %q", err, c.refused)
			}
			if len(added) != c.added {
				t.Errorf("added %d devices, want %d", len(added), c.added)
			}
		})
	}
}
