package legio

import (
	"errors"
	"time"

	"ft/drivers"
)

var errNotYet = errors.New("legio: not built yet")

// OpenOptions of a leg.
type OpenOptions struct {
	// Deadline bounds the opening and each synchronous ReadAt and WriteAt; 0 is 5 s.
	Deadline time.Duration
	// MinBytes is the least size that is accepted.
	MinBytes int64
	// Faults is the leg's fault layer; it outlives the Leg, so that a fault holds over a reopen. nil: a new one.
	Faults *Faults
}

// Leg is an open leg.
type Leg struct {
	Path          string // as configured
	Device        string // the block device: Path, or the loop device put over a file
	Bytes         int64  // rounded down to 4096
	LogicalBlock  int
	PhysicalBlock int
	Rdev          uint64
}

// Open opens a leg. See OpenError for how it fails.
func Open(path string, o OpenOptions) (*Leg, error) { return nil, errNotYet }

// Absent says whether an error of Open means that the device is not there.
func Absent(err error) bool { return false }

// Busy says whether an error of Open means that somebody else holds the device.
func Busy(err error) bool { return false }

// Hung says whether an error of Open, ReadAt, WriteAt or Probe means that the device did not answer in time.
func Hung(err error) bool { return false }

// Identity is the device's own name for itself: serial number, WWN, or what backs it.
func (l *Leg) Identity() string { return "" }

// Inflight is how many requests the kernel has under way on the device.
func (l *Leg) Inflight() (int, error) { return 0, errNotYet }

// Gone says whether the device has vanished or shrunk. It never blocks.
func (l *Leg) Gone() bool { return false }

// Quiet says whether no IO given to a Ring or to ReadAt and WriteAt is under way.
func (l *Leg) Quiet() bool { return true }

// ReadAt reads synchronously, with the deadline of OpenOptions. No alignment is asked for.
func (l *Leg) ReadAt(p []byte, off int64) (int, error) { return 0, errNotYet }

// WriteAt writes synchronously, with the deadline of OpenOptions; p and off are multiples of the logical block.
func (l *Leg) WriteAt(p []byte, off int64) (int, error) { return 0, errNotYet }

// Inject sets or ends a fault.
func (l *Leg) Inject(f drivers.Fault) error { return errNotYet }

// Close gives the leg back. It never waits for I/O: with some under way the device is let go when that has ended.
func (l *Leg) Close() error { return nil }

// Closed is closed when the device has been let go.
func (l *Leg) Closed() <-chan struct{} { return nil }

// Faults is the fault layer of a leg.
type Faults struct{}

// NewFaults makes a layer without faults.
func NewFaults() *Faults { return &Faults{} }

// Inject sets or ends a fault; the leg need not be open, but for `corrupt OFFSET`.
func (f *Faults) Inject(fault drivers.Fault) error { return errNotYet }

// Ring submits and reaps leg I/O; all but Fd is for one thread.
type Ring struct{}

// NewRing makes a ring for about entries IOs in flight.
func NewRing(entries int) (*Ring, error) { return nil, errNotYet }

// Fd becomes readable when Reap has something to do.
func (r *Ring) Fd() int { return -1 }

// Submit begins each IO on legs[io.Side]. It never blocks; every outcome comes by Reap.
func (r *Ring) Submit(ios []*IO, legs [2]*Leg) {}

// Reap hands over what has ended and returns how many.
func (r *Ring) Reap(done func(*IO)) int { return 0 }

// Close ends the ring. It does not wait for I/O.
func (r *Ring) Close() error { return nil }

// Probe says what foreign data is on a device or file, "" when it is blank.
func Probe(path string, deadline time.Duration) (found string, err error) { return "", errNotYet }
