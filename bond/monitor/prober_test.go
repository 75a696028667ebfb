package monitor

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ft/bond/bondtest"
	"ft/drivers"
)

const (
	probeEvery = 20 * time.Millisecond
	probeMiss  = 3
)

var (
	peer4  = netip.MustParseAddr(bondtest.PeerIP4)
	peer6  = netip.MustParseAddr(bondtest.PeerIP6)
	peerLL = netip.MustParseAddr("fe80::1")
	nobody = netip.MustParseAddr("192.0.2.99")
)

// verdicts records what a prober says.
type verdicts struct {
	mu   sync.Mutex
	seen []verdict
}

type verdict struct {
	v   Verdict
	why string
	at  time.Time
}

func (r *verdicts) on(_ drivers.Side, v Verdict, why string, at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen = append(r.seen, verdict{v, why, at})
}

func (r *verdicts) last() verdict {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.seen) == 0 {
		return verdict{}
	}
	return r.seen[len(r.seen)-1]
}

func (r *verdicts) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.seen)
}

func (r *verdicts) waitFor(t *testing.T, v Verdict) verdict {
	t.Helper()
	bondtest.WaitFor(t, fmt.Sprintf("the path is %v", v), soon, func() bool { return r.last().v == v })
	return r.last()
}

func prober(t *testing.T, n *bondtest.Net, s drivers.Side, targets ...netip.Addr) (*Prober, *verdicts) {
	t.Helper()
	r := &verdicts{}
	p, err := StartProber(ProbeConfig{
		Side: s, Index: n.Index(n.NIC(s)), Name: n.NIC(s), MAC: bondtest.NICMAC(s),
		Targets: targets, Interval: probeEvery, Misses: probeMiss, Log: quiet(t),
	}, r.on)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p, r
}

// askedMore waits until a prober has asked so many times more.
func askedMore(t *testing.T, p *Prober, more uint64) {
	t.Helper()
	from := p.Stats().Sent
	bondtest.WaitFor(t, fmt.Sprintf("%d more probes", more), soon, func() bool { return p.Stats().Sent >= from+more })
}

// peerLinkLocal gives the peer a link-local address that is in use at once.
func peerLinkLocal(t *testing.T, n *bondtest.Net) {
	t.Helper()
	n.InPeer(func() {
		l, err := netlink.LinkByName(bondtest.PeerNIC)
		if err == nil {
			err = netlink.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: peerLL.AsSlice(), Mask: net.CIDRMask(64, 128)}, Flags: unix.IFA_F_NODAD})
		}
		if err != nil {
			t.Errorf("give the peer a link-local address: %v", err)
		}
	})
}

func TestProbesOfEveryKindOfTarget(t *testing.T) {
	n := bondtest.New(t)
	peerLinkLocal(t, n)
	for name, targets := range map[string][]netip.Addr{
		"IPv4":                      {peer4},
		"IPv4 in IPv6":              {netip.AddrFrom16(peer4.As16())},
		"IPv6":                      {peer6},
		"IPv6 link-local":           {peerLL},
		"IPv6 link-local on a NIC":  {peerLL.WithZone("eth7")},
		"one that is there of many": {nobody, netip.MustParseAddr("2001:db8::99"), peer6},
	} {
		t.Run(name, func(t *testing.T) {
			for s := drivers.Side(0); s <= 1; s++ {
				p, r := prober(t, n, s, targets...)
				good := r.waitFor(t, Good)
				if last := targets[len(targets)-1].Unmap().WithZone("").String(); !strings.Contains(good.why, last) {
					t.Errorf("the path of side %d is good because %q, which does not name %s", s, good.why, last)
				}
				askedMore(t, p, 5*uint64(len(targets)))
				st := p.Stats()
				if r.count() != 1 || st.Answered < 2 || st.RTT <= 0 || st.RTT > answerPatience || st.Unsent != 0 {
					t.Errorf("side %d: %d verdicts, %+v", s, r.count(), st)
				}
				p.Close()
			}
		})
	}
}

