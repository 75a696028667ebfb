package tcx

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"ft/bond/bondtest"
	"ft/bond/datapath"
	"ft/drivers"
)

// driverEnv makes the test binary a process that makes a path and waits to be killed.
const driverEnv = "FT_TCX_DRIVER"

func driveFace() int {
	err := func() error {
		p, _, err := Open(testSpec())
		if err != nil {
			return err
		}
		for s := drivers.Side(0); s <= 1; s++ {
			l, err := netlink.LinkByName(fmt.Sprintf("eth%d", s))
			if err != nil {
				return err
			}
			if err := p.SetPort(s, &datapath.Port{Index: l.Attrs().Index, Name: l.Attrs().Name, MAC: bondtest.NICMAC(s)}); err != nil {
				return err
			}
		}
		if err := p.SetCarrier(true); err != nil {
			return err
		}
		return p.SetState(datapath.State{Active: 0, Eligible: both}, false)
	}()
	fmt.Println("driver:", err)
	if err != nil {
		return 1
	}
	select {}
}

func TestOutlivesItsProcess(t *testing.T) {
	longGrace(t)
	r := &rig{Net: bondtest.New(t), t: t}
	driver := exec.Command("/proc/self/exe")
	driver.Env = append(os.Environ(), driverEnv+"=1")
	driver.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := driver.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := driver.Start(); err != nil {
		t.Fatal(err)
	}
	said, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || said != "driver: <nil>\n" {
		t.Fatalf("the driver said %q (%v)", said, err)
	}
	r.GiveAddresses("net0")
	s := r.Stream(bondtest.ToPeer, 5000)
	back := r.Stream(bondtest.FromPeer, 5000)
	s.WaitArrived(100, 5*time.Second)
	if err := driver.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = driver.Wait() // killed
	s.WaitArrived(200, 5*time.Second)

	var adopted bool
	if r.path, adopted = open(t, testSpec()); !adopted {
		t.Error("the path of the killed process was not adopted")
	}
	if st, turn := r.now(); st != (datapath.State{Active: 0, Eligible: both}) || turn.Count != 0 || !turn.At.IsZero() {
		t.Errorf("adopted: %+v, %+v", st, turn)
	}
	r.setPort(0) // as a new driver does: both are there already
	r.setPort(1)
	if st, _ := r.now(); st.Active != 0 || st.Eligible != both {
		t.Errorf("telling a path what it knows changed it: %+v", st)
	}
	r.setState(1, both, true)
	s.WaitArrived(200, 5*time.Second)
	for name, res := range map[string]bondtest.StreamResult{"to the peer": s.Stop(), "from the peer": back.Stop()} {
		if t.Logf("%s: %v", name, res); res.Lost != 0 || res.Duplicated != 0 {
			t.Errorf("%s: %v", name, res)
		}
	}
}

// replaceUnderLoad opens a path again as another version would, while streams run. It
// loses nothing, except that the kernel drops what a NIC sends at the moment at which a
// clsact qdisc comes to it or goes.
func replaceUnderLoad(t *testing.T, first, second limits) {
	t.Helper()
	t.Cleanup(func() { limited = limits{} })
	limited = first
	r := newRig(t)
	r.setState(1, both, false)
	r.fault(1, datapath.FaultDark) // one turn, to be remembered
	s := r.Stream(bondtest.ToPeer, 5000)
	back := r.Stream(bondtest.FromPeer, 5000)
	s.WaitArrived(200, 5*time.Second)
	r.fault(1, datapath.FaultNone)
	before, turn := r.now()
	if before.Active != 0 || turn.Count != 1 {
		t.Fatalf("before: %+v, %+v", before, turn)
	}
	limited = second
	for range 2 {
		limited.salt++
		r.reopen()
		s.WaitArrived(100, 5*time.Second)
	}
	after, again := r.now()
	if after != before || again.Count != turn.Count || again.At.Sub(turn.At).Abs() > time.Millisecond {
		t.Errorf("before: %+v, %+v; after: %+v, %+v", before, turn, after, again)
	}
	if r.state.Tag == 0 || r.state.Layout != max(layoutVersion, second.layout) {
		t.Errorf("tag %x, layout %d", r.state.Tag, r.state.Layout)
	}
	for name, res := range map[string]bondtest.StreamResult{"to the peer": s.Stop(), "from the peer": back.Stop()} {
		if t.Logf("%s: %v", name, res); res.Lost != 0 && first.noTCX == second.noTCX || res.Lost > 100 || res.Duplicated != 0 {
			t.Errorf("%s: %v", name, res)
		}
	}
	// The new programs are really the ones that work: they turn.
	r.setState(0, both, false)
	s = r.Stream(bondtest.ToPeer, 5000)
	r.fault(0, datapath.FaultDark)
	s.WaitArrived(200, 5*time.Second)
	if st, turn := r.now(); st.Active != 1 || turn.Count != 2 {
		t.Errorf("after another dark port: %+v, %+v", st, turn)
	}
	s.Stop()
}

func TestReplacesAnotherVersion(t *testing.T) {
	for name, with := range map[string][2]limits{
		"same layout":        {{}, {salt: 7}},
		"newer layout":       {{}, {layout: 2}},
		"older layout":       {{layout: 2}, {}},
		"TCX to classifiers": {{}, {noTCX: true}},
		"among classifiers":  {{noTCX: true}, {noTCX: true, salt: 7}},
		"all at once":        {{noTCX: true, noCarrier: true}, {layout: 3}},
	} {
		t.Run(name, func(t *testing.T) { replaceUnderLoad(t, with[0], with[1]) })
	}
}

// A replacement that was interrupted anywhere is done again.
func TestInterruptedReplacement(t *testing.T) {
	t.Cleanup(func() { limited = limits{} })
	r := newRig(t)
	r.state.Tag = 0
	left, err := newStateMap()
	if err != nil {
		t.Fatal(err)
	}
	if err := left.m.Pin(pinPath(r.spec.Key, newStatePin)); err != nil {
		t.Fatal(err)
	}
	left.close()
	limited.layout = 2
	r.reopen()
	if r.state.Tag == 0 || r.active() != 0 {
		t.Errorf("tag %x, port %d active", r.state.Tag, r.active())
	}
	if _, err := os.Stat(pinPath(r.spec.Key, newStatePin)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the state of the interrupted replacement is still pinned: %v", err)
	}
	s := r.Stream(bondtest.ToPeer, 5000)
	s.WaitArrived(100, 5*time.Second)
	s.Stop()
}
