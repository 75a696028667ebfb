package bond

import (
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"strings"

	"ft/bond/datapath"
	"ft/bond/datapath/bonding"
	"ft/bond/datapath/pair"
	"ft/bond/datapath/tc"
	"ft/bond/datapath/tcx"
	"ft/bond/nic"
)

// ways are the data paths in the order in which auto tries them.
var ways = [...]struct {
	kind string
	open datapath.Open
}{
	{datapath.TCX, tcx.Open},
	{datapath.Bonding, bonding.Open},
	{datapath.TC, tc.Open},
}

// Key names a face in places that all network namespaces of a machine share. The run
// directory tells boxes apart.
func Key(runDir, face string) string {
	h := fnv.New32a()
	h.Write([]byte(runDir))
	clean := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' {
			return r
		}
		return '_'
	}, face)
	return fmt.Sprintf("%s-%08x", clean, h.Sum32())
}

// openFace finds the face and its data path, or makes them.
func (d *driver) openFace() error {
	if err := os.MkdirAll(d.stateDir(), 0o755); err != nil {
		return fmt.Errorf("make %s: %w", d.stateDir(), err)
	}
	var err error
	if d.mac, err = nic.FaceMAC(d.cfg.StateDir, d.cfg.Name, d.opt.MAC); err != nil {
		return fmt.Errorf("the MAC of %s: %w", d.cfg.Name, err)
	}
	if d.book, err = nic.OpenBook(d.bookPath()); err != nil {
		return fmt.Errorf("what the NICs of %s were like: %w", d.cfg.Name, err)
	}
	spec := datapath.Spec{Key: Key(d.cfg.RunDir, d.cfg.Name), Face: d.cfg.Name, MTU: d.opt.MTU, Log: d.env.Log}
	// An admin may have given the face another MAC. It keeps that through our deaths.
	if l, err := nic.ByName(d.cfg.Name); err == nil && len(l.MAC) > 0 && !bonding.MadeUpMAC(l.Index) {
		d.mac = l.MAC
	}
	spec.MAC = d.mac
	adopted, err := d.openPath(spec)
	if err != nil {
		return err
	}
	face, err := nic.ByIndex(d.path.Face())
	if err != nil {
		return fmt.Errorf("the face %s: %w", d.cfg.Name, err)
	}
	d.faceMTU = face.MTU
	if err := d.configureAddresses(); err != nil {
		return err
	}
	if !adopted {
		if err := nic.SetUp(d.path.Face(), true); err != nil {
			return fmt.Errorf("set %s up: %w", d.cfg.Name, err)
		}
	}
	d.readAddresses()
	desc := d.path.Describe()
	d.env.Log.Info("the face is there", "datapath", desc.Kind, "variant", desc.Variant, "adopted", adopted, "missing", desc.Missing)
	return nil
}

// openPath opens what is there, whatever is configured now: the face is in use. Where
// nothing is there it takes the configured way, or the best one that works.
func (d *driver) openPath(spec datapath.Spec) (adopted bool, err error) {
	kind, ours, err := pair.Kind(spec.Face, spec.Key)
	if err != nil {
		return false, fmt.Errorf("look for %s: %w", spec.Face, err)
	}
	if ours && d.opt.Datapath != datapath.Auto && d.opt.Datapath != kind {
		return false, fmt.Errorf("%s runs on the datapath %s, and ft.toml says %s now: `ftctl bringdown %s --accept-risk=last-side` and `ftctl bringup %s` change it, or put %s back into ft.toml",
			spec.Face, kind, d.opt.Datapath, spec.Face, spec.Face, kind)
	}
	var tried []string
	for _, w := range ways {
		if ours && w.kind != kind || !ours && d.opt.Datapath != datapath.Auto && d.opt.Datapath != w.kind {
			continue
		}
		p, adopted, err := w.open(spec)
		if err == nil {
			d.path, d.notes = p, tried
			return adopted, nil
		}
		err = fmt.Errorf("datapath %s of %s: %w", w.kind, spec.Face, err)
		if !errors.Is(err, datapath.ErrUnsupported) || ours || d.opt.Datapath != datapath.Auto {
			return false, err
		}
		tried = append(tried, err.Error())
	}
	return false, fmt.Errorf("no data path for %s works here:\n%s", spec.Face, strings.Join(tried, "\n"))
}
