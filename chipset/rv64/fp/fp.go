// Package fp is the floating-point arithmetic of the hart: IEEE 754-2019 binary32 and
// binary64 as the F and D extensions of the RISC-V unprivileged specification want them.
// Operands and results are bit patterns; every operation returns its result and the
// exceptions that it raised, and has no state.
//
// Invariants:
//   - A result and its flags are a function of the operands and the rounding mode alone,
//     the same on every host. Where the host's own arithmetic is used (near.go), it is in
//     the only mode that Go's ABI knows (to nearest even, subnormals kept), on single
//     operations that no compiler may fuse, and for results whose error is computed
//     exactly; everything else is computed with integers (core.go).
//   - Every result that is a NaN is the canonical one (F, "NaN Generation and
//     Propagation"): payloads and signs of operands are never propagated.
//   - A signalling NaN among the operands raises NV. So does a quiet one, where the
//     comparison is a signalling one (Lt, Le).
//   - Tininess is detected after rounding, underflow is raised for results that are both
//     tiny and inexact.
//   - Nothing is allocated.
//
// What belongs to registers and not to arithmetic (NaN boxing, sign injection, moves, the
// sticky fflags, the dynamic rounding mode and its reserved encodings) is the hart's.
package fp

// Flags are the exceptions that an operation raised, encoded as in fflags.
type Flags uint8

const (
	NX Flags = 1 << iota // inexact
	UF                   // underflow
	OF                   // overflow
	DZ                   // division by zero
	NV                   // invalid operation
)

// Rounding is a rounding mode, encoded as in frm. The encodings 5 to 7 are reserved or
// mean "dynamic": the hart resolves or refuses them before it calls.
type Rounding uint8

const (
	RNE Rounding = iota // to nearest, ties to even
	RTZ                 // towards zero
	RDN                 // down
	RUP                 // up
	RMM                 // to nearest, ties to the larger magnitude
)

// The canonical NaNs: positive, quiet, no payload.
const (
	NaN32 uint32 = 0x7fc0_0000
	NaN64 uint64 = 0x7ff8_0000_0000_0000
)
