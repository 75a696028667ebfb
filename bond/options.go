package bond

import (
	"fmt"
	"net/netip"
	"time"

	"ft/bond/datapath"
	"ft/drivers"
)

// Options are the bond's part of a drivers.Config.
type Options struct {
	Addresses     []netip.Prefix `json:"addresses,omitempty"`
	MAC           string         `json:"mac,omitempty"` // of the face; "" for one of its own, made once and kept
	MTU           int            `json:"mtu,omitempty"` // of the face; 0 for 1500
	Primary       drivers.Side   `json:"primary"`
	Reselect      Reselect       `json:"reselect,omitempty"`
	Datapath      string         `json:"datapath,omitempty"`
	Netns         string         `json:"netns,omitempty"` // for people: the process is in it already
	Probe         []netip.Addr   `json:"probe,omitempty"`
	ProbeInterval time.Duration  `json:"probe_interval_ns,omitempty"`
	ProbeMisses   int            `json:"probe_misses,omitempty"`
	UpDelay       time.Duration  `json:"updelay_ns"`
	DownDelay     time.Duration  `json:"downdelay_ns"`
	AnnounceCount int            `json:"announce_count,omitempty"` // bursts after a failover
	AnnounceDelay time.Duration  `json:"announce_delay_ns,omitempty"`
	FlapMax       int            `json:"flap_max,omitempty"` // losses of carrier within FlapWindow that are forgiven
	FlapWindow    time.Duration  `json:"flap_window_ns,omitempty"`
	FlapHold      time.Duration  `json:"flap_hold_ns,omitempty"` // how long a flapping port must be quiet
}

// Reselect says when the primary port becomes the active one again after it has come
// back (as primary_reselect of the kernel's bonding driver).
type Reselect string

// Policies of reselection. All ports are alike to us, so that better, which asks for a
// faster port, looks at the speed and duplex mode that the NICs report.
const (
	ReselectAlways  Reselect = "always"
	ReselectBetter  Reselect = "better"
	ReselectFailure Reselect = "failure"
)

// Defaults of the options.
const (
	DefaultMTU           = 1500
	DefaultProbeInterval = 100 * time.Millisecond
	DefaultProbeMisses   = 3
	DefaultAnnounceCount = 3
	DefaultAnnounceDelay = 100 * time.Millisecond
	DefaultFlapMax       = 5
	DefaultFlapWindow    = 10 * time.Second
	DefaultFlapHold      = 10 * time.Second
)

func (o Options) withDefaults() Options {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	num := func(n *int, v int) {
		if *n <= 0 {
			*n = v
		}
	}
	def(&o.ProbeInterval, DefaultProbeInterval)
	def(&o.AnnounceDelay, DefaultAnnounceDelay)
	def(&o.FlapWindow, DefaultFlapWindow)
	def(&o.FlapHold, DefaultFlapHold)
	num(&o.MTU, DefaultMTU)
	num(&o.ProbeMisses, DefaultProbeMisses)
	num(&o.AnnounceCount, DefaultAnnounceCount)
	num(&o.FlapMax, DefaultFlapMax)
	if o.Reselect == "" {
		o.Reselect = ReselectFailure
	}
	if o.Datapath == "" {
		o.Datapath = datapath.Auto
	}
	return o
}

// check refuses options that mean nothing; ftd has checked them before, with line numbers.
func (o Options) check() error {
	switch {
	case !o.Primary.Valid():
		return fmt.Errorf("primary is side %d: 0 or 1", o.Primary)
	case o.Reselect != ReselectAlways && o.Reselect != ReselectBetter && o.Reselect != ReselectFailure:
		return fmt.Errorf("there is no reselect %q (always, better, failure)", o.Reselect)
	}
	switch o.Datapath {
	case datapath.Auto, datapath.TCX, datapath.Bonding, datapath.TC:
		return nil
	}
	return fmt.Errorf("there is no datapath %q (auto, tcx, bonding, tc)", o.Datapath)
}
