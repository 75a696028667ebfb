package main

import (
	"fmt"
	"maps"
	"strings"
	"time"
)

// This file says what `ftctl show` has to say of a NIC: what belongs together in one
// line. The names are those that the driver counts under; what it counts besides is
// shown as it is, and so is all that is not of the form that is expected here.

// nic writes what is known of a NIC, and returns the rest.
func (f *facts) nic(stats map[string]any) map[string]any {
	rest := maps.Clone(stats)
	take := func(key string) any {
		v := rest[key]
		delete(rest, key)
		return v
	}
	path := text(take("datapath"))
	if variant := text(take("datapath_variant")); variant != "" {
		path += ": " + variant
	}
	f.add("datapath", "%s", path)
	f.list("not possible here", take("datapath_missing"))
	f.list("addresses", take("addresses"))
	f.add("mac", "%s", text(take("mac")))
	f.add("mtu", "%s", text(take("mtu")))
	f.add("active", "%s", text(take("active")))
	if n := text(take("failovers")); n != "" {
		if turns := text(take("kernel_turns")); turns != "" && turns != "0" {
			n += ", " + turns + " of them by the kernel itself"
		}
		f.add("failovers", "%s", n)
	}
	if last, ok := rest["last_failover"].(map[string]any); ok {
		f.add("last failover", "%s", failoverText(last))
		delete(rest, "last_failover")
	}
	if n := text(take("announcements")); n != "" {
		f.add("announcements", "%s", strings.TrimSuffix(fmt.Sprintf("%s, in %s frames", n, text(take("announce_frames"))), ", in  frames"))
	}
	for _, module := range []string{"pci0", "pci1"} {
		if port, ok := rest[module].(map[string]any); ok {
			f.port(module, port)
			delete(rest, module)
		}
	}
	return rest
}

// port writes what is known of one port.
func (f *facts) port(module string, port map[string]any) {
	rest := maps.Clone(port)
	take := func(key string) any {
		v := rest[key]
		delete(rest, key)
		return v
	}
	if up, ok := take("carrier").(bool); ok {
		line := map[bool]string{true: "there", false: "none"}[up]
		if n := text(take("carrier_losses")); n != "" && n != "0" {
			line += ", lost " + n + " times"
		}
		f.add(module+" carrier", "%s", line)
	}
	f.add(module+" path", "%s", text(take("path")))
	if sent := text(take("probes_sent")); sent != "" {
		line := sent + " sent, " + text(take("probes_answered")) + " answered"
		if n := text(take("probes_foreign")); n != "" && n != "0" {
			line += ", " + n + " frames were no answers to them"
		}
		f.add(module+" probes", "%s", line)
	}
	f.tree(module+" ", rest)
}

// failoverText is: eth0 → eth1 in 230 µs, 2026-01-02 03:04:05: no carrier on eth0
func failoverText(last map[string]any) string {
	line := portText(last["from"]) + " → " + portText(last["to"])
	if gap, ok := last["gap_us"].(float64); ok {
		line += " in " + humanMicros(gap)
	}
	if by := text(last["by"]); by == "kernel" {
		line += " by the kernel itself"
	}
	if at, err := time.Parse(time.RFC3339Nano, text(last["at"])); err == nil {
		line += ", " + at.Local().Format(time.DateTime)
	}
	if cause := text(last["cause"]); cause != "" {
		line += ": " + cause
	}
	return line
}

// portText is the name of a port, or a word for no port.
func portText(v any) string {
	if name := text(v); name != "" {
		return name
	}
	return "none"
}

// list writes one line for each.
func (f *facts) list(name string, v any) {
	if all, ok := v.([]any); ok {
		for i, x := range all {
			f.add(map[bool]string{true: name, false: ""}[i == 0], "%v", x)
		}
	}
}

// text is a single value as people read it, "" for none.
func text(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case float64:
		return numberText("", v)
	}
	return fmt.Sprint(v)
}
