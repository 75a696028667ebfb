package integration_test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ft/ftd/testbox/network"
)

// The network that a person is told to try: the peer reaches the face, also with a cable
// out.
func TestTestBoxNetwork(t *testing.T) {
	t.Parallel()
	b := newThrowaway(t)
	b.start()
	names, err := network.Of(filepath.Join(b.dir, "box"))
	if err != nil || len(names) != 3 {
		t.Fatalf("the box has the network namespaces %v (%v)", names, err)
	}
	suffix := strings.TrimPrefix(names[0], network.NamesWith("").Box)
	n := &nicBox{box: b.box, net: network.NamesWith(suffix)}
	says(t, b.out.String(), "ip netns exec "+n.net.Peer, "ip -n "+n.net.Switch+" link set port0 down", "switch net0")
	n.awaitFace()
	tcp := [2]*transfer{n.transfer(boxIP4), n.transfer(boxIP6)}
	for _, x := range tcp {
		x.goesOn()
	}
	n.pull(0)
	n.awaitActive(1)
	b.wait("pci0", "shot")
	for _, x := range tcp {
		x.goesOn()
	}
	n.plug(0)
	b.wait("box", "duplex")
	for _, x := range tcp {
		x.finish()
	}
	face := b.faceDevice()
	b.signal(unix.SIGINT)
	b.ends()
	b.leavesNothing(face)
}

// A namespace of the name that the box wants is somebody's: the box does not start, and
// nothing of it is left, while the namespace is.
func TestTestBoxLeavesNamespacesOfOthersAlone(t *testing.T) {
	t.Parallel()
	b := newThrowaway(t)
	b.start()
	mine, err := network.Of(filepath.Join(b.dir, "box"))
	if err != nil || len(mine) != 3 {
		t.Fatalf("the box has the network namespaces %v (%v)", mine, err)
	}
	face := b.faceDevice()
	b.signal(unix.SIGINT)
	b.ends()
	command(t, "ip", "netns", "add", mine[0])
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", mine[0]).Run() })
	out, err := testbox(filepath.Join(b.dir, "box"), "--guest", "none",
		"--socket", b.sock, "--dev-dir", filepath.Join(b.dir, "dev")).CombinedOutput()
	if err == nil {
		t.Fatalf("it started over a network namespace of nobody's:\n%s", out)
	}
	says(t, string(out), mine[0], "ip netns del")
	b.leavesNothing(face)
	command(t, "ip", "netns", "exec", mine[0], "true")
}
