package bare

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"testing"

	"ft/chipset/firmware"
)

// TestEncodings: what GNU as 2.40 makes of the same instructions.
func TestEncodings(t *testing.T) {
	for text, c := range map[string]struct {
		emit func(*assembler)
		want []uint32
	}{
		"lui s0, 0x10000":        {func(a *assembler) { a.lui(s0, uart) }, []uint32{0x10000437}},
		"li s4, 10000000":        {func(a *assembler) { a.li(s4, tickRate) }, []uint32{0x00989a37, 0x680a0a13}},
		"li t1, 200000":          {func(a *assembler) { a.li(t1, pollTicks) }, []uint32{0x00031337, 0xd4030313}},
		"li a7, 0x54494D45":      {func(a *assembler) { a.li(a7, sbiTimer) }, []uint32{0x544958b7, 0xd4588893}},
		"li a6, 0":               {func(a *assembler) { a.li(a6, 0) }, []uint32{0x00000813}},
		"csrs sie, t0":           {func(a *assembler) { a.csrs(csrSIE, t0) }, []uint32{0x1042a073}},
		"csrr s2, time":          {func(a *assembler) { a.csrr(s2, csrTime) }, []uint32{0xc0102973}},
		"lbu t0, 5(s0)":          {func(a *assembler) { a.lbu(t0, s0, 5) }, []uint32{0x00544283}},
		"sb a1, 0(s0)":           {func(a *assembler) { a.sb(a1, s0, 0) }, []uint32{0x00b40023}},
		"sb t0, -3(a0)":          {func(a *assembler) { a.sb(t0, a0, -3) }, []uint32{0xfe550ea3}},
		"addi a0, a0, -1":        {func(a *assembler) { a.addi(a0, a0, -1) }, []uint32{0xfff50513}},
		"remu t0, t1, t2":        {func(a *assembler) { a.remu(t0, t1, t2) }, []uint32{0x027372b3}},
		"divu t1, t1, t2":        {func(a *assembler) { a.divu(t1, t1, t2) }, []uint32{0x02735333}},
		"jr s1":                  {func(a *assembler) { a.jalr(zero, s1) }, []uint32{0x00048067}},
		"wfi; ecall":             {func(a *assembler) { a.wfi(); a.ecall() }, []uint32{0x10500073, 0x00000073}},
		"0: bne a1, t0, 0b":      {func(a *assembler) { a.label("x"); a.bne(a1, t0, "x") }, []uint32{0x00559063}},
		"0: j 0b (after a word)": {func(a *assembler) { a.label("x"); a.ecall(); a.jal(zero, "x") }, []uint32{0x00000073, 0xffdff06f}},
		"la a0, (8 bytes on)":    {func(a *assembler) { a.la(a0, "x"); a.label("x") }, []uint32{0x00000517, 0x00850513}},
	} {
		var a assembler
		c.emit(&a)
		var want []byte
		for _, w := range c.want {
			want = binary.LittleEndian.AppendUint32(want, w)
		}
		if got := a.link(); !bytes.Equal(got, want) {
			t.Errorf("%s is % x, want % x", text, got, want)
		}
	}
}

// TestValuesThatDoNotFit are mistakes that do not go unnoticed.
func TestValuesThatDoNotFit(t *testing.T) {
	for name, emit := range map[string]func(*assembler){
		"addi 2048":   func(a *assembler) { a.addi(a0, a0, 2048) },
		"a far label": func(a *assembler) { a.beq(a0, a0, "x"); a.bytes(string(make([]byte, 4096))); a.label("x"); a.link() },
		"no label":    func(a *assembler) { a.jal(zero, "nowhere"); a.link() },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s was assembled", name)
				}
			}()
			emit(&assembler{})
		}()
	}
}

// TestProgramIsAnExecutable that debug/elf reads and our firmware starts.
func TestProgramIsAnExecutable(t *testing.T) {
	program := Program()
	f, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		t.Fatal(err)
	}
	if f.Machine != elf.EM_RISCV || f.Type != elf.ET_EXEC || f.Entry != loadAddress || len(f.Progs) != 1 {
		t.Errorf("%v with %d segments", f.FileHeader, len(f.Progs))
	}
	k, err := firmware.ReadKernel("bare", program, firmware.RAM{Base: 0x80000000, Size: 16 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if k.Entry != loadAddress || k.Format != firmware.ELF {
		t.Errorf("entered at %#x, %v", k.Entry, k.Format)
	}
}
