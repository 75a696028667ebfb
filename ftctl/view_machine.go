package main

import (
	"fmt"
	"maps"
	"strings"
	"time"
)

// This file says what `ftctl show` has to say of a machine, as view_nic.go does of a NIC.

// machine writes what is known of a machine, and returns the rest.
func (f *facts) machine(name string, stats map[string]any) map[string]any {
	rest := maps.Clone(stats)
	take := func(key string) any {
		v := rest[key]
		delete(rest, key)
		return v
	}
	f.add("power", "%s", powerText(text(take("state")), take("uptime_seconds")))
	f.add("speed", "%s", speedText(take("steps_per_second"), take("idle_share")))
	f.add("steps", "%s", text(take("steps")))
	f.add("clock", "%s", clockText(take("guest_time"), take("wall_lag_ms")))
	if v, ok := take("memory_bytes").(float64); ok {
		f.add("memory", "%s", humanSize(int64(v)))
	}
	f.add("kernel", "%s", text(take("kernel")))
	f.add("engine", "%s", joined(", compares ", text(take("engine")), text(take("compare"))))
	rest = f.lockstep(rest)
	if disk, ok := rest["disk"].(map[string]any); ok {
		delete(rest, "disk")
		f.machineDisk(disk)
	}
	if nic, ok := rest["nic"].(map[string]any); ok {
		delete(rest, "nic")
		f.machineNIC(nic)
	}
	if c, ok := rest["console"].(map[string]any); ok {
		delete(rest, "console")
		f.add("console", "ftctl console %s; %s out, %s in, watched by %s", name, bytesText(c["bytes_out"]), bytesText(c["bytes_in"]), text(c["watchers"]))
	}
	return rest
}

// powerText is: running for 1:02:03
func powerText(state string, uptime any) string {
	if up, ok := uptime.(float64); ok && state != "" {
		return state + ", up for " + humanDuration(time.Duration(up*float64(time.Second)))
	}
	return state
}

// speedText is: 412 M steps/s, idle 97 % of the time
func speedText(speed, idle any) string {
	var parts []string
	if v, ok := speed.(float64); ok {
		parts = append(parts, fmt.Sprintf("%.0f M steps/s", v/1e6))
	}
	if v, ok := idle.(float64); ok {
		parts = append(parts, fmt.Sprintf("idle %.0f %% of the time", v*100))
	}
	return strings.Join(parts, ", ")
}

// clockText is: 1:02:03 since it was started, 0.2 ms behind the computer's
func clockText(guest, lag any) string {
	var parts []string
	if v, ok := guest.(float64); ok {
		parts = append(parts, humanDuration(time.Duration(v*float64(time.Second)))+" since it was started")
	}
	if v, ok := lag.(float64); ok {
		word := "behind"
		if v < 0 {
			word, v = "ahead of", -v
		}
		parts = append(parts, fmt.Sprintf("%s %s the computer's", humanMicros(v*1000), word))
	}
	return strings.Join(parts, ", ")
}

// machineDisk writes what is known of a machine's disk.
func (f *facts) machineDisk(disk map[string]any) {
	rest := maps.Clone(disk)
	take := func(key string) any {
		v := rest[key]
		delete(rest, key)
		return v
	}
	where := text(take("path"))
	if size, ok := take("size").(float64); ok && where != "" {
		where += ", " + humanSize(int64(size))
	}
	f.add("disk", "%s", where)
	f.add("disk reads", "%s", countText(take("reads"), take("read_bytes")))
	f.add("disk writes", "%s", countText(take("writes"), take("write_bytes")))
	for _, key := range []string{"flushes", "discards", "errors", "in_flight"} {
		f.add("disk "+strings.ReplaceAll(key, "_", " "), "%s", text(take(key)))
	}
	f.tree("disk ", rest)
}

// machineNIC writes what is known of a machine's NIC.
func (f *facts) machineNIC(nic map[string]any) {
	rest := maps.Clone(nic)
	take := func(key string) any {
		v := rest[key]
		delete(rest, key)
		return v
	}
	where := text(take("link"))
	if own := text(take("interface")); own != "" && own != where {
		where = own + " on " + where
	}
	if ns := text(take("netns")); ns != "" {
		where += ", in the network namespace " + ns
	}
	f.add("nic", "%s", where)
	f.add("nic mac", "%s", text(take("mac")))
	if up, ok := take("up").(bool); ok && !up {
		f.add("nic link", "%s", joined(": ", "down", text(take("reason"))))
	}
	for _, way := range []struct{ name, key string }{{"nic in", "rx"}, {"nic out", "tx"}} {
		n := text(take(way.key + "_packets"))
		if n != "" {
			n += " packets"
		}
		line := joined(", ", n, bytesText(take(way.key+"_bytes")))
		if lost := text(take(way.key + "_dropped")); lost != "" && lost != "0" {
			line = joined(", ", line, lost+" dropped")
		}
		f.add(way.name, "%s", line)
	}
	f.tree("nic ", rest)
}

// countText is: 1200, 4.7 MiB
func countText(count, bytes any) string { return joined(", ", text(count), bytesText(bytes)) }

func bytesText(v any) string {
	if n, ok := v.(float64); ok {
		return humanSize(int64(n))
	}
	return text(v)
}

// joined leaves out what is empty.
func joined(sep string, parts ...string) string {
	var some []string
	for _, p := range parts {
		if p != "" {
			some = append(some, p)
		}
	}
	return strings.Join(some, sep)
}
