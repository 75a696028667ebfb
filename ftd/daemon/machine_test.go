package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"ft/chipset"
	"ft/chipset/engine"
	"ft/drivers"
	"ft/drivers/host"
	"ft/drivers/unixhttp"
	"ft/ftd/api"
	"ft/ftd/control"
)

const (
	disk1 = "[[disk]]\nname = \"disk1\"\npci0 = \"/dev/a\"\npci1 = \"/dev/b\"\n"
	guest = "[[machine]]\nname = \"guest\"\nkernel = \"/boot/vmlinux\"\ndisk = \"disk1\"\nnic = \"net0\"\n"
)

// What the file leaves out is what the driver itself takes.
func TestTheDefaultsOfAMachineAreItsDrivers(t *testing.T) {
	got := machineOptions(parsed(t, "[[machine]]\nname = \"guest\"\nkernel = \"/k\"\n").Machines[0], "/dev/ft", "")
	want := chipset.Options{
		Kernel: "/k", Cmdline: "console=ttyS0 root=/dev/vda", MemoryBytes: chipset.DefaultMemoryBytes,
		ConsoleLogBytes: chipset.DefaultConsoleLogBytes, Engine: engine.Auto, Compare: chipset.CompareStep,
		BlackoutMax: chipset.DefaultBlackoutMax, Undecided: chipset.UndecidedStop,
	}
	if got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// Every setting reaches the driver: a new one that is forgotten here stays zero.
func TestEverySettingOfAMachineReachesItsDriver(t *testing.T) {
	cfg := parsed(t, disk1+net0+"netns = \"box\"\n"+guest+`initrd = "/boot/initrd"
cmdline = "quiet"
memory = "1GiB"
mac = "02:00:00:00:00:09"
engine = "interpret"
compare = "off"
console_log = "1MiB"
record = "/srv/record"
blackout_max = "5ms"
throttle = true
undecided = "cpu0"
`)
	c := configuredMachine(cfg.Machines[0], cfg.NICs)
	options := c.options("/x/dev")
	want := chipset.Options{
		Kernel: "/boot/vmlinux", Initrd: "/boot/initrd", Cmdline: "quiet", MemoryBytes: 1 << 30,
		Disk: "/x/dev/disk1", DiskSerial: "disk1", Link: "net0", Netns: "box", MAC: "02:00:00:00:00:09",
		ConsoleLogBytes: 1 << 20, Record: "/srv/record", Engine: engine.Interpret, Compare: chipset.CompareOff, BlackoutMax: 5 * time.Millisecond,
		Throttle: true, Undecided: chipset.UndecidedCPU0,
	}
	if options != want {
		t.Errorf("got  %+v\nwant %+v", options, want)
	}
	v := reflect.ValueOf(options)
	for i := range v.NumField() {
		if name := v.Type().Field(i).Name; v.Field(i).IsZero() && name != "TAP" { // or Link
			t.Errorf("%s is not set", name)
		}
	}
	b, err := json.Marshal(options)
	if err != nil {
		t.Fatal(err)
	}
	var back chipset.Options
	if err := json.Unmarshal(b, &back); err != nil || back != want {
		t.Errorf("over JSON it becomes %+v (%v)", back, err)
	}
	if !slices.Equal(c.needs, []string{"disk1", "net0"}) || c.paths != [2]string{"cpu0", "cpu1"} || c.sideID(0) != "cpu0/guest" {
		t.Errorf("it needs %q, is made of %q, and has the side %s", c.needs, c.paths, c.sideID(0))
	}
	d := &device{as: c, config: drivers.Config{Name: "guest", RunDir: "/run/x"}, configPath: "/run/x/guest.json"}
	spec, err := d.spec()
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"driver", "machine", "guest", "--config", "/run/x/guest.json", "--netns", "/run/netns/box"}; !slices.Equal(spec.Argv[1:], want) {
		t.Errorf("the driver is started with %q, want %q", spec.Argv[1:], want)
	}
}

