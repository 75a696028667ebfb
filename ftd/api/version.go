package api

import (
	"runtime"
	"runtime/debug"
)

// stamped is set by the Makefile (-ldflags -X), "" otherwise.
var stamped string

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
	if stamped != "" {
		v.Version = stamped
	}
	return v
}
