package firmware

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

var testRAM = RAM{Base: RAMBase, Size: 64 << 20}

// rawImage is a riscv64 Image with the given header fields.
func rawImage(offset, size, flags uint64, length int) []byte {
	b := make([]byte, max(length, 64))
	binary.LittleEndian.PutUint32(b, 0x0000006f)
	binary.LittleEndian.PutUint64(b[8:], offset)
	binary.LittleEndian.PutUint64(b[16:], size)
	binary.LittleEndian.PutUint64(b[24:], flags)
	copy(b[48:], "RISCV\x00\x00\x00RSC\x05")
	for i := 64; i < len(b); i++ {
		b[i] = byte(i)
	}
	return b
}

// efiImage is an Image of so many bytes that is an EFI program, whose last section ends at
// end in the file.
func efiImage(length int, end uint32) []byte {
	b := rawImage(0x20_0000, 0x100_0000, 0, length)
	copy(b, "MZ")
	binary.LittleEndian.PutUint32(b[60:], 64)
	head := make([]byte, 24+16+3*40) // an optional header of 16 bytes, three sections
	copy(head, "PE\x00\x00\x64\x50\x03\x00")
	head[20] = 16
	for i, section := range [][2]uint32{{1000, 512}, {end - 2000, 2000}, {0xffff_ffff, 0}} { // where, bytes; the last is .bss
		binary.LittleEndian.PutUint32(head[40+40*i+16:], section[1])
		binary.LittleEndian.PutUint32(head[40+40*i+20:], section[0])
	}
	copy(b[64:], head)
	return b
}

// testSegment and testSymbol are parts of an ELF made for a test.
type testSegment struct {
	vaddr, paddr, memsz uint64
	data                string
}

type testSymbol struct {
	name  string
	value uint64
}

// makeELF writes an ELF64 for riscv64.
func makeELF(entry uint64, segments []testSegment, symbols []testSymbol) []byte {
	le := binary.LittleEndian
	b := make([]byte, 64+56*len(segments))
	copy(b, "\x7fELF\x02\x01\x01")
	le.PutUint16(b[16:], 2) // ET_EXEC
	le.PutUint16(b[18:], 243)
	le.PutUint32(b[20:], 1)
	le.PutUint64(b[24:], entry)
	le.PutUint64(b[32:], 64)
	le.PutUint16(b[52:], 64)
	le.PutUint16(b[54:], 56)
	le.PutUint16(b[56:], uint16(len(segments)))
	le.PutUint16(b[58:], 64)
	for i, s := range segments {
		p := b[64+56*i:]
		le.PutUint32(p, 1) // PT_LOAD
		le.PutUint64(p[8:], uint64(len(b)))
		le.PutUint64(p[16:], s.vaddr)
		le.PutUint64(p[24:], s.paddr)
		le.PutUint64(p[32:], uint64(len(s.data)))
		le.PutUint64(p[40:], s.memsz)
		b = append(b, s.data...)
	}
	names, table := "\x00", make([]byte, 24)
	for _, s := range symbols {
		e := make([]byte, 24)
		le.PutUint32(e, uint32(len(names)))
		le.PutUint16(e[6:], 1)
		le.PutUint64(e[8:], s.value)
		names += s.name + "\x00"
		table = append(table, e...)
	}
	section := func(kind uint32, content []byte, link uint32) []byte {
		s := make([]byte, 64)
		le.PutUint32(s[4:], kind)
		le.PutUint64(s[24:], uint64(len(b)))
		le.PutUint64(s[32:], uint64(len(content)))
		le.PutUint32(s[40:], link)
		b = append(b, content...)
		return s
	}
	headers := make([]byte, 64)
	headers = append(headers, section(2, table, 2)...)
	headers = append(headers, section(3, []byte(names), 0)...)
	le.PutUint64(b[40:], uint64(len(b)))
	le.PutUint16(b[60:], 3)
	return append(b, headers...)
}

func packed(b []byte) []byte {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	z.Write(b)
	z.Close()
	return out.Bytes()
}

