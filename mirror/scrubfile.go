package mirror

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"ft/mirror/metadata"
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
	next    *ScrubState
	writing bool
	// ended: the last word was written, by save.
	ended bool

	fileMu sync.Mutex // held while the file is written
}

// take notes a state, and says whether the caller is to call saveTaken.
func (k *scrubKeeper) take(s ScrubState) bool {
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
		k.mu.Lock()
		s := k.next
		k.next = nil
		if s == nil || k.ended {
			k.writing = false
			k.mu.Unlock()
			return errors.Join(errs...)
		}
		k.mu.Unlock()
		k.fileMu.Lock()
		if err := k.write(*s); err != nil {
			errs = append(errs, err)
		}
		k.fileMu.Unlock()
	}
}

// save writes the last word; nothing is written after it.
func (k *scrubKeeper) save(s ScrubState) error {
	k.mu.Lock()
	k.ended, k.next = true, nil
	k.mu.Unlock()
	k.fileMu.Lock()
	defer k.fileMu.Unlock()
	return k.write(s)
}

func (k *scrubKeeper) write(s ScrubState) error {
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
func (k *scrubKeeper) load() (s ScrubState, err error) {
	info, err := os.Stat(k.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return ScrubState{}, nil
	case err == nil && info.Size() > scrubBytesMax:
		return ScrubState{}, fmt.Errorf("%s is larger than %d bytes", k.path, scrubBytesMax)
	case err == nil:
		var b []byte
		if b, err = os.ReadFile(k.path); err == nil {
			err = json.Unmarshal(b, &s)
		}
	}
	if err == nil {
		err = s.implausible()
	}
	if err != nil {
		return ScrubState{}, fmt.Errorf("%s: %w", k.path, err)
	}
	return s, nil
}

// implausible says what no program of ours would have written.
func (s *ScrubState) implausible() error {
	switch {
	case s.Phase != ScrubIdle && s.Phase != ScrubRunning && s.Phase != ScrubPaused:
		return fmt.Errorf("a scrub that is %q", s.Phase)
	case s.From < unknownSide || s.From > 1:
		return fmt.Errorf("side %d", s.From)
	case s.Position < 0 || s.Position%metadata.BlockSize != 0:
		return fmt.Errorf("position %d", s.Position)
	case len(s.Findings) > findingsMax:
		return fmt.Errorf("%d findings", len(s.Findings))
	}
	return nil
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
