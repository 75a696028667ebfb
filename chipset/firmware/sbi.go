package firmware

// The supervisor binary interface, RISC-V SBI Specification 2.0, for a machine of one hart:
// what ECALL from S mode does. It runs between two instructions of the guest, at the step of
// the ECALL, and its effects are exactly those on the Machine; it has no state of its own
// that a copy of the machine would need.
//
// Extensions here: Base, TIME, IPI, RFENCE, HSM, SRST, DBCN, and of the legacy ones those
// that need no access through the guest's page table. Everything else, known to the
// specification or not, is SBI_ERR_NOT_SUPPORTED.

// Machine is what the calls act on. All of it happens at the present step.
type Machine interface {
	Reg(i int) uint64
	SetReg(i int, v uint64)

	// ReadRAM and WriteRAM copy from and to guest physical addresses. They do nothing and
	// return false unless all of it is RAM.
	ReadRAM(addr uint64, p []byte) bool
	WriteRAM(addr uint64, p []byte) bool

	SetTimer(at uint64)             // stimecmp: the timer interrupt is pending from time = at on
	SetSoftwareInterrupt(high bool) // SSIP

	ConsoleWrite(p []byte)    // takes all of it
	ConsoleRead(p []byte) int // what has been typed and fits, without waiting

	// Reset ends the run after this step; there is nothing to return to.
	Reset(kind ResetType, reason ResetReason)
}

// ResetType is the kind of an SRST reset (chapter 10, table "System Reset Types").
type ResetType uint32

const (
	Shutdown ResetType = iota
	ColdReboot
	WarmReboot
)

func (t ResetType) String() string {
	switch t {
	case Shutdown:
		return "shutdown"
	case ColdReboot:
		return "cold reboot"
	case WarmReboot:
		return "warm reboot"
	}
	return "reserved"
}

// ResetReason is why (table "System Reset Reasons").
type ResetReason uint32

const (
	NoReason ResetReason = iota
	SystemFailure
)

func (r ResetReason) String() string {
	switch r {
	case NoReason:
		return "no reason"
	case SystemFailure:
		return "system failure"
	}
	return "reserved"
}

// sbiError is the first value that a call returns (chapter 3, table "Standard SBI Errors").
type sbiError int64

const (
	sbiSuccess          sbiError = 0
	sbiNotSupported     sbiError = -2
	sbiInvalidParam     sbiError = -3
	sbiAlreadyAvailable sbiError = -6
)

// Extension IDs.
const (
	eidLegacySetTimer = 0x00
	eidLegacyPutchar  = 0x01
	eidLegacyGetchar  = 0x02
	eidLegacyClearIPI = 0x03
	eidLegacyShutdown = 0x08

	eidBase   = 0x10
	eidTime   = 0x5449_4d45
	eidIPI    = 0x73_5049
	eidRFence = 0x5246_4e43
	eidHSM    = 0x48_534d
	eidSRST   = 0x5352_5354
	eidDBCN   = 0x4442_434e
)

const (
	specVersion = 2 << 24 // 2.0
	// implID is none of the registered ones (table "SBI Implementation IDs"), which are
	// small: "ft".
	implID      = 0x6674
	implVersion = 1
)

// Registers of the calling convention.
const (
	regA0 = 10
	regA1 = 11
	regA2 = 12
	regA6 = 16
	regA7 = 17
)

// SBI answers the calls of one hart. The buffer is scratch: it carries nothing from call to
// call.
type SBI struct {
	machine Machine
	buffer  [consoleChunk]byte
}

// NewSBI returns the firmware of m.
func NewSBI(m Machine) *SBI { return &SBI{machine: m} }

// Call performs the ECALL that m's hart is at. It changes a0 and a1 (a legacy extension:
// a0 alone); advancing the pc is the hart's.
func (s *SBI) Call() {
	m := s.machine
	// The IDs are 32-bit numbers, sign-extended by some callers and not by others.
	eid, fid := uint32(m.Reg(regA7)), uint32(m.Reg(regA6))
	if eid <= eidLegacyShutdown {
		m.SetReg(regA0, uint64(s.legacy(eid)))
		return
	}
	value, err := s.extension(eid, fid)
	m.SetReg(regA0, uint64(err))
	m.SetReg(regA1, value)
}

