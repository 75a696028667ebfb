package translate

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Every instruction of the table, with all registers and addresses of all kinds, is what
// objdump says it is.
func TestAssembler(t *testing.T) {
	var a assembler
	var want []string
	add := func(format string, args ...any) { want = append(want, fmt.Sprintf(format, args...)) }
	all := []reg{rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r12, r13, r15}
	addresses := []mem{
		at(rbx, 0), at(rbx, 8), at(rbx, -300), at(rbp, 0), at(r13, 0), at(rsp, 16), at(r12, 0), at(r9, 127), at(rax, 128),
		atIndex(rbp, rdx, 1, 0), atIndex(rbx, rax, 8, 1<<20), atIndex(r13, r15, 4, -8), atIndex(r8, r9, 2, 0), inRegion(64),
	}
	for _, l := range listing {
		for _, r := range all {
			for _, x := range all {
				switch l.form {
				case formRM, formMR:
					a.rr(l.i, r, x)
					first, second := l.reg(l.r, r), l.reg(l.m, x)
					if l.form == formMR {
						first, second = second, first
					}
					add("%s %s,%s", l.text, first, second)
				case formRVM:
					a.rrr(l.i, r, rdi, x)
					add("%s", l.three(r, rdi, l.reg(l.m, x)))
				case form1:
					if r == rax {
						a.r1(l.i, x)
						add("%s %s", l.text, l.reg(l.m, x))
					}
				case formI:
					for _, imm := range l.immediates() {
						if r == rax && x != rsp {
							a.ri(l.i, x, imm)
							add("%s %s,%s", l.text, l.reg(l.m, x), l.constant(imm))
						}
					}
				}
			}
			for _, m := range addresses {
				switch l.form {
				case formRM, formMR, formM:
					if l.form == formM && r != rax {
						continue
					}
					if l.form == formM {
						a.m1(l.i, m)
						add("%s %s", l.text, l.address(m, a.here()))
						continue
					}
					a.rm(l.i, r, m)
					first, second := l.reg(l.r, r), l.address(m, a.here())
					if l.form == formMR {
						first, second = second, first
					}
					add("%s %s,%s", l.text, first, second)
				case formRVM:
					a.rrm(l.i, r, r14, m)
					add("%s", l.three(r, r14, l.address(m, a.here())))
				case formI:
					for _, imm := range l.immediates() {
						if r == rax {
							a.mi(l.i, m, imm)
							add("%s %s,%s", l.text, l.address(m, a.here()), l.constant(imm))
						}
					}
				}
			}
		}
	}
	for _, r := range all {
		for _, v := range []uint64{0, 1, 0x8000_0000, 0xffff_ffff_ffff_f000, 0x1234_5678_9abc_def0} {
			a.constant(r, v)
			switch {
			case v == 0:
				add("xor %s,%[1]s", names32[r])
			case v>>32 == 0:
				add("mov %s,%#x", names32[r], v)
			case v>>31 == 1<<33-1:
				add("mov %s,%#x", names64[r], v)
			default:
				add("movabs %s,%#x", names64[r], v)
			}
		}
	}
	for c, name := range map[cond]string{ccB: "b", ccAE: "ae", ccE: "e", ccNE: "ne", ccBE: "be", ccA: "a", ccP: "p", ccNP: "np", ccL: "l", ccGE: "ge", ccG: "g"} {
		a.set(c, rcx)
		add("set%s cl", name)
		a.jcc(c, &label{bound: true, at: 16})
		add("j%s 0x10", name)
	}
	var ahead label
	a.jmp(&ahead)
	a.cqo()
	a.cdq()
	a.bind(&ahead)
	add("jmp %#x", ahead.at)
	add("cqo")
	add("cdq")
	a.ret()
	add("ret")
	got := disassemble(t, a.code)
	for i := range max(len(got), len(want)) {
		g, w := "nothing", "nothing"
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if g != w {
			t.Fatalf("instruction %d is %q, want %q", i, g, w)
		}
	}
}

// disassemble is objdump's text of code, a line an instruction.
func disassemble(t *testing.T, code []byte) (lines []string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "code")
	if err := os.WriteFile(file, code, 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("objdump", "-D", "-b", "binary", "-m", "i386:x86-64", "-M", "intel", "--no-show-raw-insn", "-w", file).Output()
	if err != nil {
		t.Fatalf("objdump (of Debian's package binutils): %v", err)
	}
	instruction := regexp.MustCompile(`(?m)^ *[0-9a-f]+:\t(.*)$`)
	spaces := regexp.MustCompile(` +`)
	for _, m := range instruction.FindAllStringSubmatch(string(out), -1) {
		text, _, _ := strings.Cut(m[1], "#")
		lines = append(lines, strings.TrimSpace(spaces.ReplaceAllString(text, " ")))
	}
	return lines
}

