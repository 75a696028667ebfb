package legio

// Faults is the fault layer of a leg, for drills: a real layer that every IO passes
// twice, on its way to the device (onSubmit) and back (onEnd). It costs one atomic
// load each way while no fault is set. It belongs to the slot and not to one opening
// of the device, so that a fault holds until it is cleared.
//
// An IO that the layer keeps is in held, and on no other list; it leaves held
// exactly once, by whoever deletes it there.

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"ft/drivers"
)

const slowMax = 10 * time.Minute

// faultUsage lists the faults of a leg with their arguments, and how many are allowed.
var faultUsage = []struct {
	name, usage string
	args        []int
}{
	{"read-error", "read-error [OFFSET LENGTH]: reads that touch the range (bytes), or all reads, give EIO", []int{0, 2}},
	{"write-error", "write-error [OFFSET LENGTH]: writes that touch the range (bytes), or all writes and flushes, give EIO", []int{0, 2}},
	{"corrupt", "corrupt [OFFSET]: one bit of the stored byte at OFFSET, or of the next write, is flipped", []int{0, 1}},
	{"slow", "slow MS: every answer comes MS milliseconds late", []int{1}},
	{"hang", "hang: no I/O ends until clear", []int{0}},
	{"vanish", "vanish: the device is gone until return", []int{0}},
	{"return", "return: the device is there again", []int{0}},
	{"clear", "clear: every fault of the leg ends", []int{0}},
}

// FaultUsage is the faults that a leg knows, one a line.
func FaultUsage() string {
	lines := make([]string, len(faultUsage))
	for i, u := range faultUsage {
		lines[i] = u.usage
	}
	return strings.Join(lines, "\n")
}

// UsageError is a fault that does not exist or has wrong arguments; nothing changed.
type UsageError struct{ sentence string }

func (e *UsageError) Error() string { return e.sentence }

// span is a range of bytes; length 0 is everything.
type span struct{ off, length int64 }

func (s *span) touches(io *IO) bool {
	return s != nil && (s.length == 0 || io.Op != Flush && io.Off < s.off+s.length && s.off < io.Off+io.Len)
}

func (s *span) String() string {
	if s.length == 0 {
		return ""
	}
	return fmt.Sprintf(" %d %d", s.off, s.length)
}

// Faults is a leg's fault layer.
type Faults struct {
	armed atomic.Bool // any fault is set

	mu      sync.Mutex // guards the fields below
	leg     *Leg       // the open one, nil when none is
	reads   *span
	writes  *span
	corrupt bool // the next write
	slow    time.Duration
	hang    bool
	vanish  bool
	held    map[*IO]*time.Timer // kept; with a timer while they are only slow
}

// NewFaults makes a layer without a fault.
func NewFaults() *Faults { return &Faults{held: map[*IO]*time.Timer{}} }

// Inject sets a fault, or ends faults ("return", "clear"). Several may be set at once.
// A wrong name or argument gives *UsageError with the usage.
func (f *Faults) Inject(fault drivers.Fault) error {
	args, err := parseFault(fault)
	if err != nil {
		return err
	}
	if fault.Name == "corrupt" && len(args) == 1 {
		return f.corruptStored(args[0])
	}
	f.mu.Lock()
	switch fault.Name {
	case "read-error":
		f.reads = spanOf(args)
	case "write-error":
		f.writes = spanOf(args)
	case "corrupt":
		f.corrupt = true
	case "slow":
		f.slow = time.Duration(args[0]) * time.Millisecond
	case "hang":
		f.hang = true
	case "vanish":
		f.vanish = true
	case "return":
		f.vanish = false
	case "clear":
		f.reads, f.writes, f.corrupt, f.slow, f.hang, f.vanish = nil, nil, false, 0, false, false
	}
	f.arm()
	var free []*IO
	if fault.Name == "vanish" || fault.Name == "clear" {
		for io, timer := range f.held {
			if timer != nil {
				timer.Stop()
			}
			free = append(free, io)
		}
		clear(f.held)
	}
	f.mu.Unlock()
	for _, io := range free {
		f.letGo(io)
	}
	return nil
}

// arm is called with mu held after each change.
func (f *Faults) arm() {
	f.armed.Store(f.reads != nil || f.writes != nil || f.corrupt || f.slow > 0 || f.hang || f.vanish)
}

