package integration_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"

	"ft/drivers"
	"ft/ftd/testbox/network"
)

// settings are everything about a NIC that somebody may have set: what ip and ethtool
// show, the filters of its addresses, and the kernel's switches for it.
func (n *nicBox) settings(nic string) map[string]string {
	n.t.Helper()
	all := map[string]string{}
	shown := n.link(n.net.Box, nic)
	for _, volatile := range []string{"operstate", "stats64", "addr_info"} {
		delete(shown, volatile)
	}
	if flags, ok := shown["flags"].([]any); ok { // the carrier's are not a setting
		shown["flags"] = slices.DeleteFunc(flags, func(f any) bool { return f == "LOWER_UP" || f == "NO-CARRIER" || f == "M-DOWN" })
	}
	for k, v := range shown {
		all["ip "+k] = fmt.Sprint(v)
	}
	for _, a := range strings.Split(n.ip(n.net.Box, "-brief", "address", "show", nic), " ") {
		if strings.Contains(a, "/") {
			all["address "+strings.TrimSpace(a)] = "there"
		}
	}
	for filter := range strings.Lines(command(n.t, "bridge", "-n", n.net.Box, "fdb", "show", "dev", nic)) {
		all["fdb "+strings.TrimSpace(filter)] = "there"
	}
	all["filters"] = command(n.t, "tc", "-n", n.net.Box, "filter", "show", "dev", nic, "ingress") + command(n.t, "tc", "-n", n.net.Box, "qdisc", "show", "dev", nic)
	all["features"] = command(n.t, "ip", "netns", "exec", n.net.Box, "ethtool", "-k", nic)
	n.within(n.net.Box, func() error {
		card, err := net.InterfaceByName(nic)
		if err != nil {
			return err
		}
		for _, at := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
			if r, err := link.QueryPrograms(link.QueryOptions{Target: card.Index, Attach: at}); err == nil { // else this kernel has none
				all["programs "+at.String()] = fmt.Sprint(len(r.Programs))
			}
		}
		for _, family := range []string{"ipv4", "ipv6"} {
			dir := filepath.Join("/proc/sys/net", family, "conf", nic)
			entries, err := os.ReadDir(dir)
			if err != nil {
				return err
			}
			for _, e := range entries {
				if b, err := os.ReadFile(filepath.Join(dir, e.Name())); err == nil { // stable_secret has none
					all[family+" "+e.Name()] = strings.TrimSpace(string(b))
				}
			}
		}
		return nil
	})
	return all
}

// links are the settings of all links of the box.
func (n *nicBox) links() map[string]map[string]string {
	n.t.Helper()
	all := map[string]map[string]string{}
	for line := range strings.Lines(n.ip(n.net.Box, "-brief", "link")) {
		name, _, _ := strings.Cut(strings.Fields(line)[0], "@")
		all[name] = n.settings(name)
	}
	return all
}

// unchanged waits until links are what they were: the kernel takes its time over addresses.
func (n *nicBox) unchanged(before map[string]map[string]string) {
	n.t.Helper()
	now := map[string]map[string]string{}
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		for name := range before {
			now[name] = n.settings(name)
		}
		if reflect.DeepEqual(now, before) {
			return
		}
	}
	n.t.Errorf("not as it was (-was +is)\n%s", cmp.Diff(before, now))
}

// Whatever was set on the NICs before is there again when the box is gone, also when all
// of its processes were killed in between.
func TestNICsAreGivenBackAsTheyWere(t *testing.T) {
	t.Parallel()
	n := newNICBox(t)
	n.ip(n.net.Box, "link", "set", "eth0", "up", "mtu", "1400", "alias", "the first one")
	n.ip(n.net.Box, "link", "set", "eth1", "up", "allmulticast", "on")
	n.ip(n.net.Box, "link", "set", "eth1", "down") // it has its queue now, which stays
	command(t, "ip", "netns", "exec", n.net.Box, "ethtool", "-K", "eth1", "gro", "on")
	n.within(n.net.Box, func() error {
		return errors.Join(
			os.WriteFile("/proc/sys/net/ipv4/conf/eth0/arp_ignore", []byte("1"), 0),
			os.WriteFile("/proc/sys/net/ipv6/conf/eth1/disable_ipv6", []byte("1"), 0))
	})
	await(t, 5*time.Second, "eth0 to have its own IPv6 address", func() bool {
		return strings.Contains(n.ip(n.net.Box, "-6", "addr", "show", "eth0"), "fe80") && !strings.Contains(n.ip(n.net.Box, "-6", "addr", "show", "eth0"), "tentative")
	})
	before := n.links()

	n.up()
	for _, nic := range network.NICs {
		if reflect.DeepEqual(n.settings(nic), before[nic]) {
			t.Errorf("%s in service is as it was: the test looks at the wrong things", nic)
		}
	}
	n.do("bringdown", "pci1/net0")
	n.unchanged(map[string]map[string]string{"eth1": before["eth1"]})
	n.do("bringup", "pci1/net0")
	n.wait("net0", "duplex")
	n.killAll()
	n.start()
	n.wait("net0", "duplex")
	n.stopNICs()
	n.unchanged(before)
}

