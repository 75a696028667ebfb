package mirror

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"ft/mirror/frontend"
	"ft/mirror/frontend/fuseloop"
	nbdface "ft/mirror/frontend/nbd"
)

// The kinds of faces, and what the driver does differently for each.

// blockFace is a face that this process can leave to a successor.
type blockFace interface {
	frontend.Face
	// CanBeAdopted: applications see no error when this process dies.
	CanBeAdopted() bool
	// Descriptors are what a second process must hold for that, by the names in storedNames.
	Descriptors() map[string][]int
	// Abandon leaves the face to a successor.
	Abandon()
}

// The face's descriptors at the keeper, in the order in which they are stored.
var storedNames = []string{"loop", "fuse", nbdface.Descriptor}

// Frontends that Options may name. "auto" is fuseloop, which is everywhere.
const (
	frontendAuto = "auto"
	frontendFUSE = "fuseloop"
	frontendNBD  = "nbd"
)

func knownFrontend(name string) bool {
	return name == "" || name == frontendAuto || name == frontendFUSE || name == frontendNBD
}

// kindOf names the frontend of a face.
func kindOf(f blockFace) string {
	if _, ok := f.(*nbdface.Face); ok {
		return frontendNBD
	}
	return frontendFUSE
}

// nbdTimeoutMin is the least time after which the kernel sends a request again; it is also
// how long what was under way stands still when this process dies.
const nbdTimeoutMin = 10 * time.Second

func (d *driver) nbdOptions() nbdface.Options {
	return nbdface.Options{
		Identity: "ft " + filepath.Join(d.cfg.RunDir, d.cfg.Name),
		Timeout:  max(nbdTimeoutMin, 2*d.opt.withDefaults().LegTimeout),
		FastZero: d.zeroesFast, ExcludePids: d.keepers, Log: d.env.Log,
	}
}

// newFace makes the face that is configured. Under faceMu.
func (d *driver) newFace(g frontend.Geometry) (blockFace, error) {
	if d.opt.Frontend == frontendNBD {
		f, err := nbdface.Create(g, d.nbdOptions(), d.serveFirst)
		if err != nil {
			return nil, err
		}
		return f, nil
	}
	f, err := fuseloop.Create(g, d.faceOptions())
	if err != nil {
		return nil, err
	}
	return f, nil
}

// takeFace takes over the face that a predecessor left, of whatever kind it is. An error
// that is errDiscarded means that there was none to be taken over. Under faceMu.
func (d *driver) takeFace(g frontend.Geometry) (blockFace, error) {
	if len(d.env.Inherited[nbdface.Descriptor]) > 0 {
		f, err := nbdface.Adopt(g, d.nbdOptions(), d.serveFirst)
		for _, fd := range d.env.Inherited[nbdface.Descriptor] {
			unix.Close(fd) // the face has one of its own
		}
		if errors.Is(err, nbdface.ErrIncomplete) {
			return nil, d.discardFace(err, nil)
		}
		if err != nil {
			return nil, err
		}
		return f, nil
	}
	f, err := fuseloop.Adopt(g, d.env.Inherited, d.faceOptions())
	if errors.Is(err, fuseloop.ErrIncomplete) {
		return nil, d.discardFace(err, func() error { return fuseloop.Discard(d.env.Inherited) })
	}
	if err != nil {
		return nil, err
	}
	return f, nil
}

// serveFirst has the first loop serve a queue.
func (d *driver) serveFirst(q frontend.Queue) {
	d.loops[0].queue.Store(&queueBox{q})
	d.loops[0].kick()
}

// discardFace ends what cannot be adopted: the predecessor died while it made the face,
// or somebody aborted it. The caller makes a new one. Under faceMu.
func (d *driver) discardFace(why error, discard func() error) error {
	d.env.Log.Error("the face that was left cannot be taken over: who has it open gets errors", "why", why)
	if discard != nil {
		if err := discard(); err != nil {
			d.env.Log.Warn("discarding the face that was left", "err", err)
		}
	}
	for _, name := range storedNames {
		d.env.Unstore(name)
	}
	return fmt.Errorf("%w: %w", errDiscarded, why)
}

// errDiscarded: there was no face to adopt after all.
var errDiscarded = errors.New("the face that was left was discarded")
