// Package bonding is the data path through the kernel's bonding driver: the face is a bond
// in active-backup mode, the NICs are its ports, and we say which of them is active
// (IFLA_BOND_ACTIVE_SLAVE). If no process of ours lives, the driver turns by itself, within
// 100 ms.
//
// What the driver does in ways of its own:
//   - NICs carry the face's MAC while they are in the bond, and get their own back after.
//     The driver keeps MTU, filters and flags of its ports equal to the face's.
//   - It takes any port whose carrier is good. Ports that are neither active nor eligible
//     are therefore closed by filters of ours (gate.go): the kernel may turn to one, and
//     State then says that no port carries the face.
//   - It makes up a MAC for a bond that loses its last port: we put the face's back (keepMAC).
//   - A port that was active is deaf from the moment of the switch, also a planned one.
//   - The face's carrier is the driver's affair: it is there while a port has one.
//   - It says which port is active, not how often it has turned: turns are counted where
//     State notices them, from the process's start.
//   - It knows ports by interface and not by side: a successor reads the sides off our
//     filters. The first SetState lets go of interfaces that are no side's.
//
// A bond under its configured name is whole and marked as ours (alias, as pair does); it is
// made under a name that only we use and renamed last. What a crash leaves before that is
// removed by the next Open.
package bonding

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"ft/bond/datapath"
	"ft/bond/datapath/pair"
	"ft/drivers"
)

// kind is the driver's IFLA_INFO_KIND.
const kind = "bond"

// path is a bond that is there.
type path struct {
	wire *wire
	face info // as of Open
	log  *slog.Logger

	mu      sync.Mutex // guards what follows; held over netlink requests, which wait for the kernel alone
	ports   [2]*port
	want    datapath.State // as last set, or as the kernel has turned since
	turn    datapath.Turn
	missing []string
	checked bool // nothing is in the bond but our ports
}

// port is a NIC in the bond.
type port struct {
	datapath.Port // MAC is the NIC's own
	gate          gate
	gateless      bool // this kernel cannot do it
	fault         datapath.Fault
}

var _ datapath.Open = Open

// Open finds the bond of a face, or makes it: down, without ports.
func Open(spec datapath.Spec) (datapath.Path, bool, error) {
	w, err := dial()
	if err != nil {
		return nil, false, err
	}
	face, adopted, err := w.find(spec)
	if err == nil && !adopted {
		face, err = w.build(spec)
	}
	if err == nil && adopted {
		err = w.settle(face.index, face.name)
	}
	if err != nil {
		w.close()
		return nil, false, err
	}
	p := &path{wire: w, face: face, log: spec.Log, want: datapath.State{Active: datapath.None}}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	if adopted {
		if err := p.adopt(spec.MAC); err != nil {
			w.close()
			return nil, false, fmt.Errorf("take over the ports of %s: %w", spec.Face, err)
		}
	}
	return p, adopted, nil
}

func (w *wire) find(spec datapath.Spec) (face info, ours bool, err error) {
	face, err = w.linkNamed(spec.Face)
	switch {
	case gone(err):
		return info{}, false, nil
	case err != nil:
		return info{}, false, err
	case face.kind != kind || face.alias != pair.Mark(spec.Key, datapath.Bonding):
		return info{}, false, fmt.Errorf("there is an interface %s already (%s, alias %q), and it is not a bond of ours: rename or delete it, or give the face another name", spec.Face, cmpKind(face.kind), face.alias)
	}
	return face, true, nil
}

func cmpKind(k string) string {
	if k == "" {
		return "hardware"
	}
	return k
}

// unfinished is the name that a face has while it is being made.
func unfinished(face string) string {
	sum := sha256.Sum256([]byte(face))
	return ("ftb" + fmt.Sprintf("%x", sum))[:unix.IFNAMSIZ-1]
}

