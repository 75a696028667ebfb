package mirror

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"ft/drivers"
	"ft/mirror/frontend"
	"ft/mirror/frontend/fuseloop"
)

func (d *driver) facePath() string { return filepath.Join(d.cfg.DevDir, d.cfg.Name) }

// notePath is where the faceNote lies.
func (d *driver) notePath() string {
	return filepath.Join(d.cfg.RunDir, "drivers", d.cfg.Name+".face.json")
}

func (d *driver) faceOptions() fuseloop.Options {
	return fuseloop.Options{Queues: d.faceLoops(), NodeDir: filepath.Join(d.cfg.RunDir, "drivers"), Log: d.env.Log,
		ExcludePids: d.keepers}
}

// createFace brings the face up when a leg serves and there is none yet.
func (d *driver) createFace() error {
	d.faceMu.Lock()
	defer d.faceMu.Unlock()
	if d.face != nil || d.faceAwaited || d.stopping.Load() {
		return nil
	}
	d.mu.Lock()
	g, made := d.engine.Geometry()
	serving := d.engine.in() != 0
	d.mu.Unlock()
	if !made || !serving {
		return nil
	}
	face, err := d.newFace(g)
	if err != nil {
		return err
	}
	if err := d.keep(face, g); err != nil {
		d.serveFace(face)
		d.dropFace(face)
		return err
	}
	d.serveFace(face)
	err = d.link(face)
	d.startExport(g)
	return err
}

// keep gives copies of the face's descriptors to the keeper.
func (d *driver) keep(face blockFace, g frontend.Geometry) error {
	b, err := json.Marshal(faceNote{g, kindOf(face)})
	if err == nil {
		err = writeFile(d.notePath(), b)
	}
	if err != nil {
		return fmt.Errorf("note what face %s has: %w", d.cfg.Name, err)
	}
	fds := face.Descriptors()
	for _, name := range storedNames {
		if len(fds[name]) == 0 {
			continue
		}
		if err := d.env.Store(name, fds[name]...); err != nil {
			return fmt.Errorf("give the face's descriptors to the keeper: %w", err)
		}
	}
	return nil
}

// adoptFace takes over the face that a predecessor left.
func (d *driver) adoptFace() error {
	d.faceMu.Lock()
	defer d.faceMu.Unlock()
	return d.adoptLeft()
}

// adoptLeft is adoptFace, under faceMu.
func (d *driver) adoptLeft() error {
	note, err := d.readNote()
	if err != nil {
		return err
	}
	g := note.Geometry
	d.faceKept, d.faceWhy = note.Frontend, "as it was made"
	if now, made := d.engineGeometry(); made && now.Size != g.Size {
		return fmt.Errorf("the face that was left has %d bytes, the mirror on the legs has %d", g.Size, now.Size)
	}
	face, err := d.takeFace(g, note.Frontend)
	if err != nil {
		return err
	}
	d.serveFace(face)
	err = d.link(face)
	d.startExport(g)
	return err
}

// readNote reads what a predecessor noted of its face.
func (d *driver) readNote() (note faceNote, err error) {
	b, err := os.ReadFile(d.notePath())
	if err != nil {
		return note, fmt.Errorf("read what the predecessor noted of its face: %w", err)
	}
	if err := json.Unmarshal(b, &note); err != nil {
		return note, fmt.Errorf("%s: %w", d.notePath(), err)
	}
	return note, nil
}

func (d *driver) engineGeometry() (frontend.Geometry, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.engine.Geometry()
}

// serveFace gives each loop a queue. A face that was left with more queues than there
// are loops gets more loops.
func (d *driver) serveFace(face blockFace) {
	d.face = face
	for i, q := range face.Queues() {
		l := d.loops[i]
		l.queue.Store(&queueBox{q})
		l.kick()
	}
}

// link makes the name under which applications find the face.
func (d *driver) link(face blockFace) error {
	if err := os.MkdirAll(d.cfg.DevDir, 0o755); err != nil {
		return fmt.Errorf("name the face: %w", err)
	}
	temp := d.facePath() + ".new"
	os.Remove(temp)
	if err := os.Symlink(face.Device(), temp); err != nil {
		return fmt.Errorf("name the face: %w", err)
	}
	if err := os.Rename(temp, d.facePath()); err != nil {
		return fmt.Errorf("name the face: %w", err)
	}
	d.faceKept = kindOf(face)
	d.mu.Lock()
	d.shown = &shownFace{face.Device(), d.faceKept, d.faceWhy, face.CanBeAdopted()}
	d.mu.Unlock()
	return nil
}

// removeFace takes the face down. Refused while it is in use, unless forced.
func (d *driver) removeFace(force bool) error {
	d.faceMu.Lock()
	defer d.faceMu.Unlock()
	if d.face == nil {
		return d.discardAwaited(force)
	}
	if n, who := d.users(); n > 0 && !force {
		return drivers.Refuse(drivers.RuleBusy, "%s is in use: %s", d.facePath(), strings.Join(who, ", "))
	}
	if target, err := os.Readlink(d.facePath()); err == nil && target == d.face.Device() {
		os.Remove(d.facePath())
	}
	d.stopExport(false)
	return d.dropFace(d.face)
}

// users are those who have the face open, and the clients over NBD. Under faceMu.
func (d *driver) users() (int, []string) {
	n, who := d.face.Users()
	if server := d.export.server.Load(); server != nil {
		m, clients := server.Users()
		n, who = n+m, append(who, clients...)
	}
	return n, who
}

func (d *driver) dropFace(face blockFace) error {
	for _, name := range storedNames {
		d.env.Unstore(name)
	}
	err := face.Close()
	os.Remove(d.notePath())
	d.faceKept = ""
	d.mu.Lock()
	d.shown = nil
	d.mu.Unlock()
	d.face = nil
	if err != nil {
		d.env.Log.Warn("taking the face down", "err", err)
	}
	return nil
}

// writeFile replaces a file whole.
func writeFile(path string, b []byte) error {
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
