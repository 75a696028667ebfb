package tcx

// The programs, in the order in which a packet meets them:
//
//	out:  stack → face_out (on the face) → out (on the active NIC) → wire
//	                                        └ no carrier: turn, → out (on the other NIC)
//	                    └ the active NIC is gone: turn, → out (on the other NIC)
//	in:   wire → in (on a NIC) → the face's stack, or the NIC's own, or dropped
//
// They are assembled here, without a compiler. Registers: R6 the context, R8 the shared
// value, R9 the word as it was read once, at the start.

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"ft/drivers"
)

// License of the programs: bpf_cast_to_kern_ctx is for GPL-compatible ones.
const license = "Dual BSD/GPL"

// Verdicts of a program under TCX (enum tcx_action_base, linux/bpf.h). A classifier in
// direct-action mode means the same by the same numbers (TC_ACT_*, linux/pkt_cls.h), so
// that one program serves both.
const (
	verdictNext = -1
	verdictDrop = 2
)

// Marks in skb->tc_index, which nothing else in today's kernel uses between a face and a
// NIC. They tell the face's packets on a NIC from the NIC's own (probes, announcements, LLDP).
const (
	markFace = 0xf70a // sent by the face
	markHop2 = 0xf70b // turned over from the other NIC: not to be turned again
)

// Offsets in struct __sk_buff (linux/bpf.h).
const (
	skbTCIndex = 44
	skbData    = 76
	skbDataEnd = 80
)

const (
	redirectIngress = 1 // BPF_F_INGRESS, linux/bpf.h
	etherHeader     = 14
)

// place is where a program is attached.
type place struct {
	name    string // of its pin, and of the program in bpftool
	side    drivers.Side
	ingress bool
	build   func(cc *carrierCheck, fd int) asm.Instructions
}

var (
	faceOut = place{name: "face_out", side: drivers.Whole, build: func(_ *carrierCheck, fd int) asm.Instructions { return buildFaceOut(fd) }}
	nicIn   = [2]place{nicInPlace(0), nicInPlace(1)}
	nicOut  = [2]place{nicOutPlace(0), nicOutPlace(1)}
	places  = []place{faceOut, nicIn[0], nicOut[0], nicIn[1], nicOut[1]}
)

func nicInPlace(s drivers.Side) place {
	return place{name: fmt.Sprintf("nic%d_in", s), side: s, ingress: true,
		build: func(_ *carrierCheck, fd int) asm.Instructions { return buildNICIn(s, fd) }}
}

func nicOutPlace(s drivers.Side) place {
	return place{name: fmt.Sprintf("nic%d_out", s), side: s,
		build: func(cc *carrierCheck, fd int) asm.Instructions { return buildNICOut(s, cc, fd) }}
}

// programs are all of them, by the name of their place, over one state map.
type programs map[string]*ebpf.Program

func loadPrograms(sm *stateMap, cc *carrierCheck) (programs, error) {
	ps := programs{}
	for _, pl := range places {
		p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Name: "ft_" + pl.name, Type: ebpf.SchedCLS, License: license,
			Instructions: pl.build(cc, sm.m.FD()),
		})
		if err != nil {
			ps.close()
			return nil, fmt.Errorf("load the program %s: %w", pl.name, err)
		}
		ps[pl.name] = p
	}
	return ps, nil
}

func (ps programs) close() error {
	var errs []error
	for _, p := range ps {
		errs = append(errs, p.Close())
	}
	return errors.Join(errs...)
}

// tagOf tells these programs from those of another version, and from those that had to
// do without the carrier check.
func tagOf(cc *carrierCheck, salt uint64) (uint64, error) {
	h := sha256.New()
	for _, pl := range places {
		var b bytes.Buffer
		insns := append(asm.Instructions{}, pl.build(cc, 0)...)
		if err := insns.Marshal(&b, binary.LittleEndian); err != nil {
			return 0, fmt.Errorf("assemble %s: %w", pl.name, err)
		}
		h.Write(b.Bytes())
	}
	return max(1, binary.LittleEndian.Uint64(h.Sum(nil))^salt), nil
}

func offset(o uintptr) int16 { return int16(o) }

