package firmware

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// parseFDT reads a blob back into nodes, by the specification and without a line of the
// writer; it checks everything that a reader may rely on.
func parseFDT(blob []byte) (*node, error) {
	if len(blob) < 40 || binary.BigEndian.Uint32(blob) != 0xd00dfeed {
		return nil, errors.New("no header")
	}
	field := func(i int) uint64 { return uint64(binary.BigEndian.Uint32(blob[4*i:])) }
	total, structOff, stringsOff, rsvOff := field(1), field(2), field(3), field(4)
	stringsLen, structLen := field(8), field(9)
	switch {
	case total != uint64(len(blob)):
		return nil, fmt.Errorf("totalsize %d of %d", total, len(blob))
	case field(5) != 17 || field(6) != 16:
		return nil, fmt.Errorf("version %d, compatible with %d", field(5), field(6))
	case rsvOff%8 != 0 || structOff%4 != 0 || rsvOff < 40:
		return nil, errors.New("blocks are not aligned")
	case rsvOff+16 > structOff || structOff+structLen > stringsOff || stringsOff+stringsLen > total:
		return nil, errors.New("blocks overlap")
	case !bytes.Equal(blob[rsvOff:rsvOff+16], make([]byte, 16)):
		return nil, errors.New("memory reservations do not end")
	}
	names, p := blob[stringsOff:stringsOff+stringsLen], blob[structOff:structOff+structLen]
	next := func() uint32 {
		if len(p) < 4 {
			return 0
		}
		v := binary.BigEndian.Uint32(p)
		p = p[4:]
		return v
	}
	take := func(n uint32) []byte {
		padded := (uint64(n) + 3) &^ 3
		if padded > uint64(len(p)) {
			return nil
		}
		v := p[:n:n]
		p = p[padded:]
		return v
	}
	var parse func(depth int) (*node, error)
	parse = func(depth int) (*node, error) {
		end := bytes.IndexByte(p, 0)
		if end < 0 || depth > 16 {
			return nil, errors.New("node name does not end, or nodes too deep")
		}
		n := &node{name: string(take(uint32(end) + 1)[:end])}
		for {
			switch token := next(); token {
			case 1:
				c, err := parse(depth + 1)
				if err != nil {
					return nil, err
				}
				n.children = append(n.children, c)
			case 2:
				return n, nil
			case 3:
				if len(n.children) > 0 {
					return nil, errors.New("a property behind a child")
				}
				size, at := next(), next()
				value := take(size)
				if value == nil && size > 0 || uint64(at) >= uint64(len(names)) {
					return nil, errors.New("a property outside its block")
				}
				name, _, ok := bytes.Cut(names[at:], []byte{0})
				if !ok {
					return nil, errors.New("a property name that does not end")
				}
				n.props = append(n.props, prop{string(name), value})
			default:
				return nil, fmt.Errorf("token %d", token)
			}
		}
	}
	if next() != 1 {
		return nil, errors.New("no root")
	}
	root, err := parse(0)
	if err == nil && (next() != 9 || len(p) != 0) {
		err = errors.New("no end")
	}
	return root, err
}

// get is the value of the property at path, "" for none.
func (n *node) get(path string) string {
	first, rest, deeper := strings.Cut(path, "/")
	if deeper {
		for _, c := range n.children {
			if c.name == first {
				return c.get(rest)
			}
		}
		return ""
	}
	for _, p := range n.props {
		if p.name == first {
			return string(p.value)
		}
	}
	return ""
}

func testBoard() Board {
	return Board{
		Memory:     RAM{Base: RAMBase, Size: 256 << 20},
		TimebaseHz: 10_000_000,
		Extensions: []string{"i", "m", "a", "f", "d", "c", "zicntr", "zicsr", "zifencei", "sstc"},
		MMU:        "riscv,sv39",
		Virtio:     VirtioSlots,
		Bootargs:   "console=ttyS0 root=/dev/vda",
		RNGSeed:    bytes.Repeat([]byte{0xa5, 0x5a}, 32),
	}
}

