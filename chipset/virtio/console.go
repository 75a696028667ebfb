package virtio

// The console device (5.3) with its one port: no VIRTIO_CONSOLE_F_MULTIPORT, so no control
// queues, and no size: the terminal at the other end is anyone's.
//
// What the guest writes is copied at the doorbell and given back at once; nothing is
// outside.

const (
	consoleReceive  = 0 // receiveq(port0)
	consoleTransmit = 1 // transmitq(port0)

	// consoleWriteMax is the most of one buffer that is put out; Linux writes at most 32 KiB
	// at once. What is beyond it is dropped.
	consoleWriteMax = 32 << 10
	// consoleWaiting bounds what was typed and not taken by the guest yet.
	consoleWaiting = 4096
	// consoleConfig is cols u16, rows u16, max_nr_ports u32, emerg_wr u32: none of them.
	consoleConfig = 12
)

// consoleState is all that a console knows.
type consoleState struct {
	transportState
	WaitCount uint16
	Wait      [consoleWaiting]byte // typed, the oldest first
}

// Console is a console device.
type Console struct {
	transport
	state consoleState

	space [consoleConfig]byte
	chain chain
	data  []byte // under way
}

var _ Device = (*Console)(nil)

// NewConsole makes a console device after reset.
func NewConsole(slot int, mem Memory, port Port) *Console {
	d := &Console{data: make([]byte, consoleWriteMax)}
	d.transport = transport{
		slot: slot, kind: "console", id: idConsole, queues: 2, offered: featuresCommon,
		config: d.space[:], mem: mem, port: port, front: d, s: &d.state.transportState,
	}
	return d
}

// Complete: nothing is asked for.
func (d *Console) Complete(*Completion) { d.s.Counters.Unasked++ }

func (d *Console) acceptable(uint64) bool { return true }
func (d *Console) started()               {}
func (d *Console) outside() int           { return 0 }
func (d *Console) zero()                  { d.state = consoleState{} }
func (d *Console) described()             {}

func (d *Console) code(c *codec) {
	d.state.transportState.code(c)
	word(c, &d.state.WaitCount, 2, consoleWaiting)
	c.bytes(d.state.Wait[:d.state.WaitCount])
}

// cleared: what was typed to the driver before goes with it.
func (d *Console) cleared() { d.state.WaitCount = 0 }

func (d *Console) notified(queue int) {
	if queue == consoleTransmit {
		d.transmit()
		return
	}
	d.deliver()
}

func (d *Console) transmit() {
	for n := d.available(consoleTransmit); n > 0 && d.live() && d.next(consoleTransmit, &d.chain); n-- {
		c := &d.chain
		d.s.Counters.Requests++
		if c.count > c.readable {
			d.violate(ViolationDirection)
			break
		}
		size := min(c.readLen, consoleWriteMax)
		if !d.gather(c.read(), 0, d.data[:size]) {
			d.violate(ViolationDataOutside)
			break
		}
		d.s.Counters.Sent += size
		d.s.Counters.Dropped += c.readLen - size
		if size > 0 {
			d.req = Request{Op: Output, Length: size, Data: d.data[:size]}
			d.emit()
		}
		d.push(consoleTransmit, c.head, 0)
	}
	d.arm(consoleTransmit)
	d.signal(consoleTransmit)
}

// Room is how many bytes Receive takes for sure.
func (d *Console) Room() int {
	if !d.live() {
		return 0
	}
	return consoleWaiting - int(d.state.WaitCount)
}

// Receive is what was typed. It takes what it has room for; a guest that does not listen
// takes nothing.
func (d *Console) Receive(p []byte) int {
	n := copy(d.state.Wait[d.state.WaitCount:], p[:min(len(p), d.Room())])
	d.state.WaitCount += uint16(n)
	d.deliver()
	return n
}

// deliver writes what was typed into buffers of the driver, as far as there are any.
func (d *Console) deliver() {
	s := &d.state
	if !d.serving(consoleReceive) {
		return
	}
	buffers := d.available(consoleReceive)
	for ; buffers > 0 && s.WaitCount > 0 && d.live() && d.next(consoleReceive, &d.chain); buffers-- {
		c := &d.chain
		if c.readable > 0 {
			d.violate(ViolationDirection)
			break
		}
		n := min(c.writeLen, uint64(s.WaitCount))
		if !d.scatter(c.write(), 0, s.Wait[:n]) {
			d.violate(ViolationDataOutside)
			break
		}
		copy(s.Wait[:], s.Wait[n:s.WaitCount])
		s.WaitCount -= uint16(n)
		d.s.Counters.Received += n
		d.push(consoleReceive, c.head, uint32(n))
	}
	if s.WaitCount > 0 {
		d.arm(consoleReceive)
	}
	d.signal(consoleReceive)
}
