package oracle

import (
	"bytes"
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ft/chipset/rv64"
)

var privilegedSeeds = flag.Uint64("oracle.privileged", 4, "how many seeds of privileged programs are tried")

const probesEach = 1500

// The processor that is like the hart.
const cpu = "rv64,priv_spec=v1.12.0,v=false,h=false,zba=false,zbb=false,zbc=false,zbs=false,svinval=false,svnapot=false,svpbmt=false," +
	"Zfhmin=false,Zfh=false,sstc=true,debug=false,pmu-num=0"

// TestPrivilegedStreams: the hart and qemu-system-riscv64 do the same in all modes.
func TestPrivilegedStreams(t *testing.T) {
	path := qemu(t, "qemu-system-riscv64", "qemu-system-misc")
	for seed := *seed0; seed < *seed0+*privilegedSeeds; seed++ {
		p := makeProgram(seed, probesEach)
		want := qemuSystem(t, path, p)
		if n := ran(want); n < len(p.probes) {
			t.Errorf("seed %d: QEMU did not come to the end, but to probe %d of %d", seed, n-1, len(p.probes))
			continue
		}
		got, err := p.onHart()
		if err != nil {
			t.Errorf("seed %d: %v, in probe %d: %s", seed, err, ran(got)-1, p.probes[max(ran(got), 1)-1])
		}
		if differences := p.differences(got, want); len(differences) > 0 {
			t.Errorf("seed %d: %d probes of %d differ (%d were run on the hart, %d on QEMU); the first:", seed, len(differences), len(p.probes), ran(got), ran(want))
			for _, d := range differences[:min(len(differences), *reports)] {
				t.Error(d)
			}
		}
	}
}

// TestThePrivilegedOracleFindsAMistake: a hart whose CSRRC sets bits is found out.
func TestThePrivilegedOracleFindsAMistake(t *testing.T) {
	path := qemu(t, "qemu-system-riscv64", "qemu-system-misc")
	p := makeProgram(1, 100)
	want := qemuSystem(t, path, p)
	for at, text := range p.Texts {
		if strings.HasPrefix(text, "csrrc x25, ") {
			p.Bytes[at-base+1] ^= 0x10 // to csrrs
		}
	}
	got, err := p.onHart()
	if err != nil {
		t.Fatal(err)
	}
	differences := p.differences(got, want)
	if len(differences) == 0 {
		t.Error("it was not")
	}
	for _, d := range differences {
		if !strings.Contains(d, "csrrc x25, ") {
			t.Errorf("another difference: %s", d)
		}
	}
}

var reports = flag.Int("oracle.reports", 3, "how many differences of a seed are shown")

// qemuSystem runs a program on QEMU's virt machine, whose memory is a file here, and
// returns what is in it up to the end of the results.
func qemuSystem(t testing.TB, path string, p *program) []byte {
	t.Helper()
	file := filepath.Join(t.TempDir(), "ram")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	defer os.Remove(file)
	if _, err := f.Write(p.Bytes); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(ramSize); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	memory := fmt.Sprintf("memory-backend-file,id=ram,size=%d,mem-path=%s,share=on", ramSize, file)
	cmd := exec.CommandContext(ctx, path, "-M", "virt,memory-backend=ram", "-object", memory, "-m", fmt.Sprint(ramSize>>20),
		"-cpu", cpu, "-bios", "none", "-display", "none", "-monitor", "none", "-serial", "none", "-nodefaults", "-no-reboot")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("qemu-system-riscv64: %v\n%s", err, out)
	}
	ram := make([]byte, results-base)
	if _, err := f.ReadAt(ram, 0); err != nil {
		t.Fatal(err)
	}
	return ram
}

// halter is the bus of a hart that a store to the finisher ends.
type halter struct{ hart *rv64.Hart }

func (h *halter) Load(uint64, int) (uint64, bool) { return 0, false }

func (h *halter) Store(addr uint64, _ int, v uint64) bool {
	if addr == finisher && v == finisherPass {
		h.hart.Halt()
	}
	return addr == finisher || addr == mtimecmp
}

