package nbd

// The server's half of the handshake: a state machine of bytes. Who has the socket gives
// it what has come in and sends what it answers.

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Limits of a handshake. A client that goes beyond them is cut off.
const (
	// optionBytesMax is the most data that an option may have. HandshakeBytes of input
	// always let the handshake go on.
	optionBytesMax = 64 << 10
	optionsMax     = 256
	queriesMax     = 256
	optionHead     = 16
	HandshakeBytes = optionHead + optionBytesMax
	allocationID   = 1
)

// Export is what a server offers.
type Export struct {
	Name        string // the empty name leads to it as well
	Description string
	Size        int64  // bytes
	Flags       uint16 // transmission flags, without HAS_FLAGS and SEND_DF
	BlockMin    uint32 // bytes
	BlockGood   uint32 // bytes; the preferred size
	PayloadMax  uint32 // bytes
}

// Session is what was agreed on.
type Session struct {
	Structured bool // structured replies
	Allocation bool // base:allocation was selected
}

// Phase is where a connection stands.
type Phase uint8

// Phases of a connection.
const (
	Haggling     Phase = iota // the handshake goes on
	Transmission              // the client may send commands
	Ended                     // the answer is the last, then the connection is to be closed
)

// Handshake is a handshake under way.
type Handshake struct {
	// Session holds once Step has returned Transmission.
	Session Session

	export   Export
	greeted  bool // the client's flags have come
	zeroes   bool // EXPORT_NAME's answer is padded
	options  int
	selected bool // base:allocation, when the haggling ends in time
}

// NewHandshake begins a handshake about one export. The greeting goes to the client first.
func NewHandshake(e Export) (h *Handshake, greeting []byte) {
	e.Flags |= FlagHasFlags
	b := be.AppendUint64(nil, magicInit)
	b = be.AppendUint64(b, magicOption)
	return &Handshake{export: e}, be.AppendUint16(b, flagFixedNewstyle|flagNoZeroes)
}

// Step takes one message of the client from in, if it is there whole, and adds the answer
// to out. used is how much of in it has taken: 0 means that more must come first. In the
// phases after Haggling the rest of in is not the handshake's.
func (h *Handshake) Step(in, out []byte) (used int, answer []byte, phase Phase, err error) {
	if !h.greeted {
		return h.greet(in, out)
	}
	if len(in) < optionHead {
		return 0, out, Haggling, nil
	}
	if m := be.Uint64(in); m != magicOption {
		return 0, out, Ended, fmt.Errorf("an option begins with %#x and not with %#x", m, magicOption)
	}
	option, n := be.Uint32(in[8:]), be.Uint32(in[12:])
	if n > optionBytesMax {
		return 0, out, Ended, fmt.Errorf("option %d with %d bytes of data; at most %d are taken", option, n, optionBytesMax)
	}
	if h.options++; h.options > optionsMax {
		return 0, out, Ended, fmt.Errorf("more than %d options", optionsMax)
	}
	if len(in) < optionHead+int(n) {
		h.options--
		return 0, out, Haggling, nil
	}
	data := in[optionHead : optionHead+int(n)]
	answer, phase, err = h.option(option, data, out)
	return optionHead + int(n), answer, phase, err
}

// greet takes the client's flags.
func (h *Handshake) greet(in, out []byte) (int, []byte, Phase, error) {
	if len(in) < 4 {
		return 0, out, Haggling, nil
	}
	flags := be.Uint32(in)
	if flags&^(flagFixedNewstyle|flagNoZeroes) != 0 {
		return 0, out, Ended, fmt.Errorf("the client's flags %#x are not known", flags)
	}
	h.greeted, h.zeroes = true, flags&flagNoZeroes == 0
	return 4, out, Haggling, nil
}

func reply(out []byte, option, kind uint32, data ...byte) []byte {
	out = be.AppendUint64(out, magicOptionReply)
	out = be.AppendUint32(out, option)
	out = be.AppendUint32(out, kind)
	out = be.AppendUint32(out, uint32(len(data)))
	return append(out, data...)
}

// refuse answers an option with an error and a sentence for people.
func refuse(out []byte, option, kind uint32, sentence string) []byte {
	return reply(out, option, kind, []byte(sentence)...)
}

// option answers one option.
func (h *Handshake) option(option uint32, data, out []byte) ([]byte, Phase, error) {
	switch option {
	case optExportName:
		if !h.known(string(data)) {
			return out, Ended, fmt.Errorf("there is no export %q", clip(string(data)))
		}
		h.settle()
		out = be.AppendUint64(out, uint64(h.export.Size))
		out = be.AppendUint16(out, h.flags())
		if h.zeroes {
			out = append(out, make([]byte, 124)...)
		}
		return out, Transmission, nil
	case optAbort:
		return reply(out, option, repAck), Ended, nil
	case optList:
		if len(data) > 0 {
			return refuse(out, option, repErrInvalid, "LIST has no data"), Haggling, nil
		}
		entry := be.AppendUint32(nil, uint32(len(h.export.Name)))
		entry = append(append(entry, h.export.Name...), h.export.Description...)
		out = reply(out, option, repServer, entry...)
		return reply(out, option, repAck), Haggling, nil
	case optStructuredReply:
		if len(data) > 0 {
			return refuse(out, option, repErrInvalid, "STRUCTURED_REPLY has no data"), Haggling, nil
		}
		h.Session.Structured = true
		return reply(out, option, repAck), Haggling, nil
	case optInfo, optGo:
		return h.info(option, data, out)
	case optListMetaContext, optSetMetaContext:
		return h.metaContext(option, data, out), Haggling, nil
	case optStartTLS:
		return refuse(out, option, repErrPolicy, "there is no TLS on a unix socket"), Haggling, nil
	}
	return reply(out, option, repErrUnsup), Haggling, nil
}

