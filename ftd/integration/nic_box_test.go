package integration_test

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"ft/bond"
	"ft/bond/datapath/tcx"
	"ft/drivers"
	"ft/drivers/netns"
	"ft/ftd/api"
	"ft/ftd/testbox/network"
)

// nicBox is a box whose net0 runs over two NICs, in namespaces that nobody else has. It
// answers to the same helpers as any other.
//
//	box: eth0 ─── port0 ┐
//	                    ├ br0 (switch) ── peer ─── eth0 (peer: 192.0.2.1, 2001:db8::1)
//	box: eth1 ─── port1 ┘
//
// Cables, paths and NICs are pulled as a person would: at the switch, with ip.
type nicBox struct {
	*box
	net network.Names
}

const (
	boxIP4, boxIP6   = "192.0.2.10", "2001:db8::10"
	peerIP4, peerIP6 = "192.0.2.1", "2001:db8::1"
)

var nicBoxes atomic.Int64

// nicBoxName has what tells this test process's boxes from others'.
var nicBoxName = regexp.MustCompile(`^` + network.NamesWith("").Box + `(-i(\d+)-\d+)$`)

func nicBoxDir(suffix string) string { return filepath.Join(os.TempDir(), "ft"+suffix) }

// newNICBox makes the network, and a box on it with a configuration. Nothing runs yet.
func newNICBox(t *testing.T) *nicBox {
	t.Helper()
	suffix := fmt.Sprintf("-i%d-%d", os.Getpid(), nicBoxes.Add(1))
	dir := nicBoxDir(suffix)
	n := &nicBox{net: network.NamesWith(suffix)}
	t.Cleanup(func() { // after the box is gone
		if err := removeNICBox(dir); err != nil {
			t.Error(err)
		}
	})
	if err := network.Make(n.net, dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	n.box = boxIn(t, dir)
	t.Cleanup(func() { // before the box is removed
		if t.Failed() {
			n.showKernel()
		}
	})
	n.configureNICs("eth0", "eth1", "")
	return n
}

// removeNICBox removes what a box of a directory has outside it, whatever runs.
func removeNICBox(dir string) error {
	if _, err := network.Remove(dir); err != nil {
		return err
	}
	return tcx.Unpin(pinKey(dir))
}

func pinKey(dir string) string { return bond.Key(filepath.Join(dir, "run"), "net0") }

// removeLeftNICBoxes cleans up after test processes that were killed.
func removeLeftNICBoxes() {
	names, _ := os.ReadDir(netns.Path(""))
	for _, name := range names {
		m := nicBoxName.FindStringSubmatch(name.Name())
		if m == nil {
			continue
		}
		if _, err := os.Stat("/proc/" + m[2]); err == nil {
			continue // it runs
		}
		dir := nicBoxDir(m[1])
		pids, _ := processesOf(dir)
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		if err := removeNICBox(dir); err != nil {
			fmt.Fprintln(os.Stderr, "clean up after a test that was killed:", err)
		}
		_ = os.RemoveAll(dir)
	}
}

// showKernel logs what the kernel does with packets by now.
func (n *nicBox) showKernel() {
	for _, args := range [][]string{
		{"ip", "-n", n.net.Box, "-s", "address"},
		{"ip", "-n", n.net.Switch, "-s", "link"},
		{"bridge", "-n", n.net.Switch, "fdb"},
		{"ip", "-n", n.net.Peer, "neigh"},
	} {
		out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
		n.t.Logf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	m, err := ebpf.LoadPinnedMap("/sys/fs/bpf/ft/"+pinKey(n.dir)+"/state", nil)
	if err != nil {
		n.t.Logf("there is no pinned state: %v", err)
		return
	}
	defer m.Close()
	state, err := m.LookupBytes(uint32(0))
	n.t.Logf("the pinned state: %v\n%s", err, hex.Dump(state))
}

// configureNICs writes ft.toml; extra goes to the end of the NIC's table, and takes the
// place of what it sets.
func (n *nicBox) configureNICs(pci0, pci1, extra string) {
	n.t.Helper()
	text := "[system]\nname = \"box\"\ndrills = true\n\n[mtbf]\npolicy = \"always\"\n\n[[nic]]\nname = \"net0\"\n"
	for _, key := range []string{
		fmt.Sprintf("pci0 = %q", pci0),
		fmt.Sprintf("pci1 = %q", pci1),
		fmt.Sprintf("netns = %q", n.net.Box),
		fmt.Sprintf("addresses = [%q, %q]", boxIP4+"/24", boxIP6+"/64"),
		fmt.Sprintf("probe = [%q]", peerIP4),
	} {
		if word, _, _ := strings.Cut(key, " "); !strings.Contains("\n"+extra, "\n"+word+" =") {
			text += key + "\n"
		}
	}
	if err := os.WriteFile(filepath.Join(n.dir, "ft.toml"), []byte(text+extra), 0o600); err != nil {
		n.t.Fatal(err)
	}
}

// up starts the box and waits until its face can be spoken to.
func (n *nicBox) up() {
	n.t.Helper()
	n.start()
	n.awaitFace()
}

// awaitFace waits for both ports, and for the addresses of a new face to be its own: the
// kernel asks the network first (duplicate address detection).
func (n *nicBox) awaitFace() {
	n.t.Helper()
	n.wait("net0", "duplex")
	await(n.t, 10*time.Second, "the face's addresses", func() bool {
		return len(addresses(n.face())) == 2 && !strings.Contains(n.ip(n.net.Box, "address", "show", "net0"), "tentative")
	})
}

func (n *nicBox) ip(namespace string, args ...string) string {
	n.t.Helper()
	return command(n.t, "ip", append([]string{"-n", namespace}, args...)...)
}

// pull takes the carrier of a side's NIC away, and plug gives it back.
func (n *nicBox) pull(s drivers.Side) {
	n.t.Helper()
	n.ip(n.net.Switch, "link", "set", network.Ports[s], "down")
}

func (n *nicBox) plug(s drivers.Side) {
	n.t.Helper()
	n.ip(n.net.Switch, "link", "set", network.Ports[s], "up")
}

// silence cuts the path behind a side's port, with the carrier up, and restore mends it.
func (n *nicBox) silence(s drivers.Side) {
	n.t.Helper()
	n.ip(n.net.Switch, "link", "set", network.Ports[s], "nomaster")
}

func (n *nicBox) restore(s drivers.Side) {
	n.t.Helper()
	n.ip(n.net.Switch, "link", "set", network.Ports[s], "master", network.Bridge)
}

// deleteNIC and makeNIC: the card is pulled, and put back.
func (n *nicBox) deleteNIC(s drivers.Side) {
	n.t.Helper()
	n.ip(n.net.Box, "link", "del", network.NICs[s])
}

func (n *nicBox) makeNIC(s drivers.Side) {
	n.t.Helper()
	if err := network.MakeCable(n.net, n.dir, int(s)); err != nil {
		n.t.Fatal(err)
	}
}

// active is the side that carries the face, drivers.Whole when none does.
func (n *nicBox) active() drivers.Side {
	n.t.Helper()
	st, err := n.statusNow()
	if err != nil {
		n.t.Fatal(err)
	}
	return activeIn(st)
}

func activeIn(st api.Status) drivers.Side {
	for _, d := range st.Devices {
		for i, s := range d.Sides {
			if d.ID == "net0" && s.Active {
				return drivers.Side(i)
			}
		}
	}
	return drivers.Whole
}

func (n *nicBox) awaitActive(want drivers.Side) {
	n.t.Helper()
	await(n.t, 10*time.Second, fmt.Sprintf("pci%d to carry net0", want), func() bool { return n.active() == want })
}

// counter is one of the numbers in the driver's statistics.
func (n *nicBox) counter(name string) int {
	n.t.Helper()
	stats := n.stats("net0")
	v, ok := stats[name].(float64)
	if !ok {
		n.t.Fatalf("net0 has no counter %s: %v", name, stats)
	}
	return int(v)
}

// switches are all changes of the active port since the driver's start.
func (n *nicBox) switches() int {
	n.t.Helper()
	return n.counter("failovers") + n.counter("switches")
}

// path is what the probes say of a side's path.
func (n *nicBox) path(s drivers.Side) string {
	n.t.Helper()
	side, _ := n.stats("net0")[fmt.Sprintf("pci%d", s)].(map[string]any)
	word, _ := side["path"].(string)
	return word
}

func (n *nicBox) awaitPath(s drivers.Side, want string) {
	n.t.Helper()
	await(n.t, 10*time.Second, fmt.Sprintf("the path of pci%d to be %s", s, want), func() bool { return n.path(s) == want })
}

// events are those after a number.
func (n *nicBox) events(since uint64) (events []api.Event) {
	n.t.Helper()
	for line := range strings.Lines(n.do("--json", "events", "--since", fmt.Sprint(since))) {
		var ev api.Event
		if err := json.Unmarshal([]byte(line), &ev); err != nil {
			n.t.Fatalf("%v: %s", err, line)
		}
		if ev.ID != "" {
			events = append(events, ev)
		}
	}
	return events
}

// lastEvent is the number of the latest event.
func (n *nicBox) lastEvent() uint64 { n.t.Helper(); return n.status().System.Seq }

// link is an interface in a namespace as ip prints it, nil when there is none.
func (n *nicBox) link(namespace, name string) map[string]any {
	n.t.Helper()
	var links []map[string]any
	if err := json.Unmarshal([]byte(n.ip(namespace, "-details", "-json", "address", "show")), &links); err != nil {
		n.t.Fatal(err)
	}
	for _, l := range links {
		if l["ifname"] == name {
			return l
		}
	}
	return nil
}

func (n *nicBox) face() map[string]any {
	n.t.Helper()
	l := n.link(n.net.Box, "net0")
	if l == nil {
		n.t.Fatal("there is no net0")
	}
	return l
}

func hasCarrier(link map[string]any) bool {
	flags, _ := link["flags"].([]any)
	return slices.Contains(flags, any("LOWER_UP"))
}

// addresses of an interface, without the link-local ones.
func addresses(link map[string]any) (list []string) {
	infos, _ := link["addr_info"].([]any)
	for _, info := range infos {
		if a, _ := info.(map[string]any); a["scope"] == "global" {
			list = append(list, fmt.Sprintf("%v/%v", a["local"], a["prefixlen"]))
		}
	}
	return list
}

// stopNICs ends the box cleanly and checks that nothing of it is left.
func (n *nicBox) stopNICs() {
	n.t.Helper()
	n.stop()
	if l := n.link(n.net.Box, "net0"); l != nil {
		n.t.Errorf("net0 is left: %v", l)
	}
	pins, err := tcx.Pins()
	if err != nil || slices.Contains(pins, pinKey(n.dir)) {
		n.t.Errorf("its programs are left pinned (%v)", err)
	}
}

// kill ends one of the box's processes, as nothing of its own would.
func (n *nicBox) kill(pid int) {
	n.t.Helper()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		n.t.Fatal(err)
	}
}

func (n *nicBox) netPid() int { n.t.Helper(); return n.processOf("net0").Pid }
