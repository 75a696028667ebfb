package rv64

// op is a decoded instruction, 16 bytes. Registers are indices into Hart.x, so that
// integer and floating-point ones need no distinction where bits are only moved.
type op struct {
	code         code
	rd, rs1, rs2 uint8
	pos          uint8  // steps before it in its block
	aux          uint8  // which of the operations that share the code
	off          uint16 // bytes from the block's start
	imm          int32  // of what is relative to the pc: relative to the block's start
	raw          uint32 // as fetched; 16 bits of it for a compressed one
}

const opSize = 16

// size is the instruction's length in bytes.
func (o *op) size() uint64 {
	if o.raw&3 == 3 {
		return 4
	}
	return 2
}

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

// direct says whether the operation, ending a block, goes on at a place that is fixed
// relative to the block.
func (c code) direct() bool { return c >= opBEQ && c <= opJAL || c == opEnd }

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
func (o *op) dst() uint8 {
	switch {
	case o.code >= opSB && o.code <= opSD || o.code == opFSW || o.code == opFSD:
		return dstStore
	case o.code == opAMO && o.aux != amoLRW && o.aux != amoLRD:
		return dstAMO + o.rd&31
	case o.code == opSystem && (o.aux == sysECALL || o.aux == sysEBREAK), o.code == opIllegal:
		return dstTrap
	case o.rd == regSink:
		return dstNone
	}
	return o.rd
}

// counts says whether the step goes into the fingerprint at a level.
func (o *op) counts(c Compare) bool {
	switch c {
	case EveryStep:
		return true
	case StoreOnly:
		d := o.dst()
		return d >= dstStore || o.code >= opBEQ && o.code <= opJALR
	}
	return false
}
