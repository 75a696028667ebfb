package config

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"ft/mirror/balance"
	"ft/mirror/nbd"
)

// reader gathers the problems of one file.
type reader struct {
	file     string
	lines    lineIndex
	problems Problems
}

// table is one table of the file. Each method reads one key, fills in the default,
// and notes that the key is known; refuseRest then refuses the others. A value that
// does not fit is complained about, and the default returned, so that reading goes on.
type table struct {
	r      *reader
	prefix string
	raw    map[string]any
	// asked are the keys that this kind of table has.
	asked []string
}

func (r *reader) table(path string, raw map[string]any) *table {
	return &table{r: r, prefix: path, raw: raw}
}

// at is the path of a key for the line index.
func (t *table) at(key string) string {
	switch {
	case t.prefix == "":
		return key
	case key == "":
		return t.prefix
	}
	return t.prefix + "." + key
}

// line is where a key stands, or the table itself for "".
func (t *table) line(key string) int { return t.r.lines.of(t.at(key)) }

func (t *table) complain(key, what, wayOut string) {
	t.r.problems = append(t.r.problems, Problem{File: t.r.file, Line: t.line(key), What: what, WayOut: wayOut})
}

func (t *table) has(key string) bool { _, ok := t.raw[key]; return ok }

func (t *table) get(key string) (any, bool) {
	t.asked = append(t.asked, key)
	v, ok := t.raw[key]
	return v, ok
}

// refuseRest complains about keys that were never asked for.
func (t *table) refuseRest() {
	for _, k := range slices.Sorted(maps.Keys(t.raw)) {
		if slices.Contains(t.asked, k) {
			continue
		}
		where := "at the top of the file"
		if t.prefix != "" {
			kind, _, _ := strings.Cut(t.prefix, "[")
			where = "in " + map[bool]string{true: "[[" + kind + "]]", false: "[" + kind + "]"}[strings.Contains(t.prefix, "[")]
		}
		wayOut := "the keys are " + strings.Join(t.asked, ", ")
		if t.prefix == "" {
			wayOut = "the tables are [system], [[disk]], [[nic]], [[machine]], [mtbf] and [alarms]"
		}
		if n := nearest(k, t.asked); n != "" {
			wayOut = fmt.Sprintf("did you mean %s?", n)
		}
		t.complain(k, fmt.Sprintf("unknown key %q %s", k, where), wayOut)
	}
}

// tomlKind is the word for a value's type in messages.
func tomlKind(v any) string {
	switch v.(type) {
	case string:
		return "a string"
	case int64:
		return "an integer"
	case float64:
		return "a float"
	case bool:
		return "a boolean"
	case map[string]any:
		return "a table"
	case []map[string]any, []any:
		return "an array"
	}
	return "a date or time"
}

func (t *table) wrongType(key string, v any, want, example string) {
	t.complain(key, fmt.Sprintf("%s is %s where %s is meant", key, tomlKind(v), want), fmt.Sprintf("write %s = %s", key, example))
}

// subtable is a table within, empty when it is left out.
func (t *table) subtable(key string) *table {
	v, ok := t.get(key)
	if !ok {
		return t.r.table(t.at(key), nil)
	}
	m, ok := v.(map[string]any)
	if !ok {
		t.complain(key, fmt.Sprintf("%s is %s where one table is meant", key, tomlKind(v)), fmt.Sprintf("write [%s] on a line of its own, once", key))
	}
	return t.r.table(t.at(key), m)
}

// subtables is an array of tables within.
func (t *table) subtables(key string) []*table {
	v, ok := t.get(key)
	if !ok {
		return nil
	}
	wrong := func() []*table {
		t.complain(key, fmt.Sprintf("%s is %s where a table for each is meant", key, tomlKind(v)), fmt.Sprintf("write [[%s]] with two brackets", key))
		return nil
	}
	var list []map[string]any
	switch v := v.(type) {
	case []map[string]any:
		list = v
	case []any:
		for _, x := range v {
			m, ok := x.(map[string]any)
			if !ok {
				return wrong()
			}
			list = append(list, m)
		}
	default:
		return wrong()
	}
	var out []*table
	for i, m := range list {
		out = append(out, t.r.table(fmt.Sprintf("%s[%d]", t.at(key), i), m))
	}
	return out
}

