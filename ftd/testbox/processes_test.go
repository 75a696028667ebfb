package testbox

import (
	"strings"
	"testing"
)

func TestOnlyProcessesOfTheRunDirectoryAreOurs(t *testing.T) {
	for _, c := range []struct {
		line string
		want role // "" is not ours
	}{
		{"ftd keeper --run /run/ft", roleKeeper},
		{"/usr/sbin/ftd keeper --run /run/ft", roleKeeper},
		{"ftd driver mirror disk0 --config /run/ft/drivers/disk0.json", roleDriver},
		{"ftd --config /box/ft.toml --socket /run/ft/ftd.sock --no-keeper", roleControl},

		{"ftd keeper --run /run/ft2", ""},
		{"ftd keeper", ""},
		{"ftd driver mirror disk0 --config /run/ft2/drivers/disk0.json", ""},
		{"ftd driver mirror disk0 --config /run/ft/drivers/x/disk0.json", ""},
		{"ftd --testbox /box --socket /run/ft/ftd.sock", ""},
		{"ftctl --socket /run/ft/ftd.sock status", ""},
		{"vi keeper --run /run/ft", ""},
		{"ftd", ""},
	} {
		got, ok := roleOf(strings.Fields(c.line), "/run/ft")
		if !ok {
			got = ""
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.line, got, c.want)
		}
	}
}
