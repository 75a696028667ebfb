//go:build linux

package translate

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"time"
	"unsafe"

	"ft/chipset/rv64"
)

// Translator is the machine code of one hart.
type Translator struct {
	hart   *rv64.Hart
	region *region
	base   uintptr // what rbx holds
	start  uintptr // where machine code begins to load registers
	cold   uintptr
	common int // bytes of the region that are always there
	used   int // bytes from the start, for blocks
	far    int // from there on, for what they come back by
	e      emitter
	once   int // from there on, for what is run once
	stats  Stats
	lent   bool // the region is a Code's
	poison bool // the next block is one that no processor executes
}

//go:noescape
func enter(base, entry, start uintptr)

func attach(h *rv64.Hart, o Options) (*Translator, error) {
	if err := breakRule(o.BreakRule); err != nil {
		return nil, err
	}
	c, err := o.Code, error(nil)
	if c == nil {
		if c, err = NewCode(o.CodeBytes); err != nil {
			return nil, err
		}
	}
	r := c.region
	t := &Translator{hart: h, region: r, lent: o.Code != nil}
	t.e.init(h, o.BreakRule)
	t.base = uintptr(unsafe.Pointer(h)) + uintptr(t.e.bias)
	t.common = t.e.commonCode(r.write)
	t.start, t.cold = t.address(t.e.startAt), t.address(t.e.coldAt)
	t.once = len(r.write) - onceBytes
	t.used, t.far = t.common, t.once
	if err := guardRegion(codeRegion{t.address(0), t.address(len(r.exec)), t.address(t.e.exitAt)}); err != nil {
		if !t.lent {
			_ = r.free()
		}
		return nil, err
	}
	h.SetBackend(backend{t}, o.Threshold, o.Cuts)
	return t, nil
}

var ud2 = []byte{0x0f, 0x0b}

const (
	blockAlign     = 16
	onceBytes      = 1 << 15 // a block takes less
	codeBytesLeast = 1 << 18
	codeBytesMost  = 1 << 30
)

// Close makes the hart interpret again and gives the code's memory back. It is called between
// runs.
func (t *Translator) Close() error {
	if t.region == nil || t.region.exec == nil {
		return nil
	}
	t.hart.SetBackend(nil, 0, false)
	unguardRegion(t.address(0))
	if t.lent {
		t.region = nil
		return nil
	}
	return t.region.free()
}

// Poison makes the next block that is translated one that no processor executes, and has all
// of them translated again: a drill's crash. It is called between runs.
func (t *Translator) Poison() {
	t.poison = true
	t.hart.DropMachineCode()
}

// NewCode makes memory for machine code, of so many bytes (0: as in Options).
func NewCode(size int) (*Code, error) {
	if size == 0 {
		size = codeBytesDefault
	}
	if size < codeBytesLeast || size > codeBytesMost {
		return nil, fmt.Errorf("%d bytes for translated code: want from %d to %d", size, codeBytesLeast, codeBytesMost)
	}
	r, err := newRegion((size + 4095) &^ 4095)
	if err != nil {
		return nil, err
	}
	return &Code{r}, nil
}

// Code is memory for machine code that is made apart from a Translator, for processes that
// cannot make any later. One Translator at a time has it.
type Code struct{ region *region }

// Close gives the memory back, when no Translator has it any more.
func (c *Code) Close() error { return c.region.free() }

// Stats is what it has done.
func (t *Translator) Stats() Stats {
	s := t.stats
	s.NativeSteps, s.Entries = t.hart.MachineSteps()
	s.CodeBytes = uint64(t.used - t.common + t.once - t.far)
	return s
}

// address is where an offset of the region is executed.
func (t *Translator) address(off int) uintptr {
	return uintptr(unsafe.Pointer(unsafe.SliceData(t.region.exec))) + uintptr(off)
}

// backend is the Translator as the hart sees it (rv64.Backend).
type backend struct{ *Translator }

func (b backend) Cold() uintptr { return b.cold }

func (b backend) Enter(entry uintptr) {
	enter(b.base, entry, b.start)
	runtime.KeepAlive(b.hart)
}

// Locate makes the block's code again, as it was.
func (b backend) Locate(c *rv64.CodeBlock, entry, pc uintptr) int {
	b.e.block(c, int(entry-b.address(0)), b.far)
	for i, at := range b.e.begins[:len(c.Ops)] {
		if int(pc-b.address(0)) < at {
			return max(i-1, 0)
		}
	}
	return len(c.Ops) - 1
}

func (b backend) Resume(site uint32) uintptr { return b.address(int(site)) }

func (b backend) Link(site uint32, entry uintptr) {
	to := int(entry - b.address(0))
	binary.LittleEndian.PutUint32(b.region.write[site:], uint32(int32(to-int(site)-4)))
}

func (b backend) Dropped() {
	b.used, b.far, b.stats.Blocks = b.common, b.once, 0
}

func (b backend) Once(c *rv64.CodeBlock) uintptr {
	end := len(b.region.write)
	code, far := b.e.block(c, b.once, end)
	copy(b.region.write[b.once:], code)
	copy(b.region.write[end-len(far):], far)
	return b.address(b.once)
}

func (b backend) IsOnce(pc uintptr) bool { return pc >= b.address(b.once) }

func (b backend) Translate(c *rv64.CodeBlock) uintptr {
	begun := time.Now()
	code, far := b.e.block(c, b.used, b.far)
	if len(code)+len(far)+blockAlign > b.far-b.used {
		b.hart.DropMachineCode()
		b.stats.Flushes++
		code, far = b.e.block(c, b.used, b.far)
	}
	entry := b.address(b.used)
	copy(b.region.write[b.used:], code)
	if b.poison {
		copy(b.region.write[b.used:], ud2)
		b.poison = false
	}
	b.used += (len(code) + blockAlign - 1) &^ (blockAlign - 1)
	b.far -= len(far)
	copy(b.region.write[b.far:], far)
	b.stats.Blocks++
	b.stats.Translations++
	b.stats.Ops += uint64(len(c.Ops))
	b.stats.TranslateNS += uint64(time.Since(begun))
	return entry
}
