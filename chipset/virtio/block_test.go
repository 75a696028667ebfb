package virtio

import (
	"bytes"
	"encoding/binary"
	"testing"
)

const blockFeatures = featuresCommon | featureBlockSizeMax | featureBlockSegMax | featureBlockSize |
	featureBlockFlush | featureBlockTopology | featureBlockDiscard | featureBlockWriteZeroes

// newBlock is a guest with a disk of 1 MiB, its driver started.
func newBlock(t tb, cfg BlockConfig, features uint64) *guest {
	t.Helper()
	g := newGuest(t)
	if cfg.Sectors == 0 {
		cfg.Sectors = 2048
	}
	b, err := NewBlock(slot, g, g, cfg)
	if err != nil {
		t.Fatalf("%v", err)
	}
	g.dev = b
	g.start(features, 64)
	return g
}

// blockRequest is a request of the driver under way.
type blockRequest struct {
	head   uint16
	data   uint64
	status uint64
}

// request makes a block request available: header, data pieces, status.
func (g *guest) request(kind uint32, sector uint64, writable bool, pieces ...[]byte) blockRequest {
	g.t.Helper()
	var h [blockHeader]byte
	binary.LittleEndian.PutUint32(h[0:], kind)
	binary.LittleEndian.PutUint64(h[8:], sector)
	buffers := []buffer{{addr: g.put(h[:]), len: len(h)}}
	var r blockRequest
	for _, p := range pieces {
		a := g.put(p)
		if r.data == 0 {
			r.data = a
		}
		buffers = append(buffers, buffer{a, len(p), writable})
	}
	r.status = g.put([]byte{0xff})
	buffers = append(buffers, buffer{r.status, 1, true})
	r.head = g.queues[0].send(buffers...)
	return r
}

func (g *guest) blockStatus(r blockRequest) Status { return Status(g.mem(r.status, 1)[0]) }

func TestBlockReadWritesDataStatusAndInterrupts(t *testing.T) {
	g := newBlock(t, BlockConfig{}, blockFeatures)
	r := g.request(blockIn, 8, true, make([]byte, 1024), make([]byte, 512))
	out := g.sent()
	if len(out) != 1 || out[0].Op != Read || out[0].Sector != 8 || out[0].Length != 1536 {
		t.Fatalf("left: %v, want a read of 1536 bytes at 8", out)
	}
	if g.line {
		t.Fatal("an interrupt before there is an answer")
	}
	data := bytes.Repeat([]byte("ft"), 768)
	g.dev.Complete(&Completion{ID: out[0].ID, Data: data})
	if !g.line || g.acknowledge() != interruptUsed || g.line {
		t.Fatal("the answer made no interrupt, or it could not be acknowledged")
	}
	if got := g.queues[0].harvest(); len(got) != 1 || got[0] != (returned{r.head, 1537}) {
		t.Fatalf("came back: %v", got)
	}
	if g.blockStatus(r) != OK || !bytes.Equal(g.mem(r.data, 1024), data[:1024]) {
		t.Fatal("status or data are not those of the answer")
	}
}

func TestBlockWriteCopiesItsData(t *testing.T) {
	g := newBlock(t, BlockConfig{}, blockFeatures)
	data := bytes.Repeat([]byte{0x5a, 1}, 512)
	r := g.request(blockOut, 3, false, data[:300], data[300:])
	clear(g.mem(r.data, 300)) // the device has its own copy by now
	out := g.sent()
	if len(out) != 1 || out[0].Op != Write || out[0].Sector != 3 || !bytes.Equal(out[0].Data, data) || out[0].Stable {
		t.Fatalf("left: %v", out)
	}
	g.dev.Complete(&Completion{ID: out[0].ID})
	if got := g.queues[0].harvest(); len(got) != 1 || got[0].written != 1 || g.blockStatus(r) != OK {
		t.Fatalf("came back: %v, status %d", got, g.blockStatus(r))
	}
}

// 5.2.6.2: with neither FLUSH nor CONFIG_WCE a write is stable when it is answered.
func TestBlockWritesOfADriverWithoutFlushAreStable(t *testing.T) {
	g := newBlock(t, BlockConfig{}, blockFeatures&^featureBlockFlush)
	g.request(blockOut, 0, false, make([]byte, 512))
	if out := g.sent(); len(out) != 1 || !out[0].Stable {
		t.Fatalf("left: %v", out)
	}
}

