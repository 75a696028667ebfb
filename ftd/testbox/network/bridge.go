package network

import (
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"ft/drivers/netns"
)

// addBridge makes the switch and takes it up. The library has no fields for the spanning
// tree and the forward delay, so that the message is put together here (IFLA_BR_*,
// linux/if_link.h).
func (ns *namespace) addBridge(name string) (netlink.Link, error) {
	err := netns.Do(ns.name, func() error {
		req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
		req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
		req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
		info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
		info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("bridge"))
		data := info.AddRtAttr(nl.IFLA_INFO_DATA, nil)
		data.AddRtAttr(nl.IFLA_BR_STP_STATE, nl.Uint32Attr(0))
		data.AddRtAttr(nl.IFLA_BR_FORWARD_DELAY, nl.Uint32Attr(0))
		// Multicast goes to every port: there is no querier here to learn from.
		data.AddRtAttr(nl.IFLA_BR_MCAST_SNOOPING, nl.Uint8Attr(0))
		req.AddData(info)
		_, err := req.Execute(unix.NETLINK_ROUTE, 0)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("add a bridge: %w", unsupported(err))
	}
	bridge, err := ns.handle.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("find the bridge: %w", err)
	}
	if err := ns.handle.LinkSetUp(bridge); err != nil {
		return nil, fmt.Errorf("take the bridge up: %w", err)
	}
	return bridge, nil
}
