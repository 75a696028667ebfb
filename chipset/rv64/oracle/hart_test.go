package oracle

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"

	"ft/chipset/rv64"
)

// Bits that a hart needs to be told for the programs here.
const (
	mstatusFSInitial = 1 << 13
	pmpAll           = 0x1f // NAPOT, RWX
	causeEcallU      = 8
	causeEcallM      = 11

	pteUser   = pteV | pteR | pteW | pteX | pteU
	satpSv39  = 8 << 60
	stepsEach = 4 // instructions that a random one and its logging take, and more than that
)

// userHart is a hart with a batch in its memory, before the first step.
type userHart struct {
	*rv64.Hart
	b      *batch
	frames []uint64 // where each page of the image lies in ram
	ram    []byte
	cause  uint64 // of the ECALL that ends it
}

// newUserHart puts a batch into a hart: into M mode without translation, or into U mode over
// page tables that scatter its pages in memory, some with A and D bits still clear.
func newUserHart(b *batch, paged bool) *userHart {
	pages := (b.to - base + pageSize - 1) / pageSize
	u := &userHart{b: b, frames: make([]uint64, pages)}
	for i := range u.frames {
		u.frames[i] = uint64(i) * pageSize
	}
	tables := uint64(0)
	if paged {
		tables = 2 + (pages+511)/512
		rng := rand.New(rand.NewPCG(b.seed, 3<<32))
		rng.Shuffle(len(u.frames), func(i, j int) { u.frames[i], u.frames[j] = u.frames[j], u.frames[i] })
	}
	u.ram = make([]byte, (pages+tables)*pageSize)
	image := b.code.Bytes
	if b.spoil != nil {
		image = b.spoil(b.code)
	}
	for i, at := range u.frames {
		from := min(uint64(i)*pageSize, uint64(len(image)))
		copy(u.ram[at:at+pageSize], image[from:])
	}
	u.Hart = rv64.New(rv64.Config{RAM: u.ram, RAMBase: base})
	s := u.State()
	s.PC, s.Mtvec = b.code.Address("start"), u.physical(b.park)
	s.Mstatus, s.Priv, u.cause = mstatusFSInitial, uint64(rv64.Machine), causeEcallM
	s.Pmpcfg[0], s.Pmpaddr[0] = pmpAll, 1<<54-1
	if paged {
		s.Priv, u.cause = uint64(rv64.User), causeEcallU
		s.Satp = satpSv39 | u.tables(pages*pageSize)
	}
	u.SetState(s)
	return u
}

// tables makes the page tables, in RAM from the offset at on: a root, one table of the gigabyte
// that the image is in, and those of its pages.
func (u *userHart) tables(at uint64) (root uint64) {
	le := binary.LittleEndian
	pointer := func(to uint64) uint64 { return (base+to)>>12<<10 | 1 }
	le.PutUint64(u.ram[at+base>>30*8:], pointer(at+pageSize))
	rng := rand.New(rand.NewPCG(u.b.seed, 4<<32))
	for i, frame := range u.frames {
		n := uint64(i)
		leaves := at + 2*pageSize + n/512*pageSize
		le.PutUint64(u.ram[at+pageSize+n/512*8:], pointer(leaves))
		entry := (base+frame)>>12<<10 | pteUser | []uint64{0, pteA, pteA | pteD}[rng.IntN(3)]
		le.PutUint64(u.ram[leaves+n%512*8:], entry)
	}
	return (base + at) >> 12
}

// physical is where an address of the image lies.
func (u *userHart) physical(va uint64) uint64 {
	return base + u.frames[(va-base)/pageSize] + va%pageSize
}

// run runs the batch to its end, in pieces of random length if cut is not nil.
func (u *userHart) run(cut *rand.Rand) error {
	limit := uint64(len(u.b.cases)*400+u.b.random*12) + 10_000
	for u.Steps() < limit {
		n := limit - u.Steps()
		if cut != nil {
			n = min(n, 1+cut.Uint64N(1<<cut.IntN(16)))
		}
		if _, why := u.Run(n); why == rv64.StopWFI {
			s := u.State()
			if s.Mcause != u.cause || s.Mepc != u.b.end {
				return fmt.Errorf("a trap with cause %d at %#x (%s), tval %#x, in stream %d (case %d)",
					s.Mcause, s.Mepc, u.b.code.Texts[s.Mepc], s.Mtval, u.b.caseAt(s.X[caseReg]).stream, u.b.caseIndex(s.X[caseReg]))
			}
			return nil
		}
	}
	return fmt.Errorf("no end after %d steps", u.Steps())
}

// result is what is compared, out of the scattered pages.
func (u *userHart) result() []byte {
	var out []byte
	for at := u.b.from; at < u.b.to; {
		n := min(pageSize-at%pageSize, u.b.to-at)
		p := u.physical(at) - base
		out = append(out, u.ram[p:p+n]...)
		at += n
	}
	return out
}

// caseIndex is the number of the case whose record is at an address.
func (b *batch) caseIndex(record uint64) int {
	i := int(record-b.code.Address("records")) / recordSize
	return min(max(i, 0), len(b.cases)-1)
}

func (b *batch) caseAt(record uint64) batchCase { return b.cases[b.caseIndex(record)] }
