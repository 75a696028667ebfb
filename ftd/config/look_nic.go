package config

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"ft/bond/nic"
	"ft/drivers/netns"
)

// LookAtNIC is the look at a real machine, for Check. It changes nothing. Links are asked
// for in the namespace that they are in, on a thread of its own.
func LookAtNIC(n NIC) (found Found, err error) {
	err = netns.Do(n.Netns, func() error {
		var here unix.Stat_t
		if err := unix.Stat("/proc/thread-self/ns/net", &here); err != nil {
			return fmt.Errorf("look at the network namespace of %s: %w", n.Name, err)
		}
		found.Namespace = fmt.Sprintf("%d:%d", here.Dev, here.Ino)
		for i, p := range n.Ports {
			if p.NIC != "" {
				found.Ports[i] = lookAtPort(p, n.Name)
			}
		}
		found.Face, err = foreignFace(n.Name)
		return err
	})
	return found, err
}

func lookAtPort(p Port, face string) FoundPort {
	l, err := nic.Find(p.NIC)
	if err != nil {
		return FoundPort{Err: err}
	}
	slot, _, _ := strings.Cut(l.PCI, ".") // less the function
	return FoundPort{Index: l.Index, Name: l.Name, Slot: slot, MTUMax: l.MaxMTU, Unfit: nic.Unfit(l, face)}
}

// faceMark begins the alias of every face (bond/datapath/pair). Whose it is, its driver
// sees more exactly when it starts.
const faceMark = "ft "

// foreignFace describes an interface that has a face's name and is no face, or is "".
func foreignFace(name string) (string, error) {
	l, err := nic.ByName(name)
	switch {
	case errors.Is(err, nic.ErrNone) || err == nil && strings.HasPrefix(l.Alias, faceMark):
		return "", nil
	case err != nil:
		return "", err
	}
	kind := l.Kind
	if kind == "" {
		kind = "interface"
	}
	return fmt.Sprintf("a %s %s", kind, name), nil
}

// netAdmin looks at the rights of this process (capabilities(7)).
func netAdmin() error {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return fmt.Errorf("read its capabilities: %w", err)
	}
	if data[0].Effective&(1<<unix.CAP_NET_ADMIN) == 0 {
		return errors.New("CAP_NET_ADMIN is missing")
	}
	return nil
}