func TestTreeDescribesTheBoard(t *testing.T) {
	b := testBoard()
	b.InitrdStart, b.InitrdEnd = 0x8800_0000, 0x8812_3456
	blob, err := b.DeviceTree()
	if err != nil {
		t.Fatal(err)
	}
	root, err := parseFDT(blob)
	if err != nil {
		t.Fatal(err)
	}
	cells := func(v ...uint32) string {
		var s []byte
		for _, c := range v {
			s = binary.BigEndian.AppendUint32(s, c)
		}
		return string(s)
	}
	for path, want := range map[string]string{
		"#address-cells":                         cells(2),
		"#size-cells":                            cells(2),
		"chosen/bootargs":                        "console=ttyS0 root=/dev/vda\x00",
		"chosen/stdout-path":                     "/soc/serial@10000000\x00",
		"chosen/linux,initrd-start":              cells(0, 0x8800_0000),
		"chosen/linux,initrd-end":                cells(0, 0x8812_3456),
		"chosen/rng-seed":                        string(b.RNGSeed),
		"memory@80000000/device_type":            "memory\x00",
		"memory@80000000/reg":                    cells(0, 0x8000_0000, 0, 256<<20),
		"cpus/timebase-frequency":                cells(10_000_000),
		"cpus/cpu@0/reg":                         cells(0),
		"cpus/cpu@0/riscv,isa":                   "rv64imafdc_zicntr_zicsr_zifencei_sstc\x00",
		"cpus/cpu@0/riscv,isa-base":              "rv64i\x00",
		"cpus/cpu@0/riscv,isa-extensions":        "i\x00m\x00a\x00f\x00d\x00c\x00zicntr\x00zicsr\x00zifencei\x00sstc\x00",
		"cpus/cpu@0/mmu-type":                    "riscv,sv39\x00",
		"soc/plic@c000000/reg":                   cells(0, 0x0c00_0000, 0, 0x60_0000),
		"soc/plic@c000000/riscv,ndev":            cells(95),
		"soc/plic@c000000/interrupts-extended":   cells(2, 11, 2, 9),
		"soc/serial@10000000/compatible":         "ns16550a\x00",
		"soc/serial@10000000/interrupts":         cells(10),
		"soc/serial@10000000/interrupt-parent":   cells(3),
		"soc/serial@10000000/clock-frequency":    cells(3_686_400),
		"soc/rtc@101000/compatible":              "google,goldfish-rtc\x00",
		"soc/rtc@101000/interrupts":              cells(11),
		"soc/virtio_mmio@10001000/compatible":    "virtio,mmio\x00",
		"soc/virtio_mmio@10001000/interrupts":    cells(1),
		"soc/virtio_mmio@10008000/reg":           cells(0, 0x1000_8000, 0, 0x1000),
		"soc/virtio_mmio@10008000/interrupts":    cells(8),
		"soc/virtio_mmio@10009000/reg":           "",
		"cpus/cpu@0/interrupt-controller/missed": "",
	} {
		if got := root.get(path); got != want {
			t.Errorf("%s is %q, want %q", path, got, want)
		}
	}
}

// The board of bare-metal programs has what M mode wants, and no clock.
func TestTreeOfABareBoard(t *testing.T) {
	b := testBoard()
	b.Bare = true
	blob, err := b.DeviceTree()
	if err != nil {
		t.Fatal(err)
	}
	root, err := parseFDT(blob)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"htif/compatible":                       "ucb,htif0\x00",
		"soc/clint@2000000/compatible":          "sifive,clint0\x00riscv,clint0\x00",
		"soc/clint@2000000/reg":                 "\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00",
		"soc/clint@2000000/interrupts-extended": "\x00\x00\x00\x02\x00\x00\x00\x03\x00\x00\x00\x02\x00\x00\x00\x07",
		"soc/rtc@101000/compatible":             "",
	} {
		if got := root.get(path); got != want {
			t.Errorf("%s is %q, want %q", path, got, want)
		}
	}
}

// TestDTCReadsTheTree: the reference tool finds nothing to complain about.
func TestDTCReadsTheTree(t *testing.T) {
	if _, err := exec.LookPath("dtc"); err != nil {
		t.Skipf("no dtc here (apt-get install device-tree-compiler): %v; the tree is checked by TestTreeDescribesTheBoard alone", err)
	}
	for _, full := range []bool{false, true} {
		b := testBoard()
		if full {
			b.InitrdStart, b.InitrdEnd = 0x8800_0000, 0x8812_3456
		} else {
			b.Virtio, b.RNGSeed, b.Bootargs, b.Bare = 0, nil, "", true
		}
		blob, err := b.DeviceTree()
		if err != nil {
			t.Fatal(err)
		}
		// The binding of riscv,cpu-intc has no #address-cells; dtc would like one.
		cmd := exec.Command("dtc", "-I", "dtb", "-O", "dts", "-W", "no-interrupt_provider")
		cmd.Stdin = bytes.NewReader(blob)
		var complaints bytes.Buffer
		cmd.Stderr = &complaints
		source, err := cmd.Output()
		if err != nil || complaints.Len() > 0 {
			t.Errorf("dtc: %v\n%s\n%s", err, complaints.Bytes(), source)
		}
		// Back again: dtc writes the same tree.
		cmd = exec.Command("dtc", "-I", "dts", "-O", "dtb", "-V", "17", "-q", "-q")
		cmd.Stdin, cmd.Stderr = bytes.NewReader(source), os.Stderr
		again, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		ours, err1 := parseFDT(blob)
		theirs, err2 := parseFDT(again)
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		if a, b := fmt.Sprint(dump(ours)), fmt.Sprint(dump(theirs)); a != b {
			t.Errorf("dtc makes of the tree\n%s\nwe wrote\n%s", b, a)
		}
	}
}

