package bond

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ft/bond/bondtest"
	"ft/bond/datapath"
	"ft/bond/nic"
	"ft/drivers"
	"ft/drivers/kerneltest"
)

func TestMain(m *testing.M) { bondtest.Main(m) }

// onEachPath runs a test over every data path of the kernel at hand.
func onEachPath(t *testing.T, test func(t *testing.T, kind string)) {
	for _, kind := range paths(t) {
		t.Run(kind, func(t *testing.T) { test(t, kind) })
	}
}

// paths are the data paths of this kernel. Guests are there for bonding: one without it
// is no guest that tests it.
func paths(t *testing.T) []string {
	kinds := []string{datapath.TCX, datapath.TC}
	if kerneltest.InGuest() || hasBonding(t) {
		kinds = append(kinds, datapath.Bonding)
	}
	return kinds
}

func hasBonding(t *testing.T) bool {
	t.Helper()
	la := netlink.NewLinkAttrs()
	la.Name = "trybond"
	l := netlink.NewLinkBond(la)
	err := netlink.LinkAdd(l)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return false
	}
	if err == nil {
		err = netlink.LinkDel(l)
	}
	if err != nil {
		t.Fatal(err)
	}
	return true
}

// rig is a driver on a real network, without a process around it.
type rig struct {
	t    *testing.T
	kind string
	net  *bondtest.Net
	cfg  drivers.Config
	drv  drivers.Driver
	seen []drivers.Event
	// gaveUp takes the driver's last word; nil for a test in which it has none.
	gaveUp func(error)
}

// newRig starts a driver on a new network.
func newRig(t *testing.T, kind string, change func(*Options)) *rig {
	t.Helper()
	r := readyRig(t, kind, change)
	r.start()
	return r
}

// readyRig has everything but the driver, which is removed with the test.
func readyRig(t *testing.T, kind string, change func(*Options)) *rig {
	t.Helper()
	r := &rig{t: t, kind: kind, net: bondtest.New(t)}
	opt := Options{Addresses: []netip.Prefix{netip.MustParsePrefix(bondtest.BoxIP4 + "/24"), netip.MustParsePrefix(bondtest.BoxIP6 + "/64")},
		Datapath: kind, UpDelay: 50 * time.Millisecond}
	if change != nil {
		change(&opt)
	}
	options, err := json.Marshal(opt)
	if err != nil {
		t.Fatal(err)
	}
	r.cfg = drivers.Config{Kind: Kind, Name: "net0", RunDir: t.TempDir(), StateDir: t.TempDir(), Drills: true, Options: options}
	for s := range r.cfg.Sides {
		r.cfg.Sides[s].Resource.Path = r.net.NIC(drivers.Side(s))
	}
	t.Cleanup(func() {
		if r.drv == nil {
			return
		}
		if err := r.drv.Stop(context.Background(), drivers.RemoveForce); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	return r
}

func (r *rig) start() {
	r.t.Helper()
	env := drivers.Env{
		Log: slog.New(slog.NewTextHandler(testWriter{r.t}, nil)), Predecessor: -1,
		Store:   func(string, ...int) error { return nil },
		Unstore: func(string) {}, Text: func(string) {},
		Fatal: func(err error) {
			if r.gaveUp == nil {
				r.t.Errorf("the driver gives up: %v", err)
				return
			}
			r.gaveUp(err)
		},
	}
	drv, err := New(r.cfg, env)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := drv.Start(r.t.Context(), drivers.Fresh); err != nil {
		r.t.Fatal(err)
	}
	r.drv = drv
}

// testWriter is a log of the test's, which may end before the last line.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	if os.Getenv("FT_TEST_LOG") != "" {
		os.Stderr.Write(b)
	}
	return len(b), nil
}

func (r *rig) attach(s drivers.Side) {
	r.t.Helper()
	if err := r.drv.Attach(context.Background(), s, drivers.Resource{}); err != nil {
		r.t.Fatal(err)
	}
	r.wait("duplex", func(st drivers.Status) bool { return st.State == drivers.FaceDuplex })
}

func (r *rig) wait(what string, holds func(drivers.Status) bool) drivers.Status {
	r.t.Helper()
	defer func() {
		if r.t.Failed() {
			text, _ := json.MarshalIndent(r.drv.Status(), "", " ")
			r.t.Logf("it is %s", text)
		}
	}()
	bondtest.WaitFor(r.t, what, 5*time.Second, func() bool { return holds(r.drv.Status()) })
	return r.drv.Status()
}

func (r *rig) active() drivers.Side {
	for s, side := range r.drv.Status().Sides {
		if side.Active {
			return drivers.Side(s)
		}
	}
	return drivers.Whole
}

func link(t *testing.T, name string) nic.Link {
	t.Helper()
	l, err := nic.ByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func duplex(st drivers.Status) bool { return st.State == drivers.FaceDuplex }

// carries waits until a side is the active one.
func (r *rig) carries(s drivers.Side) {
	r.t.Helper()
	r.wait("side "+string('0'+rune(s))+" active", func(st drivers.Status) bool { return st.Sides[s].Active })
}

// pathsGood waits until probes have been answered through both ports.
func (r *rig) pathsGood() {
	r.t.Helper()
	r.wait("both paths good", func(st drivers.Status) bool {
		return strings.Contains(st.Sides[0].Note, "path good") && strings.Contains(st.Sides[1].Note, "path good")
	})
}

// connects checks that the face is reached, and reaches, the peer. It takes its time: the
// switch opens a port to which the cable has come back when its own event of that comes, up
// to a second later (net/core/link_watch.c).
func (r *rig) connects(when string) {
	r.t.Helper()
	for _, d := range []bondtest.Direction{bondtest.FromPeer, bondtest.ToPeer} {
		s := r.net.Stream(d, 500)
		bondtest.WaitFor(r.t, "a stream "+d.String()+", "+when, 5*time.Second, func() bool { return s.Arrived() >= 10 })
		s.Stop()
	}
}

// switchReady waits until the switch forwards through both ports: what the switch loses is
// nobody else's loss.
func switchReady(t *testing.T, n *bondtest.Net) {
	t.Helper()
	for s := range drivers.Side(2) {
		ready := false
		bondtest.WaitFor(t, "the switch to forward through "+n.Port(s), 10*time.Second, func() bool {
			n.InSwitch(func() {
				l, err := netlink.LinkByName(n.Port(s))
				ready = err == nil && l.Attrs().OperState == netlink.OperUp
			})
			return ready
		})
	}
}

// setUp is what an admin does to a NIC: ip link set NAME up, or down.
func (r *rig) setUp(s drivers.Side, up bool) {
	r.t.Helper()
	if err := nic.SetUp(r.net.Index(r.net.NIC(s)), up); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) toTheOther() {
	r.t.Helper()
	to := r.active().Other()
	if err := r.drv.Switch(context.Background()); err != nil {
		r.t.Fatal(err)
	}
	r.carries(to)
}

// events are those that the driver has sent until now, from its start.
func (r *rig) events() []drivers.Event {
	for {
		select {
		case ev := <-r.drv.Events():
			r.seen = append(r.seen, ev)
		default:
			return r.seen
		}
	}
}