func (s *SBI) extension(eid, fid uint32) (value uint64, err sbiError) {
	switch eid {
	case eidBase:
		return s.base(fid)
	case eidTime:
		if fid == 0 {
			s.machine.SetTimer(s.machine.Reg(regA0))
			return 0, sbiSuccess
		}
	case eidIPI:
		if fid == 0 {
			return 0, s.sendIPI()
		}
	case eidRFence:
		return 0, s.remoteFence(fid)
	case eidHSM:
		return s.hartState(fid)
	case eidSRST:
		if fid == 0 {
			return 0, s.systemReset()
		}
	case eidDBCN:
		return s.debugConsole(fid)
	}
	return 0, sbiNotSupported
}

// base is chapter 4. The IDs of the machine are those that its CSRs show: none.
func (s *SBI) base(fid uint32) (uint64, sbiError) {
	switch fid {
	case 0:
		return specVersion, sbiSuccess
	case 1:
		return implID, sbiSuccess
	case 2:
		return implVersion, sbiSuccess
	case 3:
		if available(uint32(s.machine.Reg(regA0))) {
			return 1, sbiSuccess
		}
		return 0, sbiSuccess
	case 4, 5, 6: // mvendorid, marchid, mimpid
		return 0, sbiSuccess
	}
	return 0, sbiNotSupported
}

func available(eid uint32) bool {
	switch eid {
	case eidLegacySetTimer, eidLegacyPutchar, eidLegacyGetchar, eidLegacyClearIPI, eidLegacyShutdown,
		eidBase, eidTime, eidIPI, eidRFence, eidHSM, eidSRST, eidDBCN:
		return true
	}
	return false
}

// hartMask reads a mask and its base (chapter 3) from a0 and a1. Only hart 0 exists, so a
// mask that names any other is invalid.
func (s *SBI) hartMask() (selected bool, err sbiError) {
	mask, base := s.machine.Reg(regA0), s.machine.Reg(regA1)
	switch {
	case base == ^uint64(0): // all harts, whatever the mask
		return true, sbiSuccess
	case mask == 0:
		return false, sbiSuccess
	case base == 0 && mask == 1:
		return true, sbiSuccess
	}
	return false, sbiInvalidParam
}

func (s *SBI) sendIPI() sbiError {
	selected, err := s.hartMask()
	if selected {
		s.machine.SetSoftwareInterrupt(true)
	}
	return err
}

// remoteFence is chapter 8. The caller is the only hart, and what it caches of instructions
// and translations is never stale (package rv64), so a fence that is asked for rightly has
// already happened. The hypervisor's fences need the H extension.
func (s *SBI) remoteFence(fid uint32) sbiError {
	if fid > 2 {
		return sbiNotSupported
	}
	_, err := s.hartMask()
	return err
}

// hartState is chapter 9. Hart 0 runs as long as the machine does: it cannot be started, and
// stopping it, with nobody left to start it, is a shutdown. Suspension is left to WFI.
func (s *SBI) hartState(fid uint32) (uint64, sbiError) {
	switch fid {
	case 0: // hart_start
		if s.machine.Reg(regA0) == 0 {
			return 0, sbiAlreadyAvailable
		}
		return 0, sbiInvalidParam
	case 1: // hart_stop
		s.machine.Reset(Shutdown, NoReason)
		return 0, sbiSuccess
	case 2: // hart_get_status
		if s.machine.Reg(regA0) == 0 {
			return 0, sbiSuccess // STARTED
		}
		return 0, sbiInvalidParam
	}
	return 0, sbiNotSupported
}

// systemReset is chapter 10. Types and reasons that are reserved or belong to other
// platforms and implementations are invalid parameters.
func (s *SBI) systemReset() sbiError {
	kind, reason := s.machine.Reg(regA0), s.machine.Reg(regA1)
	if kind > uint64(WarmReboot) || reason > uint64(SystemFailure) {
		return sbiInvalidParam
	}
	s.machine.Reset(ResetType(kind), ResetReason(reason))
	return sbiSuccess
}
