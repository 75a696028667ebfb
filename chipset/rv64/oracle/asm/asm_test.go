package asm

import (
	"bytes"
	"debug/elf"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// randomArgs are operands that the operation can have.
func randomArgs(o *Op, rng *rand.Rand) Args {
	wide := func() Reg { return Reg(rng.IntN(32)) }
	a := Args{Rd: wide(), Rs1: wide(), Rs2: wide(), Rs3: wide(), Rm: []uint8{0, 1, 2, 3, 4, 7}[rng.IntN(6)]}
	if o.Format >= CSP4 && o.Format != CLWSP && o.Format != CLDSP && o.Format != CSWSP && o.Format != CSDSP && o.Format != CFLDSP && o.Format != CFSDSP {
		a.Rd, a.Rs1, a.Rs2 = 8+a.Rd%8, 8+a.Rs1%8, 8+a.Rs2%8
	}
	between := func(low, high, step int64) { a.Imm = low + rng.Int64N((high-low)/step+1)*step }
	notZero := func(r *Reg) {
		if *r == 0 {
			*r = 1
		}
	}
	switch o.Format {
	case I, Load, Store, FLoad, FStore:
		between(-2048, 2047, 1)
	case Shift:
		between(0, 63, 1)
	case ShiftW:
		between(0, 31, 1)
	case Branch:
		between(-4096, 4094, 2)
	case U:
		between(-1<<31, 1<<31-4096, 4096)
	case J:
		between(-1<<20, 1<<20-2, 2)
	case CSR, CSRI:
		a.Imm = 0x345 // no name
	case Fence:
		a.Imm = int64(1+rng.IntN(15))<<4 | int64(1+rng.IntN(15))
	case CR:
		notZero(&a.Rd)
		notZero(&a.Rs2)
	case CJR:
		notZero(&a.Rs1)
	case CI:
		notZero(&a.Rd)
		between(1, 31, 1)
	case CShL, CShR:
		notZero(&a.Rd)
		between(1, 63, 1)
	case CLUI:
		a.Rd = 5
		between(-32, -1, 1)
	case CSP16:
		between(16, 496, 16)
	case CSP4:
		between(4, 1020, 4)
	case CLW, CSW:
		between(0, 124, 4)
	case CLD, CSD, CFLD, CFSD:
		between(0, 248, 8)
	case CLWSP, CSWSP:
		between(0, 252, 4)
		notZero(&a.Rd)
	case CLDSP, CSDSP, CFLDSP, CFSDSP:
		between(0, 504, 8)
		if o.Format == CLDSP {
			notZero(&a.Rd)
		}
	case CAI:
		between(-32, 31, 1)
	case CB:
		between(-256, 254, 2)
	case CJ:
		between(-2048, 2046, 2)
	}
	return a
}

// TestGNUAssemblerAgrees: what GNU as makes of an instruction's text is its encoding.
func TestGNUAssemblerAgrees(t *testing.T) {
	as, err := exec.LookPath("riscv64-linux-gnu-as")
	if err != nil {
		t.Skipf("no assembler here (apt-get install binutils-riscv64-linux-gnu): %v; the encodings are then checked by nothing else", err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	code, source := New(0), &strings.Builder{}
	fmt.Fprintln(source, ".option norelax\n.option norvc")
	for _, table := range [][]Op{Full, Atomics, Floats, Compressed} {
		for i := range table {
			for range 40 {
				a := randomArgs(&table[i], rng)
				text := table[i].Text(a)
				if strings.HasPrefix(text, "fcvt.d.") && !strings.HasPrefix(text, "fcvt.d.l") {
					// Exact, so as writes no rounding mode.
					a.Rm = 0
					text = strings.TrimSuffix(table[i].Text(a), ", rne")
				}
				if table[i].Format > compressedFormats {
					text = ".option rvc\n" + text + "\n.option norvc"
				}
				code.Emit(&table[i], a)
				fmt.Fprintln(source, text)
			}
		}
	}
	dir := t.TempDir()
	in, out := filepath.Join(dir, "a.s"), filepath.Join(dir, "a.o")
	if err := os.WriteFile(in, []byte(source.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := exec.Command(as, "-march=rv64gc", "-o", out, in).CombinedOutput(); err != nil {
		t.Fatalf("as: %v\n%.2000s", err, b)
	}
	f, err := elf.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	want, err := f.Section(".text").Data()
	if err != nil {
		t.Fatal(err)
	}
	at := 0
	for at < len(want) && at < len(code.Bytes) && want[at] == code.Bytes[at] {
		at++
	}
	if !bytes.Equal(want, code.Bytes) {
		for code.Texts[uint64(at)] == "" {
			at--
		}
		t.Errorf("%s is % x, as says % x (%d and %d bytes in all)", code.Texts[uint64(at)], code.Bytes[at:at+4], want[at:at+4], len(code.Bytes), len(want))
	}
}

func TestLiMakesAnyValue(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	values := []uint64{0, 1, 2047, 2048, 1<<31 - 1, 1 << 31, 1 << 32, 1<<63 - 1, 1 << 63, ^uint64(0), 0xfffffffffffff800, 0x7ffff800}
	for range 1000 {
		values = append(values, rng.Uint64()>>rng.IntN(64), -(rng.Uint64() >> rng.IntN(64)))
	}
	for _, want := range values {
		c := New(0)
		c.Li(A0, want)
		if got := evaluate(t, c.Bytes); got != want {
			t.Errorf("li %#x makes %#x", want, got)
		}
	}
}

// evaluate runs lui, addi, addiw and slli on one register.
func evaluate(t *testing.T, code []byte) (v uint64) {
	t.Helper()
	for ; len(code) > 0; code = code[4:] {
		w := uint32(code[0]) | uint32(code[1])<<8 | uint32(code[2])<<16 | uint32(code[3])<<24
		imm := uint64(int64(int32(w) >> 20))
		from := v
		if w>>15&31 == 0 {
			from = 0
		}
		switch {
		case w&0x7f == opLUI:
			v = uint64(int64(int32(w &^ 0xfff)))
		case w&0x707f == opImm:
			v = from + imm
		case w&0x707f == opImm32:
			v = uint64(int64(int32(from + imm)))
		case w&0x707f == 1<<12|opImm:
			v = from << (imm & 63)
		default:
			t.Fatalf("li used %#x", w)
		}
	}
	return v
}
