package firmware

// consoleChunk is the most that one call of DBCN moves. The specification lets a call move
// less than it was asked to, and callers go on with the rest; a bounded step keeps quanta
// short.
const consoleChunk = 4096

// debugConsole is chapter 12. Its memory is guest physical, and must be RAM: all that a call
// names, also what it leaves for the next one.
func (s *SBI) debugConsole(fid uint32) (uint64, sbiError) {
	m := s.machine
	switch fid {
	case 0: // console_write
		n, addr, err := s.consoleBuffer()
		if err != sbiSuccess || n == 0 {
			return 0, err
		}
		p := s.buffer[:min(n, consoleChunk)]
		if !m.ReadRAM(addr, p) {
			return 0, sbiInvalidParam
		}
		m.ConsoleWrite(p)
		return uint64(len(p)), sbiSuccess
	case 1: // console_read
		n, addr, err := s.consoleBuffer()
		if err != sbiSuccess || n == 0 {
			return 0, err
		}
		// Only what is sure to arrive is taken from the console.
		p := s.buffer[:min(n, consoleChunk)]
		if !m.ReadRAM(addr, p) {
			return 0, sbiInvalidParam
		}
		p = p[:m.ConsoleRead(p)]
		m.WriteRAM(addr, p)
		return uint64(len(p)), sbiSuccess
	case 2: // console_write_byte
		s.buffer[0] = byte(m.Reg(regA0))
		m.ConsoleWrite(s.buffer[:1])
		return 0, sbiSuccess
	}
	return 0, sbiNotSupported
}

// consoleBuffer reads a buffer's length and address and checks its far end, which is not
// touched in this call if the buffer is long.
func (s *SBI) consoleBuffer() (n, addr uint64, err sbiError) {
	m := s.machine
	n, addr = m.Reg(regA0), m.Reg(regA1)
	if m.Reg(regA2) != 0 { // base_addr_hi: beyond 64 bits
		return 0, 0, sbiInvalidParam
	}
	if n == 0 {
		return 0, 0, sbiSuccess
	}
	last := addr + n - 1
	if last < addr || !m.ReadRAM(last, s.buffer[:1]) {
		return 0, 0, sbiInvalidParam
	}
	return n, addr, sbiSuccess
}

// legacy is chapter 5: one result, and no error for the console but a negative one. The
// calls that pass a hart mask by a virtual address are those that are not supported; their
// replacements take it in a register.
func (s *SBI) legacy(eid uint32) int64 {
	m := s.machine
	switch eid {
	case eidLegacySetTimer:
		m.SetTimer(m.Reg(regA0))
	case eidLegacyPutchar:
		s.buffer[0] = byte(m.Reg(regA0))
		m.ConsoleWrite(s.buffer[:1])
	case eidLegacyGetchar:
		if m.ConsoleRead(s.buffer[:1]) == 0 {
			return -1
		}
		return int64(s.buffer[0])
	case eidLegacyClearIPI:
		m.SetSoftwareInterrupt(false)
	case eidLegacyShutdown:
		m.Reset(Shutdown, NoReason)
	default: // send_ipi and the remote fences
		return int64(sbiNotSupported)
	}
	return 0
}
