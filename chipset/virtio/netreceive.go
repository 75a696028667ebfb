package virtio

import "encoding/binary"

// The receiving half of the network device. A frame is written into buffers of the driver
// as it comes; with too few of them it waits, in order, and is delivered when the driver
// makes more available.

const (
	// Frames that wait. More are dropped.
	waitFrames = 256
	waitBytes  = 1 << 20

	waitLength = 4 // what stands before each: its length

	// spreadSegments bounds the segments that one frame may be spread over.
	spreadSegments = 1024
)

// spread is the receive buffers for one frame.
type spread struct {
	buffers int
	bytes   uint64
	heads   [queueSizeMax]uint16
	ends    [queueSizeMax]int // of each buffer in segs
	rooms   [queueSizeMax]uint64
	count   int
	segs    [spreadSegments]segment
}

// delivery is what became of a frame.
type delivery uint8

const (
	deliveryDone delivery = iota
	deliveryWait          // too few buffers
	deliveryDrop          // it fits into no buffers of this driver
)

// Receive is a frame from outside.
func (n *Net) Receive(frame []byte) int {
	if !n.live() || n.state.Down || len(frame) <= NetHeader || len(frame) > NetFrameMax || !n.receivable(frame) {
		n.s.Counters.Dropped++
		return 0
	}
	became := deliveryWait
	if n.state.WaitCount == 0 { // else behind those that wait
		became = n.deliver(frame)
		n.signal(netReceive)
	}
	if became == deliveryDrop || became == deliveryWait && !n.wait(frame) {
		n.s.Counters.Dropped++
		return 0
	}
	return len(frame)
}

// receivable says whether the driver takes a frame with such a header.
func (n *Net) receivable(frame []byte) bool {
	if frame[headerFlags]&flagNeedsCsum != 0 && !n.negotiated(featureNetGuestCsum) {
		return false
	}
	switch frame[headerGSO] {
	case gsoNone:
		return true
	case gsoTCPv4:
		return n.negotiated(featureNetGuestTSO4)
	case gsoTCPv6:
		return n.negotiated(featureNetGuestTSO6)
	}
	return false
}

// deliver writes a frame into buffers of the driver. None is taken unless it is done.
func (n *Net) deliver(frame []byte) delivery {
	if !n.serving(netReceive) {
		return deliveryDrop
	}
	q := &n.s.Queues[netReceive]
	before := q.Avail
	became := n.collect(uint64(len(frame)))
	if became == deliveryWait {
		n.arm(netReceive) // at what is missing, not at what is there already
	}
	if became != deliveryDone {
		q.Avail = before
		return became
	}
	if !n.fill(frame) {
		return deliveryDrop
	}
	n.s.Counters.Received++
	return deliveryDone
}

// collect takes buffers until they hold size bytes.
func (n *Net) collect(size uint64) delivery {
	s := &n.spread
	s.buffers, s.bytes, s.count = 0, 0, 0
	left := n.available(netReceive)
	for ; s.bytes < size; left-- {
		if s.buffers == int(n.s.Queues[netReceive].Num) {
			return deliveryDrop
		}
		if s.buffers == 1 && !n.negotiated(featureNetMergeable) {
			return deliveryDrop
		}
		if left == 0 && n.live() {
			return deliveryWait
		}
		if !n.live() || !n.next(netReceive, &n.chain) {
			return deliveryDrop
		}
		c := &n.chain
		switch {
		case c.readable > 0:
			n.violate(ViolationDirection)
			return deliveryDrop
		case c.writeLen < NetHeader:
			n.violate(ViolationHeader)
			return deliveryDrop
		case c.count > spreadSegments-s.count:
			return deliveryDrop
		}
		s.count += copy(s.segs[s.count:], c.write())
		s.heads[s.buffers], s.ends[s.buffers], s.rooms[s.buffers] = c.head, s.count, c.writeLen
		s.bytes += c.writeLen
		s.buffers++
	}
	return deliveryDone
}

// fill writes a frame into the buffers collected and gives them to the driver.
func (n *Net) fill(frame []byte) bool {
	s := &n.spread
	copy(n.header[:], frame)
	if !n.negotiated(featureNetGuestCsum) {
		n.header[headerFlags] = 0 // not even that a checksum was found valid
	}
	binary.LittleEndian.PutUint16(n.header[headerBuffers:], uint16(s.buffers))
	// The first buffer holds the header whole (5.1.6.3.1).
	if !n.scatter(s.segs[:s.ends[0]], 0, n.header[:]) ||
		!n.scatter(s.segs[:s.count], NetHeader, frame[NetHeader:]) {
		n.violate(ViolationDataOutside)
		return false
	}
	left := uint64(len(frame))
	for i := range s.buffers {
		written := min(left, s.rooms[i])
		left -= written
		if !n.push(netReceive, s.heads[i], uint32(written)) {
			return false
		}
	}
	return true
}

// wait puts a frame behind those that wait. False: there is no room.
func (n *Net) wait(frame []byte) bool {
	s := &n.state
	size := uint32(waitLength + len(frame))
	if !n.live() || s.WaitCount == waitFrames || size > waitBytes-s.WaitUsed {
		return false
	}
	var length [waitLength]byte
	binary.LittleEndian.PutUint32(length[:], uint32(len(frame)))
	s.append(length[:])
	s.append(frame)
	s.WaitCount++
	return true
}

// append puts bytes at the end of the ring, which has room for them.
func (s *netState) append(p []byte) {
	for len(p) > 0 {
		at := (s.WaitStart + s.WaitUsed) % waitBytes
		n := copy(s.Wait[at:], p)
		p = p[n:]
		s.WaitUsed += uint32(n)
	}
}

// peek copies what stands at offset from of the ring.
func (s *netState) peek(from uint32, p []byte) {
	at := (s.WaitStart + from) % waitBytes
	n := copy(p, s.Wait[at:])
	copy(p[n:], s.Wait[:])
}

// deliverWaiting delivers what waits, as far as there are buffers.
func (n *Net) deliverWaiting() {
	s := &n.state
	for n.live() && s.WaitCount > 0 {
		var length [waitLength]byte
		s.peek(0, length[:])
		size := binary.LittleEndian.Uint32(length[:])
		frame := n.frame[:size]
		s.peek(waitLength, frame)
		became := n.deliver(frame)
		if became == deliveryWait {
			break
		}
		if became == deliveryDrop {
			n.s.Counters.Dropped++
		}
		s.WaitStart = (s.WaitStart + waitLength + size) % waitBytes
		s.WaitUsed -= waitLength + size
		s.WaitCount--
	}
	n.signal(netReceive)
}

// wellFormed says whether the frames that wait, from the ring's start on, are frames.
func (s *netState) wellFormed() bool {
	at := uint32(0)
	for range s.WaitCount {
		if s.WaitUsed-at < waitLength {
			return false
		}
		n := binary.LittleEndian.Uint32(s.Wait[at:])
		if n < NetHeader || n > NetFrameMax || n > s.WaitUsed-at-waitLength {
			return false
		}
		at += waitLength + n
	}
	return at == s.WaitUsed
}
