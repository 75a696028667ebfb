package lockstep

import (
	"encoding/binary"
	"errors"
	"fmt"

	"ft/chipset/module"
	"ft/chipset/virtio"
)

// Side is a CPU module's place: 0 or 1.
type Side uint8

// Other is the partner's place.
func (s Side) Other() Side { return 1 - s }

func (s Side) String() string { return fmt.Sprintf("cpu%d", uint8(s)) }

// Verb is what a command asks of a module.
type Verb uint8

// Verbs. Those up to Patrol are the *stream*: both modules get the same ones in the same
// order, numbered from 1 but for Commit, and a module in lockstep is a function of them. The
// others are for one module.
const (
	Apply  Verb = iota + 1 // apply the input in Data (module.Input); no answer
	Run                    // run up to A steps; answered by Ran
	Epoch                  // end the epoch and begin the next; answered by Ended
	Commit                 // the ends of all epochs before A are agreed: forget the way back to them
	Patrol                 // digest the pages from A on, B of them; answered by Patrolled
	Back                   // go back to the beginning of the oldest epoch that is kept; answered by Restored
	Save                   // answered by Saved
	Load                   // take over the state in Data, memory having been copied before; answered by Loaded
	Digest                 // as Patrol, outside the stream, and all pages of the range
	Test                   // the self-test; answered by Tested
	Fault                  // have the fault in Data (Injection, as JSON), or none when Data is empty
	Emit                   // emit again what was emitted and not answered yet; answered by Ran with no steps
	End                    // end the process; no answer
	verbEnd
)

func (v Verb) String() string {
	if v == 0 || v >= verbEnd {
		return fmt.Sprintf("verb(%d)", uint8(v))
	}
	return [...]string{"apply", "run", "epoch", "commit", "patrol", "back", "save", "load", "digest", "test", "fault", "emit", "end"}[v-1]
}

// Command goes from the chipset to a module. Number counts the stream; a command that is not
// of the stream has a number of its own, which its answer repeats.
type Command struct {
	Verb   Verb
	Number uint64
	A, B   uint64
	Data   []byte
}

const commandHead = 1 + 8 + 8 + 8

// Append encodes the command, little-endian.
func (c *Command) Append(b []byte) []byte {
	b = append(b, uint8(c.Verb))
	for _, v := range [...]uint64{c.Number, c.A, c.B} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return append(b, c.Data...)
}

// Decode is the inverse of Append. Data lies in b.
func (c *Command) Decode(b []byte) error {
	if len(b) < commandHead || b[0] == 0 || b[0] >= uint8(verbEnd) {
		return fmt.Errorf("%d bytes are no command of the chipset", len(b))
	}
	*c = Command{
		Verb: Verb(b[0]), Number: binary.LittleEndian.Uint64(b[1:]), A: binary.LittleEndian.Uint64(b[9:]), B: binary.LittleEndian.Uint64(b[17:]),
		Data: b[commandHead:],
	}
	return nil
}

// RecordKind says what a record reports.
type RecordKind uint8

// Kinds of records.
const (
	Ran       RecordKind = iota + 1 // a quantum was run
	Output                          // something that wants to leave, before the Ran of its quantum
	Ended                           // an epoch ended
	Patrolled                       // digests of pages
	Restored                        // the module is at the beginning of an epoch again
	Saved                           // a module's whole state but its memory, in Data
	Loaded                          // a state was taken over
	Tested                          // the self-test's result: Data is empty, or says what is wrong
	Injected                        // the fault was put in, at Steps; Data says how (text)
	recordEnd
)

func (k RecordKind) String() string {
	if k == 0 || k >= recordEnd {
		return fmt.Sprintf("record(%d)", uint8(k))
	}
	return [...]string{"ran", "output", "ended", "patrolled", "restored", "saved", "loaded", "tested", "injected"}[k-1]
}

// Why says why a quantum ended.
type Why uint8

// Reasons for a quantum to end.
const (
	Budget Why = iota // all steps were run
	Sent              // behind the step at which something wanted to leave
	Idle              // the hart waits, for an input or for the guest time Due
	Held              // a device's reset waits for the answers to its requests
	Reset             // the guest asked for a reset: Kind and Reason
	Full              // the epoch has to end before the module can run on: too many pages were written
	whyEnd
)

func (w Why) String() string {
	if w >= whyEnd {
		return fmt.Sprintf("why(%d)", uint8(w))
	}
	return [...]string{"budget", "sent", "idle", "held", "reset", "full"}[w]
}

// Slot of an Output that the console wrote; the others are module's slots.
const ConsoleSlot = 0xff

// Never is a Due without one.
const Never = ^uint64(0)

// PageSize is the unit in which memory is compared and copied, in bytes.
const PageSize = 4096

// Page is a page of memory and its digest.
type Page struct {
	Index  uint32
	Digest uint64
}

// Record goes from a module to the chipset. Which fields count depends on its kind; all of
// them are compared. Decode takes from untrusted bytes only what it has checked.
type Record struct {
	Kind   RecordKind
	Number uint64 // of the command that it answers

	// Ran. Steps and Fingerprint are totals of the machine; State is the digest of all
	// registers and CSRs; in Ended, Restored and Loaded it is that of the machine's whole
	// state but memory.
	Why                Why
	Steps, Fingerprint uint64
	State              uint64
	Due                uint64 // guest time, in ticks
	Time               uint64 // guest time now, in ticks
	PC                 uint64
	Room               uint32 // of the console, in bytes
	Dirty              uint32 // pages written in this epoch
	ResetKind, Reason  uint32

	// Output. A request's fields are virtio's.
	Slot           uint8
	Op             virtio.Op
	Unmap, Stable  bool
	ID             uint64
	Sector, Length uint64

	// Ended, Restored: the pages written in the epoch, in the order of their numbers.
	// Patrolled: consecutive pages, those apart that were written in this epoch.
	Pages []Page

	Data []byte // Output, Saved, Tested, Injected
}

