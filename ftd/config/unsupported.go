package config

import "fmt"

// refuseUnsupported is the one place that knows what ft.toml may say and this version
// cannot do yet. It is refused rather than passed over: a box that silently lacks what
// was asked for is worse than one that does not start.
func (c *Config) refuseUnsupported(r *reader) {
	refuse := func(path, what, wayOut string) { r.complainAt(r.lines.of(path), what, wayOut) }
	for i, d := range c.Disks {
		if d.Frontend == "ublk" || d.Frontend == "nbd" {
			refuse(fmt.Sprintf("disk[%d].frontend", i), fmt.Sprintf("the frontend %q is not available in this version", d.Frontend),
				`use "auto" or "fuseloop", which works on every Linux with FUSE`)
		}
		if d.Integrity == "crc32c" {
			refuse(fmt.Sprintf("disk[%d].integrity", i), `integrity = "crc32c" is not available in this version: the space for checksums is reserved on each leg, but they are not written yet`,
				`use "none"; it can be turned on later without a new mirror`)
		}
	}
}
