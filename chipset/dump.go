package chipset

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"ft/chipset/crossbar"
	"ft/chipset/elfcore"
	"ft/chipset/firmware"
	"ft/chipset/lockstep"
	"ft/chipset/module"
	"ft/drivers"
)

// A dump is written from a CPU module that was split off and stands, while the guest runs on,
// or starts anew, on the other. A machine of one module that has panicked starts anew in a
// fresh process, and its old one is what is written.

const (
	// dumpsKept is how many dumps of panics are kept of a machine; older ones are removed.
	dumpsKept = 3
	// panicPatience is how long a guest that has said that it cannot go on may take to ask for
	// a reset, until it is reset.
	panicPatience = 2 * time.Second
)

// dumping is a dump that is being written. Under mu.
type dumping struct {
	path        string
	done, total uint64
	began       time.Time
	cancel      context.CancelFunc
}

// DumpDir is where dumps of panics go.
func DumpDir(stateDir string) string { return filepath.Join(stateDir, "dumps") }

// newDumpPath names a dump by the time.
func (d *driver) newDumpPath() string {
	return filepath.Join(DumpDir(d.cfg.StateDir), d.cfg.Name+"-"+time.Now().UTC().Format("20060102-150405.000")+".core")
}

// dumpCommand splits a CPU module off and writes it out.
func (d *driver) dumpCommand(args map[string]string) (any, error) {
	d.changeMu.Lock()
	defer d.changeMu.Unlock()
	d.mu.Lock()
	b, sides := d.boot, d.sides
	d.mu.Unlock()
	s := drivers.Side(1)
	switch name := strings.TrimSuffix(args["side"], "/"+d.cfg.Name); name {
	case "":
	case "cpu0", "cpu1":
		s = drivers.Side(name[3] - '0')
	default:
		return nil, drivers.Refuse(drivers.RuleState, "%s has no side %q: there are cpu0 and cpu1", d.cfg.Name, args["side"])
	}
	path := args["out"]
	if path == "" {
		path = d.newDumpPath()
	}
	switch _, err := os.Lstat(path); {
	case b == nil:
		return nil, drivers.Refuse(drivers.RuleState, "%s is not on (%s): there is nothing to write out", d.cfg.Name, d.now())
	case sides[0].state != drivers.Duplex || sides[1].state != drivers.Duplex:
		return nil, drivers.Refuse(drivers.RuleLastSide, "%s is not in duplex (cpu0 is %s, cpu1 %s): a dump takes one CPU module away; bring both up first", d.cfg.Name, sides[0].state, sides[1].state)
	case !filepath.IsAbs(path):
		return nil, drivers.Refuse(drivers.RuleUnfit, "%s is no absolute path", path)
	case err == nil:
		return nil, drivers.Refuse(drivers.RuleUnfit, "%s is there already: name another file for the dump", path)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, drivers.Refuse(drivers.RuleUnfit, "the dump: %v", err)
	}
	if info, err := os.Stat(filepath.Dir(path)); args["out"] != "" && (err != nil || !info.IsDir()) {
		return nil, drivers.Refuse(drivers.RuleUnfit, "%s is no directory that a dump could be written to", filepath.Dir(path))
	}
	d.mu.Lock()
	d.dumpTo[s] = path // told before the event comes
	d.mu.Unlock()
	if err := b.x.SplitOff(lockstep.Side(s), false); err != nil {
		return nil, drivers.Refuse(drivers.RuleState, "%v", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.change(func() {
		d.setSide(s, drivers.Dumping, "its memory is being written to "+path)
		if o := s.Other(); d.sides[o].state == drivers.Duplex {
			d.setSide(o, drivers.Simplex, "alone: the memory of "+lockstep.Side(s).String()+" is being written out")
		}
	})
	return map[string]any{"name": d.cfg.Name, "side": d.sideName(s), "path": path}, nil
}

// beginDump writes a module out beside everything else. Under mu.
func (d *driver) beginDump(s drivers.Side, a *crossbar.Apart, path, why string, keep bool) {
	ctx, cancel := context.WithCancel(context.Background())
	job := &dumping{path: path, began: time.Now(), cancel: cancel}
	if d.dumps[s] != nil {
		d.dumps[s].cancel()
	}
	d.dumps[s] = job
	d.writing.Go(func() {
		defer cancel()
		defer a.Release()
		size, err := d.writeDump(ctx, job, a, why)
		if err == nil && !keep {
			d.forgetDumps()
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.dumps[s] == job {
			d.dumps[s] = nil
		}
		text := fmt.Sprintf("its memory was written to %s: %d MiB in %v", path, size>>20, time.Since(job.began).Round(time.Millisecond))
		if err != nil {
			text = "its memory could not be written: " + err.Error()
		}
		if d.sides[s].state == drivers.Dumping {
			d.setSide(s, drivers.Offline, text)
		} else {
			d.emit(drivers.Event{Kind: drivers.EventNote, Side: s, Reason: lockstep.Side(s).String() + ": " + text})
		}
	})
}

// writeDump writes the file.
func (d *driver) writeDump(ctx context.Context, job *dumping, a *crossbar.Apart, why string) (size uint64, err error) {
	hart, err := module.HartState(a.State)
	if err != nil {
		return 0, err
	}
	memory, err := a.Memory()
	if err != nil {
		return 0, err
	}
	defer memory.Close()
	if err := os.MkdirAll(filepath.Dir(job.path), 0o700); err != nil {
		return 0, err
	}
	cfg := elfcore.Config{
		Memory: memory, Base: firmware.RAMBase, Size: uint64(d.opt.MemoryBytes), Hart: hart, Name: d.cfg.Name, Why: why,
		Progress: func(done, total uint64) {
			d.mu.Lock()
			defer d.mu.Unlock()
			job.done, job.total = done, total
		},
	}
	return cfg.Size, elfcore.WriteFile(ctx, job.path, cfg)
}

// forgetDumps removes all but the newest dumps of panics.
func (d *driver) forgetDumps() {
	found, err := filepath.Glob(filepath.Join(DumpDir(d.cfg.StateDir), d.cfg.Name+"-????????-??????.???.core"))
	if err != nil {
		return
	}
	slices.Sort(found)
	for _, old := range found[:max(len(found)-dumpsKept, 0)] {
		if err := os.Remove(old); err != nil {
			d.env.Log.Warn("an old dump stays", "err", err)
		}
	}
}

// progress of a dump, for people.
func (j *dumping) progress() *drivers.Progress {
	p := &drivers.Progress{What: "dump", DoneBytes: int64(j.done), TotalBytes: int64(j.total), ETASeconds: -1}
	if j.total > 0 {
		p.Percent = 100 * float64(j.done) / float64(j.total)
	}
	if took := time.Since(j.began).Seconds(); took > 0 && j.done > 0 {
		rate := float64(j.done) / took
		p.RateBytes, p.ETASeconds = int64(rate), float64(j.total-j.done)/rate
	}
	return p
}

// panicked takes note of a kernel that has said that it cannot go on. Unless it asks for a
// reset by itself it is given one.
func (d *driver) panicked(line string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.power != powerRunning {
		return
	}
	d.becomeLocked(powerPanicked, "the guest's kernel has stopped: "+line)
	if b := d.boot; b != nil {
		b.patience = time.AfterFunc(panicPatience, b.x.Stop)
	}
}

// setAside keeps a module of a guest that has panicked, for a dump, and says on which side the
// machine is to start anew.
func (d *driver) setAside(b *boot, start drivers.Side) {
	s := start.Other()
	if !b.x.Stands(lockstep.Side(s)) {
		s = start
	}
	a, err := b.x.SetAside(lockstep.Side(s))
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil {
		d.emit(drivers.Event{Kind: drivers.EventNote, Side: s, Reason: "no dump of the guest that has panicked: " + err.Error()})
		return
	}
	why := d.reason
	path := d.newDumpPath()
	if s != start {
		d.setSide(s, drivers.Dumping, "the memory of the guest that has panicked is being written to "+path)
	}
	d.beginDump(s, a, path, why, false)
}
