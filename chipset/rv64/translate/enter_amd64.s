//go:build linux

#include "go_asm.h"
#include "textflag.h"
#include "funcdata.h"

// func enter(base, entry, start uintptr)
//
// Machine code is called, never pushes, and returns with all registers but SP changed. The
// frame makes the assembler check the stack and save BP; R14 and X15 are what Go's internal
// ABI wants.
TEXT ·enter(SB), 0, $16-24
	NO_LOCAL_POINTERS
	MOVQ base+0(FP), BX
	MOVQ entry+8(FP), DX
	MOVQ start+16(FP), AX
	CALL AX
	MOVQ (TLS), R14
	PXOR X15, X15
	RET

// crashHandler handles the signals of crashes (crash_amd64.go), in the C ABI: DI is the
// signal, DX the ucontext_t (arch/x86/include/uapi/asm/sigcontext.h), whose registers begin at
// 40. Where the program counter lies in machine code, it is made to come back, with the signal
// in the low bits of AX and where it was in DX. All else is Go's to handle.
TEXT crashHandler<>(SB), NOSPLIT|NOFRAME|TOPFRAME, $0
	MOVQ 168(DX), AX // RIP
	LEAQ ·regions(SB), CX
	MOVQ $const_regionCount, R8
next:
	MOVQ 0(CX), R9
	CMPQ AX, R9
	JB   other
	MOVQ 8(CX), R9
	CMPQ AX, R9
	JAE  other
	MOVQ 16(CX), R9
	MOVQ R9, 168(DX)
	MOVQ AX, 136(DX) // RDX
	MOVLQZX DI, DI
	ORQ  $const_exitCrash, DI
	MOVQ DI, 144(DX) // RAX
	RET
other:
	ADDQ $const_regionSize, CX
	DECQ R8
	JNZ  next
	// Go's handlers for these signals are all the same.
	MOVQ ·goHandler(SB), AX
	JMP  AX

// func crashHandlerPC() uintptr
TEXT ·crashHandlerPC(SB), NOSPLIT, $0-8
	MOVQ $crashHandler<>(SB), AX
	MOVQ AX, ret+0(FP)
	RET
