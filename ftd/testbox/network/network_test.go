package network

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ft/drivers/netns"
)

// Each test has names of its own: there may be a test box on this machine.
func testNames(t *testing.T) (n Names, owner string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("network namespaces need root: sudo make test")
	}
	owner = t.TempDir()
	n = NamesWith(fmt.Sprintf("-t%d%s", os.Getpid(), strings.TrimPrefix(t.Name(), "Test")))
	t.Cleanup(func() {
		if _, err := Remove(owner, n.list()...); err != nil {
			t.Error(err)
		}
		for _, name := range n.list() {
			if _, err := os.Lstat(netns.Path(name)); err == nil {
				t.Errorf("%s is left", netns.Path(name))
			}
		}
	})
	return n, owner
}

func made(t *testing.T) (n Names, owner string) {
	t.Helper()
	n, owner = testNames(t)
	if err := Make(n, owner); err != nil {
		t.Fatal(err)
	}
	return n, owner
}

func ip(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited for %s", what)
		}
	}
}

// reaches says whether a datagram from the box's NIC arrives at the peer, of those sent in
// a time. A new carrier may take the kernel a second to send by (linkwatch).
func reaches(t *testing.T, n Names, within time.Duration) bool {
	t.Helper()
	var in, out *net.UDPConn
	err := errors.Join(
		netns.Do(n.Peer, func() (err error) {
			in, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1)})
			return err
		}),
		netns.Do(n.Box, func() (err error) {
			out, err = net.DialUDP("udp4", nil, in.LocalAddr().(*net.UDPAddr))
			return err
		}))
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	defer out.Close()
	buf := make([]byte, 16)
	for deadline := time.Now().Add(within); time.Now().Before(deadline); {
		_, _ = out.Write([]byte("hello"))
		_ = in.SetReadDeadline(time.Now().Add(25 * time.Millisecond))
		if k, err := in.Read(buf); err == nil && string(buf[:k]) == "hello" {
			return true
		}
	}
	return false
}

// The namespaces are ordinary ones for `ip`, and packets go from either NIC to the peer,
// until its cable is pulled.
func TestPacketsGoFromEitherNICToThePeer(t *testing.T) {
	n, _ := made(t)
	for side, nic := range NICs {
		ip(t, "-n", n.Box, "addr", "add", "192.0.2.10/24", "dev", nic)
		ip(t, "-n", n.Box, "link", "set", nic, "up")
		if !reaches(t, n, 10*time.Second) {
			t.Errorf("nothing arrives from %s", nic)
		}
		ip(t, "-n", n.Switch, "link", "set", Ports[side], "down")
		await(t, "the carrier of "+nic+" to go", func() bool { return strings.Contains(ip(t, "-n", n.Box, "link", "show", nic), "NO-CARRIER") })
		if reaches(t, n, 500*time.Millisecond) {
			t.Errorf("packets arrive from %s although its cable is pulled", nic)
		}
		ip(t, "-n", n.Box, "addr", "flush", "dev", nic)
		ip(t, "-n", n.Box, "link", "set", nic, "down")
	}
}

// A person enters them by name, as those that `ip netns add` has made.
func TestNamespacesAreEnteredByName(t *testing.T) {
	n, _ := made(t)
	out := ip(t, "netns", "exec", n.Peer, "ip", "-brief", "addr", "show", PeerNIC)
	for _, want := range []string{"192.0.2.1/24", "2001:db8::1/64"} {
		if !strings.Contains(out, want) {
			t.Errorf("the peer lacks %s:\n%s", want, out)
		}
	}
	out = ip(t, "-n", n.Switch, "-details", "link", "show", Bridge)
	for _, want := range []string{"forward_delay 0 ", "stp_state 0 ", "mcast_snooping 0 "} {
		if !strings.Contains(out, want) {
			t.Errorf("the switch lacks %q:\n%s", want, out)
		}
	}
	if out := ip(t, "-n", n.Switch, "-6", "addr"); out != "" {
		t.Errorf("the switch has IPv6 addresses:\n%s", out)
	}
	for _, port := range []string{Ports[0], Ports[1], PeerPort} {
		if out := ip(t, "-n", n.Switch, "-details", "link", "show", port); !strings.Contains(out, "master "+Bridge) {
			t.Errorf("%s is not in the switch:\n%s", port, out)
		}
	}
}

