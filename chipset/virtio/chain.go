package virtio

import "encoding/binary"

// Descriptor chains (2.7.5), as a hostile driver may have made them.

// Flags of struct virtq_desc.
const (
	descNext     = 1
	descWrite    = 2
	descIndirect = 4
)

// chainMax is the most descriptors that a chain may have, those of an indirect table
// included. It ends every loop.
const chainMax = 256

// segment is a piece of guest memory. It does not go around the end of the addresses.
type segment struct {
	Addr uint64
	Len  uint32
}

// chain is a descriptor chain that was walked: the segments that the device may read, then
// those that it may write.
type chain struct {
	head     uint16
	readable int // how many of segs, from the first on
	count    int // how many of segs in all
	readLen  uint64
	writeLen uint64
	segs     [chainMax]segment
}

func (c *chain) read() []segment  { return c.segs[:c.readable] }
func (c *chain) write() []segment { return c.segs[c.readable:c.count] }

// table is where a chain's descriptors are looked up.
type table struct {
	addr     uint64
	entries  uint32
	indirect bool
}

// walk follows the chain from head on.
func (t *transport) walk(q *queueState, head uint16, c *chain) Violation {
	c.head, c.readable, c.count, c.readLen, c.writeLen = head, 0, 0, 0, 0
	tab := table{addr: q.Desc, entries: q.Num}
	if uint32(head) >= tab.entries {
		return ViolationHead
	}
	at := uint32(head)
	for range chainMax {
		if !t.mem.ReadRAM(tab.addr+descriptorSize*uint64(at), t.word[:descriptorSize]) {
			return ViolationRingOutside
		}
		addr := binary.LittleEndian.Uint64(t.word[0:])
		length := binary.LittleEndian.Uint32(t.word[8:])
		flags := binary.LittleEndian.Uint16(t.word[12:])
		next := uint32(binary.LittleEndian.Uint16(t.word[14:]))

		if flags&descIndirect != 0 {
			if v := t.enter(&tab, addr, length, flags); v != ViolationNone {
				return v
			}
			at = 0
			continue
		}
		if v := c.add(addr, length, flags&descWrite != 0); v != ViolationNone {
			return v
		}
		if flags&descNext == 0 {
			return ViolationNone
		}
		if at = next; at >= tab.entries {
			return ViolationNext
		}
	}
	return ViolationChainLength
}

// enter turns to an indirect table (2.7.5.3). Its descriptor's WRITE flag says nothing.
func (t *transport) enter(tab *table, addr uint64, length uint32, flags uint16) Violation {
	switch {
	case !t.negotiated(featureIndirect):
		return ViolationIndirectUnknown
	case tab.indirect || flags&descNext != 0:
		return ViolationIndirectNested
	case length == 0 || length%descriptorSize != 0:
		return ViolationIndirectSize
	case addr+uint64(length) < addr:
		return ViolationSegment
	}
	*tab = table{addr: addr, entries: length / descriptorSize, indirect: true}
	return ViolationNone
}

// add appends a segment.
func (c *chain) add(addr uint64, length uint32, writable bool) Violation {
	if length == 0 || addr+uint64(length) < addr {
		return ViolationSegment
	}
	if !writable && c.count > c.readable {
		return ViolationOrder
	}
	c.segs[c.count] = segment{Addr: addr, Len: length}
	c.count++
	if writable {
		c.writeLen += uint64(length)
	} else {
		c.readable++
		c.readLen += uint64(length)
	}
	// 2.7.5.2: no more than 2^32 bytes in all.
	if c.readLen+c.writeLen > 1<<32 {
		return ViolationSegment
	}
	return ViolationNone
}

// gather copies into p what stands at offset from of the segments, which hold that much.
// False: not all of it is RAM.
func (t *transport) gather(segs []segment, from uint64, p []byte) bool {
	for _, s := range segs {
		if len(p) == 0 {
			return true
		}
		if from >= uint64(s.Len) {
			from -= uint64(s.Len)
			continue
		}
		n := min(uint64(len(p)), uint64(s.Len)-from)
		if !t.mem.ReadRAM(s.Addr+from, p[:n]) {
			return false
		}
		p, from = p[n:], 0
	}
	return len(p) == 0
}

// scatter copies p to offset from of the segments, which hold that much.
func (t *transport) scatter(segs []segment, from uint64, p []byte) bool {
	for _, s := range segs {
		if len(p) == 0 {
			return true
		}
		if from >= uint64(s.Len) {
			from -= uint64(s.Len)
			continue
		}
		n := min(uint64(len(p)), uint64(s.Len)-from)
		if !t.mem.WriteRAM(s.Addr+from, p[:n]) {
			return false
		}
		p, from = p[n:], 0
	}
	return len(p) == 0
}

// Violation is the rule that a driver broke.
type Violation uint8

// Violations.
const (
	ViolationNone Violation = iota
	ViolationQueueSetup
	ViolationRingOutside
	ViolationAvailIndex
	ViolationHead
	ViolationNext
	ViolationChainLength
	ViolationIndirectUnknown
	ViolationIndirectNested
	ViolationIndirectSize
	ViolationSegment
	ViolationOrder
	ViolationDataOutside
	ViolationHeader
	ViolationStatus
	ViolationDirection
	ViolationRequestSize
	violationEnd
)

func (v Violation) String() string {
	return [violationEnd]string{
		"none",
		"a queue was started with a size or an alignment that 2.7 does not allow",
		"a ring, or a descriptor table, is not in RAM",
		"more was made available than the ring holds",
		"the available ring names a descriptor outside the table",
		"a descriptor's next is outside the table",
		"a chain has more than 256 descriptors, or goes around in circles",
		"an indirect descriptor, and INDIRECT_DESC was not negotiated",
		"an indirect descriptor in an indirect table, or one with a next",
		"an indirect table's length is no multiple of 16, or 0",
		"a descriptor is empty or goes around the end of the addresses, or a chain has more than 2^32 bytes",
		"a readable descriptor behind a writable one",
		"a buffer is not in RAM",
		"a request is shorter than its header",
		"a request has no room for its status",
		"a buffer of the wrong direction for its queue",
		"a request has more data, or more segments, than the device says it takes",
	}[v]
}