func (w *wire) build(spec datapath.Spec) (face info, err error) {
	if l := len(spec.Face); l == 0 || l >= unix.IFNAMSIZ {
		return info{}, fmt.Errorf("make the face %q: a name has 1 to %d characters", spec.Face, unix.IFNAMSIZ-1)
	}
	name := unfinished(spec.Face)
	if err := w.clear(name, spec.Face); err != nil {
		return info{}, err
	}
	switch err := w.create(name, spec.MAC, spec.MTU); {
	case errors.Is(err, unix.EOPNOTSUPP):
		return info{}, fmt.Errorf("make the face %s: this kernel has no bonding driver, or cannot load it (modprobe bonding): %w: %w", spec.Face, err, datapath.ErrUnsupported)
	case errors.Is(err, unix.EPERM):
		return info{}, fmt.Errorf("make the face %s as a bond takes CAP_NET_ADMIN: %w: %w", spec.Face, err, datapath.ErrUnsupported)
	case err != nil:
		return info{}, fmt.Errorf("make the face %s as a bond: %w", spec.Face, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.clear(name, spec.Face))
		}
	}()
	if face, err = w.linkNamed(name); err != nil {
		return info{}, err
	}
	if err := w.settle(face.index, spec.Face); err != nil {
		return info{}, err
	}
	if err := w.set(face.index, unix.IFLA_IFALIAS, []byte(pair.Mark(spec.Key, datapath.Bonding))); err != nil {
		return info{}, fmt.Errorf("mark the face %s as ours: %w", spec.Face, err)
	}
	if err := w.set(face.index, unix.IFLA_IFNAME, nl.ZeroTerminated(spec.Face)); err != nil {
		return info{}, fmt.Errorf("name the new face %s: %w", spec.Face, err)
	}
	if face, err = w.link(face.index); err != nil {
		return info{}, err
	}
	if len(spec.MAC) > 0 && !bytes.Equal(face.mac, spec.MAC) || spec.MTU > 0 && face.mtu != uint32(spec.MTU) {
		return info{}, errors.Join(fmt.Errorf("the face %s was made with MAC %v and MTU %d and has %v and %d", spec.Face, spec.MAC, spec.MTU, face.mac, face.mtu), w.remove(face.index))
	}
	return face, nil
}

// clear takes away what a process that was killed has left half made.
func (w *wire) clear(name, face string) error {
	left, err := w.linkNamed(name)
	if gone(err) {
		return nil
	}
	if err == nil && left.kind != kind {
		return fmt.Errorf("make the face %s: its name while it is made, %s, is taken by a %s that is not ours: delete it", face, name, cmpKind(left.kind))
	}
	if err == nil {
		err = w.remove(left.index)
	}
	if err != nil {
		return fmt.Errorf("remove the unfinished face %s: %w", name, err)
	}
	return nil
}

// Describe says what the path is.
func (p *path) Describe() datapath.Description {
	p.mu.Lock()
	defer p.mu.Unlock()
	return datapath.Description{
		Kind:    datapath.Bonding,
		Variant: fmt.Sprintf("active-backup, switched by us, the kernel's own look at the carriers every %d ms", miimon),
		Missing: slices.Clone(p.missing),
	}
}

// Face is the bond's ifindex.
func (p *path) Face() int { return p.face.index }

// SetCarrier does nothing: a bond shows carrier while one of its ports has one, and takes
// no other's word. While all ports are closed it may show one that carries nothing.
func (p *path) SetCarrier(bool) error { return nil }

// Counters are what the driver counts for each port, and the turns that we noticed.
func (p *path) Counters() map[string]uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := map[string]uint64{"turns": p.turn.Count}
	for s, port := range p.ports {
		if port == nil {
			continue
		}
		if nic, err := p.wire.link(port.Index); err == nil {
			if b := nic.slave[slaveLinkFailures]; len(b) >= 4 {
				c[fmt.Sprintf("link_failures_%d", s)] = uint64(nl.NativeEndian().Uint32(b))
			}
		}
	}
	return c
}

// Close lets go of the bond and leaves it in place.
func (p *path) Close() error {
	p.wire.close()
	return nil
}

// Remove takes the bond away. The kernel gives its ports their own MACs and MTUs back and
// leaves them down; they are set up again if they were.
func (p *path) Remove() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer p.wire.close()
	slaves, err := p.wire.slaves(p.face.index)
	if err != nil {
		return fmt.Errorf("remove %s: %w", p.face.name, err)
	}
	// The face falls silent first, then its ports lose what we put onto them, and only then
	// does the mark go by which a successor would find all this.
	if err := p.wire.setUp(p.face.index, false); err != nil && !gone(err) {
		return fmt.Errorf("set %s down: %w", p.face.name, err)
	}
	var errs []error
	for _, nic := range slaves {
		errs = append(errs, p.strip(nic))
	}
	if err := p.wire.remove(p.face.index); err != nil && !gone(err) {
		return errors.Join(append(errs, fmt.Errorf("remove the bond %s: %w", p.face.name, err))...)
	}
	for _, nic := range slaves {
		errs = append(errs, p.wire.restored(nic))
	}
	p.ports = [2]*port{}
	return errors.Join(errs...)
}

// noticed counts a turn of the kernel's own.
func (p *path) noticed(to drivers.Side) {
	p.turn.Count++
	p.turn.At = time.Now()
	p.log.Info("the kernel's bonding driver has turned by itself", "face", p.face.name, "from", p.want.Active, "to", to)
	p.want.Active = to
}