func TestSilentPathIsBadInTime(t *testing.T) {
	n := bondtest.New(t)
	_, r0 := prober(t, n, 0, peer4, peer6)
	_, r1 := prober(t, n, 1, peer4, peer6)
	r0.waitFor(t, Good)
	r1.waitFor(t, Good)
	var took []time.Duration
	for range 5 {
		n.SilencePath(0)
		silent := time.Now()
		bad := r0.waitFor(t, Bad)
		took = append(took, bad.at.Sub(silent))
		if !strings.Contains(bad.why, bondtest.PeerIP4) || !strings.Contains(bad.why, bondtest.PeerIP6) {
			t.Errorf("%q does not name the targets", bad.why)
		}
		n.RestorePath(0)
		r0.waitFor(t, Good)
	}
	// The quickest: a busy machine makes others late. That none is early is exact.
	if best := slices.Min(took); best > probeEvery*probeMiss+probeEvery {
		t.Errorf("bad %v after the path went silent, want %v", took, probeEvery*probeMiss)
	}
	if r1.count() != 1 {
		t.Errorf("the other path has changed its mind: %+v", r1.seen)
	}
}

func TestTargetThatNeverWas(t *testing.T) {
	n := bondtest.New(t)
	p, r := prober(t, n, 0, nobody)
	began := time.Now()
	bad := r.waitFor(t, Bad)
	if bad.at.Sub(began) < probeEvery*(probeMiss-1) {
		t.Errorf("bad after %v already", bad.at.Sub(began))
	}
	askedMore(t, p, 2)
	if st := p.Stats(); st.Answered != 0 || r.count() != 1 {
		t.Errorf("%+v, %d verdicts", st, r.count())
	}
}

func TestProberOutlivesNICDown(t *testing.T) {
	n := bondtest.New(t)
	p, r := prober(t, n, 0, peer4, peer6)
	r.waitFor(t, Good)
	eth0, err := netlink.LinkByName(n.NIC(0))
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetDown(eth0); err != nil {
		t.Fatal(err)
	}
	if bad := r.waitFor(t, Bad); !strings.Contains(bad.why, unix.ENETDOWN.Error()) {
		t.Errorf("%q does not say that the NIC is down", bad.why)
	}
	if err := netlink.LinkSetUp(eth0); err != nil {
		t.Fatal(err)
	}
	r.waitFor(t, Good)
	// And with the cable pulled, where probes can be sent, or not, as the driver likes.
	n.PullCable(0)
	r.waitFor(t, Bad)
	n.ReturnCable(0)
	r.waitFor(t, Good)
	if st := p.Stats(); st.Unsent == 0 {
		t.Errorf("nothing was unsent: %+v", st)
	}
}

func TestProberOfVanishedNIC(t *testing.T) {
	n := bondtest.New(t)
	p, r := prober(t, n, 0, peer4, peer6)
	r.waitFor(t, Good)
	before := time.Now()
	n.DeleteNIC(0)
	bad := r.waitFor(t, Gone)
	if !strings.Contains(bad.why, "gone") || !strings.Contains(bad.why, n.NIC(0)) {
		t.Errorf("%q does not say that the NIC is gone", bad.why)
	}
	t.Logf("reported %v after", bad.at.Sub(before))
	sent := p.Stats().Sent
	n.MakeNIC(0)
	again, r2 := prober(t, n, 0, peer4)
	r2.waitFor(t, Good)
	askedMore(t, again, 3)
	if st := p.Stats(); st.Sent != sent || r.count() != 2 {
		t.Errorf("the prober of the NIC that is gone has gone on: %+v, %+v", st, r.seen)
	}
	p.Close()
	p.Close()

	if _, err := StartProber(ProbeConfig{Index: 99999, Name: "none", MAC: bondtest.NICMAC(0), Targets: []netip.Addr{peer4}, Interval: probeEvery, Misses: 1, Log: quiet(t)}, r.on); !errors.Is(err, unix.ENODEV) || !strings.Contains(err.Error(), "none") {
		t.Errorf("a prober on no NIC: %v", err)
	}
}

// wire puts frames onto a side's cable from the switch's end.
type wire struct {
	t  *testing.T
	fd int
}

func newWire(t *testing.T, n *bondtest.Net, s drivers.Side) wire {
	t.Helper()
	w := wire{t, -1}
	n.InSwitch(func() {
		port, err := net.InterfaceByName(n.Port(s))
		if err != nil {
			t.Error(err)
			return
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Error(err)
			return
		}
		t.Cleanup(func() { unix.Close(fd) })
		if err := unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: port.Index}); err != nil {
			t.Error(err)
		}
		w.fd = fd
	})
	return w
}

