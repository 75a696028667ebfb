package virtio

import (
	"encoding/binary"
	"fmt"
)

// The block device (5.2). Its requests leave as they are taken from the ring, many at once,
// and are answered in any order. A flush covers the writes that were answered before it
// was made available.

// Features (5.2.3).
const (
	featureBlockSizeMax     = 1 << 1
	featureBlockSegMax      = 1 << 2
	featureBlockReadOnly    = 1 << 5
	featureBlockSize        = 1 << 6
	featureBlockFlush       = 1 << 9
	featureBlockTopology    = 1 << 10
	featureBlockDiscard     = 1 << 13
	featureBlockWriteZeroes = 1 << 14
)

// Request types (5.2.6).
const (
	blockIn          = 0
	blockOut         = 1
	blockFlush       = 4
	blockGetID       = 8
	blockDiscard     = 11
	blockWriteZeroes = 13
)

const (
	blockHeader = 16 // type, reserved, sector
	blockRange  = 16 // struct virtio_blk_discard_write_zeroes
	blockConfig = 60 // of struct virtio_blk_config, up to write_zeroes_may_unmap and its padding

	rangeUnmap = 1 // the one flag of a range

	// blockSegMax and blockSizeMax are what a driver may put into a request: segments, and
	// bytes in each. Together they stay below BlockDataMax.
	blockSegMax  = segmentsMax - 2
	blockSizeMax = 16 << 10
	// BlockDataMax is the most data of a request, in bytes.
	BlockDataMax = 2 << 20
	// blockRangeMax is the most of a Discard or WriteZeroes, in sectors: 1 GiB.
	blockRangeMax = 1 << 21

	// BlockSerialMax is the longest serial number, in bytes.
	BlockSerialMax = 20
)

// BlockConfig is what a block device is made from.
type BlockConfig struct {
	Sectors  uint64 // capacity in units of SectorSize
	ReadOnly bool
	Serial   string // up to BlockSerialMax bytes; /dev/disk/by-id/virtio-SERIAL in Linux

	LogicalBlock  uint32 // bytes, a power of two from 512 on; 0: 512. All requests are multiples of it.
	PhysicalBlock uint32 // bytes, a power of two from LogicalBlock on; 0: LogicalBlock
	OptimalIO     uint32 // bytes, a multiple of LogicalBlock; 0: unknown

	Discard     bool // the disk can forget data
	WriteZeroes bool // the disk can write zeroes by itself
}

func (c *BlockConfig) complete() error {
	if c.LogicalBlock == 0 {
		c.LogicalBlock = SectorSize
	}
	if c.PhysicalBlock == 0 {
		c.PhysicalBlock = c.LogicalBlock
	}
	power := func(n uint32) bool { return n&(n-1) == 0 }
	switch {
	case c.LogicalBlock < SectorSize || c.LogicalBlock > blockSizeMax || !power(c.LogicalBlock):
		return fmt.Errorf("a logical block of %d bytes: want a power of two from %d to %d", c.LogicalBlock, SectorSize, blockSizeMax)
	case c.PhysicalBlock < c.LogicalBlock || c.PhysicalBlock > 1<<20 || !power(c.PhysicalBlock):
		return fmt.Errorf("a physical block of %d bytes: want a power of two from %d to %d", c.PhysicalBlock, c.LogicalBlock, 1<<20)
	case c.Sectors >= 1<<(64-9) || c.Sectors*SectorSize%uint64(c.LogicalBlock) != 0:
		return fmt.Errorf("%d sectors of %d bytes: want a multiple of the logical block of %d bytes", c.Sectors, SectorSize, c.LogicalBlock)
	case len(c.Serial) > BlockSerialMax:
		return fmt.Errorf("the serial number %q has %d bytes: there is room for %d", c.Serial, len(c.Serial), BlockSerialMax)
	}
	return nil
}

// blockState is all that a block device knows.
type blockState struct {
	transportState
	InFlight inFlight
}

func (s *blockState) code(c *codec) {
	s.transportState.code(c)
	s.InFlight.code(c)
}

// Block is a block device.
type Block struct {
	transport
	cfg   BlockConfig
	state blockState

	space  [blockConfig]byte
	chain  chain
	header [blockHeader]byte
	scrap  [blockRange]byte
	data   []byte // of a request under way
}

var _ Device = (*Block)(nil)

// NewBlock makes a block device after reset.
func NewBlock(slot int, mem Memory, port Port, cfg BlockConfig) (*Block, error) {
	if err := cfg.complete(); err != nil {
		return nil, fmt.Errorf("virtio slot %d: make a block device: %w", slot, err)
	}
	b := &Block{cfg: cfg, data: make([]byte, BlockDataMax)}
	b.transport = transport{
		slot: slot, kind: "block", id: idBlock, queues: 1, offered: cfg.features(),
		config: b.space[:], mem: mem, port: port, front: b, s: &b.state.transportState,
	}
	cfg.describe(&b.space)
	return b, nil
}

