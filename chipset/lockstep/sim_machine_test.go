package lockstep

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"github.com/cespare/xxhash/v2"

	"ft/chipset/module"
	"ft/chipset/virtio"
)

// The simulated machine: a register that is stirred by what it reads, some pages of eight bytes,
// a device that requests go to, a console, a timer. It is a function of its inputs, and every
// bit of it matters sooner or later to what it does.

// The words of its state.
const (
	wX      = iota // the register
	wSteps         // run so far
	wTime          // guest time
	wPrint         // fingerprint
	wID            // of the next request
	wWaits         // 1: for an input, or until wDue
	wDue           // guest time
	wHolds         // 1: until all requests are answered
	wTyped         // bytes typed and not read yet
	wTypedN        // how many
	wOpen          // requests that are outside: openMax words, 0 is none
	openMax = 4
	wAsked  = wOpen + openMax  // what decides what each of them is, as many
	wHeld   = wAsked + openMax // and what it writes
	words   = wHeld + openMax
)

const typedRoom = 8 // bytes that the machine's console takes

type simState [words]uint64

func (s *simState) encode() []byte {
	b := make([]byte, 0, 8*words)
	for _, w := range s {
		b = binary.LittleEndian.AppendUint64(b, w)
	}
	return b
}

func (s *simState) decode(b []byte) bool {
	if len(b) != 8*words {
		return false
	}
	for i := range s {
		s[i] = binary.LittleEndian.Uint64(b[8*i:])
	}
	return true
}

// mix is a bijection in which every bit of x moves about half of the result's.
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

// simMachine is the machine itself. Its hooks are the module's: what happens on a write, on an
// output, and what is wrong with its arithmetic.
type simMachine struct {
	simState
	ram     []uint64
	hot     int    // pages that most writes go to
	resetAt uint64 // step
	emit    func(r Record)
	write   func(page uint32, value uint64)
	alu     func(x uint64) uint64
	sent    bool
}

func newSimMachine(pages, hot int, resetAt uint64) *simMachine {
	m := &simMachine{ram: make([]uint64, pages), hot: hot, resetAt: resetAt}
	for i := range m.ram {
		m.ram[i] = mix(uint64(i))
	}
	m.simState[wX] = 1
	m.write = func(p uint32, v uint64) { m.ram[p] = v }
	m.alu = func(x uint64) uint64 { return x }
	return m
}

func (m *simMachine) open() (n int) {
	for _, id := range m.simState[wOpen:wAsked] {
		if id != 0 {
			n++
		}
	}
	return n
}

// request lets one out, if there is room for one more.
func (m *simMachine) request(h uint64) {
	s := &m.simState
	for i, id := range s[wOpen:wAsked] {
		if id != 0 {
			continue
		}
		s[wID]++
		s[wOpen+i], s[wAsked+i], s[wHeld+i] = s[wID], h, s[wX]
		m.sent = true
		m.emit(m.outside(i))
		return
	}
}

// outside is one of the requests that are.
func (m *simMachine) outside(i int) Record {
	h := m.simState[wAsked+i]
	r := Record{Kind: Output, Slot: uint8(h % 3), Op: virtio.Write, ID: m.simState[wOpen+i], Sector: h >> 32, Data: binary.LittleEndian.AppendUint64(nil, m.simState[wHeld+i])}
	if h&4 != 0 {
		r.Op, r.Data, r.Length = virtio.Read, nil, 8
	}
	return r
}

// emitAgain lets all of them out once more, in their order.
func (m *simMachine) emitAgain() {
	var list []Record
	for i, id := range m.simState[wOpen:wAsked] {
		if id != 0 {
			list = append(list, m.outside(i))
		}
	}
	slices.SortFunc(list, func(a, b Record) int { return cmp.Compare(a.ID, b.ID) })
	for _, r := range list {
		m.emit(r)
	}
}

// page is where the machine reads or writes: mostly among the hot pages.
func (m *simMachine) page(h uint64) uint32 {
	if h&0xf0 != 0 {
		return uint32(h >> 8 % 1024 % uint64(m.hot))
	}
	return uint32(h >> 8 % uint64(len(m.ram)))
}

