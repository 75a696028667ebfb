package daemon

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"

	"ft/drivers"
	"ft/ftd/api"
	"ft/ftd/config"
	"ft/ftd/control"
)

// drillBox is a machineBox that allows drills. What the core wants done is on the channel.
func drillBox(t *testing.T, m *machineDriver) (*Daemon, <-chan control.Action) {
	t.Helper()
	actions := make(chan control.Action, 100)
	d := machineBox(t, m, func(a control.Action, _ *gate) bool {
		if a.Device == "guest" {
			actions <- a
		}
		return true
	})
	d.config = &config.Config{System: config.System{Drills: true}}
	return d, actions
}

func (d *Daemon) drill(id, fault string, args ...string) error {
	_, err := d.Change(context.Background(), api.Change{Verb: api.Inject, ID: id, By: "root", Fault: fault, Args: args})
	return err
}

// A CPU module without power is killed, and is not started again before it has power. That is
// no fault of it.
func TestAModuleWithoutPowerStaysOut(t *testing.T) {
	m := &machineDriver{}
	d, actions := drillBox(t, m)
	dev := d.device("guest")
	if err := d.drill("cpu1", "power-off"); err != nil {
		t.Fatal(err)
	}
	if len(m.asked) != 1 || !strings.Contains(m.asked[0], `"name":"kill"`) || !strings.Contains(m.asked[0], `"side":1`) {
		t.Errorf("the driver was asked %q", m.asked)
	}
	_ = d.owner.post(d.ctx, control.DriverReport{Device: "guest", Event: drivers.Event{Seq: 1, Kind: drivers.EventSide, Side: 1, To: "shot",
		Reason: "cpu1 was shot: its process has died", Fault: "dead", Injected: true}})
	s := sidesOf(d.Status(), "cpu1/guest")[0].side
	if s.State != drivers.Removed || s.Reason != "cpu1 has lost its power" || s.MTBF.Faults+s.MTBF.Injected != 0 {
		t.Errorf("it is %v (%s), with %d faults and %d of drills", s.State, s.Reason, s.MTBF.Faults, s.MTBF.Injected)
	}

	// Who wants it in is told. A successor of ftd knows, too.
	var refused *drivers.Refused
	_, err := d.Change(context.Background(), api.Change{Verb: api.Bringup, ID: "cpu1", By: "anna"})
	if !errors.As(err, &refused) || refused.Sentence != "cpu1 has no power: ftctl inject cpu1 power-on gives it back" {
		t.Errorf("bringup says %v", err)
	}
	if err := d.drill("cpu1/guest", "clear"); !errors.As(err, &refused) || refused.Sentence != "cpu1 has no power: ftctl inject cpu1 power-on gives it back" {
		t.Errorf("a fault of its side: %v", err)
	}
	if err := dev.attach(d.ctx, 1, drivers.Resource{}); !errors.As(err, &refused) {
		t.Errorf("an attach says %v", err)
	}
	if p, err := loadPower(d.runDir, true); err != nil || p.has("cpu1") || !p.has("cpu0") {
		t.Errorf("a successor finds %v, %v", p.without(), err)
	}
	if p, err := loadPower(d.runDir, false); err != nil || !p.has("cpu1") {
		t.Errorf("where drills are not allowed a successor finds %v, %v", p.without(), err)
	}
	dev.recut(d.ctx) // as when a driver process starts
	if len(m.asked) != 2 || m.asked[1] != m.asked[0] {
		t.Errorf("the driver was asked %q", m.asked)
	}

	// It has power again, and comes in.
	if err := d.drill("cpu1", "power-on"); err != nil {
		t.Fatal(err)
	}
	for a := range actions {
		if a.Kind == control.ActionAttach {
			break
		}
	}
	if _, err := os.Stat(d.power.path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the book is left: %v", err)
	}
	if len(m.asked) != 2 || !dev.hasPower(1) {
		t.Errorf("the driver was asked %q; power: %v", m.asked, dev.hasPower(1))
	}
}

