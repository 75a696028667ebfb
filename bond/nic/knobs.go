package nic

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Want is what a NIC shall be like to carry a face.
type Want struct {
	FaceMAC net.HardwareAddr
	MTU     int
	// Enslaved: the kernel's bonding driver has it, or will have it. MTU, flags and
	// filters are that driver's then.
	Enslaved bool
}

// knob is one setting of a NIC that a bond changes. Values are text, as in the book.
type knob struct {
	name string
	// get is the value now; ok is false where the NIC has no such setting, or one that
	// nobody can change.
	get func(d device) (value string, ok bool, err error)
	set func(d device, value string) error
	// cost is what is lost where it cannot be set; "" where the NIC is of no use then.
	cost string
}

// device is a NIC as it is now.
type device struct {
	Link
	features featureSet
}

func look(l Link) (device, error) {
	fs, err := features(l.Name)
	return device{l, fs}, gone(err)
}

const (
	knobIPv6   = "disable_ipv6"
	knobARP    = "arp_ignore"
	knobLRO    = "rx-lro"
	knobVLANs  = "rx-vlan-filter"
	knobMTU    = "mtu"
	knobMulti  = "allmulticast"
	knobAll    = "promiscuous"
	knobUp     = "up"
	off, on    = "0", "1"
	arpSilence = "8" // answer for no local address (Documentation/networking/ip-sysctl.rst)
)

// knobs in the order in which they are set: the NIC comes up last, when it is sure to
// keep silent. They are put back in the opposite order. An MTU under 1280 takes the
// settings of IPv6 away, and a higher one brings fresh ones: that is why it comes after
// disable_ipv6, and is put back before it.
var knobs = []knob{
	sysctl(knobIPv6, "ipv6", "the kernel speaks IPv6 on it, with the NIC's own MAC"),
	sysctl(knobARP, "ipv4", "the kernel may answer on it, with the NIC's own MAC, who asks for an address of the face"),
	offload(knobLRO, "packets that it has merged cannot be sent on, and are lost"),
	offload(knobVLANs, "it may drop the frames of VLANs on the face"),
	{
		name: knobMTU,
		get:  func(d device) (string, bool, error) { return strconv.Itoa(d.MTU), true, nil },
		set: func(d device, v string) error {
			mtu, err := strconv.Atoi(v)
			if err != nil {
				return err
			}
			return SetMTU(d.Index, mtu)
		},
	},
	{
		name: knobMulti,
		get:  func(d device) (string, bool, error) { return flag(d.AllMulti), true, nil },
		set: func(d device, v string) error {
			return switched(v, d.Index, netlink.LinkSetAllmulticastOn, netlink.LinkSetAllmulticastOff)
		},
	},
	{
		name: knobAll,
		get:  func(d device) (string, bool, error) { return flag(d.Promisc), true, nil },
		set: func(d device, v string) error {
			return switched(v, d.Index, netlink.SetPromiscOn, netlink.SetPromiscOff)
		},
	},
	{
		name: knobUp,
		get:  func(d device) (string, bool, error) { return flag(d.Up), true, nil },
		set:  func(d device, v string) error { return SetUp(d.Index, v == on) },
	},
}

func knobNamed(name string) (knob, bool) {
	i := slices.IndexFunc(knobs, func(k knob) bool { return k.name == name })
	if i < 0 {
		return knob{}, false
	}
	return knobs[i], true
}

// values are what the knobs shall stand at. What is not in it is left alone.
func (w Want) values() map[string]string {
	v := map[string]string{knobIPv6: on, knobARP: arpSilence, knobLRO: off, knobVLANs: off}
	if !w.Enslaved {
		v[knobMulti], v[knobUp] = on, on
		if w.MTU > 0 {
			v[knobMTU] = strconv.Itoa(w.MTU)
		}
	}
	return v
}

// valid says whether a value can stand in a book.
func (k knob) valid(v string) bool {
	_, err := strconv.ParseInt(v, 10, 32)
	return err == nil
}

func flag(b bool) string {
	if b {
		return on
	}
	return off
}

func switched(v string, index int, turnOn, turnOff func(netlink.Link) error) error {
	if v == on {
		return turnOn(byIndex(index))
	}
	return turnOff(byIndex(index))
}

// sysctl is a setting of an interface under /proc/sys/net, which is the one of the
// namespace of the process that looks (/sys/class/net is not).
func sysctl(name, family, cost string) knob {
	conf := filepath.Join("/proc/sys/net", family, "conf")
	return knob{
		name: name,
		cost: cost,
		get: func(d device) (string, bool, error) {
			b, err := os.ReadFile(filepath.Join(conf, d.Name, name))
			if errors.Is(err, fs.ErrNotExist) && family == "ipv6" {
				return "", false, nil // no IPv6 in this kernel, or on this NIC: nothing to turn off
			}
			if err != nil {
				return "", false, err
			}
			return strings.TrimSpace(string(b)), true, nil
		},
		set: func(d device, v string) error {
			return os.WriteFile(filepath.Join(conf, d.Name, name), []byte(v), 0)
		},
	}
}

func offload(name, cost string) knob {
	return knob{
		name: name,
		cost: cost,
		get: func(d device) (string, bool, error) {
			f, ok := d.features.get(name)
			if !ok || !f.changeable {
				if f.active {
					return "", false, errors.New("its driver cannot turn it off")
				}
				return "", false, nil
			}
			return flag(f.requested), true, nil
		},
		set: func(d device, v string) error { return setFeature(d.Name, name, v == on) },
	}
}

// SetMTU sets an interface's MTU.
func SetMTU(index, mtu int) error {
	if err := netlink.LinkSetMTU(byIndex(index), mtu); err != nil {
		return fmt.Errorf("set the MTU of interface %d to %d: %w", index, mtu, gone(err))
	}
	return nil
}

// SetUp sets an interface up or down.
func SetUp(index int, up bool) error {
	set, word := netlink.LinkSetDown, "down"
	if up {
		set, word = netlink.LinkSetUp, "up"
	}
	if err := set(byIndex(index)); err != nil {
		return fmt.Errorf("set interface %d %s: %w", index, word, gone(err))
	}
	return nil
}

// gone makes ErrNone of the kernel's word for an interface that is not there any more.
func gone(err error) error {
	if errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("%w (%w)", ErrNone, err)
	}
	return err
}
