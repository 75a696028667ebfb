package nbd

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
)

var export = Export{Name: "disk0", Description: "for tests", Size: 1 << 30, BlockMin: 512, BlockGood: 4096, PayloadMax: PayloadDefault,
	Flags: FlagSendFlush | FlagSendFUA | FlagSendTrim | FlagSendWriteZeroes}

// serve is a server that only shakes hands.
func serve(rw io.ReadWriter, e Export) (*Handshake, Phase, error) {
	h, out := NewHandshake(e)
	var in []byte
	b := make([]byte, 1)
	for {
		if len(out) > 0 {
			if _, err := rw.Write(out); err != nil {
				return h, Ended, err
			}
		}
		used, answer, phase, err := h.Step(in, nil)
		if out = answer; phase != Haggling || err != nil {
			rw.Write(out)
			return h, phase, err
		}
		if in = in[used:]; used > 0 {
			continue
		}
		if _, err := io.ReadFull(rw, b); err != nil {
			return h, Ended, err
		}
		in = append(in, b...)
	}
}

func TestBothEndsAgree(t *testing.T) {
	for _, name := range []string{"", "disk0"} {
		a, b := net.Pipe()
		phase := make(chan Phase, 1)
		go func() {
			_, p, _ := serve(a, export)
			phase <- p
		}()
		got, err := Dial(b, name)
		if err != nil {
			t.Fatal(err)
		}
		if p := <-phase; p != Transmission || got.Size != export.Size || got.Flags != export.Flags|FlagHasFlags || got.BlockMin != 512 || got.PayloadMax != PayloadDefault {
			t.Errorf("%d %+v", p, got)
		}
	}
	a, b := net.Pipe()
	go serve(a, export)
	if _, err := Dial(b, "other"); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), `there is no export "other" here`) {
		t.Errorf("%v", err)
	}
}

// An older server: no GO, and padding.
func TestDialFallsBackToExportName(t *testing.T) {
	a, b := net.Pipe()
	go func() {
		greeting := be.AppendUint64(be.AppendUint64(nil, magicInit), magicOption)
		a.Write(be.AppendUint16(greeting, flagFixedNewstyle))
		io.ReadFull(a, make([]byte, 4))
		head := make([]byte, optionHead)
		for {
			io.ReadFull(a, head)
			option, n := be.Uint32(head[8:]), be.Uint32(head[12:])
			io.ReadFull(a, make([]byte, n))
			if option == optExportName {
				a.Write(append(be.AppendUint16(be.AppendUint64(nil, 4096), FlagHasFlags), make([]byte, 124)...))
				return
			}
			a.Write(refuse(nil, option, repErrUnsup, ""))
		}
	}()
	if e, err := Dial(b, "x"); err != nil || e.Size != 4096 || e.BlockMin != 1 {
		t.Errorf("%+v %v", e, err)
	}
}

func TestAddresses(t *testing.T) {
	for text, want := range map[string]Address{
		"nbd://example.com/disk":                   {"tcp", "example.com:10809", "disk"},
		"nbd://example.com:1/":                     {"tcp", "example.com:1", ""},
		"nbd://example.com":                        {"tcp", "example.com:10809", ""},
		"nbd://[2001:db8::1]:7//disk":              {"tcp", "[2001:db8::1]:7", "/disk"},
		"nbd://example.com/hello%20world":          {"tcp", "example.com:10809", "hello world"},
		"nbd+unix:///disk?socket=/run/x.sock":      {"unix", "/run/x.sock", "disk"},
		"nbd+unix:///?socket=%2Frun%2Fx%20y.sock":  {"unix", "/run/x y.sock", ""},
		"nbd+unix:///a%2Fb%3Fc?socket=/run/x.sock": {"unix", "/run/x.sock", "a/b?c"},
	} {
		got, err := ParseAddress(text)
		if err != nil || got != want || !IsAddress(text) {
			t.Errorf("%s: %+v %v", text, got, err)
		}
		if again, err := ParseAddress(got.String()); err != nil || again != got {
			t.Errorf("%s: written as %s, which is %+v %v", text, got, again, err)
		}
	}
	for text, want := range map[string]string{
		"nbd:///disk":                        "names no host",
		"nbd://h/disk?socket=/x":             `parameter "socket"`,
		"nbd+unix:///disk":                   "absolute path",
		"nbd+unix:///disk?socket=x":          "absolute path",
		"nbd+unix://h/disk?socket=/x":        "no host",
		"nbds://h/disk":                      "TLS is not available",
		"nbd+unix:///d?socket=/x&tls-type=a": `parameter "tls-type"`,
		"nbd:h":                              "do not belong",
		"nbd://u@h/":                         "do not belong",
		"nbd://h/%zz":                        "no URI",
		"nbd+unix:///%00?socket=/x":          "no export",
		"nbd://h:x/":                         "no URI",
	} {
		if got, err := ParseAddress(text); err == nil || !strings.Contains(err.Error(), want) || !IsAddress(text) {
			t.Errorf("%s: %+v %v", text, got, err)
		}
	}
	if IsAddress("/dev/nbd0") || IsAddress("nbdx://") {
		t.Error("no addresses")
	}
}