// zboot wraps a payload as an EFI zboot image.
func zboot(method string, payload []byte) []byte {
	b := make([]byte, 128)
	copy(b, "MZ\x00\x00zimg")
	binary.LittleEndian.PutUint32(b[8:], 128)
	binary.LittleEndian.PutUint32(b[12:], uint32(len(payload)))
	copy(b[24:], method)
	return append(b, payload...)
}

func TestImageLiesWhereItsHeaderSays(t *testing.T) {
	image := rawImage(0x20_0000, 0x100_0000, 0, 5000)
	for name, file := range map[string][]byte{
		"plain": image, "gzip": packed(image), "zboot": zboot("gzip", packed(image)),
		"gzip, padded": append(packed(image), make([]byte, 100)...),
	} {
		k, err := ReadKernel(name, file, testRAM)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if k.Format != RawImage || k.Entry != 0x8020_0000 || len(k.Segments) != 1 || k.End() != 0x8120_0000 ||
			k.Segments[0].Addr != 0x8020_0000 || !bytes.Equal(k.Segments[0].Data, image) {
			t.Errorf("%s: %v at %#x to %#x", name, k.Format, k.Entry, k.End())
		}
		if _, ok := k.Symbol("tohost"); ok {
			t.Errorf("%s: an Image has a symbol", name)
		}
	}
}