func TestAMachineOnOtherThings(t *testing.T) {
	cfg := parsed(t, "[[machine]]\nname = \"guest\"\nkernel = \"/k\"\ndisk = \"/srv/a-rather-long-name-of-a-disk.img\"\nnic = \"tap:tap0\"\nnetns = \"blue\"\n")
	c := configuredMachine(cfg.Machines[0], nil)
	o := c.options("/dev/ft").(chipset.Options)
	if o.Disk != "/srv/a-rather-long-name-of-a-disk.img" || o.DiskSerial != "a-rather-long-name-o" || o.TAP != "tap0" || o.Link != "" || o.Netns != "blue" {
		t.Errorf("%+v", o)
	}
	if len(c.needs) != 0 || c.netns != "blue" {
		t.Errorf("it needs %q and lives in %q", c.needs, c.netns)
	}
}

func TestAMachinesMACIsItsOwn(t *testing.T) {
	mac := machineMAC("3d1219c7c4c5404aaa1f6d2a48adfda4", "guest")
	if again := machineMAC("3d1219c7c4c5404aaa1f6d2a48adfda4", "guest"); mac != again {
		t.Errorf("%s, and then %s", mac, again)
	}
	seen := map[string]bool{mac: true}
	for _, other := range []string{machineMAC("3d1219c7c4c5404aaa1f6d2a48adfda4", "guest2"), machineMAC("another", "guest")} {
		if seen[other] {
			t.Errorf("%s twice", other)
		}
		seen[other] = true
	}
	for m := range seen {
		if hw, err := net.ParseMAC(m); err != nil || len(hw) != 6 || hw[0]&3 != 2 {
			t.Errorf("%s is not one that we may give away", m)
		}
	}
	if o := configuredMachine(parsed(t, disk1+net0+guest).Machines[0], nil).options("").(chipset.Options); o.MAC != machineMAC(hostID(), "guest") {
		t.Errorf("the driver is given %s", o.MAC)
	}
}

func TestAMachineAtAReload(t *testing.T) {
	const box = disk1 + net0
	for _, c := range []struct {
		name, now, next, refused string
		added                    []string
	}{
		{"new", box, box + guest, "", []string{"guest"}},
		{"with all that it hangs on", "", box + guest, "", []string{"disk1", "net0", "guest"}},
		{"moved in the file", box + guest + "record = \"/r\"\ninitrd = \"/i\"\n", "\n\n" + guest + "\ninitrd = \"/i\"\nrecord = \"/r\"\n" + box, "", nil},
		{"more memory", box + guest, box + guest + "memory = \"1GiB\"\n", `the machine "guest" has other settings`, nil},
		{"another kernel", box + guest, box + strings.Replace(guest, "vmlinux", "vmlinux-6", 1), "has other settings", nil},
		{"without its disk", box + guest, box + strings.Replace(guest, "disk = \"disk1\"\n", "", 1), "has other settings", nil},
		{"removed", box + guest, box, `the machine "guest" is gone`, nil},
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

// machineDriver answers in the place of a machine's driver process.
type machineDriver struct {
	status  drivers.Status
	refusal error
	answer  map[string]any // to a command
	asked   []string
}

func (m *machineDriver) serve(t *testing.T, sock string) {
	t.Helper()
	l, err := unixhttp.Listen(sock)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) { unixhttp.Write(w, m.status) })
	mux.HandleFunc("POST /command", func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		m.asked = append(m.asked, string(b))
		if m.refusal != nil {
			unixhttp.WriteError(w, m.refusal)
			return
		}
		unixhttp.Write(w, m.answer)
	})
	mux.HandleFunc("POST /inject", func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		m.asked = append(m.asked, string(b))
		if m.refusal != nil {
			unixhttp.WriteError(w, m.refusal)
			return
		}
		unixhttp.Write(w, struct{}{})
	})
	s := &http.Server{Handler: mux}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
}

// nothing is carried out.
func nothing(control.Action, *gate) bool { return true }

