package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The hook runs as root: whoever can write it is root.
func TestAHookIsAProgramThatOnlyItsOwnerCanChange(t *testing.T) {
	for _, c := range []struct {
		name      string
		file, dir os.FileMode
		want      string // in the advice, "" for none
	}{
		{"fit", 0o755, 0o755, ""},
		{"missing", 0, 0o755, "there is no "},
		{"no program", 0o644, 0o755, "chmod +x"},
		{"anybody's", 0o757, 0o755, "chmod go-w"},
		{"in anybody's directory", 0o755, 0o777, "chmod go-w"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "hook")
			if c.file != 0 {
				if err := os.WriteFile(path, []byte("#!/bin/sh\n"), 0o600); err != nil {
					t.Fatal(err)
				}
				if err := os.Chmod(path, c.file); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Chmod(dir, c.dir); err != nil {
				t.Fatal(err)
			}
			cfg := parse(t, "[alarms]\nhook = \""+path+"\"\n")
			ps := Check(cfg, Host{Hook: LookAtHook})
			switch {
			case c.want == "" && len(ps) > 0:
				t.Errorf("%v", ps)
			case c.want != "" && (len(ps) != 1 || !ps[0].Advice || ps[0].Line != 2 || !strings.Contains(ps[0].WayOut, c.want)):
				t.Errorf("%+v, want an advice with %q", ps, c.want)
			}
		})
	}
}