// step runs one.
func (m *simMachine) step() {
	s := &m.simState
	h := mix(s[wX] + s[wSteps])
	s[wSteps]++
	s[wTime]++
	s[wX] = m.alu(mix(s[wX] ^ m.ram[m.page(h)]))
	switch h >> 58 {
	case 0, 1, 2, 3, 4, 5, 6, 7:
		m.write(m.page(s[wX]), s[wX])
	case 8:
		m.request(s[wX])
	case 9:
		m.emit(Record{Kind: Output, Slot: ConsoleSlot, Data: fmt.Appendf(nil, "%x;", s[wX]&0xffff)})
	case 10:
		s[wWaits], s[wDue] = 1, s[wTime]+s[wX]%200
		if m.open() > 0 && s[wX]&1 != 0 {
			s[wDue] = Never
		}
	case 11, 12:
		if s[wTypedN] > 0 {
			s[wX] += s[wTyped] & 0xff
			s[wTyped] >>= 8
			s[wTypedN]--
		}
	case 13:
		if s[wX]&7 == 0 {
			s[wHolds] = 1
		}
	}
	s[wPrint] = s[wPrint]*0x9e3779b97f4a7c15 + mix(s[wX]^s[wSteps]<<32)
}

// run runs up to n steps. full says whether the epoch has to end.
func (m *simMachine) run(n uint64, full func() bool) Why {
	s := &m.simState
	m.sent = false
	if s[wWaits] != 0 && s[wTime] >= s[wDue] {
		s[wWaits] = 0
	}
	for i := uint64(0); ; i++ {
		if m.open() == 0 {
			s[wHolds] = 0
		}
		switch {
		case full():
			return Full
		case m.sent:
			return Sent
		case s[wSteps] >= m.resetAt:
			return Reset
		case s[wHolds] != 0:
			return Held
		case s[wWaits] != 0:
			return Idle
		case i == n:
			return Budget
		}
		m.step()
	}
}

// apply takes an input. A machine in order gets none that it cannot take.
func (m *simMachine) apply(in *module.Input) error {
	s := &m.simState
	switch in.Kind {
	case module.InputTime:
		s[wTime] = max(s[wTime], in.Base)
		return nil
	case module.InputConsole:
		for _, c := range in.Data {
			if s[wTypedN] >= typedRoom {
				return fmt.Errorf("%d bytes were typed, and there is no room for them", len(in.Data))
			}
			s[wTyped] |= uint64(c) << (8 * s[wTypedN])
			s[wTypedN]++
		}
	case module.InputCompletion:
		at := slices.Index(s[wOpen:wAsked], in.ID)
		if at < 0 || in.ID == 0 {
			return nil // as a device does: of a request from before its reset
		}
		s[wOpen+at] = 0
		m.write(uint32(in.ID%uint64(len(m.ram))), binary.LittleEndian.Uint64(in.Data))
		if in.ID%5 == 0 { // the queue held one more
			m.request(mix(in.ID))
		}
	case module.InputFrame:
		m.write(uint32(in.ID%uint64(len(m.ram))), mix(in.ID))
	}
	s[wWaits] = 0
	return nil
}

// ran is the record of a quantum.
func (m *simMachine) ran(why Why, dirty int) Record {
	s := &m.simState
	due := uint64(Never)
	if s[wWaits] != 0 {
		due = s[wDue]
	}
	r := Record{
		Kind: Ran, Why: why, Steps: s[wSteps], Fingerprint: s[wPrint], State: xxhash.Sum64(s.encode()), Due: due, Time: s[wTime], PC: s[wX] & 0xffff,
		Room: uint32(typedRoom - min(s[wTypedN], typedRoom)), Dirty: uint32(dirty),
	}
	if why == Reset {
		r.ResetKind, r.Reason = 1, 0
	}
	return r
}

// simModule is a CPU module: the machine, and the commands that message.go describes.
type simModule struct {
	*simMachine
	name   string
	full   int // pages written in an epoch that end it
	epochs []simEpoch
	send   func(r Record)
	number uint64
	faults []*simFault
	gone   string // why it does nothing any more
	hung   bool
	hidden map[uint64]uint64   // contents that its digests take for others
	ends   map[uint64][]uint64 // what memory really was at epochs' ends
}

// simEpoch is an epoch that can be gone back to the beginning of.
type simEpoch struct {
	number uint64
	state  simState
	saved  map[uint32]uint64
}

// epochsMax bounds what a module keeps, as a real one does.
const epochsMax = 4

func newSimModule(name string, m *simMachine, full int) *simModule {
	v := &simModule{simMachine: m, name: name, full: full, ends: map[uint64][]uint64{}, hidden: map[uint64]uint64{}}
	m.emit = func(r Record) {
		r.Number = v.number
		v.reply(r)
	}
	m.write = v.firstWrite
	m.alu = v.faultyALU
	v.begin(0)
	return v
}

func (v *simModule) begin(number uint64) {
	v.epochs = append(v.epochs, simEpoch{number: number, state: v.simState, saved: map[uint32]uint64{}})
}

