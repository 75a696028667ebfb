package virtio

// The entropy device (5.4). Random bytes are an input like any other: the module has no
// source of its own. One request is outside at a time; Linux makes no more.

const (
	entropyQueue = 0 // requestq

	// EntropyMax is the most bytes of one request. A longer buffer is filled in part, as
	// 5.4.6.1 allows.
	EntropyMax = 1024
)

// entropyState is all that an entropy device knows.
type entropyState struct {
	transportState
	Serial  uint64 // IDs used
	Busy    bool   // Pending is outside
	Pending pending
}

// EntropyDevice gives random bytes to the guest.
type EntropyDevice struct {
	transport
	state entropyState
	chain chain
}

var _ Device = (*EntropyDevice)(nil)

// NewEntropy makes an entropy device after reset.
func NewEntropy(slot int, mem Memory, port Port) *EntropyDevice {
	d := &EntropyDevice{}
	d.transport = transport{
		slot: slot, kind: "entropy", id: idEntropy, queues: 1, offered: featuresCommon,
		mem: mem, port: port, front: d, s: &d.state.transportState,
	}
	return d
}

// Receive: nothing comes by itself.
func (d *EntropyDevice) Receive([]byte) int { return 0 }

func (d *EntropyDevice) acceptable(uint64) bool { return true }
func (d *EntropyDevice) started()               {}
func (d *EntropyDevice) cleared()               {}
func (d *EntropyDevice) zero()                  { d.state = entropyState{} }
func (d *EntropyDevice) described()             {}

func (d *EntropyDevice) outside() int {
	if d.state.Busy {
		return 1
	}
	return 0
}

func (d *EntropyDevice) code(c *codec) {
	s := &d.state
	s.transportState.code(c)
	c.u64(&s.Serial)
	c.flag(&s.Busy)
	if s.Busy {
		s.Pending.code(c)
		c.check(s.Pending.ID == s.Serial)
	}
}

func (d *EntropyDevice) notified(queue int) {
	n := d.available(queue)
	for ; n > 0 && !d.state.Busy && d.next(queue, &d.chain); n-- {
		d.begin(&d.chain)
		if !d.live() {
			return
		}
	}
	d.arm(queue) // what is left goes on with the answer
	d.signal(queue)
}

func (d *EntropyDevice) begin(c *chain) {
	s := &d.state
	d.s.Counters.Requests++
	if c.readable > 0 {
		d.violate(ViolationDirection)
		return
	}
	if !s.Pending.keep(c) {
		d.violate(ViolationRequestSize)
		return
	}
	s.Serial++
	s.Busy = true
	s.Pending.ID, s.Pending.Op = s.Serial, Entropy
	s.Pending.Room = uint32(min(c.writeLen, EntropyMax))
	d.req = Request{ID: s.Serial, Op: Entropy, Length: uint64(s.Pending.Room)}
	d.emit()
}

// Emit asks again for the bytes that are outside.
func (d *EntropyDevice) Emit() {
	if p := &d.state.Pending; d.state.Busy {
		d.req = Request{ID: p.ID, Op: Entropy, Length: uint64(p.Room)}
		d.emit()
	}
}

// Complete brings the bytes. What is not OK gives the buffer back empty.
func (d *EntropyDevice) Complete(c *Completion) {
	s := &d.state
	if !s.Busy || c.ID != s.Pending.ID {
		d.s.Counters.Unasked++
		return
	}
	s.Busy = false
	if d.live() {
		d.answer(c)
	}
	if d.Held() {
		d.drained()
	}
	if d.serving(entropyQueue) {
		d.notified(entropyQueue)
	}
}

func (d *EntropyDevice) answer(c *Completion) {
	p := &d.state.Pending
	data := c.Data[:min(len(c.Data), int(p.Room))]
	if c.Status != OK {
		d.s.Counters.Errors++
		data = nil
	}
	if !d.scatter(p.write(), 0, data) {
		d.violate(ViolationDataOutside)
		return
	}
	d.push(entropyQueue, p.Head, uint32(len(data)))
}
