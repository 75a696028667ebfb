package nbd

// AppendSimpleReply adds the head of a simple reply. The data of a READ follows it if
// there is no error.
func AppendSimpleReply(b []byte, cookie uint64, e Error) []byte {
	b = be.AppendUint32(b, magicSimpleReply)
	b = be.AppendUint32(b, uint32(e))
	return be.AppendUint64(b, cookie)
}

func appendChunk(b []byte, flags, kind uint16, cookie uint64, length uint32) []byte {
	b = be.AppendUint32(b, magicChunk)
	b = be.AppendUint16(b, flags)
	b = be.AppendUint16(b, kind)
	b = be.AppendUint64(b, cookie)
	return be.AppendUint32(b, length)
}

// AppendDone adds a chunk that ends a structured reply which has gone well.
func AppendDone(b []byte, cookie uint64) []byte {
	return appendChunk(b, replyFlagDone, replyTypeNone, cookie, 0)
}

// AppendData adds the head of a chunk of n bytes of data, which follow. last ends the
// reply with it.
func AppendData(b []byte, cookie uint64, off uint64, n uint32, last bool) []byte {
	var flags uint16
	if last {
		flags = replyFlagDone
	}
	return be.AppendUint64(appendChunk(b, flags, replyTypeOffsetData, cookie, 8+n), off)
}

// AppendError adds a chunk that ends a structured reply with an error and a sentence.
func AppendError(b []byte, cookie uint64, e Error, sentence string) []byte {
	sentence = sentence[:min(len(sentence), stringBytesMax)]
	b = appendChunk(b, replyFlagDone, replyTypeError, cookie, uint32(6+len(sentence)))
	b = be.AppendUint32(b, uint32(e))
	b = be.AppendUint16(b, uint16(len(sentence)))
	return append(b, sentence...)
}

// Extent is a range of one status, from where the one before it ends.
type Extent struct {
	Len   int64 // bytes
	State uint32
}

// ExtentsMax bounds a block status. What lies behind it the client asks for again.
const ExtentsMax = 2048

// AppendBlockStatus adds the answer to a BLOCK_STATUS. The extents cover the request from
// its start; neighbours of one state become one, and what goes beyond the request is left
// out. At least the first is sent, of at least one byte.
func AppendBlockStatus(b []byte, r Request, extents []Extent) []byte {
	head := len(b)
	b = appendChunk(b, replyFlagDone, replyTypeBlockStatus, r.Cookie, 0)
	b = be.AppendUint32(b, allocationID)
	left, n := int64(r.Len), 0
	most := ExtentsMax
	if r.Flags&CmdFlagReqOne != 0 {
		most = 1
	}
	for i := 0; i < len(extents) && left > 0 && n < most; n++ {
		x := extents[i]
		for i++; i < len(extents) && extents[i].State == x.State; i++ {
			x.Len += extents[i].Len
		}
		if x.Len <= 0 {
			n--
			continue
		}
		x.Len = min(x.Len, left)
		left -= x.Len
		b = be.AppendUint32(b, uint32(x.Len))
		b = be.AppendUint32(b, x.State)
	}
	if n == 0 { // nothing is known
		b = be.AppendUint32(b, r.Len)
		b = be.AppendUint32(b, 0)
	}
	be.PutUint32(b[head+16:], uint32(len(b)-head-chunkBytes))
	return b
}

// Reply is the head of a simple reply, for the end that gets it.
type Reply struct {
	Err    Error
	Cookie uint64
}

// ParseSimpleReply reads the head of a simple reply; false when it is none.
func ParseSimpleReply(b []byte) (Reply, bool) {
	if len(b) < SimpleReplyBytes || be.Uint32(b) != magicSimpleReply {
		return Reply{}, false
	}
	return Reply{Err: Error(be.Uint32(b[4:])), Cookie: be.Uint64(b[8:])}, true
}