func TestErrorsAreTheProtocols(t *testing.T) {
	for errno, want := range map[syscall.Errno]Error{0: 0, syscall.EIO: EIO, syscall.ENODEV: EIO, syscall.EROFS: EPERM, syscall.ENOSPC: ENOSPC,
		syscall.EOPNOTSUPP: ENOTSUP, syscall.ESHUTDOWN: ESHUTDOWN} {
		if got := ErrorOf(errno); got != want {
			t.Errorf("%v: %d, not %d", errno, got, want)
		}
	}
	for e, want := range map[Error]syscall.Errno{0: 0, EIO: syscall.EIO, ESHUTDOWN: syscall.EIO, 12345: syscall.EIO, ENOSPC: syscall.ENOSPC, ENOTSUP: syscall.EOPNOTSUPP} {
		if got := e.Errno(); got != want {
			t.Errorf("%d: %v, not %v", e, got, want)
		}
	}
}

func TestBlockStatusCoversWhatWasAsked(t *testing.T) {
	r := Request{Type: CmdBlockStatus, Cookie: 1, Len: 1000}
	for name, c := range map[string]struct {
		flags uint16
		in    []Extent
		want  []uint32
	}{
		"unknown":        {0, nil, []uint32{1000, 0}},
		"neighbours":     {0, []Extent{{300, 3}, {200, 3}, {500, 0}}, []uint32{500, 3, 500, 0}},
		"beyond the end": {0, []Extent{{300, 3}, {9000, 0}, {5, 3}}, []uint32{300, 3, 700, 0}},
		"only one":       {CmdFlagReqOne, []Extent{{300, 3}, {700, 0}}, []uint32{300, 3}},
		"empty ones":     {0, []Extent{{0, 3}, {1000, 0}}, []uint32{1000, 0}},
		"less":           {0, []Extent{{10, 3}}, []uint32{10, 3}},
	} {
		r.Flags = c.flags
		b := AppendBlockStatus(nil, r, c.in)
		var got []uint32
		for at := chunkBytes + 4; at < len(b); at += 4 {
			got = append(got, be.Uint32(b[at:]))
		}
		if n := be.Uint32(b[16:]); int(n) != len(b)-chunkBytes || !equal(got, c.want) {
			t.Errorf("%s: %v, length %d of %d", name, got, n, len(b))
		}
	}
	many := make([]Extent, 2*ExtentsMax)
	for i := range many {
		many[i] = Extent{1, uint32(i & 1)}
	}
	r.Flags, r.Len = 0, 1<<30
	if b := AppendBlockStatus(nil, r, many); len(b) != chunkBytes+4+8*ExtentsMax {
		t.Errorf("%d bytes", len(b))
	}
}

func equal(a, b []uint32) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// option is one of a client.
func option(kind uint32, data ...byte) []byte {
	b := be.AppendUint32(be.AppendUint64(nil, magicOption), kind)
	return append(be.AppendUint32(b, uint32(len(data))), data...)
}

