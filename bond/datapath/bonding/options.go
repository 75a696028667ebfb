package bonding

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// option is one of the bonding driver's, by the name that its documentation and sysfs use
// (Documentation/networking/bonding.rst).
type option struct {
	name string
	attr uint16 // IFLA_BOND_… (linux/if_link.h)
	size int    // of its value, in bytes
	want uint32
	// older: a kernel that does not report it behaves as wanted.
	older bool
}

// Attributes of IFLA_INFO_DATA of a bond (linux/if_link.h).
const (
	attrMode            = 1
	attrActiveSlave     = 2
	attrMiimon          = 3
	attrUpdelay         = 4
	attrDowndelay       = 5
	attrUseCarrier      = 6
	attrArpInterval     = 7
	attrArpValidate     = 9
	attrPrimary         = 11
	attrPrimaryReselect = 12
	attrFailOverMAC     = 13
	attrResendIGMP      = 15
	attrNumPeerNotif    = 16
	attrAllSlavesActive = 17
	attrMinLinks        = 18
	attrPeerNotifDelay  = 28
)

// miimon is how often the kernel looks at the carriers by itself, in ms: a backstop for
// the time in which no process of ours lives. What lives is quicker.
const miimon = 100

// options are all that say something in active-backup mode, in an order in which the
// driver takes them (a delay needs miimon). The others belong to other modes
// (packets_per_slave, lp_interval, tlb_dynamic_lb, xmit_hash_policy, ad_*, lacp_*) or to
// the ARP monitor, which needs addresses of the face: we probe by ourselves.
var options = []option{
	{name: "mode", attr: attrMode, size: 1, want: 1}, // active-backup
	{name: "miimon", attr: attrMiimon, size: 4, want: miimon},
	// Delays are ours: a port that must wait is closed (gate.go).
	{name: "updelay", attr: attrUpdelay, size: 4, want: 0},
	{name: "downdelay", attr: attrDowndelay, size: 4, want: 0},
	{name: "use_carrier", attr: attrUseCarrier, size: 1, want: 1, older: true},
	{name: "arp_interval", attr: attrArpInterval, size: 4, want: 0},
	{name: "arp_validate", attr: attrArpValidate, size: 4, want: 0},
	{name: "primary", attr: attrPrimary, size: 4, want: 0}, // no interface: the core prefers
	{name: "primary_reselect", attr: attrPrimaryReselect, size: 1, want: 2},
	{name: "fail_over_mac", attr: attrFailOverMAC, size: 1, want: 0}, // all ports have the face's MAC
	// Costs a report after a turn, and serves while no process of ours lives.
	{name: "resend_igmp", attr: attrResendIGMP, size: 4, want: 1},
	{name: "num_peer_notif", attr: attrNumPeerNotif, size: 1, want: 0}, // bond/announce does that
	{name: "peer_notif_delay", attr: attrPeerNotifDelay, size: 4, want: 0, older: true},
	{name: "all_slaves_active", attr: attrAllSlavesActive, size: 1, want: 0}, // else every broadcast comes twice
	{name: "min_links", attr: attrMinLinks, size: 4, want: 0},
}

// value reads an option from what the kernel has reported; an attribute that is an
// interface is left out when there is none.
func (o option) value(data attributes) (v uint32, known bool) {
	b, known := data[o.attr]
	switch {
	case known && o.size == 1 && len(b) >= 1:
		return uint32(b[0]), true
	case known && o.size == 4 && len(b) >= 4:
		return binary.NativeEndian.Uint32(b), true
	}
	return 0, o.attr == attrPrimary
}

func (o option) encode() []byte {
	if o.size == 1 {
		return []byte{byte(o.want)}
	}
	return binary.NativeEndian.AppendUint32(nil, o.want)
}

// differing are the options of a bond that are not as we want them.
func differing(data attributes) (d []option) {
	for _, o := range options {
		if v, known := o.value(data); known && v != o.want || !known && !o.older {
			d = append(d, o)
		}
	}
	return d
}

// settle makes the options what they must be, and believes only what it then reads. A
// face in use is not disturbed by it: the kernel refuses what would (mode,
// fail_over_mac), and so do we then.
func (w *wire) settle(bond int, name string) error {
	info, err := w.link(bond)
	if err != nil {
		return err
	}
	for _, o := range differing(info.data) {
		if err := w.setOption(bond, o.attr, o.encode()); err != nil {
			have, _ := o.value(info.data)
			return fmt.Errorf("set %s of %s to %d (it is %d): %w", o.name, name, o.want, have, err)
		}
	}
	if info, err = w.link(bond); err != nil {
		return err
	}
	var errs []error
	for _, o := range differing(info.data) {
		if have, known := o.value(info.data); known {
			errs = append(errs, fmt.Errorf("%s of %s was set to %d and is %d", o.name, name, o.want, have))
		} else {
			errs = append(errs, fmt.Errorf("%s of %s should be %d, and this kernel does not say what it is", o.name, name, o.want))
		}
	}
	return errors.Join(errs...)
}