func (w wire) put(frames ...[]byte) {
	w.t.Helper()
	for _, f := range frames {
		if _, err := unix.Write(w.fd, f); err != nil {
			w.t.Fatalf("put a frame onto the wire: %v", err)
		}
	}
}

// All that other hosts say on a dead path, to whomever, leaves it dead.
func TestOtherTrafficDoesNotMaskADeadPath(t *testing.T) {
	n := bondtest.New(t)
	p, r := prober(t, n, 0, peer4, peer6)
	r.waitFor(t, Good)
	w := newWire(t, n, 0)
	n.SilencePath(0)

	them, another := identity{mac: theirMAC, local: peer6}, otherMAC
	arp := func(to, targetMAC []byte, sender, target netip.Addr) []byte {
		b := arpAnswer()
		copy(b, to)
		copy(b[28:], sender.AsSlice())
		copy(b[32:], targetMAC)
		copy(b[38:], target.AsSlice())
		return b
	}
	everyone, zero := []byte{255, 255, 255, 255, 255, 255}, netip.IPv4Unspecified()
	gratuitous := arp(everyone, everyone, peer4, peer4)
	unsolicited := them.nd(ndAdvertise, ndFlagOverride, peer6, netip.MustParseAddr("ff02::1"), groupMAC(netip.MustParseAddr("ff02::1")), ndOptionTarget)
	request := arp(everyone, make([]byte, macLen), peer4, peer4)
	request[arpOperation+1] = arpOpRequest
	tagged := append(append(append([]byte(nil), arpAnswer()[:12]...), 0x81, 0, 0, 7), arpAnswer()[12:]...)
	stray := [][]byte{
		gratuitous, unsolicited, request, tagged,
		arp(another[:], another[:], peer4, zero),                                                                         // to another NIC's probe
		arp(ownMAC, another[:], peer4, zero),                                                                             // for another, sent to us
		arp(ownMAC, ownMAC, peer4, netip.MustParseAddr(bondtest.BoxIP4)),                                                 // to a question that we did not ask
		arp(ownMAC, ownMAC, nobody, zero),                                                                                // of one that is not asked
		them.nd(ndAdvertise, ndFlagSolicited, peer6, newIdentity(another[:]).local, another, ndOptionTarget),             // to another NIC's probe
		them.nd(ndAdvertise, ndFlagSolicited, peerLL, own.local, own.mac, ndOptionTarget),                                // of one that is not asked
		them.nd(ndAdvertise, ndFlagOverride, peer6, own.local, own.mac, ndOptionTarget),                                  // not said to be an answer
		them.nd(ndSolicit, 0, own.local, own.local, own.mac, ndOptionSource),                                             // a question
		identity{mac: own.mac, local: peer6}.nd(ndAdvertise, ndFlagSolicited, peer6, own.local, own.mac, ndOptionTarget), // our own, reflected
	}
	before := p.Stats()
	stop, done := make(chan struct{}), make(chan struct{})
	var once sync.Once
	end := func() { once.Do(func() { close(stop) }); <-done }
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
				w.put(stray...)
			}
		}
	}()
	t.Cleanup(end)
	r.waitFor(t, Bad)
	askedMore(t, p, 4*probeMiss)
	if r.count() != 2 {
		t.Errorf("the dead path has seemed to live: %+v", r.seen)
	}
	end()
	after := p.Stats()
	if after.Foreign-before.Foreign < 9 {
		t.Errorf("strangers' answers are not counted: %+v", after)
	}
	// The frame before last is a question of our address, which is answered whatever the
	// path is like.
	if after.Defended == 0 {
		t.Errorf("a question of our address is not answered: %+v", after)
	}
	t.Logf("%+v", after)

	// What all of these lack is only the right form.
	bondtest.WaitFor(t, "a right answer counts", soon, func() bool {
		w.put(arpAnswer())
		return r.last().v == Good
	})
}

