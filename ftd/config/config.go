// Package config reads ft.toml.
//
// The way of data: bytes → toml (syntax) → a generic tree → typed tables, where each
// key that is asked for is checked and each that is not is refused → Config. All
// mistakes of a file are gathered, each with its line and the way out, so that a
// person mends them in one go. What needs a look at the machine (is the leg there, is
// it a block device, are the sizes equal) is Check, apart: a leg may be absent when a
// box starts.
package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"ft/ftd/alarm"
	"ft/ftd/control"
	"ft/mirror/balance"
)

// DefaultPath is where ftd looks unless told otherwise.
const DefaultPath = "/etc/ft/ft.toml"

// fileBytesMax bounds what Load reads: a real file has a few kilobytes.
const fileBytesMax = 1 << 20

// Config is a checked ft.toml, with the defaults filled in.
type Config struct {
	File     string
	System   System
	Disks    []Disk
	NICs     []NIC
	Machines []Machine
	MTBF     MTBF
	Alarms   Alarms
}

// System is the table [system].
type System struct {
	Name       string
	Bringup    control.BringupPolicy
	Drills     bool
	StatusPage string // address of the status page, "" for none
}

// Disk is a table [[disk]].
type Disk struct {
	Name string
	Legs [2]Leg // by module; at least one is configured
	// InFile has the paths that the file names where the legs were replaced since, else "".
	InFile        [2]string
	Frontend      string // auto, fuseloop, ublk, nbd
	NoLeg         string // error, wait
	LegTimeout    time.Duration
	ResyncRateMin int64           // bytes a second, also under application load
	ResyncRateMax int64           // bytes a second, 0 is unlimited
	Integrity     string          // none
	ScrubEvery    time.Duration   // 0: only when asked for
	NBD           string          // unix socket, "" for none
	Reads         [2]balance.Mark // each leg's part in reads
	Line          int
}

// Leg is one leg of a disk. A zero Leg is a side with nothing configured.
type Leg struct {
	Path string
	Line int
}

// MTBF is the table [mtbf].
type MTBF struct {
	Threshold time.Duration
	MinFaults int
	Policy    control.MTBFPolicy
}

// Alarms is the table [alarms].
type Alarms struct {
	alarm.Settings
	HookLine int
}

// Load reads and checks a file. What is wrong with its contents comes as Problems.
func Load(path string) (*Config, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no %s: write one (README.md has an example), name another with --config, or try `ftd --testbox DIR`, which needs none", path)
	}
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, fileBytesMax+1))
	if err != nil {
		return nil, fmt.Errorf("read the configuration %s: %w", path, err)
	}
	if len(b) > fileBytesMax {
		return nil, fmt.Errorf("%s is larger than %d bytes: that is no ft.toml", path, fileBytesMax)
	}
	return Parse(path, b)
}

// Parse checks the contents of a file; file is its name for the messages.
func Parse(file string, text []byte) (*Config, error) {
	var tree map[string]any
	if _, err := toml.Decode(string(text), &tree); err != nil {
		return nil, Problems{syntaxProblem(file, err, strings.Count(string(text), "\n")+1)}
	}
	r := &reader{file: file, lines: indexLines(text)}
	c := r.config(tree)
	if len(r.problems) > 0 {
		return nil, r.problems.sorted()
	}
	return c, nil
}

// syntaxProblem gives the library's error a place in the file: some of its errors
// have a line only in the older field, some none, some one past the end.
func syntaxProblem(file string, err error, lines int) Problem {
	p := Problem{File: file, Line: 1, What: "not TOML: " + strings.TrimPrefix(err.Error(), "toml: "), WayOut: "see https://toml.io for how it is written"}
	var pe toml.ParseError
	if errors.As(err, &pe) {
		//lint:ignore SA1019 some errors set only the older field
		p.Line = min(max(1, pe.Position.Line, pe.Line), lines)
		p.What = "not TOML: " + pe.Message
	}
	return p
}

