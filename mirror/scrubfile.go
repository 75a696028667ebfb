package mirror

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"ft/mirror/metadata"
	"ft/mirror/scrub"
)

// The state of the scrub is kept in the state directory, as NAME.scrub. It is no witness:
// losing it costs a scrub that begins anew, so a file that makes no sense is passed over.

const (
	scrubSuffix   = ".scrub"
	scrubBytesMax = 1 << 20
)

// scrubKeeper writes one state after the other: the newest there is.
type scrubKeeper struct {
	path string

	mu      sync.Mutex // guards the fields below
	next    *scrub.State
	writing bool
	// ended: the last word was written, by save.
	ended bool

	fileMu sync.Mutex // held while the file is written
}

// take notes a state, and says whether the caller is to call saveTaken.
func (k *scrubKeeper) take(s scrub.State) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.next = &s
	if k.writing || k.ended {
		return false
	}
	k.writing = true
	return true
}

// saveTaken writes what was taken, until nothing newer is there.
func (k *scrubKeeper) saveTaken() error {
	var errs []error
	for {
		more, err := k.flush()
		errs = append(errs, err)
		if !more {
			return errors.Join(errs...)
		}
	}
}

// flush writes what was taken and is not yet written, and says whether there was any.
// When it returns, all that was taken before it was called is on stable storage.
func (k *scrubKeeper) flush() (more bool, err error) {
	k.fileMu.Lock()
	defer k.fileMu.Unlock()
	k.mu.Lock()
	s := k.next
	k.next = nil
	if s == nil || k.ended {
		k.writing = false
		k.mu.Unlock()
		return false, nil
	}
	k.mu.Unlock()
	return true, k.write(*s)
}

// save writes the last word; nothing is written after it.
func (k *scrubKeeper) save(s scrub.State) error {
	k.fileMu.Lock()
	defer k.fileMu.Unlock()
	k.mu.Lock()
	k.ended, k.next = true, nil
	k.mu.Unlock()
	return k.write(s)
}

func (k *scrubKeeper) write(s scrub.State) error {
	b, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("%s: %w", k.path, err)
	}
	if err := metadata.ReplaceFile(k.path, append(b, '\n')); err != nil {
		return fmt.Errorf("%s: %w", k.path, err)
	}
	return nil
}

// load reads what a predecessor wrote; the zero state when there is none.
func (k *scrubKeeper) load() (s scrub.State, err error) {
	info, err := os.Stat(k.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return scrub.State{}, nil
	case err == nil && info.Size() > scrubBytesMax:
		return scrub.State{}, fmt.Errorf("%s is larger than %d bytes", k.path, scrubBytesMax)
	case err == nil:
		var b []byte
		if b, err = os.ReadFile(k.path); err == nil {
			err = json.Unmarshal(b, &s)
		}
	}
	if err == nil {
		err = s.Check()
	}
	if err != nil {
		return scrub.State{}, fmt.Errorf("%s: %w", k.path, err)
	}
	return s, nil
}

// restoreScrub gives the engine what a predecessor, or an earlier run, has kept.
func (d *driver) restoreScrub() {
	s, err := d.scrubs.load()
	if err != nil {
		d.env.Log.Warn("what was known of the last scrub is passed over", "err", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.world.now = d.clock()
	d.engine.RestoreScrub(s)
}
