package virtio

import (
	"encoding/binary"
	"fmt"
)

// The canonical form of a device's state: little-endian fields in a fixed order, counted
// where their number varies, nothing that is not in use. Two devices that behave alike
// have the same form, so it serves for digests, and for moving a device to another
// process. It is of one version of this program; it is not kept on disks.

// stateVersion stands first, with the device's ID.
const stateVersion = 2

// codec goes over the fields of a state in their one order, and writes them to b or reads
// them from it.
type codec struct {
	b       []byte
	loading bool
	failed  bool
}

// word is one number. A value above limit, where one is given, does not load.
func word[T ~uint8 | ~uint16 | ~uint32 | ~uint64](c *codec, v *T, size int, limit uint64) {
	var w [8]byte
	if !c.loading {
		binary.LittleEndian.PutUint64(w[:], uint64(*v))
		c.b = append(c.b, w[:size]...)
		return
	}
	if c.failed || len(c.b) < size {
		c.failed = true
		return
	}
	copy(w[:], c.b[:size])
	c.b = c.b[size:]
	n := binary.LittleEndian.Uint64(w[:])
	if n > limit {
		c.failed = true
		return
	}
	*v = T(n)
}

func (c *codec) u8(v *uint8)   { word(c, v, 1, 1<<8-1) }
func (c *codec) u16(v *uint16) { word(c, v, 2, 1<<16-1) }
func (c *codec) u32(v *uint32) { word(c, v, 4, 1<<32-1) }
func (c *codec) u64(v *uint64) { word(c, v, 8, 1<<64-1) }

func (c *codec) flag(v *bool) {
	var n uint8
	if *v {
		n = 1
	}
	word(c, &n, 1, 1)
	*v = n == 1
}

// bytes is a string of bytes of a known length.
func (c *codec) bytes(p []byte) {
	if !c.loading {
		c.b = append(c.b, p...)
		return
	}
	if c.failed || len(c.b) < len(p) {
		c.failed = true
		return
	}
	copy(p, c.b)
	c.b = c.b[len(p):]
}

// check makes loading fail unless a rule holds that all saved states keep.
func (c *codec) check(holds bool) {
	if !holds {
		c.failed = true
	}
}

func (s *transportState) code(c *codec) {
	c.u8(&s.Status)
	word(c, &s.Drain, 1, uint64(drainEnd-1))
	word(c, &s.Violation, 1, uint64(violationEnd-1))
	c.u32(&s.DeviceFeaturesSel)
	c.u32(&s.DriverFeaturesSel)
	c.u64(&s.DriverFeatures)
	c.u32(&s.QueueSel)
	c.u32(&s.InterruptStatus)
	c.u32(&s.ConfigGeneration)
	for i := range s.Queues {
		s.Queues[i].code(c)
	}
	for _, n := range []*uint64{
		&s.Counters.Resets, &s.Counters.Violations, &s.Counters.Requests, &s.Counters.Errors,
		&s.Counters.Unasked, &s.Counters.Sent, &s.Counters.Received, &s.Counters.Dropped,
	} {
		c.u64(n)
	}
}

func (q *queueState) code(c *codec) {
	c.flag(&q.Ready)
	c.u32(&q.Num)
	c.u64(&q.Desc)
	c.u64(&q.Driver)
	c.u64(&q.Device)
	c.u16(&q.Avail)
	c.u16(&q.Used)
	c.u16(&q.Signaled)
	c.check(!q.Ready || q.usable())
}

func (p *pending) code(c *codec) {
	c.u64(&p.ID)
	word(c, &p.Op, 1, uint64(opEnd-1))
	c.flag(&p.Unmap)
	c.flag(&p.Stable)
	c.u64(&p.Sector)
	word(c, &p.Length, 8, blockRangeMax*SectorSize)
	c.u16(&p.Head)
	c.u32(&p.Bytes)
	c.u32(&p.Room)
	word(c, &p.Count, 2, segmentsMax)
	word(c, &p.Reads, 2, uint64(chainMax-p.Count))
	c.check(codeSegments(c, p.write()) >= uint64(p.Room))
	read := codeSegments(c, p.read())
	c.check(p.Op != Write || p.Length <= BlockDataMax && read >= blockHeader+p.Length)
}

// codeSegments goes over segments, and returns their length.
func codeSegments(c *codec, segs []segment) (sum uint64) {
	for i := range segs {
		s := &segs[i]
		c.u64(&s.Addr)
		c.u32(&s.Len)
		c.check(s.Addr+uint64(s.Len) >= s.Addr)
		sum += uint64(s.Len)
	}
	return sum
}

func (f *inFlight) code(c *codec) {
	c.u64(&f.Serial)
	for i := range f.Busy {
		c.u64(&f.Busy[i])
	}
	if c.loading {
		f.Count, f.Bytes = 0, 0
	}
	for i := range f.Slots {
		if f.Busy[i/64]>>(i%64)&1 == 0 {
			continue
		}
		p := &f.Slots[i]
		p.code(c)
		c.check(p.ID%inFlightMax == uint64(i) && p.ID/inFlightMax <= f.Serial)
		if c.loading {
			f.Count++
			f.Bytes += uint64(p.Bytes)
		}
	}
}

// SaveState appends all that the device knows to dst.
func (t *transport) SaveState(dst []byte) []byte {
	c := &t.codec
	*c = codec{b: dst}
	id, v := t.id, uint32(stateVersion)
	c.u32(&id)
	c.u32(&v)
	t.front.code(c)
	dst, c.b = c.b, nil
	return dst
}

// LoadState makes the device what SaveState described.
func (t *transport) LoadState(p []byte) error {
	err := t.decode(p)
	if err != nil {
		t.front.zero()
	}
	t.front.described()
	t.port.Interrupt(t.slot, t.s.InterruptStatus != 0)
	return err
}

func (t *transport) decode(p []byte) error {
	t.front.zero()
	c := &codec{b: p, loading: true}
	var id, v uint32
	c.u32(&id)
	c.u32(&v)
	if c.failed || id != t.id || v != stateVersion {
		return fmt.Errorf("virtio slot %d: load the state of a %s device: it is that of device %d in version %d, want device %d in version %d",
			t.slot, t.kind, id, v, t.id, stateVersion)
	}
	t.front.code(c)
	c.check(!t.Held() || t.front.outside() > 0)
	if c.failed || len(c.b) != 0 {
		return fmt.Errorf("virtio slot %d: load the state of a %s device: its %d bytes are damaged, at %d from the end", t.slot, t.kind, len(p), len(c.b))
	}
	return nil
}
