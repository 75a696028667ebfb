package daemon

import (
	"slices"

	"ft/bond"
	"ft/drivers"
	"ft/ftd/config"
)

// configuredNIC is a [[nic]] of the configuration. Its driver lives in the network namespace
// of the NICs, and sees them come and go: nothing is watched from here.
func configuredNIC(n config.NIC) configured {
	c := configured{kind: "nic", name: n.Name, line: n.Line, driver: bond.Kind, modules: pciModules, netns: n.Netns}
	for i := range n.Ports {
		c.paths[i] = n.Ports[i].NIC
		n.Ports[i].Line = 0
	}
	n.Line = 0
	c.options = func(string) any { return bondOptions(n) }
	c.settings = n
	return c
}

func bondOptions(n config.NIC) bond.Options {
	return bond.Options{
		Addresses:     n.Addresses,
		MAC:           n.MAC,
		MTU:           n.MTU,
		Primary:       drivers.Side(slices.Index(pciModules[:], n.Primary)),
		Reselect:      bond.Reselect(n.Reselect),
		Datapath:      n.Datapath,
		Netns:         n.Netns,
		Probe:         n.Probe,
		ProbeInterval: n.ProbeInterval,
		ProbeMisses:   n.ProbeMisses,
		UpDelay:       n.UpDelay,
		DownDelay:     n.DownDelay,
		AnnounceCount: n.AnnounceCount,
		AnnounceDelay: n.AnnounceDelay,
		FlapMax:       n.FlapMax,
		FlapWindow:    n.FlapWindow,
		FlapHold:      n.FlapHold,
	}
}