// machineBox is a daemon's inside with a disk and a machine whose driver is m.
func machineBox(t *testing.T, m *machineDriver, dispatch func(control.Action, *gate) bool) *Daemon {
	t.Helper()
	cfg := parsed(t, disk1+guest[:strings.Index(guest, "nic")])
	dir := t.TempDir()
	log := slog.New(slog.DiscardHandler)
	rec, _ := testRecorder(t, dir)
	d := &Daemon{Options: Options{Log: log}, runDir: dir, rec: rec, events: rec.events, devices: map[string]*device{},
		owner: newOwner(control.New(control.Config{Name: "box"}), rec, log)}
	var err error
	if d.power, err = loadPower(dir, true); err != nil {
		t.Fatal(err)
	}
	rec.post, d.owner.dispatch = d.owner.post, dispatch
	ctx, cancel := context.WithCancel(context.Background())
	d.ctx = ctx
	d.goRun(d.owner.run)
	d.goRun(d.rec.run)
	t.Cleanup(func() { cancel(); d.wg.Wait() })
	_ = d.owner.post(ctx, control.StateLoaded{})
	for _, c := range allConfigured(cfg) {
		sock := host.SocketPath(dir, c.name)
		d.devices[c.name] = &device{as: c, config: drivers.Config{Name: c.name}, log: log, client: host.Dial(sock), post: d.owner.post, power: d.power}
		told := control.DeviceConfigured{Kind: c.kind, Name: c.name, Needs: c.needs}
		for i, path := range c.paths {
			told.Sides[i].Resource.Path = path
		}
		_ = d.owner.post(ctx, told)
	}
	m.serve(t, host.SocketPath(dir, "guest"))
	m.status = drivers.Status{Name: "guest", State: drivers.FaceDuplex, Face: "guest"}
	for s := range m.status.Sides {
		m.status.Sides[s] = drivers.SideStatus{State: drivers.Duplex, Resource: drivers.Resource{Path: cpuModules[s]}}
	}
	_ = d.owner.post(ctx, control.DriverConnected{Device: "guest", Status: m.status})
	return d
}

func TestAResetIsForTheDriver(t *testing.T) {
	m := &machineDriver{}
	d := machineBox(t, m, nothing)
	reset := func(id string) (api.Outcome, error) {
		return d.Change(context.Background(), api.Change{Verb: api.Machine, ID: id, By: "anna", Action: api.MachineReset})
	}
	out, err := reset("guest")
	if err != nil || out.Text != "guest starts again from the beginning: ftctl console guest shows how it gets on" {
		t.Errorf("%+v, %v", out, err)
	}
	if want := `{"name":"machine","args":{"action":"reset","by":"anna"}}`; len(m.asked) != 1 || strings.TrimSpace(m.asked[0]) != want {
		t.Errorf("the driver was asked %q", m.asked)
	}
	m.refusal = drivers.Refuse(drivers.RuleBusy, "I/O does not end")
	var refused *drivers.Refused
	if _, err = reset("guest"); !errors.As(err, &refused) || refused.Code != drivers.RuleBusy || refused.Sentence != "I/O does not end" {
		t.Errorf("the driver's refusal came as %v", err)
	}
	for id, want := range map[string]string{"disk1": "disk1 is a disk, no machine", "cpu0": "cpu0 is no machine but a part of the box: name the machine, as ftctl ls has it"} {
		if _, err = reset(id); !errors.As(err, &refused) || refused.Code != control.RuleMachine || refused.Sentence != want {
			t.Errorf("%s: %v", id, err)
		}
	}
	var missing *api.NoSuchComponent
	if _, err = reset("nobody"); !errors.As(err, &missing) {
		t.Errorf("nobody: %v", err)
	}
	// One that is off has nothing to be reset.
	for s := range drivers.Side(2) {
		_ = d.owner.post(d.ctx, control.DriverReport{Device: "guest", Event: drivers.Event{Seq: uint64(s) + 1, Kind: drivers.EventSide, Side: s, To: "offline",
			Reason: "the guest powered itself off", Detail: map[string]any{"out_by": drivers.OutByGuest}}})
	}
	if _, err = reset("guest"); !errors.As(err, &refused) || refused.Sentence != "guest is not on (off: the guest powered itself off): ftctl machine start guest starts it" {
		t.Errorf("off: %v", err)
	}
	if len(m.asked) != 2 {
		t.Errorf("the driver was asked %q", m.asked)
	}
}

