package elfcore

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"

	"ft/chipset/firmware"
)

const (
	base     = firmware.RAMBase
	kernelAt = base + 2<<20
	linkedAt = 0xffff_ffff_8000_0000
	unameAt  = 0x1_2340 // in the image
	release  = "6.12.0-test"
)

// memory is a guest's in which a test puts what a kernel would.
type memory []byte

func (m memory) put(physical uint64, what string) { copy(m[physical-base:], what) }

// linux is memory with a kernel in it whose VMCOREINFO is nowhere yet.
func linux() memory {
	m := make(memory, 16<<20)
	var header [64]byte
	binary.LittleEndian.PutUint64(header[16:], 1<<20)
	copy(header[56:], "RSC\x05")
	m.put(kernelAt, string(header[:]))
	m.put(kernelAt+unameAt+130, release+"\x00")
	return m
}

func (m memory) config() Config {
	return Config{Memory: bytes.NewReader(m), Base: base, Size: uint64(len(m))}
}

// saying is a kernel's text; change has old and new parts.
func saying(change ...string) string {
	text := fmt.Sprintf("OSRELEASE=%s\nPAGESIZE=4096\nSYMBOL(init_uts_ns)=%x\nNUMBER(phys_ram_base)=%d\n"+
		"NUMBER(PAGE_OFFSET)=0xffffffd600000000\nNUMBER(KERNEL_LINK_ADDR)=%#x\nNUMBER(va_kernel_pa_offset)=%#x\n",
		release, uint64(linkedAt+unameAt), base, uint64(linkedAt), uint64(linkedAt-kernelAt))
	return strings.NewReplacer(change...).Replace(text)
}

func asNote(text string) string { return string(note(nil, infoName, ntVMCoreInfo, []byte(text))) }

