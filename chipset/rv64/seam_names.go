package rv64

// The names of what decoded instructions do (op.go, float.go, atomic.go, system.go), for
// translators.

// Code is the operation of a CodeOp.
type Code = code

const (
	OpNOP     = opNOP
	OpLUI     = opLUI
	OpAUIPC   = opAUIPC
	OpADDI    = opADDI
	OpSLTI    = opSLTI
	OpSLTIU   = opSLTIU
	OpXORI    = opXORI
	OpORI     = opORI
	OpANDI    = opANDI
	OpSLLI    = opSLLI
	OpSRLI    = opSRLI
	OpSRAI    = opSRAI
	OpADDIW   = opADDIW
	OpSLLIW   = opSLLIW
	OpSRLIW   = opSRLIW
	OpSRAIW   = opSRAIW
	OpADD     = opADD
	OpSUB     = opSUB
	OpSLL     = opSLL
	OpSLT     = opSLT
	OpSLTU    = opSLTU
	OpXOR     = opXOR
	OpSRL     = opSRL
	OpSRA     = opSRA
	OpOR      = opOR
	OpAND     = opAND
	OpADDW    = opADDW
	OpSUBW    = opSUBW
	OpSLLW    = opSLLW
	OpSRLW    = opSRLW
	OpSRAW    = opSRAW
	OpMUL     = opMUL
	OpMULH    = opMULH
	OpMULHSU  = opMULHSU
	OpMULHU   = opMULHU
	OpDIV     = opDIV
	OpDIVU    = opDIVU
	OpREM     = opREM
	OpREMU    = opREMU
	OpMULW    = opMULW
	OpDIVW    = opDIVW
	OpDIVUW   = opDIVUW
	OpREMW    = opREMW
	OpREMUW   = opREMUW
	OpLB      = opLB
	OpLH      = opLH
	OpLW      = opLW
	OpLD      = opLD
	OpLBU     = opLBU
	OpLHU     = opLHU
	OpLWU     = opLWU
	OpLoadX0  = opLoadX0
	OpSB      = opSB
	OpSH      = opSH
	OpSW      = opSW
	OpSD      = opSD
	OpFLW     = opFLW
	OpFLD     = opFLD
	OpFSW     = opFSW
	OpFSD     = opFSD
	OpFADDS   = opFADDS
	OpFADDD   = opFADDD
	OpFSUBS   = opFSUBS
	OpFSUBD   = opFSUBD
	OpFMULS   = opFMULS
	OpFMULD   = opFMULD
	OpFSGNJD  = opFSGNJD
	OpFLED    = opFLED
	OpFLTD    = opFLTD
	OpFEQD    = opFEQD
	OpFMVDX   = opFMVDX
	OpFCVTDW  = opFCVTDW
	OpFloat   = opFloat
	OpAMO     = opAMO
	OpBEQ     = opBEQ
	OpBNE     = opBNE
	OpBLT     = opBLT
	OpBGE     = opBGE
	OpBLTU    = opBLTU
	OpBGEU    = opBGEU
	OpJ       = opJ
	OpJAL     = opJAL
	OpJR      = opJR
	OpJALR    = opJALR
	OpSystem  = opSystem
	OpIllegal = opIllegal
	OpEnd     = opEnd
)

// CodeOp.Aux of OpFloat.
const (
	FADDS   = fADDS
	FADDD   = fADDD
	FSUBS   = fSUBS
	FSUBD   = fSUBD
	FMULS   = fMULS
	FMULD   = fMULD
	FDIVS   = fDIVS
	FDIVD   = fDIVD
	FSQRTS  = fSQRTS
	FSQRTD  = fSQRTD
	FMADDS  = fMADDS
	FMADDD  = fMADDD
	FMSUBS  = fMSUBS
	FMSUBD  = fMSUBD
	FNMSUBS = fNMSUBS
	FNMSUBD = fNMSUBD
	FNMADDS = fNMADDS
	FNMADDD = fNMADDD
	FSGNJS  = fSGNJS
	FSGNJD  = fSGNJD
	FSGNJNS = fSGNJNS
	FSGNJND = fSGNJND
	FSGNJXS = fSGNJXS
	FSGNJXD = fSGNJXD
	FMINS   = fMINS
	FMIND   = fMIND
	FMAXS   = fMAXS
	FMAXD   = fMAXD
	FLES    = fLES
	FLED    = fLED
	FLTS    = fLTS
	FLTD    = fLTD
	FEQS    = fEQS
	FEQD    = fEQD
	FCLASSS = fCLASSS
	FCLASSD = fCLASSD
	FMVXW   = fMVXW
	FMVXD   = fMVXD
	FMVWX   = fMVWX
	FMVDX   = fMVDX
	FCVTSD  = fCVTSD
	FCVTDS  = fCVTDS
	FCVTWS  = fCVTWS
	FCVTWD  = fCVTWD
	FCVTWUS = fCVTWUS
	FCVTWUD = fCVTWUD
	FCVTLS  = fCVTLS
	FCVTLD  = fCVTLD
	FCVTLUS = fCVTLUS
	FCVTLUD = fCVTLUD
	FCVTSW  = fCVTSW
	FCVTDW  = fCVTDW
	FCVTSWU = fCVTSWU
	FCVTDWU = fCVTDWU
	FCVTSL  = fCVTSL
	FCVTDL  = fCVTDL
	FCVTSLU = fCVTSLU
	FCVTDLU = fCVTDLU
)

// CodeOp.Aux of OpAMO; one more for doublewords.
const (
	AmoADDW  = amoADDW
	AmoSWAPW = amoSWAPW
	AmoLRW   = amoLRW
	AmoSCW   = amoSCW
	AmoXORW  = amoXORW
	AmoORW   = amoORW
	AmoANDW  = amoANDW
	AmoMINW  = amoMINW
	AmoMAXW  = amoMAXW
	AmoMINUW = amoMINUW
	AmoMAXUW = amoMAXUW
)

// CodeOp.Aux of OpSystem.
const (
	SysECALL  = sysECALL
	SysCSRRW  = sysCSRRW
	SysCSRRS  = sysCSRRS
	SysCSRRC  = sysCSRRC
	SysCSRRWI = sysCSRRWI
	SysCSRRSI = sysCSRRSI
	SysCSRRCI = sysCSRRCI
	SysEBREAK = sysEBREAK
	SysSRET   = sysSRET
	SysMRET   = sysMRET
	SysWFI    = sysWFI
	SysSFENCE = sysSFENCE
)

// Registers in Layout.X beside x0…x31.
const (
	RegF    = regF    // f0…f31
	RegSink = regSink // where writes to x0 go
)

// MaxBlock bounds the steps in a block.
const MaxBlock = maxBlock