// TestImageThatIsAnEFIProgram: what its PE header says bounds the file from below, and a PE
// header that makes no sense says nothing.
func TestImageThatIsAnEFIProgram(t *testing.T) {
	damaged := func(at int, v byte) []byte {
		b := efiImage(5000, 6000)
		b[at] = v
		return b
	}
	for name, file := range map[string][]byte{
		"whole": efiImage(5000, 5000), "padded": efiImage(5000, 4000),
		"no signature": damaged(64, 0), "header elsewhere": damaged(63, 0xff), "sections elsewhere": damaged(64+21, 0xff),
	} {
		if _, err := ReadKernel(name, file, testRAM); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestImageWithoutASizeIsAsLongAsItsFile(t *testing.T) {
	k, err := ReadKernel("old", rawImage(0x20_0000, 0, 0, 5000), testRAM)
	if err != nil || k.End() != 0x8020_0000+5000 {
		t.Errorf("%+v, %v", k, err)
	}
}

func TestELFLiesWhereItsSegmentsSay(t *testing.T) {
	file := makeELF(0x8000_0004, []testSegment{
		{0x8000_2000, 0x8000_2000, 0x1000, "data"},
		{0x8000_0000, 0x8000_0000, 8, "program."},
		{0, 0, 0, ""}, // takes no memory
	}, []testSymbol{{"tohost", 0x8000_2000}, {"begin_signature", 0x8000_2100}, {"end_signature", 0x8000_3000}, {"absolute", 42}})
	for _, file := range [][]byte{file, packed(file)} {
		k, err := ReadKernel("test", file, testRAM)
		if err != nil {
			t.Fatal(err)
		}
		if k.Format != ELF || k.Entry != 0x8000_0004 || len(k.Segments) != 2 || k.End() != 0x8000_3000 {
			t.Fatalf("%+v", k)
		}
		if s := k.Segments[0]; s.Addr != 0x8000_0000 || string(s.Data) != "program." || s.Size != 8 {
			t.Errorf("first segment %+v", s)
		}
		if s := k.Segments[1]; s.Addr != 0x8000_2000 || string(s.Data) != "data" || s.Size != 0x1000 {
			t.Errorf("second segment %+v", s)
		}
		for name, want := range map[string]uint64{"tohost": 0x8000_2000, "begin_signature": 0x8000_2100, "end_signature": 0x8000_3000, "absolute": 42} {
			if got, ok := k.Symbol(name); !ok || got != want {
				t.Errorf("symbol %s is at %#x, %v; want %#x", name, got, ok, want)
			}
		}
		for _, name := range []string{"", "host", "tohos", "tohost2"} {
			if got, ok := k.Symbol(name); ok {
				t.Errorf("symbol %q is at %#x", name, got)
			}
		}
	}
}

func TestVmlinuxLiesWhereItsImageWould(t *testing.T) {
	const high = 0xffff_ffff_8000_0000
	k, err := ReadKernel("vmlinux", makeELF(high, []testSegment{
		{high, 0, 0x1000, "head"}, {high + 0x20_0000, 0x20_0000, 0x2000, "data"},
	}, []testSymbol{{"_start", high}, {"init_task", high + 0x20_1000}}), testRAM)
	if err != nil {
		t.Fatal(err)
	}
	if k.Entry != 0x8020_0000 || k.Segments[1].Addr != 0x8040_0000 {
		t.Errorf("%+v", k)
	}
	if a, ok := k.Symbol("init_task"); !ok || a != 0x8040_1000 {
		t.Errorf("init_task at %#x, %v", a, ok)
	}
}

func TestKernelsThatAreRefused(t *testing.T) {
	program := []testSegment{{RAMBase, RAMBase, 8, "program."}}
	elf := makeELF(RAMBase, program, nil)
	patched := func(offset int, with string) []byte {
		b := bytes.Clone(elf)
		copy(b[offset:], with)
		return b
	}
	image := rawImage(0x20_0000, 0x100_0000, 0, 5000)
	arm := make([]byte, 4096)
	copy(arm[56:], "ARM\x64")
	bz := make([]byte, 4096)
	copy(bz, "MZ")
	copy(bz[0x202:], "HdrS")
	zeros := func(n int) []byte { return packed(make([]byte, n)) }
	for name, c := range map[string]struct {
		file []byte
		want string
	}{
		"empty":                      {nil, "is empty"},
		"short":                      {[]byte("MZ"), "truncated"},
		"text":                       {bytes.Repeat([]byte("text"), 100), "neither an ELF nor"},
		"arm64 Image":                {arm, "arm64"},
		"bzImage":                    {bz, "x86 bzImage"},
		"zstd":                       {[]byte("\x28\xb5\x2f\xfd0000"), "unzstd"},
		"xz":                         {[]byte("\xfd7zXZ\x00000"), "unxz"},
		"initrd":                     {[]byte("070701000"), "not a kernel"},
		"device tree":                {[]byte("\xd0\x0d\xfe\xed0000"), "not a kernel"},
		"big-endian Image":           {rawImage(0x20_0000, 0, 1, 100), "big-endian"},
		"Image, odd offset":          {rawImage(0x20_0001, 0, 0, 100), "damaged"},
		"Image, truncated":           {efiImage(5000, 5001), "truncated"},
		"Image, absurd sections":     {efiImage(5000, 0xffff_fff0), "truncated"},
		"Image, too large":           {rawImage(0x20_0000, 63<<20, 0, 100), "more memory"},
		"Image, far away":            {rawImage(1<<63, 100, 0, 100), "more memory"},
		"Image, absurd size":         {rawImage(0x20_0000, all, 0, 100), "more memory"},
		"Image, offset that wraps":   {rawImage(all&^0x1f_ffff, 100, 0, 100), "more memory"},
		"gzip of nothing sensible":   {zeros(1000), "neither an ELF nor"},
		"gzip, truncated":            {packed(image)[:50], "damaged or truncated"},
		"gzip, damaged header":       {[]byte("\x1f\x8b\x07\x00"), "header"},
		"gzip, larger than memory":   {zeros(65 << 20), "more than the guest's memory"},
		"gzip of gzip":               {packed(packed(image)), "compressed twice"},
		"zboot with zstd":            {zboot("zstd", image), `"zstd"`},
		"zboot, truncated":           {zboot("gzip", packed(image))[:200], "truncated"},
		"ELF header, truncated":      {elf[:40], "truncated"},
		"ELF programs, truncated":    {elf[:100], "truncated"},
		"ELF segment, truncated":     {elf[:124], "truncated"},
		"ELF for x86-64":             {patched(18, "\x3e\x00"), "x86-64"},
		"ELF for arm64":              {patched(18, "\xb7\x00"), "arm64"},
		"ELF for big-endian s390":    {patched(5, "\x02\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x16"), "EM_S390"},
		"ELF for riscv32":            {patched(4, "\x01"), "riscv32"},
		"ELF object":                 {patched(16, "\x01\x00"), "link it"},
		"ELF core":                   {patched(16, "\x04\x00"), "not an executable"},
		"ELF, wrong header size":     {patched(54, "\x20\x00"), "damaged"},
		"ELF, headers beyond":        {patched(32, "\xff\xff\xff\xff\xff\xff\xff\xff"), "truncated"},
		"ELF, nothing to load":       {patched(64, "\x02"), "nothing to load"},
		"ELF, data over memory":      {makeELF(RAMBase, []testSegment{{RAMBase, RAMBase, 4, "program."}}, nil), "damaged"},
		"ELF below memory":           {makeELF(0x1000, []testSegment{{0x1000, 0x1000, 8, "program."}}, nil), "segment"},
		"ELF behind memory":          {makeELF(RAMBase, []testSegment{{RAMBase, RAMBase, 65 << 20, "program."}}, nil), "more memory"},
		"ELF that wraps":             {makeELF(RAMBase, []testSegment{{RAMBase, all - 3, 8, "program."}}, nil), "damaged"},
		"ELF with an overlap":        {makeELF(RAMBase, []testSegment{program[0], {RAMBase, RAMBase + 4, 8, "program."}}, nil), "overlap"},
		"ELF with its entry outside": {makeELF(0, program, nil), "entry point"},
		"ELF with many segments":     {makeELF(RAMBase, make([]testSegment, 3), nil), "nothing to load"},
	} {
		k, err := ReadKernel("/boot/"+name, c.file, testRAM)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "/boot/"+name) {
			t.Errorf("%s: %+v, error %v, want %q", name, k, err, c.want)
		}
	}
}

// TestRealELF: what a compiler makes loads as what it is.
func TestRealELF(t *testing.T) {
	const gcc = "riscv64-linux-gnu-gcc"
	if _, err := exec.LookPath(gcc); err != nil {
		t.Skipf("no %s here (apt-get install gcc-riscv64-linux-gnu): %v; ELFs written by the tests are read all the same", gcc, err)
	}
	dir := t.TempDir()
	source, program := filepath.Join(dir, "p.S"), filepath.Join(dir, "p")
	if err := os.WriteFile(source, []byte(`
.globl _start, tohost
_start: j _start
.data
.align 6
tohost: .dword 0x1122334455667788
.bss
.skip 4096
`), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(gcc, "-nostdlib", "-static", "-fno-pic", "-no-pie", "-Wl,--build-id=none,-Ttext-segment=0x80000000", "-o", program, source).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	file, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	k, err := ReadKernel(program, file, testRAM)
	if err != nil {
		t.Fatal(err)
	}
	at, ok := k.Symbol("tohost")
	if start, _ := k.Symbol("_start"); !ok || start != k.Entry {
		t.Errorf("tohost at %#x, %v; _start at %#x, entry at %#x", at, ok, start, k.Entry)
	}
	for _, s := range k.Segments {
		if at-s.Addr < uint64(len(s.Data)) {
			if v := binary.LittleEndian.Uint64(s.Data[at-s.Addr:]); v != 0x1122334455667788 {
				t.Errorf("tohost holds %#x", v)
			}
			return
		}
	}
	t.Errorf("tohost at %#x is in no segment: %+v", at, k.Segments)
}

func TestPlace(t *testing.T) {
	k, err := ReadKernel("Image", rawImage(0x20_0000, 0x100_0000, 0, 5000), testRAM)
	if err != nil {
		t.Fatal(err)
	}
	board := testBoard()
	board.Memory = testRAM
	for _, size := range []int{0, 1, 4096, 4097, 1 << 20} {
		initrd := bytes.Repeat([]byte{7}, size)
		boot, err := Place(board, k, initrd)
		if err != nil {
			t.Fatal(err)
		}
		end := uint64(0)
		for _, s := range boot.Segments {
			if s.Addr < end || !testRAM.Contains(s.Addr, s.Size) || uint64(len(s.Data)) > s.Size {
				t.Errorf("segment at %#x of %d bytes, behind %#x", s.Addr, s.Size, end)
			}
			end = s.Addr + s.Size
		}
		last := boot.Segments[len(boot.Segments)-1]
		if boot.Tree != last.Addr || boot.Tree%(2<<20) != 0 || boot.Entry != 0x8020_0000 {
			t.Errorf("tree at %#x, last segment at %#x, entry at %#x", boot.Tree, last.Addr, boot.Entry)
		}
		root, err := parseFDT(last.Data)
		if err != nil {
			t.Fatal(err)
		}
		if size == 0 {
			if root.get("chosen/linux,initrd-start") != "" || len(boot.Segments) != 2 {
				t.Errorf("an initrd out of nothing: %s", dump(root))
			}
			continue
		}
		s := boot.Segments[1]
		want := binary.BigEndian.AppendUint64(nil, s.Addr)
		wantEnd := binary.BigEndian.AppendUint64(nil, s.Addr+uint64(size))
		if root.get("chosen/linux,initrd-start") != string(want) || root.get("chosen/linux,initrd-end") != string(wantEnd) ||
			!bytes.Equal(s.Data, initrd) || s.Addr%4096 != 0 {
			t.Errorf("initrd of %d bytes at %#x: %s", size, s.Addr, dump(root))
		}
	}
	for _, c := range []struct {
		initrd int
		memory uint64
		want   string
	}{
		{60 << 20, 64 << 20, "does not fit"},
		{45<<20 + 1, 64 << 20, "does not fit"},
		{0, 19 << 20, "no room for a device tree"},
		{0, 1 << 20, "no room for a device tree"},
	} {
		board.Memory.Size = c.memory
		if _, err := Place(board, k, make([]byte, c.initrd)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("initrd of %d in %d: %v, want %q", c.initrd, c.memory, err, c.want)
		}
	}
	board.Memory = testRAM
	board.Bootargs = "\x00"
	if _, err := Place(board, k, nil); err == nil {
		t.Error("a command line with a zero was taken")
	}
	board = testBoard()
	board.Memory = testRAM
	if _, err := Place(board, k, make([]byte, 44<<20)); err != nil {
		t.Errorf("the largest initrd: %v", err)
	}
}

// FuzzReadKernel: whatever the file, a kernel that is read lies in memory, in order, with
// its entry in it, and its symbols can be looked for.
func FuzzReadKernel(f *testing.F) {
	image := rawImage(0x20_0000, 0x10_0000, 0, 100)
	elf := makeELF(RAMBase, []testSegment{{RAMBase, RAMBase, 64, "program."}, {RAMBase + 0x1000, RAMBase + 0x1000, 8, ""}},
		[]testSymbol{{"tohost", RAMBase}})
	for _, seed := range [][]byte{image, elf, packed(image), packed(elf), zboot("gzip", packed(image))} {
		f.Add(seed)
	}
	ram := RAM{Base: RAMBase, Size: 8 << 20}
	f.Fuzz(func(t *testing.T, file []byte) {
		k, err := ReadKernel("fuzz", file, ram)
		if err != nil {
			return
		}
		end, entered := ram.Base, false
		for _, s := range k.Segments {
			if s.Addr < end || s.Size == 0 || !ram.Contains(s.Addr, s.Size) || uint64(len(s.Data)) > s.Size {
				t.Fatalf("segment at %#x of %d (%d in the file), behind %#x", s.Addr, s.Size, len(s.Data), end)
			}
			end = s.Addr + s.Size
			entered = entered || k.Entry >= s.Addr && k.Entry < end
		}
		if !entered || k.End() != end {
			t.Fatalf("entry %#x, end %#x of %+v", k.Entry, k.End(), k.Segments)
		}
		k.Symbol("tohost")
		board := testBoard()
		board.Memory = ram
		if boot, err := Place(board, k, make([]byte, 5000)); err == nil {
			end := uint64(0)
			for _, s := range boot.Segments {
				if s.Addr < end {
					t.Fatalf("%#x before %#x", s.Addr, end)
				}
				end = s.Addr + s.Size
			}
		}
	})
}
