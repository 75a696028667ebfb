package metadata

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "write the golden files anew")

func drawUUID(t *rapid.T, label string) UUID {
	u := UUID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, label))
	if u.IsZero() {
		u[0] = 1
	}
	return u
}

func drawSuper(t *rapid.T) Superblock {
	generation := func(label string) Generation {
		return Generation{rapid.Uint64().Draw(t, label), drawUUID(t, label)}
	}
	sb := Superblock{
		Version: FormatVersion, Sequence: rapid.Uint64().Draw(t, "sequence"),
		Mirror: drawUUID(t, "mirror"), Leg: drawUUID(t, "leg"), Slot: uint8(rapid.IntRange(0, 1).Draw(t, "slot")),
		DeviceBytes: rapid.Uint64().Draw(t, "device"), DataBytes: rapid.Uint64().Draw(t, "data"),
		LogicalBlock: 512 << rapid.IntRange(0, 3).Draw(t, "logical"), PhysicalBlock: 512 << rapid.IntRange(0, 10).Draw(t, "physical"),
		RegionSize: rapid.Uint32().Draw(t, "region"), ExtentSize: rapid.Uint32().Draw(t, "extent"),
		Generation: generation("generation"), InService: uint8(rapid.IntRange(0, 3).Draw(t, "in service")),
		Syncing: rapid.Bool().Draw(t, "syncing"), Clean: rapid.Bool().Draw(t, "clean"),
		MissedLeg: drawUUID(t, "missed leg"), MissedFrom: generation("missed from"),
	}
	if ns := rapid.Int64().Draw(t, "time"); ns != 0 {
		sb.Time = time.Unix(0, ns).UTC()
	}
	for range rapid.IntRange(0, HistoryLen).Draw(t, "history") {
		sb.History = append(sb.History, generation("history"))
	}
	return sb
}

func TestSuperRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sb := drawSuper(t)
		buf := bytes.Repeat([]byte{0xff}, BlockSize)
		EncodeSuper(&sb, buf)
		got, err := DecodeSuper(buf)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(sb, got); d != "" {
			t.Fatal(d)
		}
	})
}

// The format on disk does not change by accident: golden bytes, decoded and encoded.
func TestSuperGolden(t *testing.T) {
	sb := testSuper(t, 1, "g3 both missed:g2")
	sb.Sequence, sb.Clean, sb.Time = 42, true, time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	buf := make([]byte, BlockSize)
	EncodeSuper(&sb, buf)
	const path = "testdata/superblock.hex"
	if *update {
		if err := os.WriteFile(path, []byte(hex.Dump(buf[:640])), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(hex.Dump(buf[:640]), "\n")); d != "" {
		t.Errorf("the superblock is stored differently (if that is meant, raise FormatVersion):\n%s", d)
	}
	if !bytes.Equal(buf[640:], make([]byte, BlockSize-640)) {
		t.Error("the rest of the superblock is not zeroes")
	}
}

// No single wrong byte, and no tear, goes unnoticed.
func TestSuperDamageIsFound(t *testing.T) {
	sb := testSuper(t, 0, "g3 both")
	buf := make([]byte, BlockSize)
	EncodeSuper(&sb, buf)
	for i := range buf {
		for _, x := range []byte{1, 0x80, 0xff} {
			buf[i] ^= x
			_, err := DecodeSuper(buf)
			want := ErrDamaged
			if i < len(magic) {
				want = ErrNoMetadata
			}
			if !errors.Is(err, want) {
				t.Fatalf("byte %d changed: %v, want %v", i, err, want)
			}
			buf[i] ^= x
		}
	}
	next := sb.Clone()
	next.Sequence++
	next.Bump(UUID{9})
	newer := make([]byte, BlockSize)
	EncodeSuper(&next, newer)
	for at := 512; at < BlockSize; at += 512 {
		torn := append(append([]byte(nil), newer[:at]...), buf[at:]...)
		if _, err := DecodeSuper(torn); bytes.Equal(torn, newer) != (err == nil) {
			t.Errorf("torn at %d: %v", at, err)
		}
	}
	for n := range []int{0, 1, BlockSize - 1} {
		if _, err := DecodeSuper(buf[:n]); err == nil {
			t.Errorf("%d bytes make a superblock", n)
		}
	}
}

// A sound checksum is not enough: what says nonsense, or is of another version or kind,
// is told apart.
func TestSuperIsJudgedBeyondItsChecksum(t *testing.T) {
	for _, c := range []struct {
		what string
		do   func(buf []byte)
		want error
	}{
		{"version", func(b []byte) { b[offVersion]++ }, ErrVersion},
		{"kind", func(b []byte) { b[offKind] = kindIntent }, ErrDamaged},
		{"index", func(b []byte) { b[offIndex] = 1 }, ErrDamaged},
		{"slot", func(b []byte) { b[offSlot] = 2 }, ErrDamaged},
		{"service", func(b []byte) { b[offInService] = 4 }, ErrDamaged},
		{"flags", func(b []byte) { b[offFlags] = 128 }, ErrDamaged},
		{"history", func(b []byte) { b[offHistoryLen] = HistoryLen + 1 }, ErrDamaged},
		{"logical", func(b []byte) { b[offLogical] = 1 }, ErrDamaged},
		{"physical", func(b []byte) { clear(b[offPhysical : offPhysical+4]) }, ErrDamaged},
		{"mirror", func(b []byte) { clear(b[offMirror : offMirror+16]) }, ErrDamaged},
		{"leg", func(b []byte) { clear(b[offLeg : offLeg+16]) }, ErrDamaged},
		{"magic", func(b []byte) { b[0] = 'X' }, ErrNoMetadata},
	} {
		sb := testSuper(t, 0, "g3 both")
		buf := make([]byte, BlockSize)
		EncodeSuper(&sb, buf)
		c.do(buf)
		seal(buf)
		if _, err := DecodeSuper(buf); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.what, err, c.want)
		}
	}
}

