package integration_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"ft/bond/bondtest"
	"ft/drivers"
	"ft/ftd/testbox/network"
)

// lostMax is how many datagrams of a stream of 5 kHz may be lost, each way, for each time
// that the face goes over to another port: the kernel's bonding driver, which looks at its
// ports every 100 ms, loses ten times as many.
const lostMax = 50

// The whole of a box's bad day, while a TCP transfer and a 5 kHz stream in each direction
// go on: cables, a card, every process.
func TestNICFailsOverUnderTraffic(t *testing.T) {
	t.Parallel()
	n := newNICBox(t)
	seen := n.watchMACs()
	n.up()
	mac := fmt.Sprint(n.face()["address"])
	ifindex := fmt.Sprint(n.face()["ifindex"])
	storm := n.countFlood()
	tcp := [2]*transfer{n.transfer(boxIP4), n.transfer(boxIP6)}
	udp := n.streams(5000)
	ports := []string{network.Ports[0]} // that the face has gone through
	goesOn := func() {
		t.Helper()
		udp.goOn(500)
		for _, x := range tcp {
			x.goesOn()
		}
	}
	over := func(to drivers.Side) { // it has gone over, and traffic goes on
		t.Helper()
		n.awaitActive(to)
		ports = append(ports, network.Ports[to])
		goesOn()
	}
	goesOn()

	for _, s := range []drivers.Side{0, 1} {
		n.pull(s)
		over(s.Other())
		n.wait("net0", "simplex")
		n.plug(s)
		n.wait("net0", "duplex")
		goesOn()
	}

	n.deleteNIC(0)
	over(1)
	n.wait("pci0/net0", "removed")
	n.makeNIC(0)
	n.wait("net0", "duplex")
	goesOn()

	n.killFtd()
	goesOn()
	n.start()
	n.wait("net0", "duplex")

	driver := n.netPid()
	n.kill(driver)
	goesOn()
	n.awaitSuccessor("net0", driver)
	n.wait("net0", "duplex")
	if now := n.active(); now != 1 {
		t.Errorf("the successor of the driver carries net0 on pci%d, not on pci1 as before", now)
	}

	// Nobody is left but the kernel, and a cable goes.
	n.killAll()
	goesOn()
	n.pull(1)
	ports = append(ports, network.Ports[0])
	goesOn()
	n.start()
	n.wait("net0", "simplex")
	if now := n.active(); now != 0 {
		t.Errorf("net0 was adopted on pci%d, the kernel had turned to pci0", now)
	}
	n.plug(1)
	n.wait("net0", "duplex")
	goesOn()

	n.do("switch", "net0")
	over(1)

	for _, x := range tcp {
		x.finish()
	}
	turns := len(ports) - 1
	for i, r := range udp.stop(t) {
		if r.Lost > lostMax*turns {
			t.Errorf("UDP %v: %d lost at %d failovers, more than %d", bondtest.Direction(i), r.Lost, turns, lostMax*turns)
		}
	}
	storm.check()
	seen.check(t, mac, ports...)
	if now := fmt.Sprint(n.face()["ifindex"]); now != ifindex {
		t.Errorf("the face was made anew: interface %s, was %s", now, ifindex)
	}
	n.stopNICs()
}

// An interface that stands on the face (a container's, a virtual machine's) goes over with
// it, under a MAC of its own; and while it is there the face is not taken away.
func TestNICChildGoesOverToo(t *testing.T) {
	t.Parallel()
	const childIP = "192.0.2.20"
	n := newNICBox(t)
	seen := n.watchMACs()
	n.up()
	// It lives where there is nothing else with an address.
	n.ip(n.net.Box, "link", "add", "child", "link", "net0", "netns", n.net.Switch, "type", "macvlan", "mode", "bridge")
	n.ip(n.net.Switch, "address", "add", childIP+"/24", "dev", "child")
	n.ip(n.net.Switch, "link", "set", "child", "up")
	mac := fmt.Sprint(n.link(n.net.Switch, "child")["address"])
	tcp := n.transferTo(n.net.Switch, childIP)
	tcp.goesOn()
	for _, s := range []drivers.Side{0, 1} {
		n.pull(s)
		n.awaitActive(s.Other())
		tcp.goesOn()
		n.plug(s)
		n.wait("net0", "duplex")
		tcp.goesOn()
	}
	tcp.finish()
	seen.check(t, mac, network.Ports[0], network.Ports[1], network.Ports[0])
	n.ip(n.net.Switch, "link", "set", "child", "netns", n.net.Box)
	says(t, n.refuse("bringdown", "net0", "--accept-risk=last-side"), "child")
	n.ip(n.net.Box, "link", "del", "child")
	n.stopNICs()
}