// Active names the faults that are set, with their arguments: "" when there is none.
func (f *Faults) Active() string {
	if !f.armed.Load() {
		return ""
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var set []string
	add := func(on bool, text string) {
		if on {
			set = append(set, text)
		}
	}
	add(f.vanish, "vanish")
	add(f.hang, "hang")
	add(f.slow > 0, fmt.Sprintf("slow %d", f.slow.Milliseconds()))
	if f.reads != nil {
		set = append(set, "read-error"+f.reads.String())
	}
	if f.writes != nil {
		set = append(set, "write-error"+f.writes.String())
	}
	add(f.corrupt, "corrupt")
	return strings.Join(set, ", ")
}

// Vanished says whether the fault "vanish" is set.
func (f *Faults) Vanished() bool {
	if !f.armed.Load() {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.vanish
}

// hangs says whether the fault "hang" is set.
func (f *Faults) hangs() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.hang
}

// onSubmit looks at an IO on its way to the device. True: it was kept, or has ended.
func (f *Faults) onSubmit(io *IO) bool {
	f.mu.Lock()
	switch {
	case f.vanish:
		io.Err, io.os.passed = syscall.ENODEV, true
	case f.hang:
		f.held[io] = nil
		f.mu.Unlock()
		return true
	case io.Op == Read && f.reads.touches(io), io.Op != Read && f.writes.touches(io):
		io.Err = syscall.EIO
	default:
		if f.corrupt && io.Op == Write {
			f.corrupt = false
			f.arm()
			io.os.shadow = alignedBytes(len(io.Buf))
			copy(io.os.shadow, io.Buf)
			io.os.shadow[len(io.os.shadow)/2] ^= 1
		}
		f.mu.Unlock()
		return false
	}
	f.mu.Unlock()
	io.os.leg.complete(io)
	return true
}

// onEnd looks at an IO that has ended on the device. True: it is kept.
func (f *Faults) onEnd(io *IO) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.vanish:
		io.Err = syscall.ENODEV
	case f.hang:
		f.held[io] = nil
		return true
	case f.slow > 0:
		f.held[io] = time.AfterFunc(f.slow, func() { f.late(io) })
		return true
	}
	return false
}

// late ends the wait of an IO that was only slow, unless a hang keeps it now.
func (f *Faults) late(io *IO) {
	f.mu.Lock()
	timer, kept := f.held[io]
	if !kept || timer == nil || f.hang {
		if kept {
			f.held[io] = nil
		}
		f.mu.Unlock()
		return
	}
	delete(f.held, io)
	f.mu.Unlock()
	f.letGo(io)
}

// letGo sends an IO that was kept on its way: back when the device is through with it,
// else to the device, by a worker.
func (f *Faults) letGo(io *IO) {
	leg := io.os.leg
	if f.Vanished() {
		io.Err, io.os.ended = syscall.ENODEV, true
	}
	if io.os.ended {
		io.os.passed = true
		leg.complete(io)
		return
	}
	leg.work(io)
}

// corruptStored flips one bit on the device. Its block is read and written back, so a
// write to that block in the same instant may be lost too.
func (f *Faults) corruptStored(off int64) error {
	f.mu.Lock()
	leg := f.leg
	f.mu.Unlock()
	if leg == nil {
		return fmt.Errorf("corrupt %d: the leg is not open; bring it up first", off)
	}
	if off >= leg.Bytes {
		return &UsageError{fmt.Sprintf("corrupt %d: %s has only %d bytes", off, leg.Path, leg.Bytes)}
	}
	block := make([]byte, leg.LogicalBlock)
	at := off - off%int64(len(block))
	if _, err := leg.ReadAt(block, at); err != nil {
		return fmt.Errorf("corrupt %d: %w", off, err)
	}
	block[off-at] ^= 1
	if _, err := leg.WriteAt(block, at); err != nil {
		return fmt.Errorf("corrupt %d: %w", off, err)
	}
	return nil
}

func (f *Faults) attach(l *Leg) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.leg = l
}

func (f *Faults) detach(l *Leg) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.leg == l {
		f.leg = nil
	}
}

func spanOf(args []int64) *span {
	if len(args) == 0 {
		return &span{}
	}
	return &span{args[0], args[1]}
}

// parseFault checks name and arguments.
func parseFault(fault drivers.Fault) ([]int64, error) {
	for _, u := range faultUsage {
		if u.name != fault.Name {
			continue
		}
		if !slices.Contains(u.args, len(fault.Args)) {
			return nil, &UsageError{fmt.Sprintf("fault %s does not take %d arguments; usage: %s", u.name, len(fault.Args), u.usage)}
		}
		args := make([]int64, len(fault.Args))
		for i, a := range fault.Args {
			n, err := strconv.ParseInt(a, 0, 64)
			if err != nil || n < 0 {
				return nil, &UsageError{fmt.Sprintf("fault %s: %q is no number of 0 or more; usage: %s", u.name, a, u.usage)}
			}
			args[i] = n
		}
		switch {
		case len(args) == 2 && (args[1] == 0 || args[0] > 1<<62 || args[1] > 1<<62):
			return nil, &UsageError{fmt.Sprintf("fault %s: the range %s, %s is empty or too large; usage: %s", u.name, fault.Args[0], fault.Args[1], u.usage)}
		case u.name == "slow" && (args[0] == 0 || args[0] > slowMax.Milliseconds()):
			return nil, &UsageError{fmt.Sprintf("fault slow: %d ms is not within 1 to %d; usage: %s", args[0], slowMax.Milliseconds(), u.usage)}
		}
		return args, nil
	}
	return nil, &UsageError{fmt.Sprintf("no fault %q on a leg; there are:\n%s", fault.Name, FaultUsage())}
}