var (
	offWord    = offset(unsafe.Offsetof(shared{}.Word))
	offIndex   = offset(unsafe.Offsetof(shared{}.Index))
	offFace    = offset(unsafe.Offsetof(shared{}.Face))
	offGrace   = offset(unsafe.Offsetof(shared{}.Grace))
	offTurn    = offset(unsafe.Offsetof(shared{}.Turn))
	offFaceMAC = offset(unsafe.Offsetof(shared{}.FaceMAC))
	offOwnMAC  = offset(unsafe.Offsetof(shared{}.OwnMAC))
	offNoPort  = offset(unsafe.Offsetof(shared{}.NoPort))
)

// readWord sets R8 and R9.
func readWord(fd int) asm.Instructions {
	return asm.Instructions{
		asm.LoadMapValue(asm.R8, fd, 0),
		asm.LoadMem(asm.R9, asm.R8, offWord, asm.DWord),
	}
}

func verdict(v int32) asm.Instructions {
	return asm.Instructions{asm.Mov.Imm(asm.R0, v), asm.Return()}
}

// drop counts at R8+off and drops; a local sender is told, and TCP tries again sooner.
func drop(label string, off int16) asm.Instructions {
	return append(asm.Instructions{
		asm.Mov.Imm(asm.R1, 1).WithSymbol(label),
		asm.AddAtomic.Mem(asm.R8, asm.R1, asm.DWord, off),
	}, verdict(verdictDrop)...)
}

// swallow counts at R8+off and makes a packet vanish without telling its sender, as a bad
// cable does. There is no verdict for that, but no interface has the index 0.
func swallow(label string, off int16) asm.Instructions {
	return asm.Instructions{
		asm.Mov.Imm(asm.R1, 1).WithSymbol(label),
		asm.AddAtomic.Mem(asm.R8, asm.R1, asm.DWord, off),
		asm.Mov.Imm(asm.R1, 0),
		asm.Mov.Imm(asm.R2, 0),
		asm.FnRedirect.Call(),
		asm.Return(),
	}
}

