package main

import (
	"fmt"
	"strings"
	"time"
)

// now is the clock that durations are counted to; tests set another.
var now = time.Now

// humanDuration writes 0:41, 1:02:03 or 3 d 4 h.
func humanDuration(d time.Duration) string {
	s := int64(max(0, d).Round(time.Second) / time.Second)
	switch {
	case s < 3600:
		return fmt.Sprintf("%d:%02d", s/60, s%60)
	case s < 48*3600:
		return fmt.Sprintf("%d:%02d:%02d", s/3600, s/60%60, s%60)
	}
	return fmt.Sprintf("%d d %d h", s/86400, s/3600%24)
}

// since is how long ago t was, "" for a time that was never set.
func since(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return humanDuration(now().Sub(t))
}

// humanRate writes bytes a second in SI units: 1.1 GB/s.
func humanRate(bytes int64) string {
	return scaled(float64(bytes), 1000, []string{"B/s", "kB/s", "MB/s", "GB/s", "TB/s"})
}

// humanSize writes bytes in powers of two: 256 MiB.
func humanSize(bytes int64) string {
	return scaled(float64(bytes), 1024, []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"})
}

func scaled(v, base float64, units []string) string {
	i := 0
	// 999.5 would be written as 1000.
	for v >= base-0.5 && i < len(units)-1 {
		v /= base
		i++
	}
	if v < 9.95 {
		return strings.TrimSuffix(fmt.Sprintf("%.1f", v), ".0") + " " + units[i]
	}
	return fmt.Sprintf("%.0f %s", v, units[i])
}

// humanMicros writes microseconds with three digits: 230 µs, 2.95 ms, 1.2 s.
func humanMicros(us float64) string {
	for _, u := range []struct {
		name string
		us   float64
	}{{"s", 1e6}, {"ms", 1e3}} {
		if us >= u.us {
			return fmt.Sprintf("%.3g %s", us/u.us, u.name)
		}
	}
	return fmt.Sprintf("%.0f µs", us)
}

// humanHours writes a time between faults: 41 h, 12 min.
func humanHours(h float64) string {
	switch {
	case h < 1:
		return fmt.Sprintf("%.0f min", h*60)
	case h < 1000:
		return fmt.Sprintf("%.0f h", h)
	}
	return fmt.Sprintf("%.0f d", h/24)
}

// barCells is the width of a progress bar.
const barCells = 19

// bar draws a share of 0 to 100 in half cells.
func bar(percent float64) string {
	halves := int(max(0, min(100, percent)) / 100 * barCells * 2)
	half := halves % 2
	return strings.Repeat("█", halves/2) + strings.Repeat("▌", half) + strings.Repeat("░", barCells-halves/2-half)
}
