package tcx

import (
	"fmt"
	"math"

	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

// carrierCheck is how a program on a NIC's egress finds out whether the NIC can send:
// skb->dev->state, which the NIC's driver changes at the very moment at which it sees the
// carrier go, long before any process hears of it. nil: this kernel does not let it.
type carrierCheck struct {
	cast       btf.TypeID // bpf_cast_to_kern_ctx (Linux 6.2): struct __sk_buff → struct sk_buff
	dev, state int16      // offsets of sk_buff.dev and net_device.state
	size       asm.Size   // of net_device.state, an unsigned long
	mask, good int32      // alive when state & mask == good
}

// findCarrierCheck asks the kernel's own type information (BTF) for all of that. Whether
// the verifier then accepts it is seen when the programs are loaded.
func findCarrierCheck() (*carrierCheck, error) {
	spec, err := btf.LoadKernelSpec()
	if err != nil {
		return nil, fmt.Errorf("the kernel has no type information (CONFIG_DEBUG_INFO_BTF): %w", err)
	}
	var cc carrierCheck
	var fn *btf.Func
	if err := spec.TypeByName("bpf_cast_to_kern_ctx", &fn); err != nil {
		return nil, fmt.Errorf("the kernel function bpf_cast_to_kern_ctx (Linux 6.2): %w", err)
	}
	if cc.cast, err = spec.TypeID(fn); err != nil {
		return nil, fmt.Errorf("the kernel function bpf_cast_to_kern_ctx: %w", err)
	}
	if cc.dev, _, err = member(spec, "sk_buff", "dev"); err != nil {
		return nil, err
	}
	var size int
	if cc.state, size, err = member(spec, "net_device", "state"); err != nil {
		return nil, err
	}
	switch size {
	case 8:
		cc.size = asm.DWord
	case 4:
		cc.size = asm.Word
	default:
		return nil, fmt.Errorf("net_device.state has %d bytes", size)
	}
	// enum netdev_state_t, linux/netdevice.h.
	for name, wanted := range map[string]bool{"__LINK_STATE_START": true, "__LINK_STATE_PRESENT": true, "__LINK_STATE_NOCARRIER": false} {
		n, err := enumerator(spec, "netdev_state_t", name)
		if err != nil {
			return nil, err
		}
		if n > 30 {
			return nil, fmt.Errorf("%s is bit %d", name, n)
		}
		cc.mask |= 1 << n
		if wanted {
			cc.good |= 1 << n
		}
	}
	return &cc, nil
}

// jumpIfDead uses R0 and R1.
func (cc *carrierCheck) jumpIfDead(ctx asm.Register, label string) asm.Instructions {
	if cc == nil {
		return nil
	}
	call := asm.FnUnspec.Call()
	call.Src = asm.PseudoKfuncCall
	call.Constant = int64(cc.cast)
	return asm.Instructions{
		asm.Mov.Reg(asm.R1, ctx),
		call,
		asm.LoadMem(asm.R1, asm.R0, cc.dev, asm.DWord),
		asm.LoadMem(asm.R1, asm.R1, cc.state, cc.size),
		asm.And.Imm(asm.R1, cc.mask),
		asm.JNE.Imm(asm.R1, cc.good, label),
	}
}

// member finds the offset and size of a member, also within unnamed structs and unions.
func member(spec *btf.Spec, structName, name string) (off int16, size int, err error) {
	var st *btf.Struct
	if err := spec.TypeByName(structName, &st); err != nil {
		return 0, 0, fmt.Errorf("struct %s in the kernel's type information: %w", structName, err)
	}
	at, typ, ok := memberIn(st.Members, name)
	if !ok || at%8 != 0 || at/8 > math.MaxInt16 {
		return 0, 0, fmt.Errorf("no usable member %s in the kernel's struct %s", name, structName)
	}
	if size, err = btf.Sizeof(typ); err != nil {
		return 0, 0, fmt.Errorf("size of %s.%s: %w", structName, name, err)
	}
	return int16(at / 8), size, nil
}

func memberIn(members []btf.Member, name string) (at btf.Bits, typ btf.Type, ok bool) {
	for _, m := range members {
		if m.Name == name {
			return m.Offset, m.Type, true
		}
		if m.Name != "" {
			continue
		}
		var inner []btf.Member
		switch t := btf.UnderlyingType(m.Type).(type) {
		case *btf.Struct:
			inner = t.Members
		case *btf.Union:
			inner = t.Members
		}
		if at, typ, ok := memberIn(inner, name); ok {
			return m.Offset + at, typ, true
		}
	}
	return 0, nil, false
}

func enumerator(spec *btf.Spec, enumName, name string) (uint64, error) {
	var e *btf.Enum
	if err := spec.TypeByName(enumName, &e); err != nil {
		return 0, fmt.Errorf("enum %s in the kernel's type information: %w", enumName, err)
	}
	for _, v := range e.Values {
		if v.Name == name {
			return v.Value, nil
		}
	}
	return 0, fmt.Errorf("no %s in the kernel's enum %s", name, enumName)
}
