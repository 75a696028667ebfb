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
	g.start(features&b.offered, 64)
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
