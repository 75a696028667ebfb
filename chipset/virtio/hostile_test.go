package virtio

import (
	"encoding/binary"
	"testing"
)

// hostileRing is a block device's ring that a test makes by hand.
type hostileRing struct {
	*guest
	r *ring
}

func (h hostileRing) desc(i int, addr uint64, length uint32, flags, next uint16) {
	h.setDescriptor(h.r.desc, i, addr, length, flags, next)
}

func (h hostileRing) make(heads ...uint16) {
	for _, head := range heads {
		h.r.setU16(h.r.avail+availHeader+availEntry*uint64(uint32(h.r.availIdx)%h.r.num), head)
		h.r.availIdx++
	}
	h.r.setU16(h.r.avail+2, h.r.availIdx)
	h.write(regQueueNotify, 0)
}

// Each row breaks one rule of 2.7 or 5.2.6. The device needs a reset, says so by an
// interrupt, and does nothing more until it gets one.
func TestBrokenRules(t *testing.T) {
	const buf = ramBase + 0x10_0000
	noIndirect := uint64(blockFeatures &^ featureIndirect)
	for _, c := range []struct {
		name     string
		features uint64
		do       func(h hostileRing)
		want     Violation
	}{
		{"the head is outside the table", 0, func(h hostileRing) { h.make(64) }, ViolationHead},
		{"the head is far outside", 0, func(h hostileRing) { h.make(0xffff) }, ViolationHead},
		{"a chain of one in a circle", 0, func(h hostileRing) {
			h.desc(0, buf, 16, descNext, 0)
			h.make(0)
		}, ViolationChainLength},
		{"a chain in a circle", 0, func(h hostileRing) {
			for i := range 64 {
				h.desc(i, buf, 16, descNext, uint16(i+1)%64)
			}
			h.make(5)
		}, ViolationChainLength},
		{"next is outside the table", 0, func(h hostileRing) {
			h.desc(0, buf, 16, descNext, 64)
			h.make(0)
		}, ViolationNext},
		{"the index jumps", 0, func(h hostileRing) {
			h.r.setU16(h.r.avail+2, 65)
			h.write(regQueueNotify, 0)
		}, ViolationAvailIndex},
		{"the index goes back", 0, func(h hostileRing) {
			h.r.setU16(h.r.avail+2, 0xffff)
			h.write(regQueueNotify, 0)
		}, ViolationAvailIndex},
		{"an empty descriptor", 0, func(h hostileRing) {
			h.desc(0, buf, 0, 0, 0)
			h.make(0)
		}, ViolationSegment},
		{"a descriptor goes around the end of the addresses", 0, func(h hostileRing) {
			h.desc(0, ^uint64(0)-3, 16, 0, 0)
			h.make(0)
		}, ViolationSegment},
		{"more than 2^32 bytes", 0, func(h hostileRing) {
			for i := range 3 {
				h.desc(i, 0, 0xffff_ffff, descNext|descWrite, uint16(i+1))
			}
			h.desc(3, buf, 1, descWrite, 0)
			h.make(0)
		}, ViolationSegment},
		{"readable behind writable", 0, func(h hostileRing) {
			h.desc(0, buf, 16, descNext|descWrite, 1)
			h.desc(1, buf, 16, 0, 0)
			h.make(0)
		}, ViolationOrder},
		{"indirect, not negotiated", noIndirect, func(h hostileRing) {
			h.desc(0, buf, 32, descIndirect, 0)
			h.make(0)
		}, ViolationIndirectUnknown},
		{"indirect in indirect", 0, func(h hostileRing) {
			h.setDescriptor(buf, 0, buf, 16, descIndirect, 0)
			h.desc(0, buf, 16, descIndirect, 0)
			h.make(0)
		}, ViolationIndirectNested},
		{"indirect with a next", 0, func(h hostileRing) {
			h.desc(0, buf, 16, descIndirect|descNext, 1)
			h.make(0)
		}, ViolationIndirectNested},
		{"an empty indirect table", 0, func(h hostileRing) {
			h.desc(0, buf, 0, descIndirect, 0)
			h.make(0)
		}, ViolationIndirectSize},
		{"an indirect table and a half", 0, func(h hostileRing) {
			h.desc(0, buf, 24, descIndirect, 0)
			h.make(0)
		}, ViolationIndirectSize},
		{"an indirect table outside RAM", 0, func(h hostileRing) {
			h.desc(0, 0x1000, 16, descIndirect, 0)
			h.make(0)
		}, ViolationRingOutside},
		{"an indirect table around the end of the addresses", 0, func(h hostileRing) {
			h.desc(0, ^uint64(0)-15, 0xffff_fff0, descIndirect, 0)
			h.make(0)
		}, ViolationSegment},
		{"next is outside an indirect table", 0, func(h hostileRing) {
			h.setDescriptor(buf, 0, buf, 16, descNext, 1)
			h.desc(0, buf, 16, descIndirect, 0)
			h.make(0)
		}, ViolationNext},
		{"an indirect table in a circle, as large as can be", 0, func(h hostileRing) {
			h.setDescriptor(buf, 0, buf, 16, descNext, 0)
			h.desc(0, buf, 0xffff_fff0, descIndirect, 0)
			h.make(0)
		}, ViolationChainLength},
		{"a request shorter than its header", 0, func(h hostileRing) {
			h.desc(0, buf, 15, descNext, 1)
			h.desc(1, buf, 1, descWrite, 0)
			h.make(0)
		}, ViolationHeader},
		{"a request without room for its status", 0, func(h hostileRing) {
			h.desc(0, buf, 16, 0, 0)
			h.make(0)
		}, ViolationStatus},
		{"a header outside RAM", 0, func(h hostileRing) {
			h.desc(0, 0x1000, 16, descNext, 1)
			h.desc(1, buf, 1, descWrite, 0)
			h.make(0)
		}, ViolationDataOutside},
		{"a status outside RAM, of a request that is refused", 0, func(h hostileRing) {
			binary.LittleEndian.PutUint32(h.mem(buf, 4), 99)
			h.desc(0, buf, 16, descNext, 1)
			h.desc(1, 0x1000, 1, descWrite, 0)
			h.make(0)
		}, ViolationDataOutside},
		{"data that are written from outside RAM", 0, func(h hostileRing) {
			binary.LittleEndian.PutUint32(h.mem(buf, 4), blockOut)
			h.desc(0, buf, 16, descNext, 1)
			h.desc(1, ramBase+ramSize-256, 512, descNext, 2)
			h.desc(2, buf, 1, descWrite, 0)
			h.make(0)
		}, ViolationDataOutside},
		{"more data than a request can have", 0, func(h hostileRing) {
			h.desc(0, buf, 16, descNext, 1)
			h.desc(1, 0, BlockDataMax+2, descWrite, 0)
			h.make(0)
		}, ViolationRequestSize},
		{"more segments than SEG_MAX", 0, func(h hostileRing) {
			h.setDescriptor(buf, 0, buf, 16, descNext, 1)
			for i := 1; i < 200; i++ {
				h.setDescriptor(buf, i, buf, 1, descWrite|descNext, uint16(i+1))
			}
			h.setDescriptor(buf, 200, buf, 1, descWrite, 0)
			h.desc(0, buf, 201*16, descIndirect, 0)
			h.make(0)
		}, ViolationRequestSize},
	} {
		t.Run(c.name, func(t *testing.T) {
			features := uint64(blockFeatures)
			if c.features != 0 {
				features = c.features
			}
			g := newBlock(t, BlockConfig{}, features)
			h := hostileRing{g, g.queues[0]}
			c.do(h)
			i := g.dev.Info()
			if i.Phase != PhaseNeedsReset || i.Violation != c.want {
				t.Fatalf("it is %v for %q, want %q", i.Phase, i.Violation, c.want)
			}
			if !g.line || g.acknowledge()&interruptConfig == 0 {
				t.Fatal("no configuration interrupt")
			}
			if out := g.sent(); len(out) != 0 {
				t.Fatalf("left: %v", out)
			}
			// It takes nothing more, and a reset makes it well.
			g.write(regQueueNotify, 0)
			g.start(blockFeatures, 16)
			g.request(blockFlush, 0, false)
			if out := g.sent(); len(out) != 1 {
				t.Fatalf("after a reset %d requests left, want 1: %v", len(out), g.dev.Info().Violation)
			}
		})
	}
}

