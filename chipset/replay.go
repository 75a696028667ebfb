package chipset

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"ft/chipset/firmware"
	"ft/chipset/module"
	"ft/chipset/virtio"
	"ft/drivers"
)

// A machine's record, and having its run again: for whoever wants to know what a guest did,
// or whether it does the same again.

// record is a recorder and its file.
type record struct {
	*module.Recorder
	file *os.File
}

// newRecord begins the record of a machine that has not run yet.
func newRecord(path string, m *module.Machine, set settings) (*record, error) {
	// Only a record gives way: a directory, or a device by mistake, is nobody's to move.
	switch info, err := os.Lstat(path); {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("record the machine's inputs: %w", err)
	case !info.Mode().IsRegular():
		return nil, drivers.Refuse(drivers.RuleUnfit, "%s is no file that a record could take the place of; name another for the record", path)
	}
	if err := os.Rename(path, path+".1"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("keep the record before this one: %w", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("record the machine's inputs: %w", err)
	}
	description, err := json.Marshal(set)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("record the machine's inputs: %w", err)
	}
	return &record{module.NewRecorder(f, m, description), f}, nil
}

func (r *record) close(end module.End) error {
	return errors.Join(r.CloseAt(end), r.file.Close())
}

// ReplayOptions are the ways in which a replay may differ from the run.
type ReplayOptions struct {
	Quantum uint64    // steps a run; 0: as the driver has it
	Console io.Writer // gets what the guest writes; nil: nobody
}

// Replay has the run of a record again and says how it ended: whole, when the machine then
// was what it had been at the record's end.
func Replay(path string, opt ReplayOptions) (module.End, error) {
	f, err := os.Open(path)
	if err != nil {
		return module.End{}, fmt.Errorf("open the record: %w", err)
	}
	defer f.Close()
	rec, err := module.OpenRecord(f)
	if err != nil {
		return module.End{}, fmt.Errorf("%s: %w", path, err)
	}
	var set settings
	if err := json.Unmarshal(rec.Description, &set); err != nil {
		return module.End{}, fmt.Errorf("%s: what it says of its machine makes no sense: %w", path, err)
	}
	if set.MemoryBytes < firmware.MemoryMin || set.MemoryBytes > firmware.MemoryMax || set.MemoryBytes%firmware.MemoryAlign != 0 {
		return module.End{}, fmt.Errorf("%s: a machine with %d bytes of memory", path, set.MemoryBytes)
	}
	m, ram, err := set.build(listener{opt.Console})
	if err != nil {
		return module.End{}, fmt.Errorf("%s: %w", path, err)
	}
	defer func() { _ = unix.Munmap(ram) }()
	if opt.Quantum == 0 {
		opt.Quantum = quantum
	}
	end, err := rec.Play(m, opt.Quantum)
	if err != nil {
		return end, fmt.Errorf("%s: %w", path, err)
	}
	return end, nil
}

// listener hears a replayed guest; its requests were answered long ago.
type listener struct{ w io.Writer }

// Console hands on what the guest writes.
func (l listener) Console(p []byte) {
	if l.w != nil {
		_, _ = l.w.Write(p)
	}
}

// Request has nothing to do.
func (l listener) Request(int, *virtio.Request) {}
