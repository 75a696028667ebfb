package bond

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ft/bond/datapath"
	"ft/bond/nic"
	"ft/drivers"
	"ft/drivers/netns"
)

// This file puts faults into ports, for drills. A pulled cable and a silent path are
// faults of the data path's own programs, so that they are as real to the kernel's turn
// and to the probes as those of a NIC; a removed NIC is one that is moved into a network
// namespace that nobody else has.

const (
	flapsMax     = 1000
	flapsDefault = 20
	flapHalf     = 25 * time.Millisecond // down, and as long up again
)

// faultNames are what Inject knows, in the order of its refusal.
var faultNames = [...]string{"cable-pull", "cable-return", "silent-path", "remove", "return", "flap", "clear"}

// Inject puts a fault into a port.
func (d *driver) Inject(_ context.Context, s drivers.Side, f drivers.Fault) error {
	if !d.cfg.Drills {
		return drivers.Refuse(drivers.RuleNoDrills, "faults are not allowed on this box: set drills = true under [system] to allow them")
	}
	if !s.Valid() {
		return drivers.Refuse(drivers.RuleState, "name a side: ftctl inject pci0/%s %s", d.cfg.Name, f.Name)
	}
	d.changeMu.Lock()
	defer d.changeMu.Unlock()
	if d.isStopped() {
		return drivers.Refuse(drivers.RuleState, "%s is being stopped", d.cfg.Name)
	}
	d.note(s, strings.TrimSpace("injected: "+f.Name+" "+strings.Join(f.Args, " ")), map[string]any{"injected": true})
	if f.Name != "flap" && len(f.Args) > 0 {
		return drivers.Refuse("fault", "%s takes no argument, not %q", f.Name, f.Args)
	}
	switch f.Name {
	case "cable-pull":
		return d.fault(s, datapath.FaultDark, f.Name)
	case "silent-path":
		return d.fault(s, datapath.FaultSilent, f.Name)
	case "cable-return":
		return d.fault(s, datapath.FaultNone, "")
	case "remove":
		return d.park(s)
	case "return":
		return d.bringBack(s)
	case "flap":
		return d.flap(s, f.Args)
	case "clear":
		if err := d.bringBack(s); err != nil {
			return err
		}
		return d.fault(s, datapath.FaultNone, "")
	}
	return drivers.Refuse("fault", "a NIC has no fault %q (%s)", f.Name, strings.Join(faultNames[:], ", "))
}

// fault ends what was injected before and puts a fault into the data path. Under changeMu.
func (d *driver) fault(s drivers.Side, f datapath.Fault, name string) error {
	d.endFlap(s)
	return d.setFault(s, f, name)
}

func (d *driver) setFault(s drivers.Side, f datapath.Fault, name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stopped {
		return nil
	}
	p := &d.ports[s]
	if p.link.Index == 0 {
		if f == datapath.FaultNone {
			p.drill = ""
			return nil
		}
		return drivers.Refuse(drivers.RuleState, "pci%d/%s: there is no NIC in service to put a fault into", s, d.cfg.Name)
	}
	at := time.Now()
	if err := d.path.Fault(s, f); err != nil {
		return fmt.Errorf("inject into %s: %w", p.link.Name, err)
	}
	p.fault, p.drill = f, name
	d.catchTurn()
	_ = d.stepLocked(CarrierSeen{Side: s, Up: p.carrier && f != datapath.FaultDark, At: at}) // a fact cannot be refused
	return nil
}

// flap pulls and returns a cable again and again, beside the caller.
func (d *driver) flap(s drivers.Side, args []string) error {
	n := flapsDefault
	if len(args) > 0 {
		var err error
		if n, err = strconv.Atoi(args[0]); err != nil || n < 1 || n > flapsMax || len(args) > 1 {
			return drivers.Refuse("fault", "flap takes a number of times between 1 and %d, not %q", flapsMax, strings.Join(args, " "))
		}
	}
	if d.boundIndex(s) == 0 {
		return drivers.Refuse(drivers.RuleState, "pci%d/%s: there is no NIC in service to put a fault into", s, d.cfg.Name)
	}
	d.endFlap(s)
	ctx, cancel := context.WithCancel(d.ctx)
	done := make(chan struct{})
	d.mu.Lock()
	d.flaps[s] = func() { cancel(); <-done }
	d.mu.Unlock()
	d.goRun(func() {
		defer close(done)
		tick := time.NewTicker(flapHalf)
		defer tick.Stop()
		for i := range 2 * n {
			f, name := datapath.FaultDark, "flap"
			if i%2 == 1 {
				f = datapath.FaultNone
			}
			if i == 2*n-1 {
				name = ""
			}
			if err := d.setFault(s, f, name); err != nil {
				d.env.Log.Warn("the drill ends early", "err", err)
				return
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				_ = d.setFault(s, datapath.FaultNone, "")
				return
			}
		}
	})
	return nil
}

