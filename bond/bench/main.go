// Command bench measures the bond beside its anchors, in one run, on veths, a bridge and
// network namespaces that go with it (bond/bondtest):
//
//   - what a UDP stream at 5 kHz loses when the active port fails, on each data path, and
//     on the kernel's own bonding with miimon=100 where the kernel has it;
//   - small packets a second and CPU a packet, and TCP throughput, through the face beside
//     a plain veth to the same switch, in turns of a tenth of a second;
//   - what the driver process costs while nothing happens.
//
// With -guest it runs the first part in an emulated machine whose kernel has bonding
// (drivers/kerneltest); all there is slower, and compared with what is as slow.
//
// Run as root: make bench
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"ft/bond"
	"ft/bond/bondtest"
	"ft/bond/datapath"
	"ft/drivers/host"
	"ft/drivers/kerneltest"
)

func main() {
	var b bench
	flag.IntVar(&b.rounds, "rounds", 3, "how often each failover, and each pair of rates, is measured, in turn")
	flag.IntVar(&b.seconds, "seconds", 2, "length of a round of a rate, anchor and face together; the driver's idle cost is taken over twice that")
	flag.StringVar(&b.only, "only", "", "only rows whose name contains this; rates are \"tcx, packets to the peer\", \"tc, TCP from the peer\", \"tcx, idle\"")
	guest := flag.Bool("guest", false, "run the failovers in a guest whose kernel has bonding, beside it")
	driver := flag.String("driver", "", "be the face's driver process, with this configuration")
	flag.Parse()
	switch {
	case *driver != "":
		os.Exit(host.Run(context.Background(), bond.Kind, face, *driver))
	case b.rounds < 1 || b.seconds < 1 || flag.NArg() > 0:
		fmt.Fprintln(os.Stderr, "bench: -rounds and -seconds are at least 1, and there are no arguments")
		os.Exit(2)
	case *guest:
		os.Exit(b.inGuest())
	}
	bondtest.Main(&program{work: b.run})
}

// bench is one run.
type bench struct {
	rounds, seconds int
	only            string

	p   *program
	net *bondtest.Net

	late []time.Duration // after a cable was pulled: the kernel's events of it
}

func (b *bench) wanted(name string) bool { return strings.Contains(name, b.only) }

func (b *bench) run(p *program) error {
	b.p, b.net = p, bondtest.New(p)
	subjects, err := b.subjects()
	if err != nil {
		return err
	}
	b.failovers(subjects)
	if kerneltest.InGuest() {
		return nil // where an instruction takes what it takes, rates say nothing
	}
	for _, s := range subjects {
		if d, ok := s.(*driven); ok {
			b.rates(d)
		}
	}
	return nil
}

// subjects are the faces that this kernel can have. In a guest those that it is for.
func (b *bench) subjects() (all []subject, err error) {
	kinds := []string{datapath.TCX}
	bonding, err := hasBonding()
	if err != nil {
		return nil, fmt.Errorf("see whether this kernel has bonding: %w", err)
	}
	if bonding {
		all = append(all, &anchor{p: b.p, net: b.net})
		kinds = append(kinds, datapath.Bonding)
	} else {
		fmt.Print("This kernel has no bonding: `bench -guest` runs the failovers beside it, in a guest that has.\n\n")
	}
	if !kerneltest.InGuest() {
		kinds = append(kinds, datapath.TC)
	}
	for _, kind := range kinds {
		all = append(all, newDriven(b.p, b.net, kind))
	}
	return all, nil
}