func (c *BlockConfig) features() uint64 {
	f := uint64(featuresCommon | featureBlockSizeMax | featureBlockSegMax | featureBlockSize |
		featureBlockFlush | featureBlockTopology)
	if c.ReadOnly {
		return f | featureBlockReadOnly
	}
	if c.Discard {
		f |= featureBlockDiscard
	}
	if c.WriteZeroes {
		f |= featureBlockWriteZeroes
	}
	return f
}

// describe fills struct virtio_blk_config (5.2.4).
func (c *BlockConfig) describe(space *[blockConfig]byte) {
	le := binary.LittleEndian
	le.PutUint64(space[0:], c.Sectors)
	le.PutUint32(space[8:], blockSizeMax)
	le.PutUint32(space[12:], blockSegMax)
	le.PutUint32(space[20:], c.LogicalBlock)
	for block := c.LogicalBlock; block < c.PhysicalBlock; block <<= 1 {
		space[24]++ // physical_block_exp
	}
	le.PutUint16(space[26:], uint16(c.PhysicalBlock/c.LogicalBlock)) // min_io_size, in logical blocks
	le.PutUint32(space[28:], c.OptimalIO/c.LogicalBlock)
	if c.Discard && !c.ReadOnly {
		le.PutUint32(space[36:], blockRangeMax)
		le.PutUint32(space[40:], 1)
		le.PutUint32(space[44:], c.PhysicalBlock/SectorSize)
	}
	if c.WriteZeroes && !c.ReadOnly {
		le.PutUint32(space[48:], blockRangeMax)
		le.PutUint32(space[52:], 1)
		space[56] = 1 // write_zeroes_may_unmap
	}
}

// Receive: nothing comes by itself.
func (b *Block) Receive([]byte) int { return 0 }

func (b *Block) acceptable(uint64) bool { return true }
func (b *Block) started()               {}
func (b *Block) cleared()               {}
func (b *Block) outside() int           { return int(b.state.InFlight.Count) }
func (b *Block) code(c *codec)          { b.state.code(c) }
func (b *Block) zero()                  { b.state = blockState{} }
func (b *Block) described()             {}

// notified takes requests from the ring while there is room for them outside.
func (b *Block) notified(queue int) {
	n := b.available(queue)
	for ; n > 0 && b.state.InFlight.room() && b.next(queue, &b.chain); n-- {
		b.s.Counters.Requests++
		b.begin(&b.chain)
		if !b.live() {
			return
		}
	}
	b.arm(queue) // what is left for want of room goes on with the next answer
	b.signal(queue)
}

// begin looks at a request: it is answered here, or leaves.
func (b *Block) begin(c *chain) {
	switch {
	case c.readLen < blockHeader:
		b.violate(ViolationHeader)
		return
	case c.writeLen < 1:
		b.violate(ViolationStatus)
		return
	case c.readLen-blockHeader > BlockDataMax || c.writeLen-1 > BlockDataMax || len(c.write()) > segmentsMax:
		b.violate(ViolationRequestSize)
		return
	case !b.gather(c.read(), 0, b.header[:]):
		b.violate(ViolationDataOutside)
		return
	}
	b.req = Request{Sector: binary.LittleEndian.Uint64(b.header[8:])}
	kind := binary.LittleEndian.Uint32(b.header[0:])
	if kind == blockGetID {
		n := copy(b.data, b.cfg.Serial)
		clear(b.data[n:BlockSerialMax])
		b.answer(c.head, c.write(), uint32(c.writeLen-1), OK, b.data[:BlockSerialMax])
		return
	}
	if status := b.shape(kind, c); status != OK {
		b.answer(c.head, c.write(), uint32(c.writeLen-1), status, nil)
		return
	}
	if b.s.Status&statusNeedsReset == 0 {
		b.leave(c)
	}
}

// shape makes b.req from a request of the driver, or says what is wrong with it.
func (b *Block) shape(kind uint32, c *chain) Status {
	r := &b.req
	switch kind {
	case blockIn:
		r.Op, r.Length = Read, c.writeLen-1
		return b.within(r.Sector, r.Length)
	case blockOut:
		r.Op, r.Length = Write, c.readLen-blockHeader
		r.Stable = !b.negotiated(featureBlockFlush)
		if b.cfg.ReadOnly {
			return IOError
		}
		if status := b.within(r.Sector, r.Length); status != OK {
			return status
		}
		r.Data = b.data[:r.Length]
		if !b.gather(c.read(), blockHeader, r.Data) {
			b.violate(ViolationDataOutside)
		}
		return OK
	case blockFlush:
		r.Op, r.Sector = Flush, 0
		return OK
	case blockDiscard:
		r.Op = Discard
		return b.shapeRange(featureBlockDiscard, 0, c)
	case blockWriteZeroes:
		r.Op = WriteZeroes
		return b.shapeRange(featureBlockWriteZeroes, rangeUnmap, c)
	}
	return Unsupported
}