// Bounds of messages, in bytes. MessageMax is above all of them.
const (
	PagesMax   = 16384   // in a record
	DataMax    = 3 << 20 // in a record or a command
	MessageMax = 3<<20 + 4096
)

const (
	recordHead = 4 + 9*8 + 4*4 + 8 + 4
	pageBytes  = 4 + 8
)

const (
	flagUnmap = 1 << iota
	flagStable
	flagsAll = flagUnmap | flagStable
)

// Append encodes the record, little-endian and canonically: equal records are equal bytes.
func (r *Record) Append(b []byte) []byte {
	flags := uint8(0)
	if r.Unmap {
		flags |= flagUnmap
	}
	if r.Stable {
		flags |= flagStable
	}
	b = append(b, uint8(r.Kind), uint8(r.Why), r.Slot, uint8(r.Op)|flags<<6)
	for _, v := range [...]uint64{r.Number, r.Steps, r.Fingerprint, r.State, r.Due, r.Time, r.PC, r.ID, r.Sector} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	for _, v := range [...]uint32{r.Room, r.Dirty, r.ResetKind, r.Reason} {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	b = binary.LittleEndian.AppendUint64(b, r.Length)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(r.Pages)))
	for _, p := range r.Pages {
		b = binary.LittleEndian.AppendUint32(b, p.Index)
		b = binary.LittleEndian.AppendUint64(b, p.Digest)
	}
	return append(b, r.Data...)
}

// ErrRecord is what a module's record is refused with that makes no sense.
var ErrRecord = errors.New("a record that no module in order sends")

// Decode is the inverse of Append. Data and Pages do not lie in b, which a module may go on
// writing to only before Decode is called: give it a copy.
func (r *Record) Decode(b []byte) error {
	if len(b) < recordHead || len(b) > MessageMax {
		return fmt.Errorf("%w: %d bytes", ErrRecord, len(b))
	}
	kind, why, op, flags := RecordKind(b[0]), Why(b[1]), virtio.Op(b[3]&0x3f), b[3]>>6
	if kind == 0 || kind >= recordEnd || why >= whyEnd || flags&^flagsAll != 0 {
		return fmt.Errorf("%w: kind %d, why %d", ErrRecord, kind, why)
	}
	u64 := func(i int) uint64 { return binary.LittleEndian.Uint64(b[4+8*i:]) }
	u32 := func(i int) uint32 { return binary.LittleEndian.Uint32(b[4+9*8+4*i:]) }
	*r = Record{
		Kind: kind, Why: why, Slot: b[2], Op: op, Unmap: flags&flagUnmap != 0, Stable: flags&flagStable != 0,
		Number: u64(0), Steps: u64(1), Fingerprint: u64(2), State: u64(3), Due: u64(4), Time: u64(5), PC: u64(6), ID: u64(7), Sector: u64(8),
		Room: u32(0), Dirty: u32(1), ResetKind: u32(2), Reason: u32(3),
		Length: binary.LittleEndian.Uint64(b[4+9*8+4*4:]),
	}
	pages := binary.LittleEndian.Uint32(b[recordHead-4:])
	rest := b[recordHead:]
	if pages > PagesMax || int(pages)*pageBytes > len(rest) {
		return fmt.Errorf("%w: %d pages in %d bytes", ErrRecord, pages, len(rest))
	}
	if pages > 0 {
		r.Pages = make([]Page, pages)
		for i := range r.Pages {
			r.Pages[i] = Page{binary.LittleEndian.Uint32(rest[i*pageBytes:]), binary.LittleEndian.Uint64(rest[i*pageBytes+4:])}
			if i > 0 && r.Pages[i].Index <= r.Pages[i-1].Index {
				return fmt.Errorf("%w: page %d behind page %d", ErrRecord, r.Pages[i].Index, r.Pages[i-1].Index)
			}
		}
	}
	if rest = rest[int(pages)*pageBytes:]; len(rest) > DataMax {
		return fmt.Errorf("%w: %d bytes of data", ErrRecord, len(rest))
	} else if len(rest) > 0 {
		r.Data = append([]byte(nil), rest...)
	}
	return nil
}

// Request is an Output as its device's back end takes it. Data is the record's.
func (r *Record) Request() virtio.Request {
	return virtio.Request{ID: r.ID, Op: r.Op, Unmap: r.Unmap, Stable: r.Stable, Sector: r.Sector, Length: r.Length, Data: r.Data}
}

// Injection is a fault for drills, as JSON in a Fault command. It takes effect at a step, and
// lasts: once for flips, lost and doubled stores; until it is cleared for the others.
type Injection struct {
	// Name is a fault of `ftctl inject cpu1/guest`: flip-register, flip-pc, flip-csr,
	// flip-memory, stuck, wrong-result, lose-store, double-store, slow.
	Name string `json:"name"`
	Step uint64 `json:"step"`           // before which; one in the past is the next
	Seed uint64 `json:"seed,omitempty"` // decides what is not said below

	Register *int    `json:"register,omitempty"` // 1…31: x, 32…63: f
	CSR      string  `json:"csr,omitempty"`      // a word of rv64.State
	Address  *uint64 `json:"address,omitempty"`  // physical
	Bit      *int    `json:"bit,omitempty"`
	Class    string  `json:"class,omitempty"` // of operations: add, logic, shift, multiply, divide, load, branch, float
}

// EncodeInput makes the Apply command of an input.
func EncodeInput(in *module.Input) Command { return Command{Verb: Apply, Data: in.Append(nil)} }
