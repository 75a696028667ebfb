//go:build linux

package translate

import "ft/chipset/rv64"

// Rules that drills break (rules.go): what a translator's mistake looks like.
const (
	brokenADDW = "addw" // adds one too much
	brokenSRA  = "sra"  // forgets the sign
	brokenBLTU = "bltu" // compares as if signed
)

// breakRegister spoils the result d of o.
func (e *emitter) breakRegister(o *rv64.CodeOp, d reg) {
	switch {
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