func (t *table) str(key, def string) string {
	v, ok := t.get(key)
	if !ok {
		return def
	}
	s, ok := v.(string)
	if !ok {
		t.wrongType(key, v, "a string", `"…"`)
		return def
	}
	if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		t.complain(key, key+" contains a control character", "remove it")
		return def
	}
	return s
}

func (t *table) boolean(key string, def bool) bool {
	v, ok := t.get(key)
	if !ok {
		return def
	}
	b, ok := v.(bool)
	if !ok {
		t.wrongType(key, v, "a boolean", "true or "+key+" = false")
		return def
	}
	return b
}

func (t *table) integer(key string, def, low, high int) int {
	v, ok := t.get(key)
	if !ok {
		return def
	}
	n, ok := v.(int64)
	if !ok {
		t.wrongType(key, v, "an integer", fmt.Sprint(def))
		return def
	}
	if n < int64(low) || n > int64(high) {
		t.complain(key, fmt.Sprintf("%s = %d is out of range", key, n), fmt.Sprintf("%d to %d are possible", low, high))
		return def
	}
	return int(n)
}

func (t *table) choice(key, def string, allowed ...string) string {
	s := t.str(key, def)
	if slices.Contains(allowed, s) {
		return s
	}
	wayOut := "it is one of " + strings.Join(allowed, ", ")
	if n := nearest(s, allowed); n != "" {
		wayOut = fmt.Sprintf("did you mean %q? %s", n, wayOut)
	}
	t.complain(key, fmt.Sprintf("%s = %q is not known", key, s), wayOut)
	return def
}

func (t *table) duration(key string, def, low, high time.Duration) time.Duration {
	v, ok := t.get(key)
	if !ok {
		return def
	}
	s, ok := v.(string)
	if !ok {
		t.wrongType(key, v, "a duration", fmt.Sprintf("%q, with its unit (ms, s, m, h)", shortDuration(def)))
		return def
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		t.complain(key, fmt.Sprintf("%s = %q is no duration", key, s), fmt.Sprintf("write a number and a unit (ms, s, m, h), like %q", shortDuration(def)))
		return def
	}
	if d < low || d > high {
		t.complain(key, fmt.Sprintf("%s = %q is out of range", key, s), fmt.Sprintf("%s to %s are possible", shortDuration(low), shortDuration(high)))
		return def
	}
	return d
}

// scrubEvery are the intervals of scrubs that have a name.
var scrubEvery = map[string]time.Duration{"never": 0, "weekly": 7 * 24 * time.Hour, "monthly": 30 * 24 * time.Hour}

// scrub is how often both sides of a disk are compared: a name, or a time.
func (t *table) scrub() time.Duration {
	if name, ok := t.raw["scrub"].(string); ok {
		if d, ok := scrubEvery[name]; ok {
			t.asked = append(t.asked, "scrub")
			return d
		}
		if _, err := time.ParseDuration(name); err != nil {
			t.asked = append(t.asked, "scrub")
			t.complain("scrub", fmt.Sprintf("scrub = %q is no interval", name), `write "weekly", "monthly", "never", or a time like "720h"`)
			return 0
		}
	}
	return t.duration("scrub", 0, time.Hour, 10*365*24*time.Hour)
}

// reads is a leg's part in reads.
func (t *table) reads(key string) balance.Mark {
	m, err := balance.ParseMark(t.choice(key, balance.Balance.String(), append(slices.Clone(balance.Marks), balance.WriteMostly)...))
	if err != nil {
		panic("config: " + err.Error()) // a choice that balance does not know
	}
	return m
}

// shortDuration writes 24h0m0s as 24h.
func shortDuration(d time.Duration) string {
	s := d.String()
	s = regexp.MustCompile(`([a-z])0s$`).ReplaceAllString(s, "$1")
	return regexp.MustCompile(`([a-z])0m$`).ReplaceAllString(s, "$1")
}

