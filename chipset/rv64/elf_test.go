package rv64

import (
	"debug/elf"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// The official suites (github.com/riscv-software-src/riscv-tests), built elsewhere: the
// directory with the programs is in RISCV_TESTS. A program says how it ended by writing
// to tohost: 1 is success, else the number of the test that failed, times two, plus one.

// program is a bare-metal ELF file on a hart with memory from 0x8000_0000 on.
type program struct {
	hart   *Hart
	tohost uint64
}

func loadProgram(t testing.TB, path string, ram int) *program {
	t.Helper()
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p := &program{hart: New(Config{RAM: make([]byte, ram), RAMBase: 0x8000_0000})}
	for _, s := range f.Progs {
		if s.Type != elf.PT_LOAD {
			continue
		}
		data := make([]byte, s.Filesz)
		if _, err := s.ReadAt(data, 0); err != nil {
			t.Fatal(err)
		}
		if !p.hart.WriteRAM(s.Paddr, data) {
			t.Fatalf("%s: a segment at %#x is outside RAM", path, s.Paddr)
		}
	}
	symbols, err := f.Symbols()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range symbols {
		if s.Name == "tohost" {
			p.tohost = s.Value
		}
	}
	p.hart.SetPC(f.Entry)
	return p
}

// run runs the program, in pieces, until it has written to tohost.
func (p *program) run(limit, piece uint64) (result uint64, err error) {
	var word [8]byte
	for p.hart.Steps() < limit {
		p.hart.Run(piece)
		p.hart.ReadRAM(p.tohost, word[:])
		if v := binary.LittleEndian.Uint64(word[:]); v != 0 {
			return v, nil
		}
	}
	return 0, fmt.Errorf("no end after %d steps, pc %#x, mcause %#x, mepc %#x, mtval %#x",
		limit, p.hart.PC(), p.hart.csr.mcause, p.hart.csr.mepc, p.hart.csr.mtval)
}

func TestOfficialSuites(t *testing.T) {
	dir := os.Getenv("RISCV_TESTS")
	if dir == "" {
		t.Skip("RISCV_TESTS names no directory with the built suites")
	}
	files, _ := filepath.Glob(filepath.Join(dir, "rv64*-[pv]-*"))
	if len(files) == 0 {
		t.Fatalf("no rv64*-[pv]-* in %s", dir)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			p := loadProgram(t, file, 16<<20)
			result, err := p.run(2_000_000, 1000)
			switch {
			case err != nil:
				t.Fatal(err)
			case result != 1:
				t.Fatalf("test %d failed", result>>1)
			}
		})
	}
}
