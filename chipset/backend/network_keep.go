package backend

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// The keeper of a network interface: it looks whenever the kernel says that something about
// links has changed, finds out how the interface is, and makes it again when it has gone.
// What the kernel says is a doorbell only: messages may be lost, and looking is what counts.

// lookEvery is between two looks that nobody asked for.
const lookEvery = 2 * time.Second

// openBell is a netlink socket to which the kernel writes at every change of a link.
func openBell() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: unix.RTMGRP_LINK}); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "netlink"), nil
}

// hear wakes the keeper at each message; also when some were lost (ENOBUFS).
func (n *Network) hear(bell *os.File) {
	defer n.done.Done()
	buf := make([]byte, 64<<10)
	for {
		_, err := bell.Read(buf)
		if errors.Is(err, os.ErrClosed) {
			return
		}
		n.wake()
	}
}

// keep looks after the interface.
func (n *Network) keep(bell *os.File) {
	defer n.done.Done()
	defer bell.Close()
	t := time.NewTicker(lookEvery)
	defer t.Stop()
	for {
		select {
		case <-n.quit:
			return
		case <-n.look:
		case <-t.C:
		}
		n.settle()
	}
}

// settle makes things what they should be, as far as that is possible now.
func (n *Network) settle() {
	p := n.port.Load()
	if p != nil && !p.there() {
		n.lose(p)
		p = nil
	}
	if p == nil {
		var err error
		if p, err = n.attach(); err != nil {
			n.become(false, err.Error())
			return
		}
		n.take(p)
	}
	if want := n.want.Load(); p.set.Load() != want {
		p.setOffloads(want)
	}
	n.become(p.carrier())
}

// take begins to use a port. Close may have come meanwhile.
func (n *Network) take(p *port) {
	p.setOffloads(n.want.Load())
	n.port.Store(p)
	n.done.Add(1)
	go n.read(p)
	select {
	case <-n.quit:
		_ = p.file.SetDeadline(time.Unix(1, 0))
	default:
	}
}

// lose ends the use of a port whose interface has gone.
func (n *Network) lose(p *port) {
	n.port.Store(nil)
	p.file.Close()
	n.stats.losses.Add(1)
	n.become(false, fmt.Sprintf("%s has vanished", p.name))
}

// become reports a change of the link.
func (n *Network) become(up bool, reason string) {
	n.mu.Lock()
	changed := n.up != up
	n.up, n.reason = up, reason
	n.mu.Unlock()
	if changed && n.cfg.Carrier != nil {
		n.cfg.Carrier(up)
	}
}