// With both cables out the face shows no carrier and keeps its addresses; the first one
// back carries traffic within the up-delay.
func TestNICBothCablesOut(t *testing.T) {
	t.Parallel()
	const updelay = 5 * time.Second
	n := newNICBox(t)
	n.configureNICs("eth0", "eth1", fmt.Sprintf("updelay = %q\n", updelay))
	n.up()
	before := addresses(n.face())
	if len(before) != 2 {
		t.Fatalf("the face has the addresses %v", before)
	}
	tcp := n.transfer(boxIP4)
	in := n.stream(bondtest.FromPeer, 1000)
	in.WaitArrived(100, 5*time.Second)
	n.pull(0)
	n.awaitActive(1)
	n.pull(1)
	n.wait("net0", "down")
	n.awaitActive(drivers.Whole)
	if f := n.face(); hasCarrier(f) || !reflect.DeepEqual(addresses(f), before) {
		t.Errorf("both cables are out, and the face has carrier: %v, addresses: %v, before %v", hasCarrier(f), addresses(f), before)
	}

	// The one that went first comes back first. ip ends after the carrier is there.
	n.plug(0)
	back := time.Now()
	in.WaitArrived(1, 10*time.Second)
	if took := time.Since(back); took > updelay {
		t.Errorf("the first cable back carried traffic after %s, the up-delay is %s", took, updelay)
	} else {
		t.Logf("the first cable back carried traffic after %s", took)
	}
	n.wait("net0", "simplex")
	if !hasCarrier(n.face()) {
		t.Error("a cable is back, and the face shows no carrier")
	}
	tcp.goesOn()
	n.plug(1)
	n.wait("net0", "duplex")
	tcp.finish()
	if r := in.Stop(); r.Duplicated > 0 {
		t.Errorf("UDP from the peer: %v", r)
	}
}

// A path that dies behind the switch, with the carrier up, is left within the probe
// interval times the allowed misses, and only for one that is known to be good.
func TestNICSilentPath(t *testing.T) {
	t.Parallel()
	const (
		limit = 3 * 100 * time.Millisecond // the defaults: probe_misses times probe_interval
		late  = 700 * time.Millisecond     // the interval that the path died in, and a busy machine
	)
	n := newNICBox(t)
	n.up()
	n.awaitPath(0, "good")
	n.awaitPath(1, "good")
	udp := n.streams(1000)
	udp.goOn(100)
	n.silence(0)
	n.awaitActive(1)
	n.wait("pci0/net0", "shot")
	udp.goOn(100)
	for i, r := range udp.stop(t) {
		if r.LongestGap > limit+late {
			t.Errorf("UDP %v: a gap of %s; the path must be left within %s", bondtest.Direction(i), r.LongestGap, limit)
		}
	}

	// Now the standby's path is dead: the active one's may die too, and nobody moves.
	before := n.switches()
	n.silence(1)
	n.awaitPath(1, "dead")
	if now := n.active(); now != 1 || n.switches() != before {
		t.Errorf("both paths are dead, and net0 went over to pci%d (%d times)", now, n.switches()-before)
	}
	n.restore(1)
	n.awaitPath(1, "good")
	n.restore(0)
	n.wait("net0", "duplex")

	// The target itself dies: no path answers, and nobody moves.
	before = n.switches()
	n.ip(n.net.Switch, "link", "set", network.PeerPort, "down")
	n.awaitPath(0, "dead")
	n.awaitPath(1, "dead")
	n.ip(n.net.Switch, "link", "set", network.PeerPort, "up")
	n.awaitPath(0, "good")
	n.awaitPath(1, "good")
	n.wait("net0", "duplex")
	if now := n.active(); now != 1 || n.switches() != before {
		t.Errorf("the target of the probes died, and net0 went over %d times, to pci%d", n.switches()-before, now)
	}
}

// A cable that flaps a hundred times, with its port always wanted back at once: the
// damping allows five losses, and says once that it holds the port back.
func TestNICFlapStorm(t *testing.T) {
	t.Parallel()
	const flaps, forgiven = 100, 5
	n := newNICBox(t)
	n.configureNICs("eth0", "eth1", "updelay = \"0ms\"\nreselect = \"always\"\nflap_hold = \"3s\"\n")
	n.up()
	out := n.stream(bondtest.ToPeer, 1000)
	out.WaitArrived(100, 5*time.Second)
	since, before := n.lastEvent(), n.counter("failovers")
	for range flaps {
		n.pull(0)
		n.plug(0)
	}
	n.wait("pci0/net0", "shot")
	n.awaitActive(1)
	// On a loaded machine a flap lasts long enough for probes to be missed: a path that is
	// left as dead in between is no loss of carrier, and is not counted by damping.
	if turns := n.counter("failovers") - before; turns < 1 || turns > 2*(forgiven+1) {
		t.Errorf("%d flaps led to %d failovers, damping allows %d losses", flaps, turns, forgiven+1)
	}
	n.wait("net0", "duplex") // by itself, when it has been quiet
	n.awaitActive(0)
	told := 0
	for _, ev := range n.events(since) {
		// The port may be out of service already when it is said. What ftd will do about it is
		// said after it.
		if ev.ID == "pci0/net0" && strings.Contains(ev.Reason, "flaps") && strings.HasSuffix(ev.Reason, "quiet for 3s") {
			t.Logf("event %d: %s → %s %s", ev.Seq, ev.From, ev.To, ev.Reason)
			told++
		}
	}
	if told != 1 {
		t.Errorf("%d events say that it flaps, want one", told)
	}
	r := out.Stop()
	t.Logf("UDP to the peer: %v", r)
	if r.Duplicated > 0 || r.Lost > 1000 {
		t.Errorf("UDP to the peer: %v", r)
	}
}
