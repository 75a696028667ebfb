package mirror

import (
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"ft/mirror/frontend"
	"ft/mirror/frontend/nbdserver"
	"ft/mirror/nbd"
)

// The disk on an NBD socket, beside the face: it comes and goes with the face, and is
// never a reason for the face not to be there.

const (
	storedNBD = "nbd" // the listening socket at the keeper
	// exportAgain is how long a socket that could not be made is left alone.
	exportAgain = 5 * time.Second
)

// export is the NBD server of the disk. It changes under faceMu.
type export struct {
	loop   *loop // nil where no socket is configured
	server atomic.Pointer[nbdserver.Server]
	why    atomic.Value // a string: why it is not there
	tried  time.Time    // when that was last found
}

// faceLoops is how many of the loops the face has: the NBD server's, the last, is its own,
// so that no copying of large payloads stands in the face's way.
func (d *driver) faceLoops() int {
	if d.export.loop != nil {
		return len(d.loops) - 1
	}
	return len(d.loops)
}

// startExport serves the disk on its socket, if it is to be served on one and is not yet.
// Under faceMu, with a face.
func (d *driver) startExport(g frontend.Geometry) {
	x := &d.export
	if x.server.Load() != nil {
		return
	}
	x.tried = time.Now()
	err := d.openExport(g)
	why := ""
	if err != nil {
		why = err.Error()
		if why != x.why.Load() {
			d.env.Log.Error("the disk is not served over NBD", "err", err)
		}
	}
	x.why.Store(why)
}

func (d *driver) openExport(g frontend.Geometry) error {
	x := &d.export
	listener, err := d.exportListener()
	if err != nil || x.loop == nil {
		return err
	}
	server, err := nbdserver.New(listener, d.opt.NBD, g, nbdserver.Options{Extents: d.extents, FastZero: d.zeroesFast, Log: d.env.Log})
	if err != nil {
		d.env.Unstore(storedNBD)
		unix.Close(listener)
		return err
	}
	x.server.Store(server)
	x.loop.queue.Store(&queueBox{server})
	x.loop.kick()
	return nil
}

// exportListener is the socket that a predecessor left, or a new one; -1 where none is
// configured.
func (d *driver) exportListener() (int, error) {
	for _, fd := range d.env.Inherited[storedNBD] {
		delete(d.env.Inherited, storedNBD)
		err := nbdserver.Adopt(fd, d.opt.NBD)
		if err == nil {
			return fd, nil
		}
		d.env.Log.Info("the NBD socket that was left is not taken over", "why", err)
		d.env.Unstore(storedNBD)
		unix.Close(fd)
	}
	if d.opt.NBD == "" {
		return -1, nil
	}
	fd, err := nbdserver.Listen(d.opt.NBD)
	if err != nil {
		return -1, err
	}
	if err := d.env.Store(storedNBD, fd); err != nil {
		unix.Close(fd)
		_ = nbdserver.Remove(d.opt.NBD) // what did not work is what is told
		return -1, fmt.Errorf("give the NBD socket to the keeper: %w", err)
	}
	return fd, nil
}

// retryExport tries again what did not work. Now and then.
func (d *driver) retryExport() {
	d.faceMu.Lock()
	defer d.faceMu.Unlock()
	if x := &d.export; d.face == nil || x.loop == nil || x.server.Load() != nil || d.stopping.Load() || time.Since(x.tried) < exportAgain {
		return
	}
	if g, made := d.engineGeometry(); made {
		d.startExport(g)
	}
}

// stopExport ends the server. What is under way is answered first, if it ends in time.
// For a successor, the socket stays as it is. Under faceMu.
func (d *driver) stopExport(handOver bool) {
	x := &d.export
	server := x.server.Load()
	if server == nil {
		return
	}
	if !handOver {
		d.env.Unstore(storedNBD)
		if err := nbdserver.Remove(d.opt.NBD); err != nil {
			d.env.Log.Warn("removing the NBD socket", "err", err)
		}
	}
	if err := server.Close(); err != nil {
		d.env.Log.Warn("ending the NBD server", "err", err)
	}
	x.server.Store(nil)
}

// exportStats is what Status shows of the NBD server: nil where none is configured.
func (d *driver) exportStats() any {
	if d.opt.NBD == "" {
		return nil
	}
	m := map[string]any{"socket": d.opt.NBD}
	if s := d.export.server.Load(); s != nil {
		m["clients"] = s.Stats()
	}
	if why, _ := d.export.why.Load().(string); why != "" {
		m["error"] = why
	}
	return m
}

// extents looks at what is allocated on a leg that has all that was acknowledged. Nil when
// that cannot be known. It may wait for the file system that the leg's file is on.
func (d *driver) extents(off, n int64, most int) []nbd.Extent {
	d.mu.Lock()
	e := d.engine
	known := !e.suspect() && e.recorded() && e.unsure.Count() == 0
	legs, in := d.legs, e.in()
	d.mu.Unlock()
	for i, open := range legs {
		if !known || open == nil || in&(1<<i) == 0 {
			continue
		}
		ranges, err := open.Allocated(off, n, most)
		if err != nil {
			continue
		}
		x := make([]nbd.Extent, len(ranges))
		for i, r := range ranges {
			if x[i].Len = r.Len; r.Hole {
				x[i].State = nbd.StateHole | nbd.StateZero
			}
		}
		return x
	}
	return nil
}

// zeroesFast says whether all legs make zeroes without writing them.
func (d *driver) zeroesFast() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, open := range d.legs {
		if open != nil && !open.ZeroesFast() {
			return false
		}
	}
	return true
}
