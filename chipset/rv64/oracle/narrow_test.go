package oracle

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"

	"ft/chipset/rv64/oracle/asm"
)

// differs is the first case whose results differ.
type differs struct {
	stream, index int // index among the stream's cases
	what          string
}

func (d *differs) Error() string {
	return fmt.Sprintf("stream %d, case %d: %s", d.stream, d.index, d.what)
}

// difference finds the first case in which the hart's results and QEMU's differ.
func (b *batch) difference(hart, qemu []byte) error {
	word := func(p []byte, at uint64) uint64 { return binary.LittleEndian.Uint64(p[at-b.from:]) }
	count := map[int]int{}
	for _, cs := range b.cases {
		d := &differs{stream: cs.stream, index: count[cs.stream]}
		count[cs.stream]++
		var what []string
		for i := range cs.logs {
			at := cs.log + uint64(8*i)
			if h, q := word(hart, at), word(qemu, at); h != q {
				what = append(what, fmt.Sprintf("result %d of the log is %#x, in QEMU %#x", i, h, q))
				break
			}
		}
		for i := range stateWords {
			at := cs.state + uint64(8*i)
			if h, q := word(hart, at), word(qemu, at); h != q {
				what = append(what, fmt.Sprintf("%s is %#x at the end, in QEMU %#x", stateName(i), h, q))
			}
		}
		if len(what) > 0 {
			d.what = strings.Join(what, "; ")
			return d
		}
	}
	for at := b.from; at < b.to; at += 8 {
		if h, q := word(hart, at), word(qemu, at); h != q {
			n := int(at-b.from) / streamMemory
			cs := b.cases[n*b.casesEach()]
			return &differs{cs.stream, b.casesEach() - 1, fmt.Sprintf("memory at %#x is %#x, in QEMU %#x", at, h, q)}
		}
	}
	return errors.New("results of different length")
}

func (b *batch) casesEach() int {
	if b.onlyStream >= 0 {
		return b.onlyCases
	}
	return b.shape.cases
}

func stateName(i int) string {
	switch {
	case i < 32:
		return fmt.Sprintf("x%d", i)
	case i < 64:
		return fmt.Sprintf("f%d", i-32)
	}
	return "fcsr"
}

// narrow finds the first item of a stream that makes a difference, and describes it.
func narrow(t testing.TB, path string, b *batch) string {
	var d *differs
	if err := compareUser(t, path, b); !errors.As(err, &d) {
		return fmt.Sprintf("not narrowed down: %v", err)
	}
	sh := b.shape
	sh.onlyStream, sh.onlyCases = d.stream, d.index+1
	for sh.items = 1; sh.items <= b.items; sh.items++ {
		one := makeBatch(sh)
		err := compareUser(t, path, one)
		if err == nil {
			continue
		}
		before := sh
		before.items--
		return fmt.Sprintf("item %d makes the difference: %v\n%s", sh.items-1, err, one.listing(makeBatch(before)))
	}
	return fmt.Sprintf("stream %d alone, with its first %d cases, makes no difference", d.stream, d.index+1)
}

// listing is the instructions of the last item, and the registers before it in the last
// case, as the hart has them.
func (b *batch) listing(before *batch) string {
	var out strings.Builder
	from := before.code.Address("records") // the code ends with a jump to finish there
	u := newUserHart(before, false)
	if err := u.run(nil); err == nil {
		result, cs := u.result(), before.cases[len(before.cases)-1]
		for i := range stateWords {
			fmt.Fprintf(&out, "%5s %016x", stateName(i), binary.LittleEndian.Uint64(result[cs.state-before.from+uint64(8*i):]))
			if i%4 == 3 || i == stateWords-1 {
				out.WriteByte('\n')
			}
		}
	}
	jump := asm.New(0)
	jump.Jump(scratch, before.code.Address("finish"))
	for at := from - uint64(len(jump.Bytes)) - 8; at < b.code.Address("records"); at += 2 {
		if text := b.code.Texts[at]; text != "" {
			fmt.Fprintf(&out, "%#x  %s\n", at, text)
		}
	}
	return out.String()
}