// The answers of the peer to one port's probes say nothing of the other port's path.
func TestAnswersOnTheOtherPort(t *testing.T) {
	n := bondtest.New(t)
	other, good := prober(t, n, 1, peer4, peer6)
	good.waitFor(t, Good)
	p, r := prober(t, n, 0, peer4, peer6)
	r.waitFor(t, Good)
	n.SilencePath(0)
	r.waitFor(t, Bad)
	// On port 1 arrives what would be an answer to port 0.
	w := newWire(t, n, 1)
	for range 3 * probeMiss {
		askedMore(t, other, 2)
		w.put(arpAnswer(), identity{mac: theirMAC, local: peer6}.nd(ndAdvertise, ndFlagSolicited, peer6, own.local, own.mac, ndOptionTarget))
	}
	if r.count() != 2 || good.count() != 1 {
		t.Errorf("port 0: %+v, port 1: %+v", r.seen, good.seen)
	}
	if st := p.Stats(); st.Answered == 0 {
		t.Errorf("%+v", st)
	}
}

// A storm of strangers' answers is not read to its end before ours are looked for.
func TestStormLeavesAGoodPathGood(t *testing.T) {
	n := bondtest.New(t)
	p, r := prober(t, n, 0, peer4)
	r.waitFor(t, Good)
	w := newWire(t, n, 0)
	gratuitous := arpAnswer()
	copy(gratuitous, []byte{255, 255, 255, 255, 255, 255})
	for range 20 * framesATurn {
		w.put(gratuitous)
	}
	bondtest.WaitFor(t, "the storm is seen", soon, func() bool { return p.Stats().Foreign > framesATurn })
	answered := p.Stats().Answered
	bondtest.WaitFor(t, "answers go on", soon, func() bool { return p.Stats().Answered >= answered+probeMiss })
	if r.count() != 1 {
		t.Errorf("%+v", r.seen)
	}
}

// More answers to one probe than one: the second has not been asked for.
func TestOneProbeOneAnswer(t *testing.T) {
	n := bondtest.New(t)
	n.SilencePath(0)
	w := newWire(t, n, 0)
	p, r := prober(t, n, 0, peer4)
	r.waitFor(t, Bad)
	w.put(arpAnswer(), arpAnswer(), arpAnswer(), arpAnswer(), arpAnswer(), arpAnswer())
	bondtest.WaitFor(t, "all six are seen", soon, func() bool { st := p.Stats(); return st.Answered+st.Foreign == 6 })
	// Between six frames there may have been another probe.
	if st := p.Stats(); st.Answered > 2 {
		t.Errorf("%+v", st)
	}
}

// The peer's neighbour cache holds the address that the probes come from. When it asks
// whether that still holds it is told so; else it would ask again and again.
func TestPeerFindsOurAddressReachable(t *testing.T) {
	n := bondtest.New(t)
	n.InPeer(func() {
		// Five seconds otherwise.
		if err := writeSetting("/proc/sys/net/ipv6/neigh/"+bondtest.PeerNIC+"/delay_first_probe_time", "0"); err != nil {
			t.Error(err)
		}
	})
	if err := writeSetting("/proc/sys/net/ipv6/conf/"+n.NIC(0)+"/disable_ipv6", "1"); err != nil {
		t.Fatal(err) // so that it is not the box's kernel that answers
	}
	p, r := prober(t, n, 0, peer6)
	r.waitFor(t, Good)
	bondtest.WaitFor(t, "the peer has asked and heard", soon, func() (reachable bool) {
		n.InPeer(func() {
			l, err := netlink.LinkByName(bondtest.PeerNIC)
			if err != nil {
				t.Error(err)
				return
			}
			all, err := netlink.NeighList(l.Attrs().Index, netlink.FAMILY_V6)
			if err != nil {
				t.Error(err)
			}
			for _, e := range all {
				if e.IP.String() == newIdentity(bondtest.NICMAC(0)).local.String() && e.State&netlink.NUD_REACHABLE != 0 {
					reachable = true
				}
			}
		})
		return reachable && p.Stats().Defended > 0
	})
}

func writeSetting(path, value string) error { return os.WriteFile(path, []byte(value), 0) }

