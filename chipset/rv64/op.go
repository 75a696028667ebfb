package rv64

// op is what the interpreter reads of a decoded instruction, 16 bytes. Registers are
// indices into Hart.x, so that integer and floating-point ones need no distinction where
// bits are only moved.
type op struct {
	code         code
	rd, rs1, rs2 uint8
	imm          int32  // of what is relative to the pc: relative to the block's start
	weight       uint64 // of its data in the block's sum (fingerprint.go)
}

const opSize = 16

// note is the rest of it, for what is not on the fast path.
type note struct {
	sum   prefix // of the block's steps through this one
	taken *block // where this step leads if it leaves the block; nil: not known
	raw   uint32 // as fetched; 16 bits of it for a compressed one
	off   uint16 // bytes from the block's start
	code  code   // of the instruction, where the op's is that of what a jump in the block comes to
	aux   uint8  // which of the operations that share the code
	n     uint8  // steps of the block through this one
	links bool   // it may lead to a block of its page, by taken
	fixed bool   // an operation before it always writes the same (op.constant)
}

// instruction is both, by value, while it is decoded.
type instruction struct {
	op
	note
}

// site is both, where they are kept in a block.
type site struct {
	*op
	*note
}

// size is the instruction's length in bytes.
func (n *note) size() uint64 {
	if n.raw&3 == 3 {
		return 4
	}
	return 2
}

// position is how many steps of the block come before this one.
func (n *note) position() uint64 { return uint64(n.n) - 1 }

// Indices into Hart.x beside x0…x31.
const (
	regF    = 32 // f0…f31
	regSink = 64 // where writes to x0 go
)

// code selects what the interpreter does. The operations from opBEQ on end a block.
type code uint8

const (
	opNOP code = iota
	opLUI
	opAUIPC
	opADDI
	opSLTI
	opSLTIU
	opXORI
	opORI
	opANDI
	opSLLI
	opSRLI
	opSRAI
	opADDIW
	opSLLIW
	opSRLIW
	opSRAIW
	opADD
	opSUB
	opSLL
	opSLT
	opSLTU
	opXOR
	opSRL
	opSRA
	opOR
	opAND
	opADDW
	opSUBW
	opSLLW
	opSRLW
	opSRAW
	opMUL
	opMULH
	opMULHSU
	opMULHU
	opDIV
	opDIVU
	opREM
	opREMU
	opMULW
	opDIVW
	opDIVUW
	opREMW
	opREMUW
	opLB
	opLH
	opLW
	opLD
	opLBU
	opLHU
	opLWU
	opLoadX0 // any load whose destination is x0: aux is the load's code
	opSB
	opSH
	opSW
	opSD
	opFLW
	opFLD
	opFSW
	opFSD
	opFADDS // to opFCVTDW: what is fast in interp.go, with the same aux as opFloat
	opFADDD
	opFSUBS
	opFSUBD
	opFMULS
	opFMULD
	opFSGNJD
	opFLED
	opFLTD
	opFEQD
	opFMVDX
	opFCVTDW
	opFloat // aux: float.go
	opAMO   // aux: atomic.go; LR and SC too
	opBEQ
	opBNE
	opBLT
	opBGE
	opBLTU
	opBGEU
	opJ // jal x0
	opJAL
	opJR // jalr x0
	opJALR
	opSystem // aux: system.go
	opIllegal
	opEnd // no instruction: the block ends before what follows
)

// ends says whether the operation ends its block.
func (c code) ends() bool { return c >= opBEQ }

// branches says whether the operation is a conditional branch.
func (c code) branches() bool { return c >= opBEQ && c <= opBGEU }

// access describes loads and stores.
type access struct {
	size   uint8
	signed bool
}

var accesses = [256]access{
	opLB: {1, true}, opLH: {2, true}, opLW: {4, true}, opLD: {8, false},
	opLBU: {1, false}, opLHU: {2, false}, opLWU: {4, false},
	opFLW: {4, false}, opFLD: {8, false},
	opSB: {1, false}, opSH: {2, false}, opSW: {4, false}, opSD: {8, false},
	opFSW: {4, false}, opFSD: {8, false},
}

// dst is what the step writes, for the fingerprint.
func (o site) dst() uint8 {
	c := o.note.code
	switch {
	case c >= opSB && c <= opSD || c == opFSW || c == opFSD:
		return dstStore
	case c == opAMO && o.aux != amoLRW && o.aux != amoLRD:
		return dstAMO + o.rd&31
	case c == opSystem && (o.aux == sysECALL || o.aux == sysEBREAK), c == opIllegal:
		return dstTrap
	case o.rd == regSink:
		return dstNone
	}
	return o.rd
}

// counts says whether the step goes into the fingerprint at a level.
func (o site) counts(level Compare) bool {
	switch level {
	case EveryStep:
		return true
	case StoreOnly:
		return o.dst() >= dstStore || o.note.code >= opBEQ && o.note.code <= opJALR
	}
	return false
}

// weigh sets the weight of its data, by its place and the level.
func (o site) weigh(level Compare) {
	o.weight = 0
	if level == EveryStep || level == StoreOnly && o.dst() >= dstStore {
		o.weight = foldPowers.down[o.position()]
	}
}
