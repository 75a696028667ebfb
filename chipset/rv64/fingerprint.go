package rv64

// The fingerprint, defined once for every engine that runs a hart.
//
// Retired and trapping steps are folded in order:
//
//	F := F·K + v      so that after n steps      F := F·Kⁿ + Σ vᵢ·Kⁿ⁻¹⁻ⁱ      (mod 2⁶⁴)
//
// which does not depend on where the steps were cut into blocks or runs. What a step
// contributes is the sum of three terms, the first two known when it is decoded:
//
//	v = page(pc >> 12) + site(pc & 0xfff, dst) + mix(data)
//
//	what happened              dst         data
//	nothing written            0           0
//	register written           1…63        the value; x1…x31, f0…f31 as 32…63
//	store                      64          value + addr·foldAddr, value zero-extended
//	AMO, SC                    128+rd      below, amoData
//	trap                       65          (cause+1)·foldSecond + tval·foldAddr
//	CSR instruction            rd          old (when rd is written) + new·foldSecond (when written)
//	SBI call                   66          a0 + a1·foldSecond, as the firmware left them
//
// An AMO's data is old·foldSecond (0 when rd is x0) + stored·foldThird + addr·foldAddr; an
// SC's "old" is what it wrote to rd, and one that failed stored nothing and has no address
// (both 0). An interrupt is no step: the pc of its handler's first instruction shows it.
// Addresses are virtual. The hart's own updates of A and D bits are not folded; they show
// in the digests of memory.
//
// mix spreads the high bits down. Without it two errors in bit 63 would cancel whatever
// the distance of their steps, since odd·2⁶³ = 2⁶³ (mod 2⁶⁴).
//
// K is odd, so that it has an inverse: an engine sums data·K⁻ⁱ by the position i in a
// block and multiplies once by Kⁿ⁻¹ at its end, wherever that is. That keeps a chain of
// multiplications off the critical path, in the interpreter and in machine code alike.
//
// The level StoreOnly has v = 0 for all but stores, AMO, SC, traps, SBI calls and control
// transfers (branches, taken or not, and jumps; a jump's link register is left out); Off
// has v = 0 for all.

// Compare says how much of each step goes into the fingerprint.
type Compare uint8

const (
	EveryStep Compare = iota // every retired or trapping step
	StoreOnly                // stores and control flow
	Off                      // nothing; the fingerprint stays 0
)

const (
	foldK      uint64 = 0xd134_2543_de82_ef95 // odd; a multiplier of good spectral quality (Steele, Vigna 2021)
	foldAddr   uint64 = 0x9e37_79b9_7f4a_7c15
	foldSecond uint64 = 0xbf58_476d_1ce4_e5b9
	foldThird  uint64 = 0x94d0_49bb_1331_11eb
	foldPage   uint64 = 0xff51_afd7_ed55_8ccd
)

// What a step wrote, where it is no register.
const (
	dstNone  = 0
	dstStore = 64
	dstTrap  = 65
	dstSBI   = 66
	dstAMO   = 128
)

// mix spreads the high bits of a value down.
func mix(v uint64) uint64 { return v ^ v>>32 }

// pageTerm is a step's contribution by the page that it lies in.
func pageTerm(pc uint64) uint64 {
	m := (pc>>12 + 1) * foldPage
	return m ^ m>>32
}

// siteTerm is a step's contribution by its place in the page and what it writes (the
// finaliser of splitmix64, a bijection).
func siteTerm(off uint64, dst uint8) uint64 {
	z := (off<<8 | uint64(dst)) + foldAddr
	z = (z ^ z>>30) * foldSecond
	z = (z ^ z>>27) * foldThird
	return z ^ z>>31
}

// maxBlock bounds the steps in a block. Numbers of steps are bytes, and the tables that
// they index have 256 entries, so that no bounds check is needed.
const maxBlock = 64

// powers are Kⁱ and K⁻ⁱ.
type powers struct {
	up, down [256]uint64
}

var foldPowers = func() (p powers) {
	// Newton's iteration doubles the good bits of the inverse mod 2⁶⁴; an odd number is
	// its own inverse mod 8.
	inverse := foldK
	for range 5 {
		inverse *= 2 - foldK*inverse
	}
	p.up[0], p.down[0] = 1, 1
	for i := 1; i < 256; i++ {
		p.up[i], p.down[i] = p.up[i-1]*foldK, p.down[i-1]*inverse
	}
	return p
}()

// prefix is what the first steps of a block contribute apart from their data: the
// site terms summed, and the factor of the page's term.
type prefix struct {
	site, page uint64
}

func (p prefix) then(counts bool, off uint64, dst uint8) prefix {
	p.site *= foldK
	p.page *= foldK
	if counts {
		p.site += siteTerm(off, dst)
		p.page++
	}
	return p
}

// foldOne folds a single step that belongs to no block.
func (h *Hart) foldOne(pc uint64, dst uint8, data uint64) {
	v := uint64(0)
	if h.cfg.Compare != Off {
		v = pageTerm(pc) + siteTerm(pc&0xfff, dst) + mix(data)
	}
	h.fp = h.fp*foldK + v
}