func (d *driver) endFlap(s drivers.Side) {
	d.mu.Lock()
	end := d.flaps[s]
	d.flaps[s] = nil
	d.mu.Unlock()
	if end != nil {
		end()
	}
}

// parked is a NIC that a drill has moved into a namespace of its own.
type parked struct {
	ns   *os.File
	name string
}

func parkedName(s drivers.Side) string { return fmt.Sprintf("parked%d", s) }

// park removes a NIC: to everybody here it is gone. Under changeMu.
func (d *driver) park(s drivers.Side) error {
	d.endFlap(s)
	d.mu.Lock()
	l := d.ports[s].link
	d.mu.Unlock()
	if l.Index == 0 {
		return drivers.Refuse(drivers.RuleState, "pci%d/%s: there is no NIC to remove", s, d.cfg.Name)
	}
	ns, err := newNamespace()
	if err != nil {
		return fmt.Errorf("make a namespace for %s: %w", l.Name, err)
	}
	// A NIC whose namespace dies with this process may be destroyed: the keeper holds it.
	if err := d.env.Store(parkedName(s), int(ns.Fd())); err != nil {
		ns.Close()
		return fmt.Errorf("store the namespace of %s with the keeper: %w", l.Name, err)
	}
	d.mu.Lock()
	d.ports[s].drill = "remove"
	d.mu.Unlock()
	if err := netlink.LinkSetNsFd(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: l.Index, Name: l.Name}}, int(ns.Fd())); err != nil {
		d.env.Unstore(parkedName(s))
		ns.Close()
		return fmt.Errorf("move %s away: %w", l.Name, err)
	}
	d.parked[s] = &parked{ns: ns, name: l.Name}
	return nil
}

// newNamespace makes a network namespace that only its descriptor holds.
func newNamespace() (f *os.File, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if err = unix.Unshare(unix.CLONE_NEWNET); err == nil {
			f, err = os.Open("/proc/thread-self/ns/net")
		}
	}()
	<-done
	return f, err
}

// bringBack returns a NIC that was removed. Under changeMu.
func (d *driver) bringBack(s drivers.Side) error {
	p := d.parked[s]
	if p == nil {
		return nil
	}
	if err := unpark(p); err != nil {
		return fmt.Errorf("bring %s back: %w", p.name, err)
	}
	d.parked[s] = nil
	d.env.Unstore(parkedName(s))
	d.mu.Lock()
	d.ports[s].drill = ""
	d.mu.Unlock()
	return nil
}

// unpark brings back what an earlier process, or this one, has removed. Under changeMu.
func (d *driver) unpark() {
	for i := range d.parked {
		s := drivers.Side(i)
		for _, fd := range d.env.Inherited[parkedName(s)] {
			if d.parked[s] == nil {
				d.parked[s] = &parked{ns: os.NewFile(uintptr(fd), parkedName(s)), name: d.cfg.Sides[s].Resource.Path}
			}
		}
		delete(d.env.Inherited, parkedName(s))
		if err := d.bringBack(s); err != nil {
			d.env.Log.Warn("a drill", "err", err)
		}
	}
}

// unpark moves every NIC of the namespace back here.
func unpark(p *parked) error {
	here, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer here.Close()
	if err := netns.Do(fmt.Sprintf("/proc/self/fd/%d", p.ns.Fd()), func() error { return moveAll(here) }); err != nil {
		return err
	}
	return p.ns.Close()
}

func moveAll(to *os.File) error {
	const tries = 5 // a dump that a change has interrupted is incomplete
	var list []netlink.Link
	var err error
	for range tries {
		if list, err = netlink.LinkList(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range list {
		if nic.FromNetlink(l).Type == "loopback" {
			continue
		}
		errs = append(errs, netlink.LinkSetNsFd(l, int(to.Fd())))
	}
	return errors.Join(errs...)
}
