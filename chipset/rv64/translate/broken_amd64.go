//go:build linux

package translate

import "ft/chipset/rv64"

// Rules that drills break (rules.go): what a translator's mistake looks like.
const (
	brokenADDW = "addw" // adds one too much
	brokenSRA  = "sra"  // forgets the sign
	brokenBLTU = "bltu" // compares as if signed

	crashMUL = "mul crash" // is no instruction of the host's
	crashXOR = "xor crash" // reads from where nothing is mapped
)

// breakRegister spoils the result d of o.
func (e *emitter) breakRegister(o *rv64.CodeOp, d reg) {
	switch {
	case e.broken == crashMUL && o.Code == rv64.OpMUL:
		e.byte(0x0f, 0x0b)
	case e.broken == crashXOR && o.Code == rv64.OpXOR:
		e.constant(rax, 64)
		e.rm(iMOV, rax, at(rax, 0))
	case e.broken == brokenADDW && o.Code == rv64.OpADDW:
		e.ri(iADDI, d, 1)
	case e.broken == brokenSRA && o.Code == rv64.OpSRA:
		e.ri(iSHLI, d, 1)
		e.ri(iSHRI, d, 1)
	}
}

func (e *emitter) breakBranch(o *rv64.CodeOp, c cond) cond {
	if e.broken == brokenBLTU && o.Code == rv64.OpBLTU {
		return ccL
	}
	return c
}