// size is in bytes: "10MB", "64KiB", or a bare number of bytes.
func (t *table) size(key string, def, low int64) int64 {
	v, ok := t.get(key)
	if !ok {
		return def
	}
	var n int64
	switch v := v.(type) {
	case int64:
		n = v
	case string:
		var err error
		if n, err = ParseSize(v); err != nil {
			t.complain(key, fmt.Sprintf("%s: %v", key, err), `write a number and a unit, like "10MB" (10 000 000) or "10MiB" (10 485 760)`)
			return def
		}
	default:
		t.wrongType(key, v, "a size", `"10MB"`)
		return def
	}
	if n < low {
		t.complain(key, fmt.Sprintf("%s = %v is too small", key, v), sizeText(low)+" is the least")
		return def
	}
	return n
}

func (t *table) strs(key, example string) []string {
	v, ok := t.get(key)
	if !ok {
		return nil
	}
	list, ok := v.([]any)
	if !ok {
		t.wrongType(key, v, "an array of strings", example)
		return nil
	}
	var out []string
	for _, x := range list {
		s, ok := x.(string)
		if !ok {
			t.complain(key, fmt.Sprintf("%s contains %s where strings are meant", key, tomlKind(x)), fmt.Sprintf("write %s = %s", key, example))
			return nil
		}
		out = append(out, s)
	}
	return out
}

// Names.
var (
	componentName = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,31}$`)
	systemName    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.-]{0,62}$`)
	// reservedNames mean something else wherever a component's ID is asked for.
	reservedNames = []string{"box", "ftd", "keeper", "cpu0", "cpu1", "pci0", "pci1"}
)

// name is the device's name: it becomes a path, a unit of the log and an ID.
func (t *table) name() string {
	s := t.str("name", "")
	switch {
	case !t.has("name"):
		t.complain("", "the name is missing", `add name = "…"`)
	case !componentName.MatchString(s):
		t.complain("name", fmt.Sprintf("%q cannot be a name", s), "use a small letter, then up to 31 small letters, digits, - and _")
	case slices.Contains(reservedNames, s):
		t.complain("name", fmt.Sprintf("the name %q means something else to ftctl", s), "choose another")
	}
	return s
}

// path is an absolute path, "" when left out.
func (t *table) path(key string) string {
	s := t.str(key, "")
	if _, isString := t.raw[key].(string); isString && !filepath.IsAbs(s) {
		t.complain(key, fmt.Sprintf("%s = %q is no absolute path", key, s), "begin it with /")
		return ""
	}
	return s
}

func (t *table) leg(key string) Leg {
	if s, isString := t.raw[key].(string); isString && nbd.IsAddress(s) {
		t.str(key, "") // it has been read
		a, err := nbd.ParseAddress(s)
		if err != nil {
			t.complain(key, fmt.Sprintf("%s = %q is no address of an NBD export: %v", key, s, err),
				`write it like "nbd://host:10809/export" or "nbd+unix:///export?socket=/path"`)
			return Leg{}
		}
		return Leg{Path: a.String(), Line: t.line(key)}
	}
	p := t.path(key)
	if p == "" {
		return Leg{}
	}
	if clean := filepath.Clean(p); clean == "/dev/ft" || strings.HasPrefix(clean, "/dev/ft/") {
		t.complain(key, fmt.Sprintf("%s is a face of this box and cannot be a leg as well", p), "give the block device or file that holds the data")
		return Leg{}
	}
	return Leg{Path: p, Line: t.line(key)}
}

// loopback checks a HOST:PORT that only this computer may reach.
func (t *table) loopback(key, s string) {
	if s == "" {
		return
	}
	host, port, err := net.SplitHostPort(s)
	if n, perr := strconv.ParseUint(port, 10, 16); err != nil || perr != nil || n == 0 {
		t.complain(key, fmt.Sprintf("%s = %q is no address and port", key, s), `write it like "127.0.0.1:8080"`)
		return
	}
	if ip, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !ip.IsLoopback()) {
		t.complain(key, fmt.Sprintf("%s = %q can be reached from elsewhere", key, s), fmt.Sprintf(
			"the page has no password: use a loopback address, like \"127.0.0.1:%[1]s\", and look at it from elsewhere through ssh -L %[1]s:127.0.0.1:%[1]s THIS-HOST", port))
	}
}