func TestAConsoleIsItsDriversSocket(t *testing.T) {
	d := machineBox(t, &machineDriver{}, nothing)
	open := func(id string) (net.Conn, error) { return d.Console(context.Background(), id) }
	var refused *drivers.Refused
	_, err := open("guest")
	if want := "guest has no console now, for its driver process does not run (guest runs on cpu0 and cpu1 in lockstep)"; !errors.As(err, &refused) || refused.Sentence != want {
		t.Errorf("without a socket: %v", err)
	}
	path := chipset.ConsolePath(d.runDir, "guest")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := open("guest")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	peer, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	if _, err := io.WriteString(peer, "login: "); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len("login: "))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "login: " {
		t.Errorf("read %q, %v", got, err)
	}
	// Its process has died and left the socket.
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	if _, err := open("guest"); !errors.As(err, &refused) || refused.Code != drivers.RuleState {
		t.Errorf("with a dead socket: %v", err)
	}
	if _, err := open("disk1"); !errors.As(err, &refused) || refused.Code != control.RuleMachine {
		t.Errorf("a disk's: %v", err)
	}
	var missing *api.NoSuchComponent
	if _, err := open("nobody"); !errors.As(err, &missing) {
		t.Errorf("nobody's: %v", err)
	}
}

// Whoever starts a machine is told what keeps it from starting.
func TestAMachineThatDoesNotStartIsAnError(t *testing.T) {
	type attach struct {
		control.Action
		gate *gate
	}
	attaches := make(chan attach, 8)
	m := &machineDriver{}
	d := machineBox(t, m, func(a control.Action, g *gate) bool {
		if a.Kind == control.ActionAttach {
			attaches <- attach{a, g}
		}
		return true
	})
	// The driver's process is there, and its machine is off.
	off := m.status
	off.State = drivers.FaceDown
	for s := range off.Sides {
		off.Sides[s] = drivers.SideStatus{State: drivers.Offline, Reason: "off", Since: time.Now(), OutBy: drivers.OutByGuest}
	}
	_ = d.owner.post(d.ctx, control.DriverStatus{Device: "guest", Status: off})
	d.goRun(func(ctx context.Context) { // the driver: the first try on each side fails, the next does not
		seq := uint64(0)
		for _, fails := range []bool{true, true, false} {
			var a attach
			select {
			case a = <-attaches:
			case <-ctx.Done():
				return
			}
			a.gate.wait(ctx)
			report := func(to, reason string) {
				seq++
				_ = d.owner.post(ctx, control.DriverReport{Device: "guest", Event: drivers.Event{Seq: seq, Kind: drivers.EventSide, Side: a.Side, To: to, Reason: reason}})
			}
			result := control.ActionResult{ID: a.ID, Outcome: control.OK}
			report("diagnostics", "reading /boot/vmlinux")
			if fails {
				report("offline", "no such file")
				result.Outcome, result.Sentence = control.Failed, "no such file"
			} else {
				report("simplex", "")
			}
			_ = d.owner.post(ctx, result)
		}
	})
	start := func() error {
		_, err := d.Change(context.Background(), api.Change{Verb: api.Machine, ID: "guest", By: "anna", Action: api.MachineStart})
		return err
	}
	if err := start(); err == nil || err.Error() != "guest could not be started: no such file; it is tried again by itself" {
		t.Errorf("%v", err)
	}
	for range 2 { // it is on then
		if err := start(); err != nil {
			t.Error(err)
		}
	}
}
