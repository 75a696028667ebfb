package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ft/drivers/netns"
)

// The network is a veth between two namespaces: a box, in which our host's program runs and
// on whose end the guest has its macvtap, and a peer. They have no names, and end with this
// process.
const (
	boxNIC, peerNIC = "eth0", "peer0"

	boxAddress   = "198.51.100.10" // RFC 5737
	guestAddress = "198.51.100.20"
	peerAddress  = "198.51.100.1"
	prefixLength = 24
	guestMAC     = "02:ff:00:00:00:20"
)

// veth is the network, by the paths of its namespaces.
type veth struct {
	box, peer string
	listener  *net.TCPListener
}

func (b *bench) network() (*veth, error) {
	var v veth
	for _, space := range []*string{&v.box, &v.peer} {
		fd, err := newNamespace()
		if err != nil {
			return nil, fmt.Errorf("make a network namespace: %w", err)
		}
		b.cleanup(func() error { return unix.Close(fd) })
		*space = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd)
	}
	if err := netns.Do(v.box, v.connect); err != nil {
		return nil, fmt.Errorf("make a veth: %w", err)
	}
	err := netns.Do(v.peer, func() (err error) {
		if err := upWith(peerNIC, peerAddress); err != nil {
			return err
		}
		v.listener, err = net.ListenTCP("tcp4", &net.TCPAddr{IP: net.ParseIP(peerAddress)})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen at the other end of a veth: %w", err)
	}
	b.cleanup(v.listener.Close)
	return &v, nil
}

// newNamespace makes a network namespace and returns a descriptor, which keeps it.
func newNamespace() (fd int, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		if err = unix.Unshare(unix.CLONE_NEWNET); err == nil {
			fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		}
	}()
	<-done
	return fd, err
}

// connect makes the veth, in the box.
func (v *veth) connect() error {
	far, err := os.Open(v.peer)
	if err != nil {
		return err
	}
	defer far.Close()
	la := netlink.NewLinkAttrs()
	la.Name = boxNIC
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: la, PeerName: peerNIC, PeerNamespace: netlink.NsFd(far.Fd())}); err != nil {
		return err
	}
	return upWith(boxNIC, boxAddress)
}

func upWith(nic, address string) error {
	l, err := netlink.LinkByName(nic)
	if err == nil {
		err = netlink.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(address).To4(), Mask: net.CIDRMask(prefixLength, 32)}})
	}
	if err == nil {
		err = netlink.LinkSetUp(l)
	}
	return err
}

// take and give are the peer's part in one command of package program: it takes all that
// comes, or gives so many bytes, and closes.
func take(c *net.TCPConn, bytes int64) error {
	n, err := io.Copy(io.Discard, c)
	if err == nil && n != bytes {
		err = fmt.Errorf("%d bytes of %d came", n, bytes)
	}
	return err
}

func give(c *net.TCPConn, bytes int64) error {
	buf := make([]byte, 64<<10)
	for left := bytes; left > 0; {
		n, err := c.Write(buf[:min(left, int64(len(buf)))])
		if left -= int64(n); err != nil {
			return err
		}
	}
	return nil
}

// streams are the rows of TCP, one connection.
var streams = []struct {
	name    string
	command string
	peer    func(*net.TCPConn, int64) error
}{
	{"TCP to the peer", "send", take},
	{"TCP from the peer", "receive", give},
}

// The host moves more, so that it takes time too.
const (
	guestStream = 96 << 20
	hostStream  = 8 * guestStream
)

// stream prints the row of a TCP connection from the host and from the guest.
func (b *bench) stream(name, command string, peer func(*net.TCPConn, int64) error, v *veth, here, there *computer) error {
	r := newRow(name, "MB/s")
	var steps series
	for range b.rounds {
		for i, c := range []*computer{here, there} {
			amount := int64(hostStream)
			if c == there {
				amount = guestStream
			}
			served := make(chan error, 1)
			go func() { served <- v.serve(peer, amount) }()
			_, took, err := c.do(fmt.Sprintf("%s %s %d", command, v.listener.Addr(), amount))
			if err != nil {
				return err
			}
			if err := <-served; err != nil {
				return fmt.Errorf("%s, the peer's end: %w", name, err)
			}
			r.add(i, float64(amount)/1e6/took.wall.Seconds())
			if c == there {
				steps = append(steps, float64(took.steps))
			}
		}
		r.compare(r.ratio(1, 0))
	}
	r.remark = fmt.Sprintf("%.2f steps a byte", steps.median()/guestStream)
	fmt.Println(r)
	return nil
}

// serve does the peer's part for one connection.
func (v *veth) serve(part func(*net.TCPConn, int64) error, bytes int64) error {
	c, err := v.listener.AcceptTCP()
	if err != nil {
		return err
	}
	return errors.Join(part(c, bytes), c.Close())
}
