package module

// The console's 16550A (National Semiconductor PC16550D), its registers a byte apart. What
// the guest sends leaves at once, so the transmitter is always empty; what is typed waits
// outside until the receiver has room, so nothing is lost.
//
// Invariants:
//   - The receive FIFO holds at most 16 bytes (1 while FIFOs are off); bytes wait only while
//     it is full or looped back.
//   - The line is a function of the state, driven anew at each change.
//   - There is no time in it: the character timeout, due after four characters' time of
//     silence, is there at once.

const (
	uartFIFO = 16
	// uartWaiting bounds what was typed and not taken yet.
	uartWaiting = 512

	uartRBR = 0 // read: receiver; write: transmitter; with DLAB the divisor's low byte
	uartIER = 1 // with DLAB the divisor's high byte
	uartIIR = 2 // write: FCR
	uartLCR = 3
	uartMCR = 4
	uartLSR = 5
	uartMSR = 6
	uartSCR = 7

	ierReceived = 1 << 0
	ierTHRE     = 1 << 1
	ierLine     = 1 << 2
	ierMask     = 0x0f

	iirNone    = 0x01
	iirTHRE    = 0x02
	iirData    = 0x04
	iirLine    = 0x06
	iirTimeout = 0x0c
	iirFIFOs   = 0xc0

	fcrEnable       = 1 << 0
	fcrClearReceive = 1 << 1
	fcrTrigger      = 0xc0

	lcrDLAB = 1 << 7

	mcrLoop = 1 << 4
	mcrMask = 0x1f

	lsrData    = 1 << 0
	lsrOverrun = 1 << 1
	lsrEmpty   = 0x60 // THRE and TEMT

	// The modem at the other end is always there: DCD, DSR, CTS.
	msrPresent = 0xb0
)

// UARTState is everything that a UART knows. It is comparable.
type UARTState struct {
	IER, LCR, MCR, SCR, FCR uint8
	Divisor                 uint16
	THREPending             bool // the transmitter became empty and nobody has looked
	Overrun                 bool

	FIFO         [uartFIFO]byte // the oldest first
	FIFOCount    uint8
	Waiting      [uartWaiting]byte // typed, not in the FIFO yet; the oldest first
	WaitingCount uint16
}

// UART is the console of one machine.
type UART struct {
	state UARTState
	out   func(b byte)
	drive func(level bool)
}

// NewUART returns a UART after reset. out gets each byte that the guest sends; drive the
// level of the interrupt line at each access or input that may have changed it.
func NewUART(out func(b byte), drive func(level bool)) *UART {
	return &UART{out: out, drive: drive}
}

// State returns a copy of everything that u knows.
func (u *UART) State() UARTState { return u.state }

// SetState makes u what State returned, and drives the line accordingly.
func (u *UART) SetState(s UARTState) {
	u.state = s
	u.drive(u.interrupt() != iirNone)
}

// Receive is what was typed, an input. It takes what it has room for and returns how much
// that was.
func (u *UART) Receive(p []byte) int {
	n := copy(u.state.Waiting[u.state.WaitingCount:], p)
	u.state.WaitingCount += uint16(n)
	u.settle()
	return n
}

// Room is how many bytes Receive takes for sure.
func (u *UART) Room() int { return uartWaiting - int(u.state.WaitingCount) }

// Read takes what was typed past the registers, for a console of the firmware (SBI DBCN).
func (u *UART) Read(p []byte) int {
	n := 0
	for n < len(p) && u.state.FIFOCount > 0 {
		p[n] = u.take()
		n++
		u.settle()
	}
	return n
}

func (u *UART) depth() uint8 {
	if u.state.FCR&fcrEnable != 0 {
		return uartFIFO
	}
	return 1
}

func (u *UART) looped() bool { return u.state.MCR&mcrLoop != 0 }

// settle moves what waits into the FIFO and drives the line: the end of each access.
func (u *UART) settle() {
	s := &u.state
	if free := u.depth() - min(s.FIFOCount, u.depth()); free > 0 && s.WaitingCount > 0 && !u.looped() {
		n := copy(s.FIFO[s.FIFOCount:s.FIFOCount+free], s.Waiting[:s.WaitingCount])
		s.FIFOCount += uint8(n)
		copy(s.Waiting[:], s.Waiting[n:s.WaitingCount])
		clear(s.Waiting[s.WaitingCount-uint16(n) : s.WaitingCount]) // what is not there is 0: states compare
		s.WaitingCount -= uint16(n)
	}
	u.drive(u.interrupt() != iirNone)
}

