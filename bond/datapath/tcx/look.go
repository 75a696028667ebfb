package tcx

// How a thread asks for a NIC's carrier: not through ETHTOOL_GLINK, which takes the RTNL
// lock, but by a program that is attached to nothing. BPF_PROG_TEST_RUN (net/bpf/test_run.c)
// gives it a packet of our making on the interface of an index, found without any lock;
// the program makes the carrier check of programs.go and returns what it has seen.
//
// A deletion begins with clearing __LINK_STATE_START (dev_close). So it looks like a lost
// carrier tens of milliseconds before there is no such ifindex any more: as it should,
// since from then on the kernel drops whatever comes for the NIC.

import (
	"fmt"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"ft/bond/datapath"
	"ft/drivers"
)

// testRunAttr is the part of union bpf_attr for BPF_PROG_TEST_RUN, up to batch_size
// (linux/bpf.h).
type testRunAttr struct {
	progFD      uint32
	retval      uint32
	dataSizeIn  uint32
	dataSizeOut uint32
	dataIn      uint64
	dataOut     uint64
	repeat      uint32
	duration    uint32
	ctxSizeIn   uint32
	ctxSizeOut  uint32
	ctxIn       uint64
	ctxOut      uint64
	flags       uint32
	cpu         uint32
	batchSize   uint32
	_           uint32
}

const (
	bpfProgTestRun  = 10 // enum bpf_cmd, linux/bpf.h: BPF_PROG_TEST_RUN
	skbIfindex      = 40 // in struct __sk_buff
	skbUpToIfindex  = 44 // of it, which is all that the kernel has to be given
	loopbackIndex   = 1  // in every network namespace; a test run takes up to it for "no interface"
	frameSizeMin    = 60 // ETH_ZLEN, linux/if_ether.h: some kernels refuse a bare Ethernet header
	lookProgramName = "ft_carrier"
)

// testRun is all that the system call points to, in one piece of memory.
type testRun struct {
	attr  testRunAttr
	ctx   [skbUpToIfindex]byte
	frame [frameSizeMin]byte
}

// Look makes ready to ask for the carrier of a side's NIC.
func (p *path) Look(s drivers.Side) (look datapath.CarrierLook, ok bool) {
	p.slow.Lock()
	defer p.slow.Unlock()
	if p.state == nil || p.carrier == nil || !s.Valid() {
		return look, false
	}
	index := p.state.Index[s].Load()
	if index <= loopbackIndex {
		return look, false
	}
	if p.looking == nil {
		var err error
		if p.looking, err = loadLooking(p.carrier); err != nil {
			p.spec.Log.Warn("the carriers are asked for by ethtool, and seen late while links are deleted", "face", p.spec.Face, "err", err)
			return look, false
		}
	}
	run := &testRun{attr: testRunAttr{progFD: uint32(p.looking.FD()), dataSizeIn: frameSizeMin, ctxSizeIn: skbUpToIfindex}}
	run.attr.dataIn = uint64(uintptr(unsafe.Pointer(&run.frame)))
	run.attr.ctxIn = uint64(uintptr(unsafe.Pointer(&run.ctx)))
	*(*uint32)(unsafe.Pointer(&run.ctx[skbIfindex])) = index
	return datapath.CarrierLook{
		Call:   unix.SYS_BPF,
		Args:   [3]uintptr{bpfProgTestRun, uintptr(unsafe.Pointer(&run.attr)), unsafe.Sizeof(run.attr)},
		Answer: &run.attr.retval, Held: run,
	}, true
}

func loadLooking(cc *carrierCheck) (*ebpf.Program, error) {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: lookProgramName, Type: ebpf.SchedCLS, License: license, Instructions: buildLooking(cc)})
	if err != nil {
		return nil, fmt.Errorf("load the program that looks at carriers: %w", err)
	}
	return p, nil
}

// buildLooking returns 1 for an interface that is alive, 0 for one that is not.
func buildLooking(cc *carrierCheck) asm.Instructions {
	return join(
		cc.jumpIfDead(asm.R1, "dead"),
		asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
		asm.Instructions{asm.Mov.Imm(asm.R0, 0).WithSymbol("dead"), asm.Return()},
	)
}
