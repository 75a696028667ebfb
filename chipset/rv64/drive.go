package rv64

// What tests need beside a State to put a hart where they want it: a State forgets all that
// the hart keeps, which is what they are about. All of it is called between runs.

// CSR reads a register as an instruction of M mode would; 0 if there is none.
func (h *Hart) CSR(n uint32) uint64 {
	v, _ := h.readCSR(n)
	return v
}

// SetCSR writes one as an instruction of M mode would.
func (h *Hart) SetCSR(n uint32, v uint64) { h.writeCSR(n, v) }

// Wake ends a WFI.
func (h *Hart) Wake() { h.waiting = false }