func dump(n *node) string {
	var s strings.Builder
	fmt.Fprintf(&s, "%s {", n.name)
	for _, p := range n.props {
		fmt.Fprintf(&s, " %s=%q;", p.name, p.value)
	}
	for _, c := range n.children {
		s.WriteString(dump(c))
	}
	return s.String() + "}"
}

func TestTreeIsTheSameEachTimeAndOfTheSameLength(t *testing.T) {
	b := testBoard()
	b.InitrdStart, b.InitrdEnd = 0x8100_0000, 0x8100_1000
	first, err := b.DeviceTree()
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if again, _ := b.DeviceTree(); !bytes.Equal(first, again) {
			t.Fatal("another tree of the same board differs")
		}
	}
	b.InitrdStart, b.InitrdEnd = 0x8f00_0000, 0x8fff_ffff
	if moved, _ := b.DeviceTree(); len(moved) != len(first) {
		t.Errorf("the tree has %d bytes, with another initrd %d", len(first), len(moved))
	}
}

func TestBoardsThatAreRefused(t *testing.T) {
	for _, c := range []struct {
		change func(b *Board)
		want   string
	}{
		{func(b *Board) { b.Memory.Size = 0 }, "no range of addresses"},
		{func(b *Board) { b.Memory.Size = ^uint64(0) - 1 }, "no range of addresses"},
		{func(b *Board) { b.Virtio = 9 }, "the board has 8"},
		{func(b *Board) { b.Virtio = -1 }, "the board has 8"},
		{func(b *Board) { b.Bootargs = strings.Repeat("x", 1024) }, "shorten it"},
		{func(b *Board) { b.Bootargs = "quiet\x00init=/bin/sh" }, "control character"},
		{func(b *Board) { b.Bootargs = "quiet\nsplash" }, "control character"},
		{func(b *Board) { b.InitrdStart, b.InitrdEnd = 0x8000_0000, 0x9000_0001 }, "not in memory"},
		{func(b *Board) { b.InitrdStart, b.InitrdEnd = 0x8000_1000, 0x8000_0000 }, "not in memory"},
		{func(b *Board) { b.RNGSeed = make([]byte, 513) }, "at most 512"},
		{func(b *Board) { b.Extensions = nil }, "describe no hart"},
		{func(b *Board) { b.TimebaseHz = 0 }, "describe no hart"},
	} {
		b := testBoard()
		c.change(&b)
		if _, err := b.DeviceTree(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", b, err, c.want)
		}
	}
	b := testBoard()
	b.Bootargs = strings.Repeat("x", BootargsMax)
	if _, err := b.DeviceTree(); err != nil {
		t.Errorf("the longest command line: %v", err)
	}
}

// FuzzFlatten: every tree that is written reads back as itself.
func FuzzFlatten(f *testing.F) {
	f.Add([]byte("\x01cpu@0\x00\x02reg\x00\x04abcd"))
	f.Fuzz(func(t *testing.T, script []byte) {
		root := &node{}
		stack := []*node{root}
		for len(script) > 0 {
			op := script[0]
			word, rest, _ := bytes.Cut(script[1:], []byte{0})
			script = rest
			top := stack[len(stack)-1]
			switch {
			case op%3 == 0 && len(stack) > 1:
				stack = stack[:len(stack)-1]
			case op%3 == 1 && len(stack) < 15:
				stack = append(stack, top.child("%s", word))
			case len(word) > 0:
				n := min(int(op), len(script))
				top.bytes(string(word), script[:n:n])
				script = script[n:]
			}
		}
		again, err := parseFDT(flatten(root))
		if err != nil {
			t.Fatal(err)
		}
		if a, b := dump(root), dump(again); a != b {
			t.Errorf("%s became %s", a, b)
		}
	})
}