// take removes the oldest byte of the FIFO, 0 where there is none.
func (u *UART) take() byte {
	s := &u.state
	if s.FIFOCount == 0 {
		return 0
	}
	b := s.FIFO[0]
	copy(s.FIFO[:], s.FIFO[1:s.FIFOCount])
	s.FIFOCount--
	s.FIFO[s.FIFOCount] = 0
	return b
}

// interrupt is the identification of the highest pending interrupt (table 5).
func (u *UART) interrupt() uint8 {
	s := &u.state
	switch {
	case s.IER&ierLine != 0 && s.Overrun:
		return iirLine
	case s.IER&ierReceived != 0 && s.FIFOCount > 0:
		trigger := [4]uint8{1, 4, 8, 14}[s.FCR&fcrTrigger>>6]
		if s.FCR&fcrEnable != 0 && s.FIFOCount < trigger {
			return iirTimeout
		}
		return iirData
	case s.IER&ierTHRE != 0 && s.THREPending:
		return iirTHRE
	}
	return iirNone
}

// send is a byte written to the transmitter, which is empty again at once.
func (u *UART) send(b byte) {
	s := &u.state
	s.THREPending = true
	if !u.looped() {
		u.out(b)
		return
	}
	if s.FIFOCount >= u.depth() {
		s.Overrun = true
		return
	}
	s.FIFO[s.FIFOCount] = b
	s.FIFOCount++
}

// Load reads the register at offset; the registers are bytes, whatever the size.
func (u *UART) Load(offset uint64, _ int) (uint64, bool) {
	if offset > uartSCR {
		return 0, false
	}
	v := u.load(offset)
	u.settle()
	return uint64(v), true
}

func (u *UART) load(register uint64) uint8 {
	s := &u.state
	switch register {
	case uartRBR:
		if s.LCR&lcrDLAB != 0 {
			return uint8(s.Divisor)
		}
		return u.take()
	case uartIER:
		if s.LCR&lcrDLAB != 0 {
			return uint8(s.Divisor >> 8)
		}
		return s.IER
	case uartIIR:
		id := u.interrupt()
		if id == iirTHRE { // seen
			s.THREPending = false
		}
		if s.FCR&fcrEnable != 0 {
			id |= iirFIFOs
		}
		return id
	case uartLCR:
		return s.LCR
	case uartMCR:
		return s.MCR
	case uartLSR:
		v := uint8(lsrEmpty)
		if s.FIFOCount > 0 {
			v |= lsrData
		}
		if s.Overrun {
			v |= lsrOverrun
			s.Overrun = false
		}
		return v
	case uartMSR:
		if !u.looped() {
			return msrPresent
		}
		// DTR to DSR, RTS to CTS, OUT1 to RI, OUT2 to DCD.
		return s.MCR&1<<5 | s.MCR&2<<3 | s.MCR&0x0c<<4
	}
	return s.SCR
}

// Store writes the register at offset.
func (u *UART) Store(offset uint64, _ int, v uint64) bool {
	if offset > uartSCR {
		return false
	}
	u.store(offset, uint8(v))
	u.settle()
	return true
}

func (u *UART) store(register uint64, v uint8) {
	s := &u.state
	switch register {
	case uartRBR:
		if s.LCR&lcrDLAB != 0 {
			s.Divisor = s.Divisor&0xff00 | uint16(v)
			return
		}
		u.send(v)
	case uartIER:
		if s.LCR&lcrDLAB != 0 {
			s.Divisor = s.Divisor&0x00ff | uint16(v)<<8
			return
		}
		// Switching it on with an empty transmitter interrupts; drivers test for that.
		if s.IER&ierTHRE == 0 && v&ierTHRE != 0 {
			s.THREPending = true
		}
		s.IER = v & ierMask
	case uartIIR: // FCR
		if (s.FCR^v)&fcrEnable != 0 || v&fcrClearReceive != 0 {
			s.FIFO, s.FIFOCount = [uartFIFO]byte{}, 0
		}
		s.FCR = 0
		if v&fcrEnable != 0 { // else the other bits are not programmed
			s.FCR = v & (fcrEnable | fcrTrigger)
		}
	case uartLCR:
		s.LCR = v
	case uartMCR:
		s.MCR = v & mcrMask
	case uartSCR:
		s.SCR = v
	}
}