// The same box has the same NICs at each start, by their MACs; another box has others.
func TestNICsKeepTheirMACs(t *testing.T) {
	n, owner := made(t)
	macs := func() (s string) {
		for _, nic := range NICs {
			s += strings.Fields(ip(t, "-n", n.Box, "-brief", "link", "show", nic))[2] + " "
		}
		return s
	}
	before := macs()
	ip(t, "-n", n.Box, "link", "del", NICs[0])
	if err := MakeCable(n, owner, 0); err != nil {
		t.Fatal(err)
	}
	if after := macs(); after != before {
		t.Errorf("after the NIC was made again: %s, before %s", after, before)
	}
	if _, err := Remove(owner); err != nil {
		t.Fatal(err)
	}
	if err := Make(n, owner); err != nil {
		t.Fatal(err)
	}
	if after := macs(); after != before {
		t.Errorf("at the next start: %s, before %s", after, before)
	}
	if bytes.Equal(macOf(owner, "x"), macOf(owner+"2", "x")) || macOf(owner, "x")[0]&3 != 2 {
		t.Errorf("%s is no address of this box's own", macOf(owner, "x"))
	}
}

// What somebody else has made under one of the names is refused, by whose it is, and
// stays.
func TestNamespacesOfOthersAreLeftAlone(t *testing.T) {
	n, owner := testNames(t)
	ip(t, "netns", "add", n.Switch)
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", n.Switch).Run() })
	err := Make(n, owner)
	var taken *Taken
	if !errors.As(err, &taken) || taken.Name != n.Switch || taken.Owner != "" {
		t.Fatalf("over a namespace of nobody's: %v", err)
	}
	if _, err := Remove(owner, n.list()...); err != nil {
		t.Error(err)
	}
	ip(t, "-n", n.Switch, "link") // it is still there
	ip(t, "netns", "del", n.Switch)

	other := t.TempDir()
	if err := Make(n, other); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if _, err := Remove(other); err != nil {
			t.Error(err)
		}
	}()
	err = Make(n, owner)
	if !errors.As(err, &taken) || taken.Owner != other || !strings.Contains(err.Error(), "--testbox "+other+" --clean") {
		t.Fatalf("over the namespaces of the box in %s: %v", other, err)
	}
	if _, err := Remove(owner, n.list()...); err != nil {
		t.Error(err)
	}
	if left, err := Of(other); err != nil || len(left) != 3 {
		t.Errorf("of the other box's namespaces %v are left (%v)", left, err)
	}
}

// A crash may come between any two steps; what is there by then goes all the same.
func TestUnfinishedNetworkIsRemoved(t *testing.T) {
	n, owner := testNames(t)
	if err := prepareNames(); err != nil {
		t.Fatal(err)
	}
	if err := addNamespace(n.Box, markOf(owner), nil); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(netns.Path(n.Switch), nil, 0); err != nil { // made, not mounted
		t.Fatal(err)
	}
	if err := os.WriteFile(netns.Path(n.Peer), []byte("somebody's"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Remove(owner, n.list()...); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{n.Box: false, n.Switch: false, n.Peer: true} {
		if _, err := os.Lstat(netns.Path(name)); (err == nil) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := os.Remove(netns.Path(n.Peer)); err != nil {
		t.Error(err)
	}
}

// A shell that somebody left in a namespace is named; the links go nevertheless.
func TestProcessesInsideAreNamed(t *testing.T) {
	n, owner := made(t)
	cmd := exec.Command("ip", "netns", "exec", n.Peer, "cat")
	in, err := cmd.StdinPipe() // it ends when this is closed
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	reaped := make(chan struct{})
	go func() { defer close(reaped); _ = cmd.Wait() }()
	t.Cleanup(func() { in.Close(); <-reaped })
	await(t, "cat to be in "+n.Peer, func() bool {
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", cmd.Process.Pid))
		return string(comm) == "cat\n"
	})
	users, err := Remove(owner, n.list()...)
	if err != nil {
		t.Fatal(err)
	}
	if len(users) != 1 || users[0] != (User{n.Peer, cmd.Process.Pid, "cat"}) {
		t.Errorf("users: %v, want cat (%d) in %s", users, cmd.Process.Pid, n.Peer)
	}
	links, err := exec.Command("nsenter", fmt.Sprintf("--net=/proc/%d/ns/net", cmd.Process.Pid), "ip", "-brief", "link").CombinedOutput()
	if err != nil || strings.Contains(string(links), PeerNIC) {
		t.Errorf("in the removed %s there is still (%v):\n%s", n.Peer, err, links)
	}
}

// Nothing is left in the thread that made them: this process stays where it was.
func TestCallerStaysInItsNamespace(t *testing.T) {
	here := func() string {
		s, err := os.Readlink("/proc/thread-self/ns/net")
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	before := here()
	n, _ := made(t)
	for range 64 {
		if err := netns.Do(n.Box, func() error {
			if here() == before {
				return errors.New("it ran where it was")
			}
			return unix.Access(netns.Path(n.Box), unix.F_OK)
		}); err != nil {
			t.Fatal(err)
		}
		if now := here(); now != before {
			t.Fatalf("the caller is in %s, it was in %s", now, before)
		}
	}
}
