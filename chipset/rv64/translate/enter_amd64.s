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
