package mirror

import (
	"errors"
	"fmt"
	"slices"

	"ft/mirror/frontend"
	nbdface "ft/mirror/frontend/nbd"
	"ft/mirror/frontend/ublk"
)

// What kind of face a disk gets.
//
// The choice is made when a face is made, and belongs to that face: it is noted beside the
// run (noteFace), and who takes the face over keeps its kind, whatever is configured by then
// and whatever this program or a module that was loaded meanwhile could do better. A face
// that was left and cannot be taken over is followed by one of its kind, where that can be
// had. The next choice is made when a face has been taken down.

// autoOrder is in which order "auto" tries. ublk is the shortest way, and is survived by
// requests when the process dies. So is fuseloop since Linux 6.9; before that, the kernel's
// nbd is to be preferred where it is loaded, which costs a stall when a process dies, but no
// errors. fuseloop is there on every kernel with FUSE.
var autoOrder = []string{frontendUblk, frontendFUSE, frontendNBD}

// newFace makes a face of the kind that is configured, or chosen. Under faceMu.
func (d *driver) newFace(g frontend.Geometry) (blockFace, error) {
	if kind := d.opt.Frontend; kind != "" && kind != frontendAuto {
		d.faceWhy = "configured"
		return d.makeFace(kind, g)
	}
	order := autoOrder
	if kept := d.faceKept; kept != "" {
		order = append([]string{kept}, slices.DeleteFunc(slices.Clone(order), func(kind string) bool { return kind == kept })...)
	}
	f, why, err := d.firstOf(order, g)
	d.faceWhy = "auto"
	if why != nil {
		d.faceWhy += ": " + why.Error()
	}
	return f, err
}

// firstOf makes a face of the first kind that can be had, and says why those before it are
// not. One that does not survive its process is only taken when there is no other.
func (d *driver) firstOf(order []string, g frontend.Geometry) (f blockFace, why, err error) {
	var whys []error
	mortal := ""
	for _, kind := range order {
		err := available(kind)
		if err == nil {
			f, err = d.makeFace(kind, g)
		}
		if err == nil {
			if f.CanBeAdopted() || kind == d.faceKept {
				return f, errors.Join(whys...), nil
			}
			mortal, err = kind, errors.New("it does not survive its process on this kernel")
			d.closeUnused(f)
		}
		whys = append(whys, fmt.Errorf("no %s: %w", kind, err))
	}
	if mortal != "" {
		f, err = d.makeFace(mortal, g)
		return f, errors.Join(whys...), err
	}
	return nil, nil, errors.Join(whys...)
}

// closeUnused takes down a face that nobody was told of.
func (d *driver) closeUnused(f blockFace) {
	d.serveFace(f)
	if err := f.Close(); err != nil {
		d.env.Log.Warn("taking a face down that is not used", "err", err)
	}
	d.face = nil
}

// available says why this kernel cannot have a face of a kind, as far as that shows before
// it is tried.
func available(kind string) error {
	switch kind {
	case frontendUblk:
		return ublk.Available()
	case frontendNBD:
		return nbdface.Available()
	}
	return nil
}

// faceNote is what is kept beside the run of a face that is up, so that a successor can take
// it over also when it cannot read a leg at that moment.
type faceNote struct {
	frontend.Geometry
	Frontend string // its kind; "" is of a version that noted none
}

// shownFace is what people are told of a face that is up.
type shownFace struct {
	device, kind, why string
	survives          bool // the death of this process
}

// faceLeft says whether a device is there that an earlier process of this disk has left,
// though the keeper knows of none: it died as well. Such a device is the kernel's own, and
// applications wait at it. One that was never brought up is removed.
func (d *driver) faceLeft() bool {
	id := d.faceIdentity()
	for kind, k := range map[string]struct {
		left    func(string) bool
		discard func(string) error
	}{frontendUblk: {ublk.Left, ublk.Discard}, frontendNBD: {nbdface.Left, nbdface.Discard}} {
		if !k.left(id) {
			continue
		}
		if note, err := d.readNote(); err == nil && note.Frontend == kind {
			return true
		}
		if err := k.discard(id); err != nil {
			d.env.Log.Warn("removing a device that was left before it was brought up", "frontend", kind, "err", err)
		}
	}
	return false
}
