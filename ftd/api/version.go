package api

import (
	"runtime"
	"runtime/debug"
)

// BuildVersion is what was built into this binary.
func BuildVersion() Version {
	v := Version{Version: "unknown", Go: runtime.Version()}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	v.Version = info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			v.Commit = s.Value
		}
	}
	return v
}