func (h *Handshake) known(name string) bool { return name == "" || name == h.export.Name }

// flags are the transmission flags as the negotiation stands.
func (h *Handshake) flags() uint16 {
	if h.Session.Structured {
		return h.export.Flags | FlagSendDF
	}
	return h.export.Flags
}

// settle ends the haggling. A metadata context holds for the name that it was selected
// with, and all names here lead to the one export.
func (h *Handshake) settle() {
	h.Session.Allocation = h.Session.Structured && h.selected
}

// info answers INFO and GO.
func (h *Handshake) info(option uint32, data, out []byte) ([]byte, Phase, error) {
	name, rest, ok := cutString(data)
	if !ok || len(rest) < 2 || len(rest) != 2+2*int(be.Uint16(rest)) {
		return refuse(out, option, repErrInvalid, "the lengths in it do not fit"), Haggling, nil
	}
	if !h.known(name) {
		return refuse(out, option, repErrUnknown, fmt.Sprintf("there is no export %q here, only %q", clip(name), h.export.Name)), Haggling, nil
	}
	var asked []uint16
	for rest = rest[2:]; len(rest) > 0; rest = rest[2:] {
		asked = append(asked, be.Uint16(rest))
	}
	e := &h.export
	b := be.AppendUint16(nil, infoExport)
	b = be.AppendUint64(b, uint64(e.Size))
	out = reply(out, option, repInfo, be.AppendUint16(b, h.flags())...)
	if slices.Contains(asked, infoName) {
		out = reply(out, option, repInfo, append(be.AppendUint16(nil, infoName), e.Name...)...)
	}
	if slices.Contains(asked, infoDescription) && e.Description != "" {
		out = reply(out, option, repInfo, append(be.AppendUint16(nil, infoDescription), e.Description...)...)
	}
	// Also unasked: who does not ask may still heed it.
	b = be.AppendUint16(nil, infoBlockSize)
	b = be.AppendUint32(b, e.BlockMin)
	b = be.AppendUint32(b, e.BlockGood)
	out = reply(out, option, repInfo, be.AppendUint32(b, e.PayloadMax)...)
	out = reply(out, option, repAck)
	if option == optInfo {
		return out, Haggling, nil
	}
	h.settle()
	return out, Transmission, nil
}

// metaContext answers LIST_META_CONTEXT and SET_META_CONTEXT.
func (h *Handshake) metaContext(option uint32, data, out []byte) []byte {
	set := option == optSetMetaContext
	if set {
		h.selected = false
	}
	if !h.Session.Structured {
		return refuse(out, option, repErrInvalid, "structured replies come first")
	}
	name, rest, ok := cutString(data)
	if !ok || len(rest) < 4 {
		return refuse(out, option, repErrInvalid, "the lengths in it do not fit")
	}
	if !h.known(name) {
		return refuse(out, option, repErrUnknown, fmt.Sprintf("there is no export %q here", clip(name)))
	}
	n := be.Uint32(rest)
	if n > queriesMax {
		return refuse(out, option, repErrTooBig, fmt.Sprintf("at most %d queries", queriesMax))
	}
	found := n == 0 && !set
	rest = rest[4:]
	for range n {
		var query string
		if query, rest, ok = cutString(rest); !ok {
			return refuse(out, option, repErrInvalid, "the lengths in it do not fit")
		}
		if !strings.Contains(query, ":") {
			return refuse(out, option, repErrInvalid, "a query has a namespace and a colon")
		}
		found = found || query == ContextAllocation || query == "base:" && !set
	}
	if len(rest) > 0 {
		return refuse(out, option, repErrInvalid, "there is something behind the queries")
	}
	if found {
		id := uint32(0)
		if set {
			id, h.selected = allocationID, true
		}
		out = reply(out, option, repMetaContext, append(be.AppendUint32(nil, id), ContextAllocation...)...)
	}
	return reply(out, option, repAck)
}

// cutString takes a string with its length before it.
func cutString(b []byte) (s string, rest []byte, ok bool) {
	if len(b) < 4 {
		return "", nil, false
	}
	n := be.Uint32(b)
	if n > stringBytesMax || int(n) > len(b)-4 {
		return "", nil, false
	}
	return string(b[4 : 4+n]), b[4+n:], true
}

// clip makes a string of others fit for a log.
func clip(s string) string {
	const most = 64
	if len(s) > most {
		s = s[:most] + "…"
	}
	if !utf8.ValidString(s) {
		return strings.ToValidUTF8(s, "?")
	}
	return s
}
