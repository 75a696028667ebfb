package main

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"ft/ftd/api"
)

// Columns of the status tree, in characters from the left.
const (
	keyWidth   = 9  // box, cause, action, faces
	nameWidth  = 12 // module, or side within it
	stateWidth = 11
	pullColumn = 63
)

// statusText is what `ftctl status` shows: verdict, cause, next action; the modules
// with their sides; the faces.
func (a *app) statusText(st api.Status) string {
	var b strings.Builder
	a.writeVerdict(&b, st.System)
	b.WriteByte('\n')
	for _, m := range st.Modules {
		a.writeModule(&b, m, sidesOf(st, m.ID))
	}
	if len(st.Modules) == 0 {
		b.WriteString("no device is configured; see /etc/ft/ft.toml\n")
	}
	if len(st.Devices) > 0 {
		var faces []string
		for _, d := range st.Devices {
			text := d.ID + " " + a.paint(stateColours[d.State.String()], d.State.String())
			if face := faceText(d); face != "" && d.State.String() != "down" {
				text += " " + face
			}
			faces = append(faces, text)
		}
		fmt.Fprintf(&b, "\n%s%s\n", a.column(keyWidth, plain, "faces"), strings.Join(faces, " · "))
	}
	return b.String()
}

// faceText is where applications find a face. That of a NIC is an interface, which has the
// device's name: its first address says more.
func faceText(d api.DeviceStatus) string {
	if list, ok := d.Stats["addresses"].([]any); ok && d.Kind == kindNIC && len(list) > 0 {
		return fmt.Sprint(list[0])
	}
	if d.Face == d.ID {
		return ""
	}
	return d.Face
}

// Kinds of devices, as in the status document.
const (
	kindDisk    = "disk"
	kindNIC     = "nic" // has an active side
	kindMachine = "machine"
)

func (a *app) writeVerdict(b *strings.Builder, s api.SystemStatus) {
	width := max(keyWidth, utf8.RuneCountInString(s.Name)+2)
	state := s.State.String()
	b.WriteString(a.column(width, plain, s.Name) + a.paint(stateColours[state], strings.ToUpper(state)))
	if t := since(s.Since); t != "" {
		b.WriteString(" for " + t)
	}
	b.WriteByte('\n')
	if state == "duplex" && s.Action == "none" {
		return // nothing to explain
	}
	for _, line := range [][2]string{{"cause", s.Verdict}, {"action", s.Action}} {
		if line[1] != "" {
			b.WriteString(a.column(width, plain, line[0]) + line[1] + "\n")
		}
	}
}

// sidesOf lists the sides that a module carries, each with its device.
func sidesOf(st api.Status, module string) []deviceSide {
	var out []deviceSide
	for i := range st.Devices {
		d := &st.Devices[i]
		for j := range d.Sides {
			if api.ModuleOf(d.Sides[j].ID) == module {
				out = append(out, deviceSide{d, &d.Sides[j]})
			}
		}
	}
	return out
}

type deviceSide struct {
	device *api.DeviceStatus
	side   *api.SideStatus
}

// writeModule writes a module and its sides. When one of them alone is being brought
// up to date, how far that is stands on the module's line; when several are, each has
// its own.
func (a *app) writeModule(b *strings.Builder, m api.ModuleStatus, sides []deviceSide) {
	var working []*api.SideStatus
	for _, s := range sides {
		if s.side.Progress != nil && !s.side.State.InService() {
			working = append(working, s.side)
		}
	}
	progress := ""
	if len(working) == 1 {
		progress = progressText(*working[0].Progress)
	}
	a.writeRow(b, "", m.ID, m.State.String(), progress, m.SafeToPull)
	for _, s := range sides {
		detail := sideText(s)
		switch {
		case s.side.Progress == nil:
		case s.side.State.InService(): // what goes on beside its service
			detail = strings.TrimPrefix(detail+", "+progressText(*s.side.Progress), ", ")
		case len(working) > 1:
			detail = progressText(*s.side.Progress)
		}
		fmt.Fprintf(b, "%s%s%s\n", a.column(nameWidth, plain, "  "+s.device.ID),
			a.column(stateWidth, stateColours[s.side.State.String()], s.side.State.String()), detail)
	}
}

// writeRow writes a module's line: progress where there is any, else whether it may
// be pulled.
func (a *app) writeRow(b *strings.Builder, indent, name, state, progress string, safe bool) {
	head := a.column(nameWidth, plain, indent+name) + a.column(stateWidth, stateColours[state], state)
	if progress != "" {
		b.WriteString(head + progress + "\n")
		return
	}
	b.WriteString(head + strings.Repeat(" ", pullColumn-nameWidth-stateWidth) + a.pullText(safe) + "\n")
}

func (a *app) pullText(safe bool) string {
	if safe {
		return a.paint(green, "safe to pull")
	}
	return a.paint(red, "do not pull")
}

// progressText is: memory copy  ███████████▌░░░░░░░  61 %  1.1 GB/s  0:41 left
func progressText(p api.Progress) string {
	parts := []string{p.What, bar(p.Percent), fmt.Sprintf("%2.0f %%", min(99, max(0, p.Percent)))}
	if p.RateBytes > 0 {
		parts = append(parts, humanRate(p.RateBytes))
	}
	if p.ETASeconds >= 0 {
		parts = append(parts, humanDuration(time.Duration(p.ETASeconds*float64(time.Second)))+" left")
	}
	return strings.Join(parts, "  ")
}

// sideText is what a side's line says after its state: what it is made of, its part,
// and why it is as it is.
func sideText(s deviceSide) string {
	x := s.side
	var parts []string
	add := func(format string, args ...any) {
		if text := fmt.Sprintf(format, args...); text != "" {
			parts = append(parts, text)
		}
	}
	add("%s", partText(x))
	add("%s", roleText(s))
	add("%s", x.Note)
	if !x.State.InService() && x.Progress == nil {
		add("%s", x.Reason)
	}
	if x.Draining {
		add("I/O still draining")
	}
	if f := x.MTBF.Faults; f > 0 {
		add("%d %s in %s", f, plural(f, "fault"), humanHours(x.MTBF.Hours))
	}
	if x.RetryAt != nil && x.RetryAt.After(now()) {
		add("tried again in %s", humanDuration(x.RetryAt.Sub(now())))
	}
	return strings.Join(parts, ", ")
}

// partText is what a side is made of, unless that is the module itself.
func partText(x *api.SideStatus) string {
	if x.Resource == api.ModuleOf(x.ID) {
		return ""
	}
	return x.Resource
}

// roleText says which side of a NIC carries it, unless its driver's note begins with that.
func roleText(s deviceSide) string {
	role := map[bool]string{true: "active", false: "standby"}[s.side.Active]
	if s.device.Kind != kindNIC || !s.side.State.InService() || strings.HasPrefix(s.side.Note, role) {
		return ""
	}
	return role
}

func plural(n int, word string) string {
	if n == 1 {
		return word
	}
	return word + "s"
}
