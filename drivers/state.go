package drivers

import "fmt"

// Side is 0 or 1: the module that carries it, pci0 or pci1, cpu0 or cpu1.
type Side int8

// Whole stands where no one side is meant.
const Whole Side = -1

// Other is the partner side.
func (s Side) Other() Side { return 1 - s }

// Valid says whether s is 0 or 1.
func (s Side) Valid() bool { return s == 0 || s == 1 }

// State is the state of a side, one word each from the product's own list.
type State uint8

// States of a side.
const (
	Empty       State = iota // nothing configured or present here
	Removed                  // was there, is gone
	Offline                  // present, out of service
	Diagnostics              // being tested before it may come in
	Syncing                  // being brought up to date
	Simplex                  // in service, alone
	Duplex                   // in service, its partner too
	Shot                     // cut off after a fault
	Broken                   // out of service after too many faults or a failed test
	Dumping                  // out of service while its memory is written out
)

var stateNames = [...]string{"empty", "removed", "offline", "diagnostics", "syncing", "simplex", "duplex", "shot", "broken", "dumping"}

func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return fmt.Sprintf("state(%d)", uint8(s))
}

// ParseState is the inverse of String.
func ParseState(name string) (State, error) {
	for i, n := range stateNames {
		if n == name {
			return State(i), nil
		}
	}
	return 0, fmt.Errorf("no state %q", name)
}

// MarshalText and UnmarshalText use the state's word.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText is the inverse of MarshalText.
func (s *State) UnmarshalText(b []byte) (err error) {
	*s, err = ParseState(string(b))
	return err
}

// InService says whether the side carries the face.
func (s State) InService() bool { return s == Simplex || s == Duplex }

// FaceState is the state of a device's face, from worst to best.
type FaceState uint8

// States of a face.
const (
	FaceDown FaceState = iota
	FaceSimplex
	FaceSyncing // simplex, and the other side is on its way
	FaceDuplex
)

var faceNames = [...]string{"down", "simplex", "syncing", "duplex"}

func (f FaceState) String() string {
	if int(f) < len(faceNames) {
		return faceNames[f]
	}
	return fmt.Sprintf("face(%d)", uint8(f))
}

// MarshalText uses the state's word.
func (f FaceState) MarshalText() ([]byte, error) { return []byte(f.String()), nil }

// UnmarshalText is the inverse of MarshalText.
func (f *FaceState) UnmarshalText(b []byte) error {
	for i, n := range faceNames {
		if n == string(b) {
			*f = FaceState(i)
			return nil
		}
	}
	return fmt.Errorf("no face state %q", b)
}
