// Package bare is a program for a riscv64 machine with nothing else on it: what a test
// box's guest runs where Debian's kernel cannot be had. It says hello, counts seconds and
// echoes what is typed.
//
// It is written here instruction by instruction, so that ftd is built without a cross
// compiler: the assembler (asm.go) knows just what it takes. It runs in supervisor mode
// under SBI firmware, on a board laid out like QEMU's "virt".
package bare

// Board and firmware.
const (
	loadAddress = 0x80200000 // where kernels begin, two MiB into RAM
	uart        = 0x10000000 // NS16550A, registers one byte apart
	uartData    = 0          // RBR, THR
	uartStatus  = 5          // LSR
	dataReady   = 1 << 0     // of LSR: a byte has come in
	sendEmpty   = 1 << 5     // of LSR: THR takes a byte
	tickRate    = 10_000_000 // of the time CSR, a second
	pollTicks   = tickRate / 50
	sbiTimer    = 0x54494D45 // extension "TIME"; its function 0 sets the timer to a0
	sieTimer    = 1 << 5     // STIE: what wakes WFI
	csrSIE      = 0x104
	csrTime     = 0xC01
	digitsMax   = 20 // of a 64-bit number
	carriage    = '\r'
)

const hello = "\r\n" +
	"ft: this machine runs the program that is built into ftd, as there is no Debian kernel.\r\n" +
	"It counts the seconds and echoes what you type.\r\n"

// Program is the program as an ELF executable. It uses no memory but its own image.
func Program() []byte {
	var a assembler
	a.lui(s0, uart)
	a.la(a0, "hello")
	a.jal(ra, "print")
	a.li(s4, tickRate)
	a.li(t0, sieTimer)
	a.csrs(csrSIE, t0)
	a.csrr(s2, csrTime)
	a.add(s2, s2, s4) // when the next second is over
	a.li(s3, 0)       // seconds

	a.label("loop")
	a.lbu(t0, s0, uartStatus)
	a.andi(t0, t0, dataReady)
	a.beq(t0, zero, "clock")
	a.lbu(a1, s0, uartData)
	a.jal(ra, "put")
	a.li(t0, carriage)
	a.bne(a1, t0, "loop")
	a.li(a1, '\n') // a terminal's Enter is a carriage return alone
	a.jal(ra, "put")
	a.jal(zero, "loop")

	a.label("clock")
	a.csrr(t0, csrTime)
	a.bltu(t0, s2, "sleep")
	a.add(s2, s2, s4)
	a.addi(s3, s3, 1)
	// The number's digits, from the last one on, in front of its unit.
	a.la(a0, "unit")
	a.mv(t1, s3)
	a.li(t2, 10)
	a.label("digit")
	a.remu(t0, t1, t2)
	a.divu(t1, t1, t2)
	a.addi(t0, t0, '0')
	a.addi(a0, a0, -1)
	a.sb(t0, a0, 0)
	a.bne(t1, zero, "digit")
	a.jal(ra, "print")
	a.jal(zero, "loop")

	// The UART's interrupt stays off: it is looked at when the timer wakes the hart.
	a.label("sleep")
	a.li(t1, pollTicks)
	a.add(a0, t0, t1)
	a.bltu(a0, s2, "soon")
	a.mv(a0, s2)
	a.label("soon")
	a.li(a7, sbiTimer)
	a.li(a6, 0)
	a.ecall()
	a.wfi()
	a.jal(zero, "loop")

	// print writes the text at a0 up to a NUL.
	a.label("print")
	a.mv(s1, ra)
	a.label("next")
	a.lbu(a1, a0, 0)
	a.beq(a1, zero, "printed")
	a.jal(ra, "put")
	a.addi(a0, a0, 1)
	a.jal(zero, "next")
	a.label("printed")
	a.jalr(zero, s1)

	// put writes the byte a1.
	a.label("put")
	a.lbu(t0, s0, uartStatus)
	a.andi(t0, t0, sendEmpty)
	a.beq(t0, zero, "put")
	a.sb(a1, s0, uartData)
	a.jalr(zero, ra)

	a.label("hello")
	a.bytes(hello + "\x00")
	a.bytes(string(make([]byte, digitsMax)))
	a.label("unit")
	a.bytes(" s\r\n\x00")
	return executable(a.link(), loadAddress)
}
