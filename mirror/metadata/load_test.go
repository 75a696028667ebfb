package metadata

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
)

// memLeg is a leg of which only the end is kept in memory; the rest is zeroes. It
// insists on aligned reads and fails in bad blocks.
type memLeg struct {
	t     testing.TB
	bytes int64
	tail  []byte
	bad   map[int64]bool // offsets of blocks that cannot be read
}

// at is the block at off.
func (m *memLeg) at(off int64) []byte {
	return m.tail[off-m.bytes+int64(len(m.tail)):][:BlockSize]
}

func (m *memLeg) ReadAt(p []byte, off int64) (int, error) {
	if off%BlockSize != 0 || len(p)%BlockSize != 0 || uintptr(unsafe.Pointer(&p[0]))%BlockSize != 0 {
		m.t.Errorf("read of %d bytes at %d into %p is not aligned", len(p), off, &p[0])
	}
	for n := 0; n < len(p); n += BlockSize {
		at := off + int64(n)
		switch {
		case at < 0 || at+BlockSize > m.bytes:
			return n, io.EOF
		case m.bad[at]:
			return n, syscall.EIO
		case at < m.bytes-int64(len(m.tail)):
			clear(p[n:][:BlockSize])
		default:
			copy(p[n:], m.at(at))
		}
	}
	return len(p), nil
}

// newMemLeg is a freshly made leg with a few bits set. Its maps have several blocks.
func newMemLeg(t testing.TB) (*memLeg, Layout, Superblock, *Bitmap, *Bitmap) {
	t.Helper()
	const device = 400 << 20
	l, err := NewLayout(device, 4096, 8192)
	if err != nil {
		t.Fatal(err)
	}
	m := &memLeg{t: t, bytes: device, tail: make([]byte, 64<<10), bad: map[int64]bool{}}
	sb := NewSuper(l, testMirror, legUUID(0), 0, 512, 4096)
	sb.Sequence, sb.Generation, sb.InService = 5, gen("g1"), 3
	intent, missed := NewBitmap(l.Extents), NewBitmap(l.Regions)
	intent.Set(0)
	intent.Set(l.Extents - 1)
	missed.SetRange(100, 40000)
	m.put(l, &sb, intent, missed)
	return m, l, sb, intent, missed
}

func (m *memLeg) put(l Layout, sb *Superblock, intent, missed *Bitmap) {
	for i := range 2 {
		EncodeSuper(sb, m.at(l.SuperOff[i]))
	}
	for i := range l.IntentBlocks {
		EncodeIntent(l, sb, i, intent, m.at(l.IntentBlockOff(i)))
	}
	for i := range l.MissedBlocks {
		EncodeMissed(l, sb, i, missed, m.at(l.MissedBlockOff(i)))
	}
}

func TestLoad(t *testing.T) {
	m, _, sb, intent, missed := newMemLeg(t)
	img, err := Load(m, m.bytes)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(sb, img.Super); d != "" {
		t.Error(d)
	}
	if !img.Intent.Equal(intent) || !img.Missed.Equal(missed) || img.Damage != nil || img.Torn {
		t.Errorf("intent %d of %d, missed %d of %d, damage %q, torn %v", img.Intent.Count(), intent.Count(),
			img.Missed.Count(), missed.Count(), img.Damage, img.Torn)
	}
	// A device whose size is no multiple of a block.
	if _, err := Load(m, m.bytes+512); err != nil {
		t.Error(err)
	}
}