func TestBlockRequestsAreRefused(t *testing.T) {
	ranged := func(sector uint64, sectors, flags uint32) []byte {
		p := binary.LittleEndian.AppendUint64(nil, sector)
		p = binary.LittleEndian.AppendUint32(p, sectors)
		return binary.LittleEndian.AppendUint32(p, flags)
	}
	whole := BlockConfig{Sectors: 2048, Discard: true, WriteZeroes: true}
	for _, c := range []struct {
		name     string
		cfg      BlockConfig
		kind     uint32
		sector   uint64
		writable bool
		data     []byte
		want     Status
	}{
		{"a type that is not known", whole, 99, 0, false, nil, Unsupported},
		{"a read behind the end", whole, blockIn, 2048, true, make([]byte, 512), IOError},
		{"a read over the end", whole, blockIn, 2047, true, make([]byte, 1024), IOError},
		{"a read that wraps", whole, blockIn, 1<<64 - 1, true, make([]byte, 1024), IOError},
		{"a read of half a sector", whole, blockIn, 0, true, make([]byte, 256), IOError},
		{"a write of a sector and a half", whole, blockOut, 0, false, make([]byte, 768), IOError},
		{"a write behind the end", whole, blockOut, 1 << 60, false, make([]byte, 512), IOError},
		{"a write to what is read-only", BlockConfig{ReadOnly: true}, blockOut, 0, false, make([]byte, 512), IOError},
		{"a read of half a logical block", BlockConfig{LogicalBlock: 4096}, blockIn, 0, true, make([]byte, 512), IOError},
		{"a read between logical blocks", BlockConfig{LogicalBlock: 4096}, blockIn, 1, true, make([]byte, 4096), IOError},
		{"a discard that was not negotiated", BlockConfig{}, blockDiscard, 0, false, ranged(0, 8, 0), Unsupported},
		{"a discard of what is read-only", BlockConfig{ReadOnly: true, Discard: true}, blockDiscard, 0, false, ranged(0, 8, 0), Unsupported},
		{"a discard with the unmap flag", whole, blockDiscard, 0, false, ranged(0, 8, rangeUnmap), Unsupported},
		{"zeroes with a flag that is not known", whole, blockWriteZeroes, 0, false, ranged(0, 8, 2), Unsupported},
		{"zeroes over the end", whole, blockWriteZeroes, 0, false, ranged(2040, 9, 0), IOError},
		{"more zeroes than max_write_zeroes_sectors", BlockConfig{Sectors: 1 << 30, WriteZeroes: true}, blockWriteZeroes, 0, false, ranged(0, blockRangeMax+1, 0), IOError},
		{"two ranges", whole, blockDiscard, 0, false, append(ranged(0, 8, 0), ranged(8, 8, 0)...), IOError},
		{"half a range", whole, blockDiscard, 0, false, ranged(0, 8, 0)[:8], IOError},
		{"no range", whole, blockDiscard, 0, false, nil, IOError},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newBlock(t, c.cfg, blockFeatures)
			var pieces [][]byte
			if c.data != nil {
				pieces = append(pieces, c.data)
			}
			r := g.request(c.kind, c.sector, c.writable, pieces...)
			if out := g.sent(); len(out) != 0 {
				t.Fatalf("left: %v", out)
			}
			if got := g.queues[0].harvest(); len(got) != 1 || g.blockStatus(r) != c.want {
				t.Fatalf("came back: %v, status %d, want %d", got, g.blockStatus(r), c.want)
			}
			if i := g.dev.Info(); i.Phase != PhaseLive || i.Errors != 1 {
				t.Fatalf("it is %v after %d errors", i.Phase, i.Errors)
			}
		})
	}
}

func TestBlockRangesLeave(t *testing.T) {
	g := newBlock(t, BlockConfig{Discard: true, WriteZeroes: true}, blockFeatures)
	for _, c := range []struct {
		kind, flags uint32
		want        Request
	}{
		{blockDiscard, 0, Request{Op: Discard, Sector: 16, Length: 8 * 512}},
		{blockWriteZeroes, 0, Request{Op: WriteZeroes, Sector: 16, Length: 8 * 512}},
		{blockWriteZeroes, rangeUnmap, Request{Op: WriteZeroes, Sector: 16, Length: 8 * 512, Unmap: true}},
	} {
		p := binary.LittleEndian.AppendUint64(nil, 16)
		p = binary.LittleEndian.AppendUint32(p, 8)
		g.request(c.kind, 0, false, binary.LittleEndian.AppendUint32(p, c.flags))
		out := g.sent()
		if len(out) != 1 || out[0].String() != c.want.String() {
			t.Fatalf("left: %v, want %v", out, c.want)
		}
	}
}

