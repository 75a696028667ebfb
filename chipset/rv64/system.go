package rv64

// The SYSTEM opcode. All of it ends its block, and so what it changes holds from the next
// step on.

// What opSystem does. The CSR instructions are by funct3.
const (
	sysECALL  = 0
	sysCSRRW  = 1
	sysCSRRS  = 2
	sysCSRRC  = 3
	sysCSRRWI = 5
	sysCSRRSI = 6
	sysCSRRCI = 7
	sysEBREAK = 8 + iota
	sysSRET
	sysMRET
	sysWFI
	sysSFENCE
)

func decodeSystem(o *instruction, w uint32) {
	f3 := w >> 12 & 7
	switch {
	case f3 == 4:
		return
	case f3 != 0:
		o.aux, o.imm = uint8(f3), int32(w>>20)
	case w == 0x0000_0073:
		o.aux = sysECALL
	case w == 0x0010_0073:
		o.aux = sysEBREAK
	case w == 0x1020_0073:
		o.aux = sysSRET
	case w == 0x3020_0073:
		o.aux = sysMRET
	case w == 0x1050_0073:
		o.aux = sysWFI
	case w>>25 == 9 && w>>7&31 == 0:
		o.aux = sysSFENCE
	default:
		return
	}
	o.op.code = opSystem
}

// system executes opSystem and opIllegal. It never ends in stDone.
func (h *Hart) system(o site) (fold uint64, st status) {
	h.stepPC = h.pc + uint64(o.off)
	if o.note.code == opIllegal {
		return 0, h.illegal(o)
	}
	switch o.aux {
	case sysECALL:
		return h.ecall(o)
	case sysEBREAK:
		h.raise(causeBreakpoint, h.stepPC)
		return 0, stTrap
	case sysSRET:
		if h.priv < Supervisor || h.priv == Supervisor && h.csr.mstatus&mstatusTSR != 0 {
			return 0, h.illegal(o)
		}
		h.returnFrom(Supervisor)
		return 0, stJump
	case sysMRET:
		if h.priv != Machine {
			return 0, h.illegal(o)
		}
		h.returnFrom(Machine)
		return 0, stJump
	case sysWFI:
		if h.priv == User || h.priv == Supervisor && h.csr.mstatus&mstatusTW != 0 {
			return 0, h.illegal(o)
		}
		h.waiting = true
		h.disturb()
		return 0, stLeave
	case sysSFENCE:
		if h.priv == User || h.priv == Supervisor && h.csr.mstatus&mstatusTVM != 0 {
			return 0, h.illegal(o)
		}
		return 0, stLeave
	}
	return h.accessCSR(o)
}

// illegal raises the illegal-instruction trap.
func (h *Hart) illegal(o site) status {
	h.raise(causeIllegal, uint64(o.raw))
	return stTrap
}

func (h *Hart) ecall(o site) (fold uint64, st status) {
	if h.priv != Supervisor || h.cfg.Ecall == nil {
		h.raise(causeEcallU+uint64(h.priv), 0)
		return 0, stTrap
	}
	h.pc, h.inStep, h.jumped = h.stepPC, o.position(), false
	h.cfg.Ecall(h)
	h.inStep = 0
	if !h.jumped {
		h.pc = h.stepPC + 4
	}
	return 0, stSBI
}

// accessCSR is what CSRRW and its kin do.
func (h *Hart) accessCSR(o site) (fold uint64, st status) {
	n := uint32(o.imm)
	operand := uint64(o.rs1)
	if o.aux < sysCSRRWI {
		operand = h.x[o.rs1]
	}
	swaps := o.aux&3 == sysCSRRW
	writes := swaps || o.rs1 != 0
	if !h.csrAllowed(n, writes) {
		return 0, h.illegal(o)
	}
	h.inStep = o.position()
	old, ok := h.readCSR(n)
	if !ok {
		h.inStep = 0
		return 0, h.illegal(o)
	}
	data := uint64(0)
	if writes {
		v := operand
		if !swaps {
			base := old
			if n == csrMip { // SEIP's line is read, but not written back
				base = base&^mipSEIP | h.csr.mip&mipSEIP
			}
			if v = base | operand; o.aux&3 == sysCSRRC {
				v = base &^ operand
			}
		}
		h.writeCSR(n, v)
		data = v * foldSecond
	}
	h.inStep = 0
	if o.rd != regSink {
		h.x[o.rd] = old
		data += old
	}
	return mix(data) * o.weight, stLeave
}
