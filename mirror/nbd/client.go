package nbd

// The client's half of the handshake. It reads and writes in turn: who gives it a
// connection sets that one's deadline.

import (
	"errors"
	"fmt"
	"io"
)

// ErrRefused says that the server is there and does not give what was asked for.
var ErrRefused = errors.New("the server refuses")

// replyBytesMax is the most that one reply to an option may have. Servers list nothing to us.
const replyBytesMax = 64 << 10

// repliesMax is how many replies may come to one option.
const repliesMax = 64

// Dial agrees with a server on an export and simple replies, and returns what it offers.
// The connection is then in transmission. For what a server does not say, the document's
// defaults hold.
func Dial(rw io.ReadWriter, name string) (Export, error) {
	e, err := dial(rw, name)
	if err != nil {
		return Export{}, fmt.Errorf("NBD handshake for the export %q: %w", clip(name), err)
	}
	if e.Flags&FlagHasFlags == 0 {
		return Export{}, fmt.Errorf("NBD handshake for the export %q: the server's flags %#x are none", clip(name), e.Flags)
	}
	return e, nil
}

func dial(rw io.ReadWriter, name string) (Export, error) {
	if len(name) > stringBytesMax {
		return Export{}, fmt.Errorf("a name has at most %d bytes", stringBytesMax)
	}
	var hello [18]byte
	if _, err := io.ReadFull(rw, hello[:]); err != nil {
		return Export{}, fmt.Errorf("the server's greeting: %w", err)
	}
	switch flags := be.Uint16(hello[16:]); {
	case be.Uint64(hello[:]) != magicInit:
		return Export{}, errors.New("who answers is no NBD server")
	case be.Uint64(hello[8:]) != magicOption, flags&flagFixedNewstyle == 0:
		return Export{}, errors.New("the server speaks only an older form of the protocol (fixed newstyle is needed)")
	default:
		flags &= flagFixedNewstyle | flagNoZeroes
		if _, err := rw.Write(be.AppendUint32(nil, uint32(flags))); err != nil {
			return Export{}, err
		}
		return ask(rw, name, flags&flagNoZeroes == 0)
	}
}

func sendOption(w io.Writer, option uint32, data []byte) error {
	b := be.AppendUint64(nil, magicOption)
	b = be.AppendUint32(b, option)
	b = be.AppendUint32(b, uint32(len(data)))
	_, err := w.Write(append(b, data...))
	return err
}

// readReply reads one reply to an option.
func readReply(r io.Reader, option uint32) (kind uint32, data []byte, err error) {
	var head [20]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, fmt.Errorf("the reply to option %d: %w", option, err)
	}
	if be.Uint64(head[:]) != magicOptionReply || be.Uint32(head[8:]) != option {
		return 0, nil, fmt.Errorf("what comes is no reply to option %d", option)
	}
	n := be.Uint32(head[16:])
	if n > replyBytesMax {
		return 0, nil, fmt.Errorf("a reply of %d bytes to option %d", n, option)
	}
	data = make([]byte, n)
	if _, err := io.ReadFull(r, data); err != nil {
		return 0, nil, fmt.Errorf("the reply to option %d: %w", option, err)
	}
	return be.Uint32(head[12:]), data, nil
}

// ask goes to the export, by GO or as servers had it before.
func ask(rw io.ReadWriter, name string, zeroes bool) (Export, error) {
	data := append(be.AppendUint32(nil, uint32(len(name))), name...)
	data = be.AppendUint16(data, 1)
	data = be.AppendUint16(data, infoBlockSize)
	if err := sendOption(rw, optGo, data); err != nil {
		return Export{}, err
	}
	e := Export{Name: name, BlockMin: 1, BlockGood: 4096, PayloadMax: PayloadDefault}
	told := false
	for range repliesMax {
		kind, data, err := readReply(rw, optGo)
		switch {
		case err != nil:
			return Export{}, err
		case kind == repInfo:
			if told, err = e.take(data, told); err != nil {
				return Export{}, err
			}
		case kind == repAck && !told:
			return Export{}, errors.New("the server agrees, but does not say how large the export is")
		case kind == repAck:
			return e, e.check()
		case kind == repErrUnsup:
			return askByName(rw, e, zeroes)
		case kind&repErr != 0:
			return Export{}, refusal(kind, data)
		default:
			return Export{}, fmt.Errorf("a reply of kind %d to GO", kind)
		}
	}
	return Export{}, errors.New("the replies to GO do not end")
}

// take takes one piece of information.
func (e *Export) take(data []byte, told bool) (bool, error) {
	if len(data) < 2 {
		return told, errors.New("information of less than 2 bytes")
	}
	switch kind := be.Uint16(data); {
	case kind == infoExport && len(data) == 12:
		e.Size, e.Flags = int64(be.Uint64(data[2:])), be.Uint16(data[10:])
		return true, nil
	case kind == infoBlockSize && len(data) == 14:
		e.BlockMin, e.BlockGood, e.PayloadMax = be.Uint32(data[2:]), be.Uint32(data[6:]), be.Uint32(data[10:])
	case kind == infoExport, kind == infoBlockSize:
		return told, fmt.Errorf("information %d of %d bytes", kind, len(data))
	}
	return told, nil
}

// check makes sure that an export can be what the server says.
func (e *Export) check() error {
	powerOfTwo := func(n uint32) bool { return n > 0 && n&(n-1) == 0 }
	switch {
	case e.Size < 0:
		return fmt.Errorf("an export of %d bytes", uint64(e.Size))
	case !powerOfTwo(e.BlockMin) || e.BlockMin > 64<<10, !powerOfTwo(e.BlockGood), e.BlockGood < e.BlockMin, e.PayloadMax < e.BlockGood:
		return fmt.Errorf("block sizes that cannot be: at least %d, preferably %d, at most %d bytes", e.BlockMin, e.BlockGood, e.PayloadMax)
	}
	return nil
}

// askByName is how servers had it before GO. One that has no such export hangs up.
func askByName(rw io.ReadWriter, e Export, zeroes bool) (Export, error) {
	if err := sendOption(rw, optExportName, []byte(e.Name)); err != nil {
		return Export{}, err
	}
	b := make([]byte, 10, 134)
	if zeroes {
		b = b[:134]
	}
	if _, err := io.ReadFull(rw, b); err != nil {
		return Export{}, fmt.Errorf("the server hangs up, as it does when it has no such export: %w", err)
	}
	e.Size, e.Flags = int64(be.Uint64(b)), be.Uint16(b[8:])
	return e, e.check()
}

func refusal(kind uint32, data []byte) error {
	what := map[uint32]string{
		repErrPolicy: "by its rules", repErrTLSReqd: "without TLS", repErrUnknown: "there is no such export",
		repErrShutdown: "it is being shut down",
	}[kind]
	if what == "" {
		what = fmt.Sprintf("error %d", kind&^repErr)
	}
	if len(data) > 0 {
		what += ": " + clip(string(data))
	}
	return fmt.Errorf("%w: %s", ErrRefused, what)
}
