package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"ft/ftd/api"
)

// facts are lines of a name and what is to be said about it; empty ones are left out.
type facts [][]string

func (f *facts) add(name, format string, args ...any) {
	if text := fmt.Sprintf(format, args...); text != "" {
		*f = append(*f, []string{name, text})
	}
}

// componentText is what `ftctl show` says.
func (a *app) componentText(c api.Component) string {
	var f facts
	f.add(c.ID, "%s", kindText(c))
	f.add("state", "%s", stateText(c))
	f.add("reason", "%s", c.Reason)
	switch c.Kind {
	case api.KindSystem:
		f.add("action", "%s", c.System.Action)
		f.add("bringup", "%s", c.System.Bringup)
		f.boot(c.System.Boot)
	case api.KindModule:
		f.add("pull", "%s", pullWords(c.Module.SafeToPull, c.Module.PullNote))
		for _, x := range c.Sides {
			f.add(x.ID, "%s", strings.TrimSuffix(x.State.String()+", "+x.Resource, ", "))
		}
	case api.KindDevice:
		f.device(*c.Device)
	case api.KindSide:
		f.side(*c.Side)
	}
	if c.Kind == api.KindDevice {
		stats := c.Device.Stats
		if fresh, ok := c.Detail["stats"].(map[string]any); ok {
			stats = fresh
			delete(c.Detail, "stats")
		}
		switch c.Device.Kind {
		case kindNIC:
			stats = f.nic(stats)
		case kindDisk:
			stats = f.disk(c.ID, stats)
		case kindMachine:
			stats = f.machine(c.ID, stats)
		}
		f.tree("", stats)
	}
	f.tree("", c.Detail)
	text := a.table(f, func(_, col int, _ string) string {
		if col == 0 {
			return grey
		}
		return plain
	})
	if len(c.Events) > 0 {
		text += "\nlatest events\n"
		for _, e := range c.Events {
			text += "  " + a.eventText(e) + "\n"
		}
	}
	return text
}

// boot says how long the last start of the box took.
func (f *facts) boot(b *api.Boot) {
	if b == nil {
		return
	}
	text := "started " + b.Started.Local().Format(time.DateTime)
	for _, step := range []struct {
		what string
		ms   *int64
	}{{"served", b.ServesMS}, {"duplex", b.DuplexMS}} {
		if step.ms != nil {
			text += ", " + step.what + " after " + bootTime(*step.ms)
		}
	}
	f.add("boot", "%s", text)
	for _, face := range b.Faces {
		text := "served after " + bootTime(face.ServesMS)
		if face.DuplexMS != nil {
			text += ", duplex after " + bootTime(*face.DuplexMS)
		}
		f.add("boot "+face.ID, "%s", text)
	}
}

// bootTime writes 0.4 s, 21.3 s, 3:05.
func bootTime(ms int64) string {
	if ms >= 60_000 {
		return humanDuration(time.Duration(ms) * time.Millisecond)
	}
	return fmt.Sprintf("%.1f s", float64(ms)/1000)
}

func kindText(c api.Component) string {
	switch c.Kind {
	case api.KindSystem:
		return "the box"
	case api.KindDevice:
		return "duplex " + c.Device.Kind
	case api.KindSide:
		return fmt.Sprintf("side of the %s %s, in module %s", c.Device.Kind, c.Device.ID, api.ModuleOf(c.ID))
	}
	return c.Kind
}

func stateText(c api.Component) string {
	if t := since(c.Since); t != "" {
		return c.State + " for " + t
	}
	return c.State
}

func pullWords(safe bool, note string) string {
	text := map[bool]string{true: "safe to pull", false: "do not pull"}[safe]
	if note != "" {
		text += ": " + note
	}
	return text
}

func (f *facts) device(d api.DeviceStatus) {
	f.add("action", "%s", d.Action)
	f.add("face", "%s", d.Face)
	f.add("driver", "%s", strings.TrimSuffix(string(d.Driver)+", pid "+fmt.Sprint(d.Pid), ", pid 0"))
	for _, x := range d.Sides {
		text := x.State.String()
		for _, more := range []string{partText(&x), roleText(deviceSide{&d, &x}), x.Note} {
			if more != "" {
				text += ", " + more
			}
		}
		f.add(x.ID, "%s", text)
	}
}

func (f *facts) side(x api.SideStatus) {
	target := string(x.Target)
	if x.TargetBy != "" {
		target += ", by " + string(x.TargetBy)
	}
	f.add("wanted", "%s", target)
	f.add("pull", "%s", pullWords(x.SafeToPull, x.PullNote))
	f.add("resource", "%s", x.Resource)
	f.add("identity", "%s", x.Identity)
	f.add("note", "%s", x.Note)
	if x.Draining {
		f.add("draining", "I/O from before it went out is still under way")
	}
	if p := x.Progress; p != nil {
		f.add("progress", "%s", progressText(*p))
		f.add("done", "%s of %s", humanSize(p.DoneBytes), humanSize(p.TotalBytes))
	}
	if x.RetryAt != nil {
		f.add("next try", "%s", x.RetryAt.Local().Format(time.DateTime))
	}
	f.mtbf(x.MTBF)
}

func (f *facts) mtbf(m api.MTBF) {
	f.add("faults", "%d in %s", m.Faults, humanHours(m.Hours))
	if m.Injected > 0 {
		f.add("drill faults", "%d, counted apart", m.Injected)
	}
	f.add("policy", "%s", policyText(string(m.Policy), m.MinFaults, m.ThresholdHours))
	if m.MeanHours != nil {
		f.add("between them", "%s in the mean", humanHours(*m.MeanHours))
	}
	if m.LastFault != "" && m.LastFaultAt != nil {
		f.add("last fault", "%s, %s", m.LastFaultAt.Local().Format(time.DateTime), m.LastFault)
	}
}

// policyText says how faults are judged.
func policyText(policy string, minFaults int, thresholdHours float64) string {
	switch policy {
	case "threshold":
		return fmt.Sprintf("threshold: after %d faults, broken when less than %s lie between them", minFaults, humanHours(thresholdHours))
	case "never":
		return "never: one fault and it is broken"
	case "always":
		return "always: it always comes back"
	}
	return policy
}

// tree writes what a driver says besides, by name; maps within are joined by a dot.
func (f *facts) tree(prefix string, m map[string]any) {
	for _, k := range slices.Sorted(maps.Keys(m)) {
		name := strings.ReplaceAll(strings.TrimSuffix(prefix+k, "_us"), "_", " ")
		switch v := m[k].(type) {
		case map[string]any:
			f.tree(prefix+k+".", v)
		case float64:
			f.add(name, "%s", numberText(k, v))
		case []any:
			for i, x := range v {
				f.add(map[bool]string{true: name, false: ""}[i == 0], "%v", x)
			}
		case nil:
		case string:
			if !strings.HasPrefix(v, "0001-01-01T") { // a time that was never set
				f.add(name, "%s", v)
			}
		default:
			f.add(name, "%v", v)
		}
	}
}

// numberText writes a number; the unit that its name ends in is written as such.
func numberText(name string, v float64) string {
	if strings.HasSuffix(name, "_bytes") {
		return humanSize(int64(v))
	}
	if strings.HasSuffix(name, "_us") {
		return humanMicros(v)
	}
	if v == float64(int64(v)) {
		return fmt.Sprintf("%d", int64(v))
	}
	return fmt.Sprintf("%.3g", v)
}
