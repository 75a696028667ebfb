package bond

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"ft/bond/bondtest"
	"ft/drivers"
)

// After a failover each address is announced announce_count times through the new port and
// never through another, as num_grat_arp and num_unsol_na of the kernel's bonding driver
// promise; and again when a port comes back after both were gone.
func TestAnnounceCount(t *testing.T) {
	const count, delay = 4, 20 * time.Millisecond
	onEachPath(t, func(t *testing.T, kind string) {
		r := newRig(t, kind, func(o *Options) { o.AnnounceCount, o.AnnounceDelay = count, delay })
		r.attach(1)
		// An address that is still being tested for duplicates is nobody's yet.
		bondtest.WaitFor(t, "the end of the test for duplicates", 10*time.Second, func() bool { return !tentative(t, r.net.Index("net0")) })
		wires := [2]*wire{r.listen(0), r.listen(1)}
		clock := r.net.Stream(bondtest.FromPeer, 1000)
		room := func() { clock.WaitSent(int(5*delay/time.Millisecond), 10*time.Second) } // for one too many
		for s := range wires {                                                           // until the announcer knows it, too
			to := wires[1-s]
			r.toTheOther()
			bondtest.WaitFor(t, "the first announcements", 10*time.Second, func() bool { n := to.count(); return n.arp >= count && n.na > 0 })
			room()
		}
		for round, fail := range []func(){
			func() { r.net.PullCable(0) },
			func() {
				r.net.PullCable(1)
				r.wait("down", func(st drivers.Status) bool { return st.State == drivers.FaceDown })
				r.net.ReturnCable(1)
			},
		} {
			before := [2]announced{wires[0].count(), wires[1].count()}
			fail()
			r.carries(1)
			bondtest.WaitFor(t, "the announcements", 10*time.Second, func() bool {
				n := wires[1].count()
				return n.arp >= before[1].arp+count && n.na >= before[1].na+count
			})
			room()
			if n := wires[1].count(); n.arp != before[1].arp+count || n.na != before[1].na+count {
				t.Errorf("round %d: %+v announcements through the new port, after %+v; want %d of each", round, n, before[1], count)
			}
			if n := wires[0].count(); n != before[0] {
				t.Errorf("round %d: %+v announcements through the port without cable, after %+v", round, n, before[0])
			}
		}
	})
}

// wire listens to what comes out of a NIC.
type wire struct {
	raw  *bondtest.Raw
	face net.HardwareAddr
	vlan uint16
	arp  netip.Addr
	na   netip.Addr
	seen announced
}

type announced struct{ arp, na int }

func (r *rig) listen(s drivers.Side) *wire {
	r.t.Helper()
	return &wire{raw: r.net.Raw(bondtest.Switch, r.net.Port(s)), face: link(r.t, "net0").MAC,
		arp: netip.MustParseAddr(bondtest.BoxIP4), na: netip.MustParseAddr(bondtest.BoxIP6)}
}

// count is of the announcements of the face's addresses until now.
func (w *wire) count() announced {
	for _, f := range w.raw.Waiting() {
		if len(f) < 14 || !bytes.Equal(f[6:12], w.face) {
			continue
		}
		tag := uint16(0)
		if binary.BigEndian.Uint16(f[12:]) == 0x8100 && len(f) > 18 { // ETH_P_8021Q
			tag, f = binary.BigEndian.Uint16(f[14:])&0xfff, f[4:]
		}
		if tag != w.vlan {
			continue
		}
		switch body := f[14:]; binary.BigEndian.Uint16(f[12:]) {
		case 0x0806: // a request of its own address for itself (RFC 5227, 3)
			ip := w.arp.As4()
			if len(body) >= 28 && body[7] == arpRequest && bytes.Equal(body[14:18], ip[:]) && bytes.Equal(body[24:28], ip[:]) {
				w.seen.arp++
			}
		case 0x86dd: // ICMPv6 136, neighbour advertisement (RFC 4861, 4.4)
			ip := w.na.As16()
			if len(body) >= 64 && body[6] == 58 && body[40] == 136 && bytes.Equal(body[48:64], ip[:]) {
				w.seen.na++
			}
		}
	}
	return w.seen
}