// The kernel's bonding driver gives its ports the bond's MAC; the probes keep the NIC's.
func TestProbesFromAnotherMACThanTheNICWears(t *testing.T) {
	n := bondtest.New(t)
	eth0, err := netlink.LinkByName(n.NIC(0))
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetHardwareAddr(eth0, net.HardwareAddr{2, 0, 0, 0, 0, 1}); err != nil {
		t.Fatal(err)
	}
	for _, target := range []netip.Addr{peer4, peer6} {
		_, r := prober(t, n, 0, target)
		r.waitFor(t, Good)
	}
}

// Which links' frames are the NIC's own: its master's, and no others'.
func TestFramesOfTheNICAndItsMaster(t *testing.T) {
	n := bondtest.New(t)
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br7"}}
	if err := netlink.LinkAdd(bridge); err != nil {
		t.Fatal(err)
	}
	defer netlink.LinkDel(bridge)
	eth0, err := netlink.LinkByName(n.NIC(0))
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetMaster(eth0, bridge); err != nil {
		t.Fatal(err)
	}
	p := &Prober{cfg: ProbeConfig{Index: eth0.Attrs().Index, MAC: bondtest.NICMAC(0), Log: quiet(t)}}
	worn := &Prober{cfg: ProbeConfig{Index: eth0.Attrs().Index, MAC: bondtest.NICMAC(1), Log: quiet(t)}}
	for _, c := range []struct {
		by   arrival
		own  bool // the NIC wears the MAC that it probes with
		worn bool // it wears another
	}{
		{arrival{index: eth0.Attrs().Index}, true, true},
		{arrival{index: bridge.Index}, true, true},
		{arrival{index: n.Index(n.NIC(1))}, false, false},
		{arrival{index: eth0.Attrs().Index, strays: true}, false, true},
		{arrival{index: bridge.Index, strays: true}, false, true},
		{arrival{index: n.Index(n.NIC(1)), strays: true}, false, false},
	} {
		if got := p.ours(c.by); got != c.own {
			t.Errorf("%+v: %v, want %v", c.by, got, c.own)
		}
		if got := worn.ours(c.by); got != c.worn {
			t.Errorf("%+v, under another MAC: %v, want %v", c.by, got, c.worn)
		}
	}
}

func TestProberRefusesWhatItCannotDo(t *testing.T) {
	n := bondtest.New(t)
	good := ProbeConfig{Index: n.Index(n.NIC(0)), Name: n.NIC(0), MAC: bondtest.NICMAC(0), Targets: []netip.Addr{peer4}, Interval: probeEvery, Misses: 1, Log: quiet(t)}
	for name, spoil := range map[string]func(*ProbeConfig){
		"no target":         func(c *ProbeConfig) { c.Targets = nil },
		"too many targets":  func(c *ProbeConfig) { c.Targets = make([]netip.Addr, probeTargetsMax+1) },
		"the zero target":   func(c *ProbeConfig) { c.Targets = []netip.Addr{{}} },
		"a group":           func(c *ProbeConfig) { c.Targets = []netip.Addr{netip.MustParseAddr("ff02::1")} },
		"no interval":       func(c *ProbeConfig) { c.Interval = 0 },
		"no misses":         func(c *ProbeConfig) { c.Misses = 0 },
		"no MAC":            func(c *ProbeConfig) { c.MAC = nil },
		"a group's MAC":     func(c *ProbeConfig) { c.MAC = net.HardwareAddr{1, 0, 0x5e, 0, 0, 1} },
		"no side":           func(c *ProbeConfig) { c.Side = drivers.Whole },
		"no number":         func(c *ProbeConfig) { c.Index = 0 },
		"a broadcast":       func(c *ProbeConfig) { c.Targets = []netip.Addr{netip.MustParseAddr("255.255.255.255")} },
		"the box itself":    func(c *ProbeConfig) { c.Targets = []netip.Addr{netip.MustParseAddr("127.0.0.1")} },
		"an unspecified IP": func(c *ProbeConfig) { c.Targets = []netip.Addr{netip.IPv6Unspecified()} },
	} {
		c := good
		spoil(&c)
		if p, err := StartProber(c, nil); err == nil {
			p.Close()
			t.Errorf("%s is accepted", name)
		} else if !strings.Contains(err.Error(), n.NIC(0)) {
			t.Errorf("%s: %q does not name the NIC", name, err)
		}
	}
}