func TestMapRoundTripAndMisdirectedBlocks(t *testing.T) {
	// Regions of 4 KiB, so that the missed-writes bitmap has more than one block.
	l, err := NewLayout(300<<20, 4096, 4096)
	if err != nil {
		t.Fatal(err)
	}
	if l.MissedBlocks < 3 {
		t.Fatalf("only %d blocks", l.MissedBlocks)
	}
	sb := NewSuper(l, testMirror, legUUID(0), 0, 512, 512)
	b := NewBitmap(l.Regions)
	for i := 0; i < b.Len(); i += 1 + i%97 {
		b.Set(i)
	}
	b.Set(b.Len() - 1)
	blocks := make([][]byte, l.MissedBlocks)
	got := NewBitmap(l.Regions)
	got.Fill()
	for i := range blocks {
		blocks[i] = bytes.Repeat([]byte{0xff}, BlockSize)
		EncodeMissed(l, &sb, i, b, blocks[i])
		if err := DecodeMissed(l, &sb, i, blocks[i], got); err != nil {
			t.Fatal(err)
		}
	}
	if !got.Equal(b) {
		t.Fatal("the bitmap came back changed")
	}

	before := got.Clone()
	stranger, otherMirror := sb, sb
	stranger.Leg, otherMirror.Mirror = legUUID(1), UUID{0xbb}
	for what, err := range map[string]error{
		"in another's place": DecodeMissed(l, &sb, 1, blocks[0], got),
		"of another leg":     DecodeMissed(l, &stranger, 0, blocks[0], got),
		"of another mirror":  DecodeMissed(l, &otherMirror, 0, blocks[0], got),
		"as an intent map":   DecodeIntent(l, &sb, 0, blocks[0], NewBitmap(l.Extents)),
		"cut short":          DecodeMissed(l, &sb, 0, blocks[0][:100], got),
	} {
		if !errors.Is(err, ErrDamaged) {
			t.Errorf("a block %s: %v", what, err)
		}
	}
	last := l.MissedBlocks - 1
	blocks[last][BlockSize-1] |= 0x80
	seal(blocks[last])
	if err := DecodeMissed(l, &sb, last, blocks[last], got); !errors.Is(err, ErrDamaged) {
		t.Errorf("a bit beyond the end: %v", err)
	}
	if !got.Equal(before) {
		t.Error("a block that was refused changed the bitmap")
	}
}

func TestUUIDText(t *testing.T) {
	u := UUID{0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde, 0xf0, 1, 2, 3, 4, 5, 6, 7, 8}
	const text = "12345678-9abc-def0-0102-030405060708"
	if u.String() != text {
		t.Errorf("String is %s", u)
	}
	if got, err := ParseUUID(text); err != nil || got != u {
		t.Errorf("ParseUUID: %v, %v", got, err)
	}
	for _, bad := range []string{"", text[1:], text + "0", strings.Replace(text, "-", "0", 1), strings.Replace(text, "1", "g", 1)} {
		if got, err := ParseUUID(bad); err == nil {
			t.Errorf("ParseUUID(%q) is %v", bad, got)
		}
	}
	if a, b := NewUUID(), NewUUID(); a == b || a.IsZero() || a[6]>>4 != 4 || a[8]>>6 != 2 {
		t.Errorf("NewUUID gave %v and %v", a, b)
	}
	if g := (Generation{7, UUID{0x9f, 0x3a}}).String(); g != "7 (9f3a…)" {
		t.Errorf("generation %s", g)
	}
}