// onHart runs a program on the hart.
func (p *program) onHart() ([]byte, error) {
	ram := make([]byte, ramSize)
	copy(ram, p.Bytes)
	bus := &halter{}
	bus.hart = rv64.New(rv64.Config{RAM: ram, RAMBase: base, Bus: bus, Sv48: true})
	var err error
	if _, why := bus.hart.Run(uint64(len(p.probes)*10_000 + 1_000_000)); why != rv64.StopHalted {
		err = fmt.Errorf("the hart did not come to the program's end: %v at %#x", why, bus.hart.PC())
	}
	return ram[:results-base], err
}

// ran is how many probes left a marker, one after the other.
func ran(ram []byte) (n int) {
	for at := logAt - base; at < logEnd-base; at += 8 {
		if le64(ram, at) == marker|uint64(n) {
			n++
		}
	}
	return n
}

// differences describes the probes whose logs differ, or the memory that does.
func (p *program) differences(hart, qemu []byte) (all []string) {
	const log = logAt - base
	split := func(ram []byte) map[int][]byte {
		parts := map[int][]byte{}
		from, number := -1, 0
		for at := log; at < logEnd-base; at += 8 {
			v := le64(ram, at)
			if v&^0xffff == marker || v == 0 && bytes.Count(ram[at:at+512], []byte{0}) == 512 {
				if from >= 0 {
					parts[number] = ram[from:at]
				}
				if v == 0 {
					break
				}
				from, number = at+8, int(v&0xffff)
			}
		}
		return parts
	}
	h, q := split(hart), split(qemu)
	for i, what := range p.probes {
		allow(h[i], q[i], p.atomic[i])
		if !bytes.Equal(h[i], q[i]) {
			all = append(all, fmt.Sprintf("probe %d: %s\n\thart %s\n\tQEMU %s", i, what, words(h[i], q[i]), words(q[i], h[i])))
		}
	}
	for at := framesAt - base; at < results-base && len(all) == 0; at += 8 {
		if a, b := le64(hart, at), le64(qemu, at); a != b {
			what := fmt.Sprintf("memory at %#x is %#x, in QEMU %#x", base+at, a, b)
			for i, text := range p.probes {
				if strings.Contains(text, fmt.Sprintf("[%#x] = %#x;", base+at, a)) || strings.Contains(text, fmt.Sprintf("[%#x] = %#x;", base+at, b)) {
					what += fmt.Sprintf("\n\tprobe %d: %s", i, text)
				}
			}
			all = append(all, what)
		}
	}
	return all
}

// allow makes QEMU's log of a trap the hart's where both are right, or QEMU 7.2 is wrong: it
// says of an AMO that faulted that a load did (even where there is no memory on a page that
// may not be written), and rounds down the address of a misaligned
// access to where there is no memory.
func allow(hart, qemu []byte, atomic bool) {
	const cause, tval = 0, 16
	put := binary.LittleEndian.PutUint64
	if len(hart) < 24 || len(qemu) < 24 {
		return
	}
	q := le64(qemu, cause)
	if h := le64(hart, cause); atomic && (q == 4 || q == 5 || q == 13) && (h == q+2 || h == 15) {
		q = h
		put(qemu[cause:], q)
	}
	if (q == 5 || q == 7) && le64(hart, tval)&^7 == le64(qemu, tval)&^7 {
		put(qemu[tval:], le64(hart, tval))
	}
}

// words are the doublewords of a log, those marked that differ from another's.
func words(p, other []byte) (s string) {
	for at := 0; at+8 <= len(p); at += 8 {
		mark := ""
		if at+8 > len(other) || le64(p, at) != le64(other, at) {
			mark = "*"
		}
		if mark == "" && len(p) > 200 {
			continue
		}
		s += fmt.Sprintf(" [%d]%s%x", at/8, mark, binary.LittleEndian.Uint64(p[at:]))
	}
	return s
}