func TestBlockSaysItsSerialNumber(t *testing.T) {
	for serial, want := range map[string]string{
		"":                     "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
		"disk1":                "disk1\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
		"12345678901234567890": "12345678901234567890",
	} {
		g := newBlock(t, BlockConfig{Serial: serial}, blockFeatures)
		r := g.request(blockGetID, 0, true, bytes.Repeat([]byte{0xee}, BlockSerialMax))
		if got := g.mem(r.data, BlockSerialMax); string(got) != want || g.blockStatus(r) != OK {
			t.Errorf("the serial number %q is read as %q", serial, got)
		}
	}
}

func TestBlockAnswers(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer Completion
		want   Status
	}{
		{"an I/O error", Completion{Status: IOError}, IOError},
		{"not supported", Completion{Status: Unsupported}, Unsupported},
		{"a status that there is not", Completion{Status: 77}, IOError},
		{"too few data", Completion{Data: make([]byte, 511)}, IOError},
		{"too many data", Completion{Data: make([]byte, 513)}, IOError},
	} {
		g := newBlock(t, BlockConfig{}, blockFeatures)
		r := g.request(blockIn, 0, true, bytes.Repeat([]byte{0xee}, 512))
		c.answer.ID = g.sent()[0].ID
		g.dev.Complete(&c.answer)
		if got := g.blockStatus(r); got != c.want {
			t.Errorf("%s: status %d, want %d", c.name, got, c.want)
		}
		if !bytes.Equal(g.mem(r.data, 512), bytes.Repeat([]byte{0xee}, 512)) {
			t.Errorf("%s: data were written", c.name)
		}
	}
}

func TestBlockIgnoresAnswersThatNobodyAskedFor(t *testing.T) {
	g := newBlock(t, BlockConfig{}, blockFeatures)
	r := g.request(blockFlush, 0, false)
	id := g.sent()[0].ID
	for _, wrong := range []uint64{0, 1, id + 1, id + inFlightMax, id - inFlightMax, ^uint64(0)} {
		if g.dev.Complete(&Completion{ID: wrong}); g.blockStatus(r) != 0xff {
			t.Fatalf("the answer to %d was taken for one to %d", wrong, id)
		}
	}
	g.dev.Complete(&Completion{ID: id})
	g.dev.Complete(&Completion{ID: id}) // twice
	if got := g.queues[0].harvest(); len(got) != 1 {
		t.Fatalf("came back: %v", got)
	}
	if i := g.dev.Info(); i.Unasked != 7 || i.InFlight != 0 {
		t.Fatalf("%d were not asked for, %d in flight", i.Unasked, i.InFlight)
	}
}