// config reads the whole tree.
func (r *reader) config(tree map[string]any) *Config {
	c := &Config{File: r.file}
	top := r.table("", tree)
	c.System = r.system(top.subtable("system"))
	for _, t := range top.subtables("disk") {
		c.Disks = append(c.Disks, r.disk(t))
	}
	for _, t := range top.subtables("nic") {
		c.NICs = append(c.NICs, r.nic(t))
	}
	for _, t := range top.subtables("machine") {
		c.Machines = append(c.Machines, r.machine(t))
	}
	c.MTBF = r.mtbf(top.subtable("mtbf"))
	c.Alarms = r.alarms(top.subtable("alarms"))
	top.refuseRest()
	r.crossCheck(c)
	return c
}

func (r *reader) system(t *table) System {
	s := System{
		Name:       t.str("name", "box"),
		Bringup:    control.BringupPolicy(t.choice("bringup", string(control.BringupAuto), string(control.BringupAuto), string(control.BringupDefer))),
		Drills:     t.boolean("drills", false),
		StatusPage: t.str("status_page", ""),
	}
	if !systemName.MatchString(s.Name) || slices.Contains(reservedNames, s.Name) && s.Name != "box" {
		t.complain("name", fmt.Sprintf("%q cannot be the box's name", s.Name), "use up to 63 letters, digits, dots and dashes, like a host name")
	}
	t.loopback("status_page", s.StatusPage)
	t.refuseRest()
	return s
}

func (r *reader) disk(t *table) Disk {
	d := Disk{
		Name:          t.name(),
		Legs:          [2]Leg{t.leg("pci0"), t.leg("pci1")},
		Frontend:      t.choice("frontend", "auto", "auto", "fuseloop", "ublk", "nbd"),
		NoLeg:         t.choice("no_leg", "error", "error", "wait"),
		LegTimeout:    t.duration("leg_timeout", 5*time.Second, 100*time.Millisecond, time.Hour),
		ResyncRateMin: t.size("resync_rate_min", 10_000_000, 0),
		ResyncRateMax: t.size("resync_rate_max", 0, 0),
		Integrity:     t.choice("integrity", "none", "none", "crc32c"),
		NBD:           t.path("nbd"),
		ScrubEvery:    t.scrub(),
		Reads:         [2]balance.Mark{t.reads("pci0_reads"), t.reads("pci1_reads")},
		Line:          t.line(""),
	}
	if d.Legs == [2]Leg{} && !t.has("pci0") && !t.has("pci1") {
		t.complain("", fmt.Sprintf("disk %q has no leg", d.Name), `add pci0 = "/dev/…" and pci1 = "/dev/…"`)
	}
	if d.ResyncRateMax > 0 && d.ResyncRateMin > d.ResyncRateMax {
		t.complain("resync_rate_min", "resync_rate_min is above resync_rate_max", `lower it, or set resync_rate_max = "0" for no limit`)
	}
	t.refuseRest()
	return d
}

func (r *reader) mtbf(t *table) MTBF {
	m := MTBF{
		Threshold: t.duration("threshold", 24*time.Hour, 0, 10*365*24*time.Hour),
		MinFaults: t.integer("min_faults", 3, 1, control.MinFaultsMax),
		Policy:    control.MTBFPolicy(t.choice("policy", string(control.MTBFThreshold), string(control.MTBFThreshold), string(control.MTBFNever), string(control.MTBFAlways))),
	}
	t.refuseRest()
	return m
}

func (r *reader) alarms(t *table) Alarms {
	a := Alarms{
		Settings: alarm.Settings{
			Hook:     t.path("hook"),
			Syslog:   t.boolean("syslog", false),
			Severity: control.Severity(t.choice("severity", string(control.Error), severities()...)),
		},
	}
	if t.has("hook") {
		a.HookLine = t.line("hook")
	}
	t.refuseRest()
	return a
}

func severities() (names []string) {
	for _, s := range alarm.Severities {
		names = append(names, string(s))
	}
	return names
}
