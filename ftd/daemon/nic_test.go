package daemon

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"ft/bond"
	"ft/drivers"
	"ft/drivers/host"
	"ft/drivers/unixhttp"
	"ft/ftd/control"
)

const net0 = "[[nic]]\nname = \"net0\"\npci0 = \"eth0\"\npci1 = \"eth1\"\naddresses = [\"192.0.2.10/24\"]\n"

// What the file leaves out is what the driver itself takes.
func TestTheDefaultsOfANICAreItsDrivers(t *testing.T) {
	got := bondOptions(parsed(t, net0).NICs[0])
	for name, pair := range map[string][2]any{
		"mtu":            {got.MTU, bond.DefaultMTU},
		"probe_interval": {got.ProbeInterval, bond.DefaultProbeInterval},
		"probe_misses":   {got.ProbeMisses, bond.DefaultProbeMisses},
		"announce_count": {got.AnnounceCount, bond.DefaultAnnounceCount},
		"announce_delay": {got.AnnounceDelay, bond.DefaultAnnounceDelay},
		"flap_max":       {got.FlapMax, bond.DefaultFlapMax},
		"flap_window":    {got.FlapWindow, bond.DefaultFlapWindow},
		"flap_hold":      {got.FlapHold, bond.DefaultFlapHold},
		"reselect":       {got.Reselect, bond.ReselectFailure},
		"primary":        {got.Primary, drivers.Side(0)},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s is %v, for the driver %v", name, pair[0], pair[1])
		}
	}
}

// Every setting reaches the driver: a new one that is forgotten here stays zero.
func TestEverySettingOfANICReachesItsDriver(t *testing.T) {
	c := configuredNIC(parsed(t, net0+`mac = "02:00:00:00:00:01"
mtu = 9000
primary = "pci1"
reselect = "always"
datapath = "tc"
netns = "box"
probe = ["192.0.2.1"]
probe_interval = "50ms"
probe_misses = 2
updelay = "1s"
downdelay = "10ms"
announce_count = 1
announce_delay = "20ms"
flap_max = 1
flap_window = "2s"
flap_hold = "3s"
`).NICs[0])
	options := c.options("/dev/ft")
	b, err := json.Marshal(options)
	if err != nil {
		t.Fatal(err)
	}
	var got bond.Options
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, options) {
		t.Errorf("over JSON %+v becomes %+v", options, got)
	}
	v := reflect.ValueOf(got)
	for i := range v.NumField() {
		if v.Field(i).IsZero() {
			t.Errorf("%s is not set", v.Type().Field(i).Name)
		}
	}
	d := &device{as: c, config: drivers.Config{Name: "net0", RunDir: "/run/x"}, configPath: "/run/x/net0.json"}
	spec, err := d.spec()
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"driver", "bond", "net0", "--config", "/run/x/net0.json", "--netns", "/run/netns/box"}; !slices.Equal(spec.Argv[1:], want) {
		t.Errorf("the driver is started with %q, want %q", spec.Argv[1:], want)
	}
}

func TestANICAtAReload(t *testing.T) {
	const disk0 = "[[disk]]\nname = \"disk0\"\npci0 = \"/dev/a\"\npci1 = \"/dev/b\"\n"
	for _, c := range []struct {
		name, now, next, refused string
		added                    []string
	}{
		{"new", disk0, disk0 + net0, "", []string{"net0"}},
		{"moved in the file", net0, "\n\n" + net0, "", nil},
		{"beside a new disk", net0, disk0 + net0, "", []string{"disk0"}},
		{"other addresses", net0, strings.Replace(net0, ".10/24", ".11/24", 1), `ft.toml:1: the nic "net0" has other settings`, nil},
		{"another namespace", net0, net0 + "netns = \"x\"\n", "has other settings", nil},
		{"removed", net0 + disk0, disk0, `the nic "net0" is gone`, nil},
		{"a disk of its name", net0, strings.ReplaceAll(disk0, "disk0", "net0"), "has other settings", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			added, err := newDevices(parsed(t, c.now), parsed(t, c.next))
			if c.refused == "" && err != nil || c.refused != "" && (err == nil || !strings.Contains(err.Error(), c.refused)) {
				t.Fatalf("error %v, want %q", err, c.refused)
			}
			var names []string
			for _, a := range added {
				names = append(names, a.name)
			}
			if !slices.Equal(names, c.added) {
				t.Errorf("added %q, want %q", names, c.added)
			}
		})
	}
}

// nicDriver answers in the place of a bond's driver process.
type nicDriver struct {
	active   drivers.Side
	switched int
}

func (n *nicDriver) serve(t *testing.T, sock string) {
	t.Helper()
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	m := http.NewServeMux()
	m.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		st := drivers.Status{State: drivers.FaceDuplex}
		for i, name := range []string{"eth0", "eth1"} {
			st.Sides[i] = drivers.SideStatus{State: drivers.Duplex, Active: n.active == drivers.Side(i), Resource: drivers.Resource{Path: name}}
		}
		unixhttp.Write(w, st)
	})
	m.HandleFunc("POST /switch", func(w http.ResponseWriter, _ *http.Request) {
		n.active, n.switched = n.active.Other(), n.switched+1
		unixhttp.Write(w, struct{}{})
	})
	s := &http.Server{Handler: m}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
}

// A driver knows only to turn round. It is not told to when the side that is wanted has
// become the active one meanwhile, and the core knows how it stands before the answer.
func TestSwitchToASide(t *testing.T) {
	sock := filepath.Join(t.TempDir(), "net0.sock")
	drv := &nicDriver{}
	drv.serve(t, sock)
	var told []control.Event
	d := &device{log: slog.New(slog.DiscardHandler), client: host.Dial(sock), config: drivers.Config{Name: "net0"},
		post: func(_ context.Context, ev control.Event) error { told = append(told, ev); return nil }}
	for _, c := range []struct {
		to, active drivers.Side
		switched   int
	}{{1, 1, 1}, {1, 1, 1}, {drivers.Whole, 0, 2}, {0, 0, 2}, {1, 1, 3}} {
		told = nil
		if err := d.do(context.Background(), control.Action{Kind: control.ActionSwitch, Side: c.to}); err != nil {
			t.Fatal(err)
		}
		if drv.active != c.active || drv.switched != c.switched {
			t.Fatalf("after a switch to %d: %d is active, and it has turned %d times, want %d and %d", c.to, drv.active, drv.switched, c.active, c.switched)
		}
		if len(told) != 1 || !told[0].(control.DriverStatus).Status.Sides[c.active].Active {
			t.Errorf("the core was told %+v", told[0])
		}
	}
}

// A configuration must not name other NICs than those in service.
func TestNICsThatAreInServiceStayConfigured(t *testing.T) {
	dir := t.TempDir()
	sock := host.SocketPath(dir, "net0")
	if err := os.MkdirAll(filepath.Dir(sock), 0o755); err != nil {
		t.Fatal(err)
	}
	(&nicDriver{}).serve(t, sock)
	d := &Daemon{runDir: dir}
	if err := d.checkRunning(context.Background(), parsed(t, net0)); err != nil {
		t.Error(err)
	}
	err := d.checkRunning(context.Background(), parsed(t, strings.Replace(net0, "eth1", "eth2", 1)))
	if err == nil || !strings.Contains(err.Error(), `ft.toml:1: net0 is in service with eth1 as pci1, and the file names "eth2"`) {
		t.Error(err)
	}
}
