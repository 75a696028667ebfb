package config

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"ft/bond/nic"
	"ft/drivers"
	"ft/drivers/netns"
)

// namespace makes a network namespace, has commands run in it, and returns its path. It
// lasts as long as the test.
func namespace(t *testing.T, commands ...string) string {
	t.Helper()
	path, hold := make(chan string), make(chan struct{})
	t.Cleanup(func() { close(hold) })
	go func() {
		runtime.LockOSThread() // thrown away, and the namespace with it
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Errorf("make a network namespace: %v", err)
		}
		for _, c := range commands {
			if out, err := exec.Command("ip", strings.Fields(c)...).CombinedOutput(); err != nil {
				t.Errorf("ip %s: %v: %s", c, err, out)
			}
		}
		path <- fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid())
		<-hold
	}()
	return <-path
}

// oneNIC is a file whose ports stand in lines 4 and 5.
func oneNIC(ns, pci0, pci1, more string) string {
	return fmt.Sprintf("[[nic]]\nname = \"net0\"\nnetns = %q\npci0 = %q\npci1 = %q\n%s", ns, pci0, pci1, more)
}

func TestTheNICsOfThisHost(t *testing.T) {
	ns := namespace(t,
		"link add eth0 address 02:00:00:00:01:00 type veth peer name p0",
		"link add eth1 address 02:00:00:00:01:01 type veth peer name p1",
		"link property add dev eth1 altname left-port",
		"link add busy type veth peer name p2",
		"addr add 192.0.2.99/24 dev busy",
		"link add br0 type bridge",
		"link add member master br0 type veth peer name p3",
		"link add face alias xyz type bridge")
	for _, c := range []struct {
		name, text string
		want       string // in what is said; "" for nothing
		absent     bool
	}{
		{"fit", oneNIC(ns, "eth0", "02:00:00:00:01:01", ""), "", false},
		{"absent", oneNIC(ns, "eth0", "eth7", ""), "f:5: there is no NIC eth7 in the network namespace " + ns + "; mend the name", true},
		{"absent, by its MAC", oneNIC(ns, "02:00:00:00:01:77", "eth1", ""), "f:4: there is no NIC 02:00:00:00:01:77", true},
		{"one NIC by name and MAC", oneNIC(ns, "eth1", "02:00:00:00:01:01", ""), "f:5: 02:00:00:00:01:01 is the same NIC (eth1) as pci0 of net0 (eth1, line 4); each port needs a NIC of its own", false},
		{"one NIC by two names", oneNIC(ns, "left-port", "eth1", ""), "f:5: eth1 is the same NIC (eth1) as pci0 of net0 (left-port, line 4)", false},
		{"one NIC in two faces", oneNIC(ns, "eth0", "eth1", "[[nic]]\nname = \"net1\"\nnetns = \""+ns+"\"\npci0 = \"left-port\"\n"), "f:9: left-port is the same NIC (eth1) as pci1 of net0 (eth1, line 5)", false},
		{"addresses of its own", oneNIC(ns, "eth0", "busy", ""), "f:5: busy has the address 192.0.2.99/24 of its own", false},
		{"in a bridge", oneNIC(ns, "member", "eth1", ""), "f:4: member is in the bridge br0", false},
		{"the loopback interface", oneNIC(ns, "lo", "eth1", ""), "f:4: lo is the loopback interface", false},
		{"the face's name is taken", strings.Replace(oneNIC(ns, "eth0", "eth1", ""), "net0", "face", 1), "f:1: there is a bridge face already, and it is not a face of ours; rename or delete it (ip link del face)", false},
		{"no such namespace", oneNIC("/run/netns/ft-none", "eth0", "eth1", ""), "f:1: the network namespace of net0 is not there: there is no /run/netns/ft-none; make it (ip netns add), or mend netns", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg, err := Parse("f", []byte(c.text))
			if err != nil {
				t.Fatal(err)
			}
			ps := Check(cfg, ThisHost)
			switch {
			case c.want == "" && len(ps) > 0:
				t.Fatal(ps)
			case c.want == "":
				return
			case len(ps) != 1 || !strings.HasPrefix(ps.Error(), c.want):
				t.Fatalf("got %v\nwant %s", ps, c.want)
			}
			if ps[0].Absent != c.absent || ps[0].Device == "" || ps[0].Advice {
				t.Errorf("%#v", ps[0])
			}
		})
	}
}

// What this host does not have is looked at by a stand-in.
func TestOtherHosts(t *testing.T) {
	found := Found{Namespace: "1", Ports: [2]FoundPort{
		{Index: 2, Name: "eth0", Slot: "0000:03:00", MTUMax: 9000},
		{Index: 3, Name: "eth1", Slot: "0000:03:00", MTUMax: 1500}}}
	host := Host{NIC: func(NIC) (Found, error) { return found, nil }, NetAdmin: func() error { return nil }}
	check := func(text string) string {
		t.Helper()
		cfg, err := Parse("f", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return Check(cfg, host).Error()
	}
	expect := func(got, want string) {
		t.Helper()
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("(-want +got)\n%s", d)
		}
	}
	const text = "[[nic]]\nname = \"net0\"\npci0 = \"eth0\"\npci1 = \"eth1\"\n"
	const card = "f:4: eth1 is on the same card (0000:03:00) as pci0 of net0 (eth0, line 3), so that both are lost together; use two cards where there are two"
	expect(check(text), card)
	expect(check(text+"mtu = 9000\n"), "f:4: eth1 cannot take mtu = 9000: its limit is 1500; set mtu = 1500 or less\n"+card)

	host.NetAdmin = func() error { return errors.New("CAP_NET_ADMIN is missing") }
	found.Ports[1] = FoundPort{Index: 3, Unfit: drivers.Refuse(drivers.RuleUnfit, "eth1 is in the team team0: take it out")}
	expect(check(text), "f:1: network interfaces cannot be changed by this process: CAP_NET_ADMIN is missing; run ftd as root, and in a service with CAP_NET_ADMIN in its CapabilityBoundingSet\n"+
		"f:4: eth1 is in the team team0: take it out; a port carries its face and nothing else")

	// Equal numbers in two namespaces are two NICs.
	host.NetAdmin = func() error { return nil }
	host.NIC = func(n NIC) (Found, error) {
		if n.Netns == "gone" {
			return Found{}, fmt.Errorf("look: %w", netns.ErrNone)
		}
		return Found{Namespace: n.Netns, Ports: [2]FoundPort{{Index: 2, Name: "eth0"}, {Err: fmt.Errorf("find: %w", nic.ErrNone)}}}, nil
	}
	expect(check("[[nic]]\nname = \"a\"\nnetns = \"a\"\npci0 = \"eth0\"\n[[nic]]\nname = \"b\"\nnetns = \"b\"\npci0 = \"eth0\"\n"), "")
}