// What cannot be is refused with a sentence, and nothing is changed.
func TestNICsThatCannotBe(t *testing.T) {
	t.Parallel()
	n := newNICBox(t)
	for _, link := range [][]string{
		{"link", "add", "br9", "type", "bridge"},
		{"tuntap", "add", "dev", "tap9", "mode", "tap"},
		{"link", "set", "eth0", "up"}, {"link", "set", "eth0", "down"}, // they have their queues now, which stay
		{"link", "set", "eth1", "up"}, {"link", "set", "eth1", "down"},
	} {
		n.ip(n.net.Box, link...)
	}
	for _, c := range []struct {
		name, pci1, extra string
		make, undo        string // ip's arguments
		says              []string
	}{
		{name: "the same NIC twice", pci1: "eth0", says: []string{"eth0"}},
		{name: "the same NIC by its MAC", pci1: fmt.Sprint(n.link(n.net.Box, "eth0")["address"]), says: []string{"eth0", "same NIC"}},
		{name: "no such NIC", pci1: "eth9", says: []string{"eth9", n.net.Box}},
		{name: "a NIC with an address of its own", pci1: "eth1", make: "addr add 198.51.100.1/24 dev eth1", undo: "addr flush dev eth1",
			says: []string{"eth1", "198.51.100.1"}},
		{name: "a NIC in a bridge", pci1: "eth1", make: "link set eth1 master br9", undo: "link set eth1 nomaster", says: []string{"eth1", "br9"}},
		{name: "an MTU that the NIC cannot take", pci1: "tap9", extra: "mtu = 65530\n", says: []string{"tap9", "65530"}},
		{name: "a target that is not on-link", pci1: "eth1", extra: "probe = [\"198.51.100.1\"]\n", says: []string{"198.51.100.1", "on-link"}},
		{name: "a face of somebody else's", pci1: "eth1", make: "link add net0 type bridge", undo: "link del net0", says: []string{"net0", "already"}},
		{name: "no such namespace", pci1: "eth1", extra: fmt.Sprintf("netns = %q\n", n.net.Box+"-none"), says: []string{n.net.Box + "-none"}},
		{name: "no such key", pci1: "eth1", extra: "updelya = \"1s\"\n", says: []string{"updelya", "updelay"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.make != "" {
				n.ip(n.net.Box, strings.Fields(c.make)...)
			}
			before := n.links()
			n.configureNICs("eth0", c.pci1, c.extra)
			sentence := n.refuseStart()
			says(t, sentence, append(c.says, "ft.toml:")...)
			t.Log(strings.TrimSpace(sentence))
			if left := n.processes(); len(left) > 0 {
				t.Errorf("processes %v run although ftd did not start", left)
			}
			n.unchanged(before)
			if c.undo != "" {
				n.ip(n.net.Box, strings.Fields(c.undo)...)
			}
		})
	}
	t.Run("without the right to change NICs", func(t *testing.T) {
		before := n.links()
		n.configureNICs("eth0", "eth1", "")
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		args := append([]string{"--bounding-set", "-net_admin", filepath.Join(binDir, "ftd")}, n.args()...)
		out, err := exec.CommandContext(ctx, "setpriv", args...).CombinedOutput()
		if err == nil {
			t.Error("ftd has started")
		}
		says(t, string(out), "CAP_NET_ADMIN")
		n.unchanged(before)
	})
}