func join(parts ...asm.Instructions) (all asm.Instructions) {
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

// buildFaceOut sends what the face sends to the active port. A NIC that is being deleted
// is found by no ifindex any more, long before the kernel tells anyone, and its program
// runs no more: this one turns for it.
func buildFaceOut(fd int) asm.Instructions {
	return join(
		asm.Instructions{asm.Mov.Reg(asm.R6, asm.R1)},
		readWord(fd),
		asm.Instructions{
			asm.Mov.Reg(asm.R7, asm.R9),
			asm.And.Imm(asm.R7, activeMask),
			asm.JGT.Imm(asm.R7, 1, "no_port"),
			asm.LSh.Imm(asm.R7, 2), // an ifindex has four bytes
			asm.Add.Reg(asm.R7, asm.R8),
			asm.LoadMem(asm.R7, asm.R7, offIndex, asm.Word),

			// The cheapest helper that looks an ifindex up. Of the MTU it may say what it will.
			asm.StoreImm(asm.RFP, -4, 0, asm.Word),
			asm.Mov.Reg(asm.R1, asm.R6),
			asm.Mov.Reg(asm.R2, asm.R7),
			asm.Mov.Reg(asm.R3, asm.RFP),
			asm.Add.Imm(asm.R3, -4),
			asm.Mov.Imm(asm.R4, 0),
			asm.Mov.Imm(asm.R5, 0),
			asm.FnCheckMtu.Call(),
			asm.JEq.Imm(asm.R0, -int32(unix.ENODEV), "gone"),

			asm.Mov.Imm(asm.R1, markFace),
			asm.StoreMem(asm.R6, skbTCIndex, asm.R1, asm.Word),
			asm.Mov.Reg(asm.R1, asm.R7),
			asm.Mov.Imm(asm.R2, 0),
			asm.FnRedirect.Call(),
			asm.Return(),

			asm.Mov.Reg(asm.R1, asm.R9).WithSymbol("gone"),
			asm.And.Imm(asm.R1, activeMask),
			asm.JEq.Imm(asm.R1, 1, "gone_1"),
		},
		turnAndSend("gone_0", 0, markFace),
		turnAndSend("gone_1", 1, markFace),
		drop("no_port", offNoPort),
	)
}

// buildNICOut lets the face's packets pass while the port is alive, and otherwise turns
// to the other one, if it may.
func buildNICOut(me drivers.Side, cc *carrierCheck, fd int) asm.Instructions {
	faults := bit(darkShift, me) | bit(silentShift, me)
	return join(
		asm.Instructions{asm.Mov.Reg(asm.R6, asm.R1)},
		readWord(fd),
		asm.Instructions{
			asm.LoadMem(asm.R7, asm.R6, skbTCIndex, asm.Word),
			asm.JEq.Imm(asm.R7, markFace, "ours"),
			asm.JEq.Imm(asm.R7, markHop2, "ours"),
			// The NIC's own packet. An injected fault is for all that would pass the cable.
			asm.JSet.Imm(asm.R9, int32(faults), "faulty"),
		},
		verdict(verdictNext),
		asm.Instructions{
			asm.JSet.Imm(asm.R9, int32(bit(silentShift, me)), "faulty").WithSymbol("ours"),
			asm.JSet.Imm(asm.R9, int32(bit(darkShift, me)), "dead"),
		},
		cc.jumpIfDead(asm.R6, "dead"),
		asm.Instructions{
			asm.Mov.Imm(asm.R1, 0), // alive: what comes after us sees an unmarked packet
			asm.StoreMem(asm.R6, skbTCIndex, asm.R1, asm.Word),
		},
		verdict(verdictNext),
		asm.Instructions{asm.JEq.Imm(asm.R7, markHop2, "loop").WithSymbol("dead")},
		turnAndSend("turn", me, markHop2),
		swallow("faulty", offsetCount(me, countFaulty)),
		drop("loop", offsetCount(me, countLoop)),
	)
}

// turnAndSend makes the other port active, if this one (me) is and the other is eligible
// and not dark, and sends the packet by whichever is active then, whoever has made it so.
// It does not fall through. The time of a turn is written before the word, at the place
// that only the next turn has: a turn that is seen has its time already.
func turnAndSend(label string, me drivers.Side, mark int32) asm.Instructions {
	other := me.Other()
	mayTurn, turned, nowhere := label+"_may_turn", label+"_turned", label+"_nowhere"
	return join(asm.Instructions{
		asm.Mov.Reg(asm.R1, asm.R9).WithSymbol(label),
		asm.And.Imm(asm.R1, activeMask),
		asm.JNE.Imm(asm.R1, int32(me), turned), // by somebody else, since the face chose this port
		asm.JSet.Imm(asm.R9, int32(bit(darkShift, other)), nowhere),
		asm.JSet.Imm(asm.R9, int32(bit(eligibleShift, other)), mayTurn),
		asm.Ja.Label(nowhere),

		asm.Mov.Reg(asm.R7, asm.R9).WithSymbol(mayTurn),
		asm.And.Imm(asm.R7, ^int32(activeMask|bit(eligibleShift, me))), // sign-extended: the counter stays
		asm.Or.Imm(asm.R7, int32(other)),
		asm.LoadImm(asm.R1, 1<<turnShift, asm.DWord),
		asm.Add.Reg(asm.R7, asm.R1),

		asm.FnKtimeGetNs.Call(),
		asm.Mov.Reg(asm.R1, asm.R7),
		asm.RSh.Imm(asm.R1, turnShift),
		asm.And.Imm(asm.R1, 1),
		asm.LSh.Imm(asm.R1, 3),
		asm.Add.Reg(asm.R1, asm.R8),
		asm.StoreMem(asm.R1, offTurn, asm.R0, asm.DWord),

		asm.Mov.Reg(asm.R0, asm.R9), // what is expected; R0 is then what was there
		compareAndSwap(asm.R8, asm.R7, offWord),
		asm.LoadMem(asm.R9, asm.R8, offWord, asm.DWord),

		asm.And.Imm(asm.R9, activeMask).WithSymbol(turned),
		asm.JNE.Imm(asm.R9, int32(other), nowhere),
		asm.Mov.Imm(asm.R1, 1),
		asm.AddAtomic.Mem(asm.R8, asm.R1, asm.DWord, offsetCount(me, countDetoured)),
		asm.Mov.Imm(asm.R1, mark),
		asm.StoreMem(asm.R6, skbTCIndex, asm.R1, asm.Word),
		asm.LoadMem(asm.R1, asm.R8, offIndex+4*int16(other), asm.Word),
		asm.Mov.Imm(asm.R2, 0),
		asm.FnRedirect.Call(),
		asm.Return(),
	}, drop(nowhere, offsetCount(me, countDead)))
}

// compareAndSwap is R0 == *(dst+off) ? *(dst+off) = src. The operation is in the
// instruction's constant (BPF_CMPXCHG, linux/bpf.h), which the assembler of cilium/ebpf
// 0.22 leaves 0 when it is not given: that would be an addition.
func compareAndSwap(dst, src asm.Register, off int16) asm.Instruction {
	const cmpxchg = 0xf0 | 0x01
	ins := asm.CmpXchg.Mem(dst, src, asm.DWord, off)
	ins.Constant = cmpxchg
	return ins
}

// buildNICIn gives the face what comes by the active port.
func buildNICIn(me drivers.Side, fd int) asm.Instructions {
	faults := bit(darkShift, me) | bit(silentShift, me)
	// Link-local group addresses (IEEE 802.1Q, table 8-1: LLDP, LACP, pause, spanning
	// tree) speak to the NIC at the other end of the cable, not to a host.
	linkLocal := destination(net.HardwareAddr{0x01, 0x80, 0xc2, 0, 0, 0})
	linkLocalMask := destination(net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xf0})
	return join(
		asm.Instructions{
			asm.LoadMem(asm.R2, asm.R1, skbData, asm.Word),
			asm.LoadMem(asm.R3, asm.R1, skbDataEnd, asm.Word),
		},
		readWord(fd),
		asm.Instructions{
			asm.JSet.Imm(asm.R9, int32(faults), "faulty"),
			asm.Mov.Reg(asm.R4, asm.R2),
			asm.Add.Imm(asm.R4, etherHeader),
			asm.JGT.Reg(asm.R4, asm.R3, "nic"), // no Ethernet header: the stack knows what to say

			asm.LoadMem(asm.R1, asm.R2, 0, asm.Half), // see destination
			asm.LoadMem(asm.R3, asm.R2, 2, asm.Word),
			asm.LSh.Imm(asm.R3, 16),
			asm.Or.Reg(asm.R1, asm.R3),
			asm.LoadMem(asm.R3, asm.R8, offOwnMAC+8*int16(me), asm.DWord),
			asm.JEq.Reg(asm.R1, asm.R3, "nic"),

			asm.LoadImm(asm.R3, int64(linkLocalMask), asm.DWord),
			asm.And.Reg(asm.R1, asm.R3),
			asm.LoadImm(asm.R3, int64(linkLocal), asm.DWord),
			asm.JEq.Reg(asm.R1, asm.R3, "nic"),

			asm.LoadMem(asm.R1, asm.R2, 6, asm.Word), // see source
			asm.LoadMem(asm.R3, asm.R2, 10, asm.Half),
			asm.LSh.Imm(asm.R3, 32),
			asm.Or.Reg(asm.R1, asm.R3),
			asm.LoadMem(asm.R3, asm.R8, offFaceMAC, asm.DWord),
			asm.JEq.Reg(asm.R1, asm.R3, "own"),

			asm.And.Imm(asm.R9, activeMask),
			asm.JNE.Imm(asm.R9, int32(me), "not_active"),

			asm.LoadMem(asm.R1, asm.R8, offFace, asm.Word).WithSymbol("face"),
			asm.Mov.Imm(asm.R2, redirectIngress),
			asm.FnRedirect.Call(),
			asm.Return(),

			// What was sent to this port just before a planned switch. Not what every port
			// gets, which would come twice.
			asm.LoadMem(asm.R1, asm.R2, 0, asm.Byte).WithSymbol("not_active"),
			asm.JSet.Imm(asm.R1, 1, "standby"), // a group address (IEEE 802.3, 3.2.3)
			asm.FnKtimeGetNs.Call(),
			asm.LoadMem(asm.R1, asm.R8, offGrace, asm.DWord),
			asm.JLT.Reg(asm.R0, asm.R1, "face"),
		},
		drop("standby", offsetCount(me, countStandby)),
		drop("own", offsetCount(me, countOwn)),
		drop("faulty", offsetCount(me, countFaulty)),
		asm.Instructions{asm.Mov.Imm(asm.R0, verdictNext).WithSymbol("nic"), asm.Return()},
	)
}