func find(t *testing.T, m memory) *kernelInfo {
	t.Helper()
	cfg := m.config()
	info, err := findInfo(t.Context(), &cfg)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func TestWhatTheKernelSaysIsFound(t *testing.T) {
	for name, what := range map[string]string{
		"the text":              saying(),
		"the note":              asNote(saying()),
		"a note of a full page": asNote(saying() + strings.Repeat("X", infoMax-len(saying())-1) + "\n"),
	} {
		m := linux()
		m.put(base+9<<20, what)
		if info := find(t, m); info == nil || !bytes.HasPrefix(info.text, []byte(saying())) {
			t.Errorf("%s was not found", name)
		}
	}
}

func TestWhatNoKernelSaysIsNotTaken(t *testing.T) {
	for name, what := range map[string]string{
		"another size of pages":   saying("4096", "16384"),
		"no symbols":              saying("SYMBOL", "symbol"),
		"no text":                 saying("\nNUMBER(PAGE_OFFSET)", "\n\x01"),
		"no end":                  strings.TrimSuffix(saying(), "\n"),
		"a note that is too long": asNote(saying() + strings.Repeat("\n", infoMax)),
		"another note":            string(note(nil, "VMCOREINFX", ntVMCoreInfo, []byte(saying()))),
		"another kernel":          saying(release, "5.10.0"),
		"a name that is nowhere":  saying(fmt.Sprintf("%x", uint64(linkedAt+unameAt)), "ffffffffffff0000"),
	} {
		m := linux()
		m.put(base+9<<20, what)
		if info := find(t, m); info != nil {
			t.Errorf("%s was taken: %q", name, info.text)
		}
		m.put(base+10<<20, saying()) // and does not stand before what is right
		if info := find(t, m); info == nil || string(info.text) != saying() {
			t.Errorf("behind %s the right one was not found", name)
		}
	}
	m := linux()
	m.put(base+9<<20+8, saying())
	if find(t, m) != nil {
		t.Error("a text within a page was taken")
	}
	m = linux()[:15<<20]
	m.put(base+15<<20-pageBytes, asNote(saying()))
	binary.LittleEndian.PutUint32(m[15<<20-pageBytes+4:], infoMax)
	if find(t, m) != nil {
		t.Error("a note that ends behind memory was taken")
	}
}

func TestMemoryIsShownWhereTheKernelHasIt(t *testing.T) {
	const size, linear = 16 << 20, 0xffff_ffd6_0000_0000
	image := segment{linkedAt, kernelAt, 1 << 20}
	all := segment{linear, base, size}
	for name, x := range map[string]struct {
		change []string
		header bool
		want   []segment
	}{
		"Linux":                      {header: true, want: []segment{image, all}},
		"an image without a header":  {want: []segment{{linkedAt, kernelAt, size - 2<<20}, all}},
		"random addresses":           {[]string{"SYMBOL", "KERNELOFFSET=1000000\nSYMBOL", "0xfffffffeffe00000", "0xffffffff00e00000"}, true, []segment{{linkedAt + 1<<24, kernelAt, 1 << 20}, all}},
		"an old kernel":              {[]string{"va_kernel_pa_offset", "x", "KERNEL_LINK_ADDR", "y"}, true, []segment{all}},
		"an older kernel":            {[]string{"va_kernel_pa_offset", "x", "PAGE_OFFSET", "y"}, true, []segment{{base, base, size}}},
		"firmware below the kernel":  {[]string{fmt.Sprint(base), fmt.Sprint(kernelAt)}, true, []segment{image, {base, base, 2 << 20}, {linear, kernelAt, size - 2<<20}}},
		"a map from below memory on": {[]string{fmt.Sprint(base), fmt.Sprint(base - 1<<30)}, true, []segment{image, {linear + 1<<30, base, size}}},
		"an offset in the user half": {[]string{"0xffffffd600000000", "0x1000"}, true, []segment{image, {base, base, size}}},
		"an offset that overflows":   {[]string{"0xffffffd600000000", "-4096"}, true, []segment{image, {base, base, size}}},
		"memory that is nowhere":     {[]string{fmt.Sprint(base), "-8192"}, true, []segment{image, {base, base, size}}},
		"a kernel that is nowhere":   {[]string{"0xfffffffeffe00000", "0x1000"}, true, []segment{all}},
	} {
		m := linux()
		if !x.header {
			m.put(kernelAt, string(make([]byte, 64)))
		}
		cfg := m.config()
		if got := layout(&cfg, &kernelInfo{[]byte(saying(x.change...))}); !slices.Equal(got, x.want) {
			t.Errorf("%s: %#x, want %#x", name, got, x.want)
		}
	}
}

// FuzzWrite: whatever a guest has in its memory, there is a core of it that holds all of it.
func FuzzWrite(f *testing.F) {
	f.Add(saying(), uint32(0))
	f.Add(asNote(saying()), uint32(pageBytes))
	f.Add(saying("0xffffffd600000000", "-4096"), uint32(4<<20))
	whole := linux()[:4<<20]
	f.Fuzz(func(t *testing.T, what string, at uint32) {
		m := slices.Clone(whole)
		copy(m[int(at)%len(m)&^(pageBytes-1):], what)
		var core bytes.Buffer
		if err := Write(t.Context(), &core, m.config()); err != nil {
			t.Fatal(err)
		}
		_, loads := parts(t, bytes.NewReader(core.Bytes()))
		end := uint64(base)
		for _, p := range loads {
			b := make([]byte, p.Filesz)
			if _, err := p.ReadAt(b, 0); err != nil || !bytes.Equal(b, m[p.Paddr-base:][:p.Filesz]) || p.Vaddr+p.Filesz-1 < p.Vaddr {
				t.Fatalf("segment %+v is not memory (%v)", p.ProgHeader, err)
			}
			if p.Paddr == end {
				end += p.Filesz
			}
		}
		if end != base+uint64(len(m)) {
			t.Errorf("the core has memory up to %#x only", end)
		}
	})
}
