package mirror

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"ft/mirror/frontend"
	"ft/mirror/frontend/fuseloop"
	nbdface "ft/mirror/frontend/nbd"
	"ft/mirror/frontend/ublk"
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
var storedNames = []string{"loop", "fuse", nbdface.Descriptor, ublk.Descriptor}

// Frontends that Options may name. "auto" is chosen for each new face: see chooseface.go.
const (
	frontendAuto = "auto"
	frontendFUSE = "fuseloop"
	frontendNBD  = "nbd"
	frontendUblk = "ublk"
)

func knownFrontend(name string) bool {
	return slices.Contains([]string{"", frontendAuto, frontendFUSE, frontendNBD, frontendUblk}, name)
}

// kindOf names the frontend of a face.
func kindOf(f blockFace) string {
	switch f.(type) {
	case *nbdface.Face:
		return frontendNBD
	case *ublk.Face:
		return frontendUblk
	}
	return frontendFUSE
}

// nbdTimeoutMin is the least time after which the kernel sends a request again; it is also
// how long what was under way stands still when this process dies.
const nbdTimeoutMin = 10 * time.Second

func (d *driver) nbdOptions() nbdface.Options {
	return nbdface.Options{
		Identity: d.faceIdentity(),
		Timeout:  max(nbdTimeoutMin, 2*d.opt.withDefaults().LegTimeout),
		FastZero: d.zeroesFast, ExcludePids: d.keepers, Log: d.env.Log,
	}
}

// ublkOptions are under faceMu.
func (d *driver) ublkOptions() ublk.Options {
	o := ublk.Options{Identity: d.faceIdentity(), ExcludePids: d.keepers, Patience: facePatience, Log: d.env.Log}
	if d.faceAwaited {
		o.Patience = 0
	}
	return o
}

// faceIdentity is what the kernel's own devices carry, for a successor to find them.
func (d *driver) faceIdentity() string { return "ft " + filepath.Join(d.cfg.RunDir, d.cfg.Name) }

// makeFace makes a face of a kind. Under faceMu.
func (d *driver) makeFace(kind string, g frontend.Geometry) (blockFace, error) {
	switch kind {
	case frontendNBD:
		return faceOr(nbdface.Create(g, d.nbdOptions(), d.serveFirst))
	case frontendUblk:
		return faceOr(ublk.Create(g, d.ublkOptions(), d.serveFirst))
	}
	return faceOr(fuseloop.Create(g, d.faceOptions()))
}

// faceOr makes a face of what a frontend returns: nil for an error.
func faceOr[F blockFace](f F, err error) (blockFace, error) {
	if err != nil {
		return nil, err
	}
	return f, nil
}

// takeFace takes over the face that a predecessor left, of whatever kind it is: what was
// kept of it says so, and where nothing was kept, what was noted. An error that is
// errDiscarded means that there was none to be taken over. Under faceMu.
func (d *driver) takeFace(g frontend.Geometry, noted string) (f blockFace, err error) {
	var discard func() error
	nbdFds, ublkFds := d.env.Inherited[nbdface.Descriptor], d.env.Inherited[ublk.Descriptor]
	nothing := len(d.env.Inherited["fuse"]) == 0
	switch {
	case len(nbdFds) > 0, nothing && noted == frontendNBD:
		f, err = faceOr(nbdface.Adopt(g, d.nbdOptions(), d.serveFirst))
		closeFds(nbdFds) // the face has one of its own
		discard = func() error { return nbdface.Discard(d.faceIdentity()) }
	case len(ublkFds) > 0, nothing && noted == frontendUblk:
		f, err = faceOr(ublk.Adopt(g, ublkFds, d.ublkOptions(), d.serveFirst))
		closeFds(ublkFds)
		d.env.Inherited = maps.Clone(d.env.Inherited) // another attempt finds it by its identity
		delete(d.env.Inherited, ublk.Descriptor)
		discard = func() error { return ublk.Discard(d.faceIdentity()) }
	default:
		f, err = faceOr(fuseloop.Adopt(g, d.env.Inherited, d.faceOptions()))
		discard = func() error { return fuseloop.Discard(d.env.Inherited) }
	}
	if isIncomplete(err) {
		return nil, d.discardFace(err, discard)
	}
	return f, err
}

// isIncomplete: a frontend says that there is nothing to be adopted.
func isIncomplete(err error) bool {
	return errors.Is(err, fuseloop.ErrIncomplete) || errors.Is(err, nbdface.ErrIncomplete) || errors.Is(err, ublk.ErrIncomplete)
}

func closeFds(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
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
	// First the copies: the kernel's own devices stay for as long as somebody has them open.
	for _, name := range storedNames {
		d.env.Unstore(name)
	}
	if err := discard(); err != nil && !isIncomplete(err) {
		d.env.Log.Warn("discarding the face that was left", "err", err)
	}
	return fmt.Errorf("%w: %w", errDiscarded, why)
}

// errDiscarded: there was no face to adopt after all.
var errDiscarded = errors.New("the face that was left was discarded")