// The ring is read on as answers make room.
func TestBlockBoundsWhatIsOutside(t *testing.T) {
	g := newGuest(t)
	b, err := NewBlock(slot, g, g, BlockConfig{Sectors: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	g.dev = b
	g.start(blockFeatures, 256)
	header, status, data := g.allocate(16), g.allocate(1), g.allocate(BlockDataMax)
	before := g.queues[0].availIdx
	for range 200 {
		g.queues[0].add(buffer{header, 16, false}, buffer{data, 512, true}, buffer{status, 1, true})
	}
	g.queues[0].kick(before)
	out := g.sent()
	if len(out) != inFlightMax {
		t.Fatalf("%d requests are outside, want %d", len(out), inFlightMax)
	}
	answered := 0
	for len(out) > 0 {
		g.dev.Complete(&Completion{ID: out[0].ID, Data: make([]byte, 512)})
		answered++
		if out = append(out[1:], g.sent()...); len(out) > inFlightMax {
			t.Fatalf("%d requests are outside", len(out))
		}
	}
	if got := len(g.queues[0].harvest()); answered != 200 || got != 200 {
		t.Fatalf("%d were answered, %d came back, want 200", answered, got)
	}
	// All of it without a further notification.
	if n := g.queues[0].notifications; n != 1 {
		t.Fatalf("%d notifications, want 1", n)
	}
}

func TestBlockBoundsTheBytesOutside(t *testing.T) {
	g := newGuest(t)
	b, _ := NewBlock(slot, g, g, BlockConfig{Sectors: 1 << 20})
	g.dev = b
	g.start(blockFeatures, 64)
	header, status, data := g.allocate(16), g.allocate(1), g.allocate(BlockDataMax)
	before := g.queues[0].availIdx
	for range 20 {
		g.queues[0].add(buffer{header, 16, false}, buffer{data, BlockDataMax, true}, buffer{status, 1, true})
	}
	g.queues[0].kick(before)
	out := g.sent()
	if len(out) != inFlightBytes/BlockDataMax {
		t.Fatalf("%d requests of %d bytes are outside, want %d", len(out), BlockDataMax, inFlightBytes/BlockDataMax)
	}
	content := make([]byte, BlockDataMax)
	for len(out) > 0 {
		g.dev.Complete(&Completion{ID: out[0].ID, Data: content})
		out = append(out[1:], g.sent()...)
	}
	if got := len(g.queues[0].harvest()); got != 20 {
		t.Fatalf("%d of 20 came back", got)
	}
}

// Headers, data and status may share buffers as they like (2.7.4.3).
func TestBlockRequestInOddPieces(t *testing.T) {
	g := newBlock(t, BlockConfig{}, blockFeatures)
	p := binary.LittleEndian.AppendUint32(nil, blockOut)
	p = append(p, make([]byte, 12)...)
	data := make([]byte, 1024)
	for i := range data {
		data[i] = byte(i * 13)
	}
	p = append(p, data...)
	status := g.put([]byte{0xff})
	g.queues[0].send(buffer{g.put(p[:7]), 7, false}, buffer{g.put(p[7:300]), 293, false}, buffer{g.put(p[300:]), len(p) - 300, false}, buffer{status, 1, true})
	out := g.sent()
	if len(out) != 1 || !bytes.Equal(out[0].Data, data) {
		t.Fatalf("left: %v", out)
	}
	h := g.put(make([]byte, blockHeader))
	a, b := g.allocate(300), g.allocate(213)
	g.queues[0].send(buffer{h, blockHeader, false}, buffer{a, 300, true}, buffer{b, 213, true}) // the status is the last byte of b
	g.mem(b, 213)[212] = 0xff
	id := g.sent()[0].ID
	g.dev.Complete(&Completion{ID: id, Data: data[:512]})
	if !bytes.Equal(append(bytes.Clone(g.mem(a, 300)), g.mem(b, 212)...), data[:512]) || g.mem(b, 213)[212] != byte(OK) {
		t.Fatal("data and status are not where they belong")
	}
}

// A driver that has not moved used_event on is interrupted once only.
func TestBlockInterruptsOnlyWhenAsked(t *testing.T) {
	g := newBlock(t, BlockConfig{}, blockFeatures)
	for range 3 {
		g.request(blockFlush, 0, false)
	}
	for i, r := range g.sent() {
		g.dev.Complete(&Completion{ID: r.ID})
		if g.line != (i == 0) {
			t.Fatalf("answer %d: the line is %v", i, g.line)
		}
		g.acknowledge()
	}
	// Without EVENT_IDX, a flag says it.
	g = newBlock(t, BlockConfig{}, blockFeatures&^featureEventIdx)
	for i := range uint16(2) {
		g.queues[0].setU16(g.queues[0].avail, i*availNoInterrupt)
		g.request(blockFlush, 0, false)
		g.dev.Complete(&Completion{ID: g.sent()[0].ID})
		if g.line != (i == 0) {
			t.Fatalf("with flags %d: the line is %v", i*availNoInterrupt, g.line)
		}
		g.acknowledge()
	}
}

// A reset while I/O is under way: the guest stands still until the last answer, and what
// was its buffer is not written to.
func TestBlockResetHoldsUntilAllIsAnswered(t *testing.T) {
	g := newBlock(t, BlockConfig{}, blockFeatures)
	r := g.request(blockIn, 0, true, bytes.Repeat([]byte{0xee}, 512))
	g.request(blockFlush, 0, false)
	out := g.sent()
	g.write(regStatus, 0)
	if !g.dev.Held() || g.held != 1 || g.dev.Info().Phase != PhaseHeld {
		t.Fatalf("held %v, %d calls of Hold", g.dev.Held(), g.held)
	}
	g.dev.Complete(&Completion{ID: out[0].ID, Data: make([]byte, 512)})
	if !g.dev.Held() || g.read(regStatus) == 0 {
		t.Fatal("it went on before the last answer")
	}
	g.dev.Complete(&Completion{ID: out[1].ID})
	if g.dev.Held() || g.read(regStatus) != 0 || g.dev.Info().Phase != PhaseReset {
		t.Fatal("it did not go on after the last answer")
	}
	if g.line || !bytes.Equal(g.mem(r.data, 512), bytes.Repeat([]byte{0xee}, 512)) || g.blockStatus(r) != 0xff {
		t.Fatal("an answer reached the guest after its reset")
	}
	g.start(blockFeatures, 16)
	g.request(blockFlush, 0, false)
	if again := g.sent(); len(again) != 1 || again[0].ID <= out[1].ID {
		t.Fatalf("after the reset left: %v", again)
	}
}

func TestBlockQueueStopHoldsToo(t *testing.T) {
	g := newBlock(t, BlockConfig{}, blockFeatures)
	r := g.request(blockFlush, 0, false)
	out := g.sent()
	g.write(regQueueSel, 0)
	g.write(regQueueReady, 0)
	if !g.dev.Held() || g.held != 1 {
		t.Fatal("the guest goes on, and may use the ring's memory for something else")
	}
	g.dev.Complete(&Completion{ID: out[0].ID})
	if g.dev.Held() || g.blockStatus(r) != 0xff || g.read(regQueueReady) != 0 {
		t.Fatal("the answer reached a queue that was stopped")
	}
	if g.dev.Info().Phase != PhaseLive {
		t.Fatalf("the device is %v", g.dev.Info().Phase)
	}
}

func TestBlockNeedsResetDropsAnswers(t *testing.T) {
	g := newBlock(t, BlockConfig{}, blockFeatures)
	r := g.request(blockFlush, 0, false)
	out := g.sent()
	g.queues[0].setU16(g.queues[0].avail+2, 1000)
	g.write(regQueueNotify, 0)
	g.dev.Complete(&Completion{ID: out[0].ID})
	if g.blockStatus(r) != 0xff || g.dev.Info().InFlight != 0 {
		t.Fatal("an answer reached a driver that broke a rule")
	}
	if g.write(regStatus, 0); g.dev.Held() {
		t.Fatal("held with nothing outside")
	}
}

func TestBlockConfigurationSpace(t *testing.T) {
	g := newBlock(t, BlockConfig{
		Sectors: 1 << 33, LogicalBlock: 512, PhysicalBlock: 4096, OptimalIO: 1 << 16, Discard: true, WriteZeroes: true,
	}, blockFeatures)
	for _, c := range []struct {
		name string
		off  uint64
		size int
		want uint64
	}{
		{"capacity", 0, 8, 1 << 33}, {"size_max", 8, 4, blockSizeMax}, {"seg_max", 12, 4, 126}, {"blk_size", 20, 4, 512},
		{"physical_block_exp", 24, 1, 3}, {"alignment_offset", 25, 1, 0}, {"min_io_size", 26, 2, 8}, {"opt_io_size", 28, 4, 128},
		{"max_discard_sectors", 36, 4, blockRangeMax}, {"max_discard_seg", 40, 4, 1}, {"discard_sector_alignment", 44, 4, 8},
		{"max_write_zeroes_sectors", 48, 4, blockRangeMax}, {"max_write_zeroes_seg", 52, 4, 1}, {"write_zeroes_may_unmap", 56, 1, 1},
	} {
		if v, _ := g.dev.Load(regConfig+c.off, c.size); v != c.want {
			t.Errorf("%s is %d, want %d", c.name, v, c.want)
		}
	}
	if blockSegMax*blockSizeMax > BlockDataMax {
		t.Errorf("a driver may make requests of %d bytes, and only %d are taken", blockSegMax*blockSizeMax, BlockDataMax)
	}
}

func TestBlockConfigurationsThatCannotBe(t *testing.T) {
	for _, cfg := range []BlockConfig{
		{Sectors: 8, LogicalBlock: 256}, {Sectors: 8, LogicalBlock: 1000}, {Sectors: 8, LogicalBlock: 1 << 20},
		{Sectors: 8, LogicalBlock: 4096, PhysicalBlock: 512}, {Sectors: 9, LogicalBlock: 4096}, {Sectors: 1 << 60},
		{Sectors: 8, Serial: "123456789012345678901"},
	} {
		if _, err := NewBlock(slot, nil, nil, cfg); err == nil {
			t.Errorf("%+v was taken", cfg)
		} else {
			t.Log(err)
		}
	}
}