var (
	names64 = strings.Fields("rax rcx rdx rbx rsp rbp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15")
	names32 = strings.Fields("eax ecx edx ebx esp ebp esi edi r8d r9d r10d r11d r12d r13d r14d r15d")
	names16 = strings.Fields("ax cx dx bx sp bp si di r8w r9w r10w r11w r12w r13w r14w r15w")
	names8  = strings.Fields("al cl dl bl spl bpl sil dil r8b r9b r10b r11b r12b r13b r14b r15b")
)

// Forms of operands: registers and memory (RM), memory first (MR), three (RVM), one (1), memory
// alone (M), an immediate (I).
const (
	formRM = iota
	formMR
	formRVM
	form1
	formM
	formI
)

// width is that of an operand: bits of a general register, or x for 64 and y for 32 bits of
// an XMM register, or none for an address.
type width int

const (
	x   width = 1
	y   width = 2
	lea width = 3
)

type listed struct {
	i    inst
	text string
	form int
	r, m width
}

func (l listed) reg(w width, r reg) string {
	switch w {
	case 8:
		return names8[r]
	case 16:
		return names16[r]
	case 32:
		return names32[r]
	case x, y:
		return fmt.Sprintf("xmm%d", r)
	}
	return names64[r]
}

func (l listed) three(d, v reg, last string) string {
	if l.r == x {
		return fmt.Sprintf("%s xmm%d,xmm%d,%s", l.text, d, v, last)
	}
	return fmt.Sprintf("%s %s,%s,%s", l.text, l.reg(l.r, d), last, l.reg(l.r, v))
}

func (l listed) immediates() []int32 {
	if l.i.op == 0xc1 {
		return []int32{1, 31}
	}
	if l.i.op == 0x80 {
		return []int32{0, 5}
	}
	return []int32{1, -1, 127, -128, 128, 1 << 30, -1 << 31}
}

func (l listed) constant(v int32) string {
	switch {
	case l.m == 8 || v >= 0:
		return fmt.Sprintf("%#x", v)
	case l.m == 32:
		return fmt.Sprintf("%#x", uint32(v))
	}
	return fmt.Sprintf("%#x", uint64(int64(v)))
}

// address is how objdump writes memory; behind is where the instruction ends.
func (l listed) address(m mem, behind int) string {
	size := map[width]string{8: "BYTE PTR ", 16: "WORD PTR ", 32: "DWORD PTR ", 64: "QWORD PTR ", x: "QWORD PTR ", y: "DWORD PTR "}[l.m]
	if l.text == "xorps" {
		size = "XMMWORD PTR "
	}
	s, disp := "rip", m.disp-int32(behind)
	if m.base != noReg {
		s, disp = names64[m.base], m.disp
		if m.index != noReg {
			s += fmt.Sprintf("+%s*%d", names64[m.index], m.scale)
		}
	}
	zero := m.base == noReg || m.base&7 == rbp
	switch {
	case m.base == noReg:
		s += fmt.Sprintf("+%#x", uint64(int64(disp)))
	case disp < 0:
		s += fmt.Sprintf("-%#x", -int64(disp))
	case disp > 0 || zero:
		s += fmt.Sprintf("+%#x", disp)
	}
	return size + "[" + s + "]"
}

