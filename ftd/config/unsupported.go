package config

import "fmt"

// refuseUnsupported is the one place that knows what ft.toml may say and this version
// cannot do yet. It is refused rather than passed over: a box that silently lacks what
// was asked for is worse than one that does not start.
func (c *Config) refuseUnsupported(r *reader) {
	refuse := func(path, what, wayOut string) { r.complainAt(r.lines.of(path), what, wayOut) }
	for i, d := range c.Disks {
		if d.Frontend == "ublk" {
			refuse(fmt.Sprintf("disk[%d].frontend", i), fmt.Sprintf("the frontend %q is not available in this version", d.Frontend),
				`use "auto" or "fuseloop", which works on every Linux with FUSE, or "nbd" where the kernel has its driver`)
		}
	}
}