func str(s string) []byte { return append(be.AppendUint32(nil, uint32(len(s))), s...) }

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func FuzzHandshake(f *testing.F) {
	flags := be.AppendUint32(nil, flagFixedNewstyle|flagNoZeroes)
	query := join(str("disk0"), []byte{0, 0, 0, 1}, str(ContextAllocation))
	f.Add(join(flags, option(optGo, join(str("disk0"), []byte{0, 1, 0, 3})...)))
	f.Add(join(flags, option(optStructuredReply), option(optSetMetaContext, query...), option(optInfo, join(str(""), []byte{0, 0})...), option(optExportName)))
	f.Add(join(flags, option(optList), option(optListMetaContext, query...), option(optStartTLS), option(99), option(optAbort)))
	f.Add(join([]byte{0, 0, 0, 0}, option(optExportName, []byte("disk0")...)))
	f.Fuzz(func(t *testing.T, in []byte) {
		h, _ := NewHandshake(export)
		for {
			used, answer, phase, err := h.Step(in, nil)
			switch {
			case used < 0 || used > len(in):
				t.Fatalf("%d of %d bytes used", used, len(in))
			case len(answer) > 1<<20:
				t.Fatalf("an answer of %d bytes", len(answer))
			case err != nil && phase == Transmission:
				t.Fatalf("transmission after %v", err)
			case phase == Transmission && h.Session.Allocation && !h.Session.Structured:
				t.Fatal("a metadata context without structured replies")
			case phase != Haggling || err != nil || used == 0:
				if used == 0 && err == nil && len(in) > HandshakeBytes {
					t.Fatal("the handshake waits for more than it may")
				}
				return
			}
			in = in[used:]
		}
	})
}

func FuzzRequest(f *testing.F) {
	f.Add(true, true, Request{Type: CmdWrite, Flags: CmdFlagFUA, Off: 4096, Len: 512}.Append(nil))
	f.Add(true, true, Request{Type: CmdBlockStatus, Flags: CmdFlagReqOne, Len: 1 << 30}.Append(nil))
	f.Add(false, false, Request{Type: CmdRead, Off: ^uint64(0), Len: ^uint32(0)}.Append(nil))
	f.Fuzz(func(t *testing.T, structured, allocation bool, b []byte) {
		r, err := ParseRequest(b)
		if err != nil {
			return
		}
		if !bytes.Equal(r.Append(nil), b[:RequestBytes]) {
			t.Fatalf("%+v is not what was read", r)
		}
		e, why := export.Check(Session{Structured: structured, Allocation: allocation}, r)
		if (e == 0) != (why == "") {
			t.Fatalf("error %d, %q", e, why)
		}
		if e != 0 || r.Type == CmdFlush {
			return
		}
		switch end := r.Off + uint64(r.Len); {
		case end < r.Off || end > uint64(export.Size), r.Off%512 != 0, r.Len%512 != 0:
			t.Fatalf("%+v is let through", r)
		case r.Payload() > export.PayloadMax, r.Type == CmdRead && r.Len > export.PayloadMax:
			t.Fatalf("%+v is let through", r)
		}
		AppendBlockStatus(nil, r, []Extent{{int64(r.Len) / 2, 3}, {int64(r.Len), 0}})
	})
}

// script is a server that says what it was told to, whatever it is asked.
type script struct{ io.Reader }

func (script) Write(b []byte) (int, error) { return len(b), nil }

func FuzzDial(f *testing.F) {
	var good bytes.Buffer
	h, greeting := NewHandshake(export)
	good.Write(greeting)
	h.Step([]byte{0, 0, 0, 3}, nil)
	_, answer, _, _ := h.Step(option(optGo, join(str("disk0"), []byte{0, 1, 0, 3})...), nil)
	good.Write(answer)
	f.Add(good.Bytes())
	f.Add(join(greeting, refuse(nil, optGo, repErrUnsup, "no"), make([]byte, 134)))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := Dial(script{bytes.NewReader(b)}, "disk0")
		if err == nil && (e.Size < 0 || e.BlockMin == 0 || e.PayloadMax < e.BlockMin) {
			t.Fatalf("%+v", e)
		}
	})
}