// A NIC that has got something else to do while it was out does not come in; the way out
// is in the sentence.
func TestNICThatIsUsedElsewhereStaysOut(t *testing.T) {
	t.Parallel()
	n := newNICBox(t)
	n.up()
	n.ip(n.net.Box, "link", "add", "br9", "type", "bridge")
	for _, c := range []struct {
		make, undo string
		says       []string
	}{
		{"addr add 198.51.100.1/24 dev eth1", "addr flush dev eth1", []string{"eth1", "198.51.100.1"}},
		{"link set eth1 master br9", "link set eth1 nomaster", []string{"eth1", "br9"}},
	} {
		n.do("bringdown", "pci1/net0") // after the first round it is on its way in by itself
		n.ip(n.net.Box, strings.Fields(c.make)...)
		before := n.settings("eth1")
		sentence := n.refuse("bringup", "pci1/net0")
		says(t, sentence, c.says...)
		t.Log(strings.TrimSpace(sentence))
		n.wait("net0", "simplex")
		n.unchanged(map[string]map[string]string{"eth1": before})
		n.ip(n.net.Box, strings.Fields(c.undo)...)
	}
	n.wait("net0", "duplex")
}

// What an admin may ask for, and what not, while packets flow.
func TestNICAdmin(t *testing.T) {
	t.Parallel()
	n := newNICBox(t)
	n.up()
	udp := n.streams(1000)
	for _, to := range []drivers.Side{1, 0} {
		n.do("switch", "net0")
		n.awaitActive(to)
		udp.goOn(50)
	}

	for _, id := range []string{"pci1/net0", "pci0/net0", "pci0", "pci1"} {
		out := drivers.Side(id[3] - '0')
		n.do("bringdown", id)
		n.awaitActive(out.Other())
		n.wait(fmt.Sprintf("pci%d/net0", out), "offline")
		n.wait("net0", "simplex")
		last := fmt.Sprintf("pci%d/net0", out.Other())
		says(t, n.refuse("bringdown", last), "last", "--accept-risk=last-side")
		n.refuse("switch", "net0")
		udp.goOn(50)
		n.do("bringup", id)
		n.wait("net0", "duplex")
	}

	for _, f := range []struct{ fault, state, end string }{
		{"cable-pull", "shot", "cable-return"},
		{"cable-pull", "shot", "clear"},
		{"silent-path", "shot", "clear"},
		{"remove", "removed", "return"},
		{"remove", "removed", "clear"},
	} {
		at := n.active()
		id := fmt.Sprintf("pci%d/net0", at)
		n.do("inject", id, f.fault)
		n.awaitActive(at.Other())
		n.wait(id, f.state)
		udp.goOn(50)
		n.do("inject", id, f.end)
		n.wait("net0", "duplex")
		udp.goOn(50)
	}
	at := n.active()
	n.do("inject", fmt.Sprintf("pci%d/net0", at), "flap", "3")
	n.awaitActive(at.Other())
	n.wait("net0", "duplex")
	n.refuse("inject", "pci0/net0", "hang") // a leg's

	udp.stop(t)

	// The last side may go when somebody names the risk.
	n.do("bringdown", "pci0/net0")
	n.do("bringdown", "pci1/net0", "--accept-risk=last-side")
	n.wait("net0", "down")
	if f := n.face(); hasCarrier(f) || len(addresses(f)) != 2 {
		t.Errorf("the face without ports has carrier: %v, and the addresses %v", hasCarrier(f), addresses(f))
	}
	n.do("bringup", "pci0/net0")
	n.do("bringup", "pci1/net0")
	n.wait("net0", "duplex")
}

// What an admin took out stays out, over the restart of everything.
func TestNICBringdownOutlivesEverything(t *testing.T) {
	t.Parallel()
	n := newNICBox(t)
	n.up()
	n.do("bringdown", "pci0/net0")
	n.awaitActive(1)
	n.killAll()
	n.start()
	n.wait("net0", "simplex")
	n.wait("pci0/net0", "offline")
	if now := n.active(); now != 1 {
		t.Errorf("pci%d carries net0", now)
	}
	n.stop()
	n.start()
	n.wait("net0", "simplex")
	n.wait("pci0/net0", "offline")
	n.do("bringup", "pci0/net0")
	n.wait("net0", "duplex")
}