// What is under way counts: with it no more than the ring holds, and not back over it.
func TestAvailableIndexWithRequestsUnderWay(t *testing.T) {
	for _, c := range []struct {
		name string
		idx  uint16
		want Violation
	}{
		{"two more, which fills the ring", 4, ViolationNone}, {"three more", 5, ViolationAvailIndex},
		{"back by one", 1, ViolationAvailIndex}, {"back by two", 0, ViolationAvailIndex}, {"back by three", 0xffff, ViolationAvailIndex},
	} {
		g := newGuest(t)
		g.dev = devices(t, g)["block"]
		g.start(blockFeatures, 4)
		g.request(blockFlush, 0, false)
		g.request(blockFlush, 0, false)
		g.queues[0].setU16(g.queues[0].avail+2, c.idx)
		for i := range uint64(4) { // all of them the first request
			g.queues[0].setU16(g.queues[0].avail+availHeader+availEntry*i, 0)
		}
		g.write(regQueueNotify, 0)
		if v := g.dev.Info().Violation; v != c.want {
			t.Errorf("%s: the device says %q, want %q", c.name, v, c.want)
		}
	}
}

func TestRingsOutsideRAM(t *testing.T) {
	for name, reg := range map[string]uint64{"table": regQueueDescLow, "available": regQueueDriverLow, "used": regQueueDeviceLow} {
		t.Run(name, func(t *testing.T) {
			g := newGuest(t)
			b, _ := NewBlock(slot, g, g, BlockConfig{Sectors: 8, Serial: "x"})
			g.dev = b
			g.negotiate(featureVersion1)
			g.queues[0] = g.newRing(0, 8, featureVersion1)
			g.write(regQueueReady, 0)
			g.write(regQueueNum, 8)
			for r, a := range map[uint64]uint64{regQueueDescLow: g.queues[0].desc, regQueueDriverLow: g.queues[0].avail, regQueueDeviceLow: g.queues[0].used} {
				if r == reg {
					a = 0x1000
				}
				g.write(r, uint32(a))
				g.write(r+4, uint32(a>>32))
			}
			g.write(regQueueReady, 1)
			g.write(regStatus, statusDriverOK)
			g.request(blockGetID, 0, true, make([]byte, 20))
			if v := g.dev.Info().Violation; v != ViolationRingOutside {
				t.Fatalf("the device says %q", v)
			}
		})
	}
}

// The rings of a driver may lie over each other, so that the device's own writes make more
// available. What it does at one notification stays bounded.
func TestRingsThatFeedThemselvesEnd(t *testing.T) {
	g := newGuest(t)
	b, _ := NewBlock(slot, g, g, BlockConfig{Sectors: 8})
	g.dev = b
	g.negotiate(featureVersion1)
	// One entry. The used ring's index lies over the first descriptor's length in the
	// table, and its element over the available ring's index.
	const at = ramBase + 0x1000
	g.write(regQueueSel, 0)
	g.write(regQueueNum, 1)
	for reg, a := range map[uint64]uint64{regQueueDescLow: at, regQueueDriverLow: at + 14, regQueueDeviceLow: at + 8} {
		g.write(reg, uint32(a))
		g.write(reg+4, uint32(a>>32))
	}
	g.write(regQueueReady, 1)
	g.write(regStatus, statusDriverOK)
	g.setDescriptor(at, 0, at, 0x1_0011, descWrite, 1)
	g.write(regQueueNotify, 0)
	if n := g.dev.Info().Requests; n > 1 {
		t.Fatalf("%d requests at one notification of a ring of one", n)
	}
}