func TestPowerOfAModuleThatRunsNothing(t *testing.T) {
	m := &machineDriver{refusal: drivers.Refuse(drivers.RuleState, "guest is not on")}
	d, _ := drillBox(t, m)
	if err := d.drill("cpu0", "power-off"); err != nil || d.device("guest").hasPower(0) {
		t.Errorf("%v, power %v", err, d.device("guest").hasPower(0))
	}
	m.refusal = drivers.Refuse(drivers.RuleNoDrills, "faults are not allowed on this box")
	var refused *drivers.Refused
	if err := d.drill("cpu1", "power-off"); !errors.As(err, &refused) || !d.device("guest").hasPower(1) {
		t.Errorf("%v, power %v", err, d.device("guest").hasPower(1))
	}
}

// A fault and its arguments reach the driver as they are; clearing one is a reason to try again.
func TestFaultsOfACPUModule(t *testing.T) {
	m := &machineDriver{}
	d, actions := drillBox(t, m)
	if err := d.drill("cpu1/guest", "flip-register", "x14", "3", "--at-step=1000"); err != nil {
		t.Fatal(err)
	}
	if want := `"args":["x14","3","--at-step=1000"]`; !strings.Contains(m.asked[0], want) {
		t.Errorf("the driver was asked %q", m.asked)
	}
	m.refusal = drivers.Refuse(drivers.RuleUnfit, "cpu1/guest: \"x99\" is no register: x1 to x31, f0 to f31")
	var refused *drivers.Refused
	if err := d.drill("cpu1/guest", "flip-register", "x99"); !errors.As(err, &refused) || refused.Code != drivers.RuleUnfit {
		t.Errorf("%v", err)
	}
	if err := d.drill("cpu1", "flip-register"); err == nil || !strings.Contains(err.Error(), "other faults go to one side, e.g. cpu1/guest") {
		t.Errorf("%v", err)
	}
	m.refusal = nil
	// The self-test of the next module there fails.
	_ = d.owner.post(d.ctx, control.DriverReport{Device: "guest", Event: drivers.Event{Seq: 1, Kind: drivers.EventSide, Side: 1, To: "shot", Fault: "registers", Injected: true}})
	for a := range actions {
		if a.Kind == control.ActionAttach {
			_ = d.owner.post(d.ctx, control.ActionResult{ID: a.ID, Outcome: control.Refused, Code: drivers.RuleUnfit, Sentence: "its self-test failed"})
			break
		}
	}
	if err := d.drill("cpu1/guest", "clear"); err != nil {
		t.Fatal(err)
	}
	for a := range actions {
		if a.Kind == control.ActionAttach {
			return
		}
	}
}

func TestADump(t *testing.T) {
	m := &machineDriver{answer: map[string]any{"path": "/var/lib/ft/dumps/guest-1.core"}}
	d, _ := drillBox(t, m)
	dump := func(id, side, out string) (api.Outcome, error) {
		return d.Change(context.Background(), api.Change{Verb: api.Dump, ID: id, Side: side, Out: out, By: "anna"})
	}
	out, err := dump("guest", "cpu1", "/tmp/core")
	if err != nil || out.Text != "the memory of guest is being written to /var/lib/ft/dumps/guest-1.core: ftctl status shows how far that is" {
		t.Errorf("%+v, %v", out, err)
	}
	if want := `{"name":"dump","args":{"by":"anna","out":"/tmp/core","side":"cpu1"}}`; len(m.asked) != 1 || strings.TrimSpace(m.asked[0]) != want {
		t.Errorf("the driver was asked %q", m.asked)
	}
	var refused *drivers.Refused
	if _, err := dump("guest", "pci0", ""); !errors.As(err, &refused) || refused.Sentence != "guest has no side on pci0: name cpu0 or cpu1, or none of them" {
		t.Errorf("a side that it has not: %v", err)
	}
	if _, err := dump("disk1", "", ""); !errors.As(err, &refused) || refused.Code != control.RuleMachine {
		t.Errorf("a disk: %v", err)
	}
}
