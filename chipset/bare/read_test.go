package bare

import (
	"bytes"
	"encoding/binary"
	"io"
	"strings"
	"testing"

	"ft/chipset/firmware"
	"ft/chipset/rv64/oracle/asm"
)

// program is an ELF that does nothing but end.
func program(symbols ...string) []byte {
	c := asm.New(firmware.RAMBase)
	c.Label("start")
	c.Op("addi", asm.Args{Rd: asm.T0, Imm: 1})
	c.Align(8)
	for _, s := range symbols {
		c.Label(s)
		c.Word(0)
	}
	return c.ELF("start", 0)
}

func TestWhatIsNoProgramIsRefused(t *testing.T) {
	good := program("tohost", "fromhost")
	with := func(change func(f []byte)) []byte {
		f := bytes.Clone(good)
		change(f)
		return f
	}
	headerAt := func(f []byte) []byte { return f[64:] }
	for _, c := range []struct {
		name, want string
		file       []byte
	}{
		{"nothing", "is no ELF", nil},
		{"a text", "is no ELF", []byte("#!/bin/sh\n")},
		{"a header cut short", "truncated", good[:60]},
		{"a program cut short", "truncated", good[:4096+2]},
		{"a program without its end", "no symbol tohost", good[:len(good)-65]},
		{"32 bits", "for riscv32", with(func(f []byte) { f[4] = 1 })},
		{"x86-64", "for x86-64", with(func(f []byte) { f[18] = 62 })},
		{"big-endian", "big-endian", with(func(f []byte) { f[5], f[18], f[19] = 2, 0, 243 })},
		{"an object file", "link it first", with(func(f []byte) { f[16] = 1 })},
		{"a core", "not an executable", with(func(f []byte) { f[16] = 4 })},
		{"elsewhere", "at 0x10000, but the guest's memory is", with(func(f []byte) {
			binary.LittleEndian.PutUint64(headerAt(f)[16:], 0x10000)
			binary.LittleEndian.PutUint64(headerAt(f)[24:], 0x10000)
		})},
		{"too large", "more memory", with(func(f []byte) { binary.LittleEndian.PutUint64(headerAt(f)[40:], testMemory+1) })},
		{"an entry that is nowhere", "entry point", with(func(f []byte) { binary.LittleEndian.PutUint64(f[24:], 0x9000_0000) })},
		{"no tohost", "no symbol tohost", program("fromhost")},
	} {
		_, err := Read("FILE", c.file, testMemory)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "FILE") {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	if _, err := Read("FILE", program("tohost"), testMemory); err != nil {
		t.Errorf("a program without fromhost: %v", err)
	}
}

func TestToHostHasToBeADoublewordInMemory(t *testing.T) {
	for _, at := range []uint64{firmware.RAMBase + 4, 0x1000, firmware.RAMBase + testMemory} {
		c := asm.New(firmware.RAMBase)
		c.Label("start")
		c.Label("tohost")
		c.Word(0)
		file := c.ELF("start", 0)
		// Symbols are by name: the first is none, then come start and tohost.
		sections := binary.LittleEndian.Uint64(file[40:])
		table := binary.LittleEndian.Uint64(file[sections+64+24:])
		binary.LittleEndian.PutUint64(file[table+2*24+8:], at)
		if _, err := Read("FILE", file, testMemory); err == nil || !strings.Contains(err.Error(), "no aligned doubleword in its memory") {
			t.Errorf("tohost at %#x: %v", at, err)
		}
	}
}

func TestSignatureIsWrittenAsSpikeDoes(t *testing.T) {
	r := newRig(t, func(c *asm.Code) {
		send(c, 1)
		pad(c)
	})
	r.run(t, 0)
	r.hart.WriteRAM(dataAt, []byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10})
	for granularity, want := range map[uint64]string{
		1:  "01\n02\n03\n04\n05\n06\n07\n08\n09\n0a\n",
		4:  "04030201\n08070605\n00000a09\n",
		16: "0000000000000a090807060504030201\n",
	} {
		var got strings.Builder
		if err := (Signature{dataAt, 10}).Write(&got, r.ram, granularity); err != nil || got.String() != want {
			t.Errorf("granularity %d: %q, %v; want %q", granularity, got.String(), err, want)
		}
	}
	if err := (Signature{dataAt, 10}).Write(failing{}, r.ram, 4); err == nil {
		t.Error("a signature that could not be written was not missed")
	}
}

func TestSignaturesThatAreNone(t *testing.T) {
	read := func(symbols ...string) *Program {
		p, err := Read("FILE", program(symbols...), testMemory)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	if s, err := read("tohost", "begin_signature", "x", "end_signature").Signature(testMemory); err != nil || s.Size != 16 {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := read("tohost", "begin_signature").Signature(testMemory); err == nil || !strings.Contains(err.Error(), "has no signature") {
		t.Errorf("without an end: %v", err)
	}
	if _, err := read("tohost", "end_signature", "begin_signature").Signature(testMemory); err == nil || !strings.Contains(err.Error(), "no part of its memory") {
		t.Errorf("end before begin: %v", err)
	}
}

// FuzzRun: whatever a program is and does, the host lives.
func FuzzRun(f *testing.F) {
	f.Add(program("tohost", "fromhost", "begin_signature", "end_signature"), uint64(2))
	f.Add(program("tohost"), uint64(firmware.RAMBase))
	ram := make([]byte, testMemory)
	f.Fuzz(func(t *testing.T, file []byte, command uint64) {
		p, err := Read("FILE", file, testMemory)
		if err != nil {
			return
		}
		clear(ram)
		m, err := New(Config{RAM: ram, Console: io.Discard, Errors: io.Discard}, p)
		if err != nil {
			t.Fatal(err)
		}
		m.hart.WriteRAM(p.toHost, binary.LittleEndian.AppendUint64(nil, command))
		m.htif.storing(p.toHost, 8)
		_, _ = m.Run(1000)
		if s, err := p.Signature(testMemory); err == nil {
			_ = s.Write(io.Discard, ram, 4)
		}
	})
}
