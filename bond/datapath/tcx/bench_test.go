package tcx

import (
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ft/bond/bondtest"
)

// BenchmarkPacket compares a datagram through the face with one through a plain veth to
// the same switch and peer, in turns, so that what else the machine does is shared out
// evenly. On veth the sender's thread carries a packet all the way to the receiving
// socket: its CPU time is the cost of the path. Nobody reads there, all are dropped at
// the end. "of-plain" is the face's packets a second over the plain veth's.
func BenchmarkPacket(b *testing.B) {
	r := newRig(b)
	plainVeth(r)
	for _, way := range []struct {
		name     string
		from, to bondtest.Place
		face     [2]string // addresses from, to
		plain    [2]string
	}{
		{"out", bondtest.Box, bondtest.Peer, [2]string{bondtest.BoxIP4, bondtest.PeerIP4}, [2]string{plainBox, plainPeer}},
		{"in", bondtest.Peer, bondtest.Box, [2]string{bondtest.PeerIP4, bondtest.BoxIP4}, [2]string{plainPeer, plainBox}},
	} {
		b.Run(way.name, func(b *testing.B) {
			face := flow(b, r, way.from, way.to, way.face)
			plain := flow(b, r, way.from, way.to, way.plain)
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			const chunk = 100
			var cost [2]time.Duration
			b.ResetTimer()
			for sent := 0; sent < b.N; sent += chunk {
				for i, fd := range []int{face, plain} {
					began := threadTime(b)
					for range chunk {
						if _, err := unix.Write(fd, payload[:]); err != nil {
							b.Fatal(err)
						}
					}
					cost[i] += threadTime(b) - began
				}
			}
			n := float64((b.N + chunk - 1) / chunk * chunk)
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(cost[0])/n, "face-ns/packet")
			b.ReportMetric(float64(cost[1])/n, "plain-ns/packet")
			b.ReportMetric(float64(cost[1])/float64(cost[0]), "of-plain")
		})
	}
}

var payload [16]byte

// Addresses of the plain veth (RFC 5737).
const (
	plainBox  = "198.51.100.10"
	plainPeer = "198.51.100.1"
)

// plainVeth is a third NIC in the box, on the same switch.
func plainVeth(r *rig) {
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		r.t.Fatal(err)
	}
	defer own.Close()
	here := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), own.Fd())
	for _, args := range [][]string{
		{"link", "add", "port9", "type", "veth", "peer", "name", "eth9"},
		{"link", "set", "port9", "master", bondtest.Bridge, "up"},
		{"link", "set", "eth9", "netns", here},
	} {
		if out, err := r.SwitchCommand("ip", args...).CombinedOutput(); err != nil {
			r.t.Fatalf("ip %v: %v: %s", args, err, out)
		}
	}
	r.t.Cleanup(func() { r.run("ip", "link", "del", "eth9") })
	r.run("ip", "addr", "add", plainBox+"/24", "dev", "eth9")
	r.run("ip", "link", "set", "eth9", "up")
	if out, err := r.PeerCommand("ip", "addr", "add", plainPeer+"/24", "dev", bondtest.PeerNIC).CombinedOutput(); err != nil {
		r.t.Fatalf("%v: %s", err, out)
	}
}

// flow is a connected UDP socket whose datagrams arrive.
func flow(b *testing.B, r *rig, from, to bondtest.Place, addr [2]string) int {
	b.Helper()
	src := &unix.SockaddrInet4{Addr: netip.MustParseAddr(addr[0]).As4()}
	dst := &unix.SockaddrInet4{Addr: netip.MustParseAddr(addr[1]).As4(), Port: 4000}
	udp := func(p bondtest.Place, local unix.Sockaddr) (fd int) {
		r.In(p, func() {
			var err error
			if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err == nil {
				err = unix.Bind(fd, local)
			}
			if err != nil {
				b.Error(err)
			}
		})
		b.Cleanup(func() { unix.Close(fd) })
		return fd
	}
	in, out := udp(to, dst), udp(from, src)
	if err := unix.Connect(out, dst); err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 64)
	bondtest.WaitFor(b, "a datagram has arrived", 10*time.Second, func() bool {
		if _, err := unix.Write(out, payload[:]); err != nil {
			b.Fatal(err)
		}
		_, _, err := unix.Recvfrom(in, buf, unix.MSG_DONTWAIT)
		return err == nil
	})
	return out
}

func threadTime(b *testing.B) time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		b.Fatal(err)
	}
	return time.Duration(ts.Nano())
}
