// Package legpath keeps where the legs of a disk are, once one has been replaced by another
// device: in NAME.legs in the state directory.
//
// ft.toml is the admin's, and no program writes it. So when `ftctl replace` has put another
// device in the place of a leg, the file still names the old one, and going by it would
// bring back a leg that is out of date. What is kept here comes before it: a path that was
// replaced stands for the one that replaced it, until a person replaces that in turn. A
// path that was never replaced stands for itself.
package legpath

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"ft/mirror/metadata"
)

const (
	format   = 1
	bytesMax = 1 << 20
	// formerMax bounds how many replaced paths are remembered of a side.
	formerMax = 32
)

// Legs is what is known of both sides.
type Legs struct {
	Format int     `json:"format"`
	Sides  [2]Side `json:"sides"`
}

// Side is what is known of one.
type Side struct {
	// Path is the leg's, "" while it was never replaced; Former are those that it replaced.
	Path   string    `json:"path,omitempty"`
	Former []string  `json:"former,omitempty"`
	Since  time.Time `json:"since,omitzero"`
	// Unsettled: the superblocks may not say yet that Path is the leg.
	Unsettled *Unsettled `json:"unsettled,omitempty"`
	// Replacing: another device is being made a copy of the leg.
	Replacing *Replacing `json:"replacing,omitempty"`
}

// Unsettled names the leg that was replaced, and where it was.
type Unsettled struct {
	Old  string        `json:"old"`
	Leg  metadata.UUID `json:"leg"`
	Size int64         `json:"size,omitempty"`
}

// Replacing is a copy under way.
type Replacing struct {
	Path    string    `json:"path"`
	Regions int       `json:"regions"` // that are copied, and stable
	Began   time.Time `json:"began"`
}

// Store keeps Legs of one disk. Its methods may block for as long as the file system does.
type Store struct{ path string }

// NewStore is that of the disk called name in a state directory.
func NewStore(dir, name string) *Store { return &Store{filepath.Join(dir, name+".legs")} }

// Path is where it is kept.
func (s *Store) Path() string { return s.path }

// Load reads it; nothing was replaced when there is none. What cannot be read is an error:
// taken for nothing, a leg that was replaced could serve again.
func (s *Store) Load() (Legs, error) {
	var l Legs
	f, err := os.Open(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return l, fmt.Errorf("read which legs were replaced: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err == nil && st.Size() > bytesMax {
		err = fmt.Errorf("it has %d bytes", st.Size())
	}
	if err == nil {
		err = json.NewDecoder(f).Decode(&l)
	}
	if err == nil && l.Format != format {
		err = fmt.Errorf("it is of format %d, this program reads %d", l.Format, format)
	}
	if err != nil {
		return Legs{}, fmt.Errorf("%s says which legs were replaced and cannot be used: %w. Put a good copy back; or name the legs as they are now in ft.toml and move it away", s.path, err)
	}
	return l, nil
}

// Save stores it durably.
func (s *Store) Save(l Legs) error {
	l.Format = format
	b, err := json.MarshalIndent(l, "", "  ")
	if err == nil {
		err = metadata.ReplaceFile(s.path, append(b, '\n'))
	}
	if err != nil {
		return fmt.Errorf("note which legs were replaced: %w", err)
	}
	return nil
}

// Of is the path of the leg that path stands for.
func (s Side) Of(path string) string {
	if path != "" && s.Path != "" && slices.Contains(s.Former, path) {
		return s.Path
	}
	return path
}

// Replace puts next in the place of what is at old.
func (s *Side) Replace(old, next string, now time.Time) {
	former := []string{}
	for _, p := range append([]string{old, s.Path}, s.Former...) {
		if p != "" && p != next && !slices.Contains(former, p) {
			former = append(former, p)
		}
	}
	s.Former = former[:min(len(former), formerMax)]
	s.Path, s.Since = next, now
}