func TestLoadSuperblockCopies(t *testing.T) {
	newer := func(sb Superblock) Superblock {
		sb = sb.Clone()
		sb.Sequence++
		sb.Bump(UUID{9})
		return sb
	}
	// What becomes of the copies; then what is expected: a sequence, or an error.
	for _, c := range []struct {
		what   string
		do     func(m *memLeg, at [2]int64, sb Superblock)
		seq    uint64
		err    error
		damage string
		torn   bool
	}{
		{"an update stopped after copy 0", func(m *memLeg, at [2]int64, sb Superblock) {
			n := newer(sb)
			EncodeSuper(&n, m.at(at[0]))
		}, 6, nil, "", true},
		{"copy 1 is the newer", func(m *memLeg, at [2]int64, sb Superblock) {
			n := newer(sb)
			EncodeSuper(&n, m.at(at[1]))
		}, 6, nil, "", true},
		{"copy 0 torn", func(m *memLeg, at [2]int64, sb Superblock) {
			n := newer(sb)
			buf := make([]byte, BlockSize)
			EncodeSuper(&n, buf)
			copy(m.at(at[0]), buf[:120])
		}, 5, nil, "superblock copy 0", true},
		{"copy 0 wiped", func(m *memLeg, at [2]int64, sb Superblock) { clear(m.at(at[0])) }, 5, nil, "no mirror metadata", true},
		{"copy 1 rotten", func(m *memLeg, at [2]int64, sb Superblock) { m.at(at[1])[100] ^= 4 }, 5, nil, "superblock copy 1", true},
		{"copy 1 unreadable", func(m *memLeg, at [2]int64, sb Superblock) { m.bad[at[1]] = true }, 5, nil, "input/output error", true},
		{"both wiped", func(m *memLeg, at [2]int64, sb Superblock) { clear(m.at(at[0])); clear(m.at(at[1])) }, 0, ErrNoMetadata, "", false},
		{"both rotten", func(m *memLeg, at [2]int64, sb Superblock) { m.at(at[0])[100] ^= 4; m.at(at[1])[100] ^= 4 }, 0, ErrDamaged, "", false},
		{"one rotten, one wiped", func(m *memLeg, at [2]int64, sb Superblock) { m.at(at[0])[100] ^= 4; clear(m.at(at[1])) }, 0, ErrDamaged, "", false},
		{"one wiped, one rotten", func(m *memLeg, at [2]int64, sb Superblock) {
			clear(m.at(at[0]))
			m.at(at[1])[100] ^= 4
		}, 0, ErrDamaged, "", false},
		{"one wiped, one unreadable", func(m *memLeg, at [2]int64, sb Superblock) {
			clear(m.at(at[0]))
			m.bad[at[1]] = true
		}, 0, syscall.EIO, "", false},
		{"both unreadable", func(m *memLeg, at [2]int64, sb Superblock) { m.bad[at[0]] = true; m.bad[at[1]] = true }, 0, syscall.EIO, "", false},
		{"both of a later version", func(m *memLeg, at [2]int64, sb Superblock) {
			for _, off := range at {
				m.at(off)[offVersion]++
				seal(m.at(off))
			}
		}, 0, ErrVersion, "", false},
		{"copy 0 of another leg", func(m *memLeg, at [2]int64, sb Superblock) {
			n := newer(sb)
			n.Leg = legUUID(1)
			EncodeSuper(&n, m.at(at[0]))
		}, 0, ErrDamaged, "", false},
		{"copy 1 of another slot", func(m *memLeg, at [2]int64, sb Superblock) {
			sb.Slot = 1
			EncodeSuper(&sb, m.at(at[1]))
		}, 0, ErrDamaged, "", false},
		{"same sequence, different words", func(m *memLeg, at [2]int64, sb Superblock) {
			sb.InService = 1
			EncodeSuper(&sb, m.at(at[1]))
		}, 0, ErrDamaged, "", false},
		{"another size", func(m *memLeg, at [2]int64, sb Superblock) {
			sb.DeviceBytes += 1 << 20
			EncodeSuper(&sb, m.at(at[0]))
			EncodeSuper(&sb, m.at(at[1]))
		}, 0, ErrGeometry, "", false},
		{"another data size", func(m *memLeg, at [2]int64, sb Superblock) {
			sb.DataBytes -= 4096
			EncodeSuper(&sb, m.at(at[0]))
			EncodeSuper(&sb, m.at(at[1]))
		}, 0, ErrDamaged, "", false},
		{"impossible regions", func(m *memLeg, at [2]int64, sb Superblock) {
			sb.RegionSize = 4097
			EncodeSuper(&sb, m.at(at[0]))
			EncodeSuper(&sb, m.at(at[1]))
		}, 0, ErrDamaged, "", false},
	} {
		t.Run(c.what, func(t *testing.T) {
			m, l, sb, _, _ := newMemLeg(t)
			c.do(m, l.SuperOff, sb)
			img, err := Load(m, m.bytes)
			if c.err != nil {
				if !errors.Is(err, c.err) {
					t.Fatalf("%v, want %v", err, c.err)
				}
				if c.err != ErrNoMetadata && errors.Is(err, ErrNoMetadata) {
					t.Fatalf("it may be taken for blank: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if img.Super.Sequence != c.seq || img.Torn != c.torn {
				t.Errorf("sequence %d, torn %v; want %d, %v", img.Super.Sequence, img.Torn, c.seq, c.torn)
			}
			if got := strings.Join(img.Damage, "; "); !strings.Contains(got, c.damage) || (got == "") != (c.damage == "") {
				t.Errorf("damage %q, want %q", got, c.damage)
			}
		})
	}
}

// A block of a map that is not sound counts as all ones, and only that block.
func TestLoadTakesUnsoundMapBlocksForAllOnes(t *testing.T) {
	for what, spoil := range map[string]func(m *memLeg, off int64){
		"rotten":     func(m *memLeg, off int64) { m.at(off)[1000] ^= 1 },
		"wiped":      func(m *memLeg, off int64) { clear(m.at(off)) },
		"unreadable": func(m *memLeg, off int64) { m.bad[off] = true },
		"left over": func(m *memLeg, off int64) {
			copy(m.at(off)[offMirror:], bytes.Repeat([]byte{0xbb}, 16))
			seal(m.at(off))
		},
	} {
		t.Run(what, func(t *testing.T) {
			m, l, _, intent, missed := newMemLeg(t)
			spoil(m, l.IntentBlockOff(0))
			spoil(m, l.MissedBlockOff(1))
			spoil(m, l.MissedBlockOff(l.MissedBlocks-1))
			img, err := Load(m, m.bytes)
			if err != nil {
				t.Fatal(err)
			}
			intent.SetRange(0, min(BitsPerBlock, l.Extents))
			missed.SetRange(BitsPerBlock, 2*BitsPerBlock)
			missed.SetRange((l.MissedBlocks-1)*BitsPerBlock, l.Regions)
			if !img.Intent.Equal(intent) || !img.Missed.Equal(missed) {
				t.Errorf("intent %d want %d, missed %d want %d", img.Intent.Count(), intent.Count(), img.Missed.Count(), missed.Count())
			}
			if len(img.Damage) != 2 || !strings.Contains(img.Damage[0], "1 of 2 blocks of the write-intent map") ||
				!strings.Contains(img.Damage[1], fmt.Sprintf("2 of %d blocks of the missed-writes bitmap", l.MissedBlocks)) {
				t.Errorf("damage %q", img.Damage)
			}
		})
	}
}

func TestLoadOfWhatIsNoLeg(t *testing.T) {
	for _, n := range []int{0, 1, 4096, 8192, DeviceBytesMin - 1, DeviceBytesMin} {
		m := &memLeg{t: t, bytes: int64(n)}
		if _, err := Load(m, int64(n)); !errors.Is(err, ErrNoMetadata) {
			t.Errorf("%d bytes of zeroes: %v", n, err)
		}
	}
	m := &memLeg{t: t, bytes: DeviceBytesMin}
	if _, err := Load(m, 2*DeviceBytesMin); err == nil || errors.Is(err, ErrNoMetadata) {
		t.Errorf("a device shorter than it says: %v", err)
	}
}

// The fuzz targets lay hostile bytes over a sound leg and let them past the checksum.
// Whatever they are: no panic, no memory beyond what the device's own size allows, and
// what is accepted is what would be written. The bytes are a patch rather than a whole
// block, which the fuzzer would hardly ever get right.
func patch(buf []byte, off int, b []byte) {
	off = (off%len(buf) + len(buf)) % len(buf)
	copy(buf[off:], b)
}

func FuzzDecodeSuper(f *testing.F) {
	f.Add(0, []byte(magic), true)
	f.Add(0, []byte("        "), true)
	f.Add(offHistoryLen, []byte{255}, true)
	f.Add(offFlags, []byte{255}, true)
	f.Add(offTime, []byte{1, 2, 3, 4, 5, 6, 7, 8}, false)
	f.Fuzz(func(t *testing.T, off int, b []byte, sealed bool) {
		sb := NewSuper(Layout{DeviceBytes: 1 << 22}, testMirror, legUUID(1), 1, 512, 4096)
		sb.Bump(UUID{1})
		buf := make([]byte, BlockSize)
		EncodeSuper(&sb, buf)
		patch(buf, off, b)
		if sealed {
			seal(buf)
		}
		sb, err := DecodeSuper(buf)
		if err != nil {
			return
		}
		Describe(&sb)
		if _, err := sb.Layout(); err != nil && !errors.Is(err, ErrGeometry) {
			t.Fatal(err)
		}
		again := make([]byte, BlockSize)
		EncodeSuper(&sb, again)
		got, err := DecodeSuper(again)
		if d := cmp.Diff(sb, got); err != nil || d != "" {
			t.Fatal(err, d)
		}
	})
}

func FuzzDecodeBlock(f *testing.F) {
	l, err := NewLayout(300<<20, 4096, 4096)
	if err != nil {
		f.Fatal(err)
	}
	sb := NewSuper(l, testMirror, legUUID(0), 0, 512, 512)
	b := NewBitmap(l.Regions)
	b.SetRange(BitsPerBlock-5, BitsPerBlock+5)
	f.Add(0, 0, []byte(nil))
	f.Add(2, BlockSize-1, []byte{255})
	f.Add(1, offIndex, []byte{1})
	f.Add(1, headerLen, []byte{1, 2, 3})
	f.Fuzz(func(t *testing.T, block, off int, b2 []byte) {
		block = (block%l.MissedBlocks + l.MissedBlocks) % l.MissedBlocks
		buf := make([]byte, BlockSize)
		EncodeMissed(l, &sb, block, b, buf)
		patch(buf, off, b2)
		seal(buf)
		got := NewBitmap(l.Regions)
		if err := DecodeMissed(l, &sb, block, buf, got); err != nil {
			if got.Count() != 0 {
				t.Fatal("a refused block left bits")
			}
			return
		}
		count := 0
		for i := got.NextSet(0); i >= 0; i = got.NextSet(i + 1) {
			if i/BitsPerBlock != block {
				t.Fatalf("block %d set bit %d", block, i)
			}
			count++
		}
		if count != got.Count() {
			t.Fatalf("count is %d, there are %d", got.Count(), count)
		}
		again := make([]byte, BlockSize)
		EncodeMissed(l, &sb, block, got, again)
		if err := DecodeMissed(l, &sb, block, again, NewBitmap(l.Regions)); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzLoad lays its bytes over the last blocks of a small leg: both maps, both
// superblock copies. A second patch makes the copies differ.
func FuzzLoad(f *testing.F) {
	const device, tail = DeviceBytesMin, 4 * BlockSize
	l, err := NewLayout(device, 64<<10, 4<<20)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(0, []byte(nil), 0, []byte(nil), true)
	f.Add(2*BlockSize+offSeq, []byte{9}, 3*BlockSize, []byte("FT"), true)
	f.Add(3*BlockSize+offLeg, []byte{9}, 0, []byte{}, false)
	f.Add(2*BlockSize+offRegion, []byte{0, 16, 0, 0}, 3*BlockSize+offRegion, []byte{0, 16, 0, 0}, true)
	f.Fuzz(func(t *testing.T, off1 int, patch1 []byte, off2 int, patch2 []byte, sealed bool) {
		sb := NewSuper(l, testMirror, legUUID(0), 0, 512, 512)
		sb.Bump(UUID{1})
		m := &memLeg{t: t, bytes: device, tail: make([]byte, tail)}
		m.put(l, &sb, NewBitmap(l.Extents), NewBitmap(l.Regions))
		patch(m.tail, off1, patch1)
		patch(m.tail, off2, patch2)
		if sealed {
			for at := int64(device - tail); at < device; at += BlockSize {
				seal(m.at(at))
			}
		}
		img, err := Load(m, device)
		if err != nil {
			return
		}
		l, err := img.Super.Layout()
		if err != nil || l.DeviceBytes != device || img.Intent.Len() != l.Extents || img.Missed.Len() != l.Regions {
			t.Fatalf("%+v %v", l, err)
		}
		Assemble("disk0", [2]*Image{img, nil}, nil, [2]bool{})
		Assemble("disk0", [2]*Image{img, img}, nil, [2]bool{})
	})
}