func (v *simModule) now() *simEpoch { return &v.epochs[len(v.epochs)-1] }

func (v *simModule) firstWrite(p uint32, value uint64) {
	for _, p := range v.faultyWrite(p) {
		if _, saved := v.now().saved[p]; !saved {
			v.now().saved[p] = v.ram[p]
		}
		v.ram[p] = value
	}
}

func (v *simModule) digests(from, count uint64, all bool) (list []Page) {
	for p := from; p < min(from+count, uint64(len(v.ram))); p++ {
		if _, written := v.now().saved[uint32(p)]; all || !written {
			list = append(list, Page{uint32(p), v.digest(uint32(p))})
		}
	}
	return list
}

// digest is that of a page, as the module has it.
func (v *simModule) digest(p uint32) uint64 {
	if content, hidden := v.hidden[v.ram[p]]; hidden {
		return digestPage(content)
	}
	return digestPage(v.ram[p])
}

func digestPage(content uint64) uint64 { return mix(content + 0x1234567) }

func (v *simModule) digestState() uint64 { return xxhash.Sum64(v.encode()) }

// die ends the module's process.
func (v *simModule) die(why string) { v.gone = why }

// do executes a command.
func (v *simModule) do(c *Command) {
	v.number = c.Number
	v.before(c)
	if v.gone != "" || v.hung {
		return
	}
	switch c.Verb {
	case Apply:
		var in module.Input
		if err := in.Decode(c.Data); err != nil {
			v.die(err.Error())
		} else if err := v.apply(&in); err != nil {
			v.die(err.Error())
		}
	case Run:
		why := v.run(c.A, func() bool { return len(v.now().saved) >= v.full })
		v.reply(v.ran(why, len(v.now().saved)))
	case Epoch:
		if len(v.epochs) == epochsMax {
			v.die("an epoch too many is kept")
			return
		}
		r := v.ran(Budget, len(v.now().saved))
		r.Kind, r.State = Ended, v.digestState()
		for _, p := range slices.Sorted(maps.Keys(v.now().saved)) {
			r.Pages = append(r.Pages, Page{p, v.digest(p)})
		}
		v.ends[c.A] = slices.Clone(v.ram)
		v.begin(c.A)
		v.reply(r)
	case Commit:
		for len(v.epochs) > 1 && v.epochs[0].number < c.A {
			v.epochs = v.epochs[1:]
		}
	case Patrol, Digest:
		r := v.ran(Budget, len(v.now().saved))
		r.Kind, r.Pages = Patrolled, v.digests(c.A, c.B, c.Verb == Digest)
		v.reply(r)
	case Back:
		restored := map[uint32]bool{}
		for len(v.epochs) > 0 {
			for p, content := range v.now().saved {
				v.ram[p], restored[p] = content, true
			}
			v.simState = v.now().state
			number := v.now().number
			if v.epochs = v.epochs[:len(v.epochs)-1]; len(v.epochs) == 0 {
				v.begin(number)
				break
			}
		}
		r := Record{Kind: Restored, State: v.digestState()}
		for _, p := range slices.Sorted(maps.Keys(restored)) {
			r.Pages = append(r.Pages, Page{p, v.digest(p)})
		}
		v.reply(r)
	case Save:
		v.reply(Record{Kind: Saved, State: v.digestState(), Data: v.encode()})
	case Load:
		if !v.decode(c.Data) {
			v.die("the state makes no sense")
			return
		}
		v.afterLoad()
		v.epochs = nil
		v.begin(c.A)
		v.ends[c.A] = slices.Clone(v.ram)
		v.reply(Record{Kind: Loaded, State: v.digestState()})
	case Test:
		v.reply(Record{Kind: Tested})
	case Emit:
		v.emitAgain()
		v.reply(v.ran(Budget, len(v.now().saved)))
	case End:
		v.die("it was ended")
	}
}

// reply sends a record, repeating the command's number.
func (v *simModule) reply(r Record) {
	if v.gone != "" || v.hung {
		return
	}
	r.Number = v.number
	for _, r := range v.faultyReply(r) {
		// It goes through the encoding, as it would.
		var got Record
		if err := got.Decode(r.Append(nil)); err != nil {
			v.die(err.Error())
			return
		}
		v.send(got)
	}
}

// sameOutput compares outputs but for the command's number.
func sameOutput(a, b *Record) bool {
	x, y := *a, *b
	x.Number, y.Number = 0, 0
	return bytes.Equal(x.Append(nil), y.Append(nil))
}
