package virtio

import "encoding/binary"

// Split virtqueues (2.7). The hart does not run while a device looks at a ring, so there
// are no barriers, and nothing changes between two looks at one access.

const (
	// queueSizeMax is QueueNumMax of every queue, in entries.
	queueSizeMax = 256

	descriptorSize = 16 // struct virtq_desc
	availHeader    = 4  // flags, idx
	availEntry     = 2
	usedHeader     = 4
	usedEntry      = 8 // struct virtq_used_elem

	availNoInterrupt = 1 // VIRTQ_AVAIL_F_NO_INTERRUPT
)

// queueState is what a device knows of a queue. Counts of entries wrap, as in the rings.
type queueState struct {
	Ready  bool
	Num    uint32 // entries
	Desc   uint64 // addresses of the three parts
	Driver uint64 // the available ring
	Device uint64 // the used ring

	Avail    uint16 // entries taken
	Used     uint16 // entries given back
	Signaled uint16 // Used when the driver was last asked whether it wants an interrupt
}

// store writes one of the registers that describe a queue.
func (q *queueState) store(off uint64, v uint32) {
	low := func(p *uint64) { *p = *p&^0xffff_ffff | uint64(v) }
	high := func(p *uint64) { *p = *p&0xffff_ffff | uint64(v)<<32 }
	switch off {
	case regQueueNum:
		q.Num = v
	case regQueueDescLow:
		low(&q.Desc)
	case regQueueDescHigh:
		high(&q.Desc)
	case regQueueDriverLow:
		low(&q.Driver)
	case regQueueDriverHigh:
		high(&q.Driver)
	case regQueueDeviceLow:
		low(&q.Device)
	case regQueueDeviceHigh:
		high(&q.Device)
	}
}

// usable says whether the driver has described a queue as 2.7 and 4.2.3.2 demand. Whether
// it lies in RAM is seen at each access.
func (q *queueState) usable() bool {
	if q.Num == 0 || q.Num > queueSizeMax || q.Num&(q.Num-1) != 0 {
		return false
	}
	if q.Desc%16 != 0 || q.Driver%2 != 0 || q.Device%4 != 0 {
		return false
	}
	const sizeMax = availHeader + usedEntry*queueSizeMax + descriptorSize*queueSizeMax
	top := max(q.Desc, q.Driver, q.Device)
	return top <= top+sizeMax // no part goes around the end of the addresses
}

// stop forgets how far a queue was; its description stays readable to nobody.
func (q *queueState) stop() { *q = queueState{} }

// load16 reads a 16-bit field of a ring.
func (t *transport) load16(addr uint64) (uint16, bool) {
	if !t.mem.ReadRAM(addr, t.word[:2]) {
		t.violate(ViolationRingOutside)
		return 0, false
	}
	return binary.LittleEndian.Uint16(t.word[:]), true
}

func (t *transport) store16(addr uint64, v uint16) bool {
	binary.LittleEndian.PutUint16(t.word[:], v)
	if !t.mem.WriteRAM(addr, t.word[:2]) {
		t.violate(ViolationRingOutside)
		return false
	}
	return true
}

// available is how many chains the driver has made available and the device has not taken.
// It is looked at once an access: a driver whose rings overlap each other could have the
// device's own writes move it on for ever.
func (t *transport) available(queue int) int {
	q := &t.s.Queues[queue]
	idx, ok := t.load16(q.Driver + 2)
	if !ok {
		return 0
	}
	// A driver cannot have more entries under way than the ring holds (2.7.13.2).
	if uint32(idx-q.Used) > q.Num || uint32(idx-q.Avail) > q.Num {
		t.violate(ViolationAvailIndex)
		return 0
	}
	return int(idx - q.Avail)
}

// next takes the next of the chains that are available. False: the driver broke a rule.
func (t *transport) next(queue int, c *chain) bool {
	q := &t.s.Queues[queue]
	head, ok := t.load16(q.Driver + availHeader + availEntry*uint64(uint32(q.Avail)%q.Num))
	if !ok {
		return false
	}
	if v := t.walk(q, head, c); v != ViolationNone {
		t.violate(v)
		return false
	}
	q.Avail++
	return true
}

// push gives a chain back to the driver, with the number of bytes written into it.
func (t *transport) push(queue int, head uint16, written uint32) bool {
	q := &t.s.Queues[queue]
	binary.LittleEndian.PutUint32(t.word[0:], uint32(head))
	binary.LittleEndian.PutUint32(t.word[4:], written)
	if !t.mem.WriteRAM(q.Device+usedHeader+usedEntry*uint64(uint32(q.Used)%q.Num), t.word[:usedEntry]) {
		t.violate(ViolationRingOutside)
		return false
	}
	q.Used++
	return t.store16(q.Device+2, q.Used)
}

// arm asks for a notification of what is made available from now on. Without EVENT_IDX
// the driver always notifies: VIRTQ_USED_F_NO_NOTIFY is never set.
func (t *transport) arm(queue int) {
	if q := &t.s.Queues[queue]; t.live() && t.negotiated(featureEventIdx) {
		t.store16(q.Device+usedHeader+usedEntry*uint64(q.Num), q.Avail)
	}
}

// signal interrupts the driver for what was pushed, if it wants that (2.7.7, 2.7.10).
func (t *transport) signal(queue int) {
	q := &t.s.Queues[queue]
	if q.Signaled == q.Used || t.s.Status&statusNeedsReset != 0 {
		return
	}
	wanted := false
	if t.negotiated(featureEventIdx) {
		event, ok := t.load16(q.Driver + availHeader + availEntry*uint64(q.Num))
		wanted = ok && q.Used-event-1 < q.Used-q.Signaled
	} else {
		flags, ok := t.load16(q.Driver)
		wanted = ok && flags&availNoInterrupt == 0
	}
	q.Signaled = q.Used
	if wanted {
		t.raise(interruptUsed)
	}
}