// shapeRange is a request whose data is one range (max_discard_seg, max_write_zeroes_seg).
func (b *Block) shapeRange(feature uint64, flagsKnown uint32, c *chain) Status {
	if !b.negotiated(feature) {
		return Unsupported
	}
	if c.readLen != blockHeader+blockRange {
		return IOError
	}
	if !b.gather(c.read(), blockHeader, b.scrap[:]) {
		b.violate(ViolationDataOutside)
		return OK
	}
	sectors := binary.LittleEndian.Uint32(b.scrap[8:])
	flags := binary.LittleEndian.Uint32(b.scrap[12:])
	if flags&^flagsKnown != 0 {
		return Unsupported
	}
	if sectors > blockRangeMax {
		return IOError
	}
	b.req.Sector = binary.LittleEndian.Uint64(b.scrap[0:])
	b.req.Length = uint64(sectors) * SectorSize
	b.req.Unmap = flags&rangeUnmap != 0
	return b.within(b.req.Sector, b.req.Length)
}

// within says whether a range lies on the disk, in whole logical blocks.
func (b *Block) within(sector, length uint64) Status {
	block := uint64(b.cfg.LogicalBlock)
	if length%block != 0 || sector%(block/SectorSize) != 0 {
		return IOError
	}
	if sector > b.cfg.Sectors || length/SectorSize > b.cfg.Sectors-sector {
		return IOError
	}
	return OK
}

// leave sends b.req out.
func (b *Block) leave(c *chain) {
	r := &b.req
	if r.Length == 0 && r.Op != Flush {
		b.answer(c.head, c.write(), uint32(c.writeLen-1), OK, nil)
		return
	}
	bytes := uint32(0)
	if r.Op == Read || r.Op == Write {
		bytes = uint32(r.Length)
	}
	p := b.state.InFlight.take(bytes)
	p.keep(c) // begin has seen that it fits
	p.Op, p.Room = r.Op, uint32(c.writeLen-1)
	p.Unmap, p.Stable, p.Sector, p.Length = r.Unmap, r.Stable, r.Sector, r.Length
	if r.Op == Write {
		p.keepReads(c)
	}
	r.ID = p.ID
	b.emit()
}

// Emit sends out again what is outside. What is written is what the guest's memory holds now,
// which its driver may not have changed (2.7.13).
func (b *Block) Emit() {
	var order [inFlightMax]*pending
	for _, p := range b.state.InFlight.inOrder(&order) {
		b.req = Request{ID: p.ID, Op: p.Op, Unmap: p.Unmap, Stable: p.Stable, Sector: p.Sector, Length: p.Length}
		if p.Op == Write {
			b.req.Data = b.data[:p.Length]
			b.gather(p.read(), blockHeader, b.req.Data) // all of it was there when it left, and RAM stays
		}
		b.emit()
	}
}

// Complete is the answer to a request.
func (b *Block) Complete(c *Completion) {
	p := b.state.InFlight.find(c.ID)
	if p == nil {
		b.s.Counters.Unasked++
		return
	}
	if b.live() {
		status, data := c.Status, c.Data
		if p.Op != Read {
			data = nil
		} else if status == OK && len(data) != int(p.Room) {
			status = IOError
		}
		b.answer(p.Head, p.write(), p.Room, status, data)
	}
	b.state.InFlight.release(p)
	if b.Held() && b.outside() == 0 {
		b.drained()
	}
	if b.serving(0) {
		b.notified(0)
	}
}

// answer gives a request back: up to room bytes of data, then, behind all of the room, the
// status. The length in the used ring covers the status only when the room was filled; it
// may fall short of what was written (2.7.8.2), and drivers go by the status.
func (b *Block) answer(head uint16, segs []segment, room uint32, status Status, data []byte) {
	if status > Unsupported {
		status = IOError
	}
	if status != OK {
		b.s.Counters.Errors++
		data = nil
	}
	data = data[:min(len(data), int(room))]
	b.scrap[0] = byte(status)
	if !b.scatter(segs, 0, data) || !b.scatter(segs, uint64(room), b.scrap[:1]) {
		b.violate(ViolationDataOutside)
		return
	}
	written := uint32(len(data))
	if written == room {
		written++
	}
	b.push(0, head, written)
}
