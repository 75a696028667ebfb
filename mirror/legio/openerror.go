package legio

import (
	"errors"
	"fmt"
)

// OpenKind says what an error of Open means to the one who decides what comes next.
type OpenKind uint8

// Kinds of errors of Open.
const (
	KindUnfit  OpenKind = iota // there, but no leg can be made of it: a person must act
	KindAbsent                 // not there: it may come
	KindBusy                   // somebody else holds it
	KindHung                   // it does not answer
	KindWaits                  // writes of before may still land there: see Fence
)

// OpenError is how Open fails.
type OpenError struct {
	Path     string
	Kind     OpenKind
	Sentence string // what is the matter and the way out, without the path
	Err      error  // what the kernel said, or nil
}

func (e *OpenError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("leg %s: %s: %v", e.Path, e.Sentence, e.Err)
	}
	return fmt.Sprintf("leg %s: %s", e.Path, e.Sentence)
}

func (e *OpenError) Unwrap() error { return e.Err }

func isKind(err error, k OpenKind) bool {
	var e *OpenError
	return errors.As(err, &e) && e.Kind == k
}

// Absent says whether an error of Open means that the device is not there (yet).
func Absent(err error) bool { return isKind(err, KindAbsent) }

// Unfit says whether an error of Open means that no leg can be made of what is there.
func Unfit(err error) bool { return isKind(err, KindUnfit) }

// Busy says whether an error of Open means that somebody else holds the device.
func Busy(err error) bool { return isKind(err, KindBusy) }

// Waits says whether an error of Open means that writes of before may still land there.
func Waits(err error) bool { return isKind(err, KindWaits) }

// Hung says whether an error of Open, ReadAt, WriteAt, Sync or Probe means that the
// device did not answer in time.
func Hung(err error) bool { return isKind(err, KindHung) || errors.Is(err, errNoAnswer) }