// listing is the table of asm.go with objdump's names and the widths of operands.
var listing = func() (l []listed) {
	rm := func(form int, r, m width, text string, is ...inst) {
		for _, i := range is {
			l = append(l, listed{i, text, form, r, m})
		}
	}
	for text, is := range map[string][2]inst{
		"add": {iADD, iADDL}, "or": {iOR, iORL}, "and": {iAND, iANDL}, "sub": {iSUB, iSUBL}, "xor": {iXOR, iXORL}, "cmp": {iCMP, iCMPL},
		"mov": {iMOV, iMOVL}, "imul": {iIMUL, iIMULL}, "cmovb": {iCMOVB, iCMOVBL}, "cmova": {iCMOVA, iCMOVAL},
		"cmovl": {iCMOVL, iCMOVLL}, "cmovg": {iCMOVG, iCMOVGL},
	} {
		rm(formRM, 64, 64, text, is[0])
		rm(formRM, 32, 32, text, is[1])
	}
	rm(formMR, 64, 64, "mov", iMOVTo)
	rm(formMR, 64, 64, "test", iTEST)
	rm(formMR, 64, 64, "xor", iXORTo)
	rm(formMR, 32, 32, "mov", iMOVLTo)
	rm(formMR, 16, 16, "mov", iMOVWTo)
	rm(formMR, 8, 8, "mov", iMOVBTo)
	rm(formRM, 64, 32, "movsxd", iMOVSXD)
	rm(formRM, 32, 8, "movzx", iMOVZXB)
	rm(formRM, 32, 16, "movzx", iMOVZXW)
	rm(formRM, 64, 8, "movsx", iMOVSXB)
	rm(formRM, 64, 16, "movsx", iMOVSXW)
	for text, i := range map[string]inst{"not": iNOT, "neg": iNEG, "mul": iMUL1, "imul": iIMUL1, "div": iDIV, "idiv": iIDIV, "jmp": iJMPTo} {
		rm(form1, 64, 64, text, i)
		rm(formM, 64, 64, text, i)
	}
	rm(form1, 32, 32, "div", iDIVL)
	rm(form1, 32, 32, "idiv", iIDIVL)
	for text, i := range map[string]inst{"add": iADDI, "or": iORI, "and": iANDI, "sub": iSUBI, "xor": iXORI, "cmp": iCMPI, "mov": iMOVI, "shr": iSHRI, "sar": iSARI, "shl": iSHLI} {
		rm(formI, 64, 64, text, i)
	}
	for text, i := range map[string]inst{"add": iADDLI, "and": iANDLI, "mov": iMOVLI, "shr": iSHRLI, "sar": iSARLI, "shl": iSHLLI} {
		rm(formI, 32, 32, text, i)
	}
	for text, is := range map[string][2]inst{"shlx": {iSHLX, iSHLXL}, "sarx": {iSARX, iSARXL}, "shrx": {iSHRX, iSHRXL}} {
		rm(formRVM, 64, 64, text, is[0])
		rm(formRVM, 32, 32, text, is[1])
	}
	for text, is := range map[string][2]inst{
		"mov": {iMOVSD, iMOVSS}, "add": {iADDSD, iADDSS}, "mul": {iMULSD, iMULSS}, "sub": {iSUBSD, iSUBSS}, "div": {iDIVSD, iDIVSS},
		"sqrt": {iSQRTSD, iSQRTSS}, "ucomi": {iUCOMISD, iUCOMISS}, "comi": {iCOMISD, iCOMISS},
	} {
		rm(formRM, x, x, text+"sd", is[0])
		rm(formRM, x, y, text+"ss", is[1])
	}
	for text, is := range map[string][2]inst{
		"vfmadd231": {iFMADDSD, iFMADDSS}, "vfmsub231": {iFMSUBSD, iFMSUBSS}, "vfnmadd231": {iFNMADDSD, iFNMADDSS}, "vfnmsub231": {iFNMSUBSD, iFNMSUBSS},
	} {
		rm(formRVM, x, x, text+"sd", is[0])
		rm(formRVM, x, y, text+"ss", is[1])
	}
	for to, w := range map[string]width{"sd": x, "ss": y} {
		wide, narrow := iCVTSI2SD, iCVTSI2SDL
		if to == "ss" {
			wide, narrow = iCVTSI2SS, iCVTSI2SSL
		}
		rm(formRM, w, 64, "cvtsi2"+to, wide)
		rm(formRM, w, 32, "cvtsi2"+to, narrow)
	}
	rm(formRM, 64, x, "cvtsd2si", iCVTSD2SI)
	rm(formRM, 64, x, "cvttsd2si", iCVTTSD2SI)
	rm(formRM, 64, y, "cvtss2si", iCVTSS2SI)
	rm(formRM, 64, y, "cvttss2si", iCVTTSS2SI)
	rm(formRM, 32, x, "cvtsd2si", iCVTSD2SIL)
	rm(formRM, 32, x, "cvttsd2si", iCVTTSD2SIL)
	rm(formRM, 32, y, "cvtss2si", iCVTSS2SIL)
	rm(formRM, 32, y, "cvttss2si", iCVTTSS2SIL)
	rm(formRM, x, x, "cvtsd2ss", iCVTSD2SS)
	rm(formRM, x, y, "cvtss2sd", iCVTSS2SD)
	rm(formRM, x, 64, "movq", iMOVQX)
	rm(formMR, x, 64, "movq", iMOVQXTo)
	rm(formMR, x, 32, "movd", iMOVDXTo)
	rm(formRM, x, x, "xorps", iXORPS)
	rm(formM, 32, 32, "ldmxcsr", iLDMXCSR)
	rm(formM, 32, 32, "stmxcsr", iSTMXCSR)
	return l
}()
