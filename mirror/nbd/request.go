package nbd

import "fmt"

// Request is the head of a command. A WRITE has Len bytes of payload behind it.
type Request struct {
	Flags  uint16
	Type   uint16
	Cookie uint64
	Off    uint64 // bytes
	Len    uint32 // bytes
}

// ParseRequest reads the head of a command. An error means that the stream cannot be
// followed any more: the connection must end.
func ParseRequest(b []byte) (Request, error) {
	if len(b) < RequestBytes {
		return Request{}, fmt.Errorf("a request of %d bytes; it has %d", len(b), RequestBytes)
	}
	if m := be.Uint32(b); m != magicRequest {
		return Request{}, fmt.Errorf("a request begins with %#x and not with %#x", m, magicRequest)
	}
	return Request{Flags: be.Uint16(b[4:]), Type: be.Uint16(b[6:]), Cookie: be.Uint64(b[8:]), Off: be.Uint64(b[16:]), Len: be.Uint32(b[24:])}, nil
}

// Append adds the head of a command to b.
func (r Request) Append(b []byte) []byte {
	b = be.AppendUint32(b, magicRequest)
	b = be.AppendUint16(b, r.Flags)
	b = be.AppendUint16(b, r.Type)
	b = be.AppendUint64(b, r.Cookie)
	b = be.AppendUint64(b, r.Off)
	return be.AppendUint32(b, r.Len)
}

// Payload is how many bytes follow the head.
func (r Request) Payload() uint32 {
	if r.Type == CmdWrite {
		return r.Len
	}
	return 0
}

// validFlags are the flags that each command may have, besides FUA, which clients are
// known to set on anything.
var validFlags = map[uint16]uint16{
	CmdRead:        CmdFlagDF,
	CmdWrite:       0,
	CmdFlush:       0,
	CmdTrim:        0,
	CmdCache:       0,
	CmdWriteZeroes: CmdFlagNoHole | CmdFlagFastZero,
	CmdBlockStatus: CmdFlagReqOne,
}

// Check says what is wrong with a request on an export, as a session was negotiated: 0
// when it may be carried out. A request of length 0 is in order.
func (e *Export) Check(s Session, r Request) (Error, string) {
	valid, known := validFlags[r.Type]
	switch {
	case !known:
		return EINVAL, fmt.Sprintf("there is no command %d", r.Type)
	case r.Flags&^(valid|CmdFlagFUA) != 0:
		return EINVAL, fmt.Sprintf("command %d does not take the flags %#x", r.Type, r.Flags)
	case r.Flags&CmdFlagFUA != 0 && e.Flags&FlagSendFUA == 0,
		r.Flags&CmdFlagDF != 0 && !s.Structured,
		r.Flags&CmdFlagFastZero != 0 && r.Type == CmdWriteZeroes && e.Flags&FlagSendFastZero == 0:
		return EINVAL, fmt.Sprintf("the flags %#x were not offered", r.Flags)
	case r.Type == CmdFlush:
		if r.Off != 0 || r.Len != 0 {
			return EINVAL, "a flush has no range"
		}
		return 0, ""
	case r.Type == CmdBlockStatus && !s.Allocation:
		return EINVAL, "no metadata context was negotiated"
	case r.Type == CmdBlockStatus && r.Len == 0:
		return EINVAL, "a block status of nothing"
	}
	return e.checkRange(r)
}

func (e *Export) checkRange(r Request) (Error, string) {
	size, block := uint64(e.Size), uint64(max(1, e.BlockMin))
	modifies := r.Type == CmdWrite || r.Type == CmdTrim || r.Type == CmdWriteZeroes
	switch {
	case r.Off > size || uint64(r.Len) > size-r.Off:
		if r.Type == CmdWrite || r.Type == CmdWriteZeroes {
			return ENOSPC, fmt.Sprintf("%d bytes at %d are past the end, which is at %d", r.Len, r.Off, size)
		}
		return EINVAL, fmt.Sprintf("%d bytes at %d are past the end, which is at %d", r.Len, r.Off, size)
	case (r.Off|uint64(r.Len))%block != 0:
		return EINVAL, fmt.Sprintf("%d bytes at %d are not whole blocks of %d", r.Len, r.Off, block)
	case (r.Type == CmdRead || r.Type == CmdWrite) && r.Len > e.PayloadMax:
		return EOVERFLOW, fmt.Sprintf("%d bytes at once are more than the %d that were offered", r.Len, e.PayloadMax)
	case modifies && e.Flags&FlagReadOnly != 0:
		return EPERM, "the export is read-only"
	}
	return 0, ""
}
