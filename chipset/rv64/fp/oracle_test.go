package fp

import (
	"bufio"
	"encoding/binary"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// The oracles are other implementations that execute the same instructions: QEMU's riscv64
// (its arithmetic descends from Berkeley SoftFloat), and the host's own processor, which is
// silicon. Each is a C program in testdata that reads cases and writes answers.

type oracle struct {
	source   string
	compiler []string
	run      []string
	has      func(op *operation, rm Rounding) bool
}

var oracles = map[string]oracle{
	"qemu-riscv64": {
		source:   "testdata/riscv.c",
		compiler: []string{"riscv64-linux-gnu-gcc", "-O1", "-static"},
		run:      []string{"qemu-riscv64"},
		has:      func(*operation, Rounding) bool { return true },
	},
	"host": {
		source:   "testdata/amd64.c",
		compiler: []string{"gcc", "-O1", "-frounding-math"},
		has: func(op *operation, rm Rounding) bool {
			switch op.code &^ 32 {
			case 12, 13, 14, 16, 18, 20, 22:
				return false
			}
			return rm != RMM
		},
	},
}

// start builds the oracle and returns a function that asks it, or skips where the tools for
// it are missing: the references of exact_test.go, which need none, are never skipped.
func (o oracle) start(t *testing.T) (ask func([]question)) {
	t.Helper()
	for _, tool := range append(o.compiler[:1:1], o.run...) {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("no %s here (apt-get install gcc libc6-dev qemu-user gcc-riscv64-linux-gnu libc6-dev-riscv64-cross): %v", tool, err)
		}
	}
	program := filepath.Join(t.TempDir(), "oracle")
	build := exec.Command(o.compiler[0], append(o.compiler[1:], "-o", program, o.source)...)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", o.source, err, out)
	}
	argv := append(o.run[:len(o.run):len(o.run)], program)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %v: %v", argv, err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v: %v", argv, err)
		}
	})
	answers := bufio.NewReaderSize(out, 1<<16)
	return func(qs []question) {
		request := make([]byte, 0, 32*len(qs))
		for i := range qs {
			q := &qs[i]
			request = binary.LittleEndian.AppendUint32(request, q.op.code)
			request = binary.LittleEndian.AppendUint32(request, uint32(q.rm))
			for _, v := range []uint64{q.a, q.b, q.c} {
				request = binary.LittleEndian.AppendUint64(request, v)
			}
		}
		sent := make(chan error, 1)
		go func() {
			_, err := in.Write(request)
			sent <- err
		}()
		answer := make([]byte, 16*len(qs))
		if _, err := io.ReadFull(answers, answer); err != nil {
			t.Fatalf("answers of %v: %v", argv, err)
		}
		if err := <-sent; err != nil {
			t.Fatalf("cases for %v: %v", argv, err)
		}
		for i := range qs {
			qs[i].result = binary.LittleEndian.Uint64(answer[16*i:])
			qs[i].flags = Flags(binary.LittleEndian.Uint64(answer[16*i+8:]))
		}
	}
}

// question is a case and an oracle's answer.
type question struct {
	op      *operation
	rm      Rounding
	a, b, c uint64
	result  uint64
	flags   Flags
}

// inRegister is a result as the hart puts it into an integer register: words are
// sign-extended, the unsigned ones too.
func (op *operation) inRegister(v uint64) uint64 {
	if op.gives == i32 || op.gives == u32 {
		return uint64(int32(v))
	}
	return v
}

func TestOraclesAgree(t *testing.T) {
	for name, o := range oracles {
		t.Run(name, func(t *testing.T) {
			if name == "host" && runtime.GOARCH != "amd64" {
				t.Skipf("%s is written for amd64, this is %s", o.source, runtime.GOARCH)
			}
			if cpu, _ := os.ReadFile("/proc/cpuinfo"); name == "host" && !strings.Contains(string(cpu), " fma ") {
				t.Skip("this processor has no fused multiply-add")
			}
			o.compare(t)
		})
	}
}

// compare asks about TestFloat's level 1 in every mode (of the combinations of three
// operands a share, drawn anew each time) and about random operands.
func (o oracle) compare(t *testing.T) {
	ask := o.start(t)
	r := newRand(t)
	const batch = 1 << 16 // also in flight: four pipes full
	pending := make([]question, 0, batch)
	cases, failures := 0, 0
	flush := func() {
		ask(pending)
		for i := range pending {
			q := &pending[i]
			got, flags := q.op.do(q.a, q.b, q.c, q.rm)
			if got = q.op.inRegister(got); got != q.result || flags != q.flags {
				q.op.differ(t, t.Name(), q.a, q.b, q.c, q.rm, got, flags, q.result, q.flags)
				if failures++; failures > 20 {
					t.FailNow()
				}
			}
		}
		cases += len(pending)
		pending = pending[:0]
	}
	for i := range operations {
		op := &operations[i]
		add := func(a, b, c uint64, rm Rounding) {
			if !o.has(op, rm) {
				return
			}
			if pending = append(pending, question{op: op, rm: rm, a: a, b: b, c: c}); len(pending) == batch {
				flush()
			}
		}
		share := 0
		op.systematic(func(a, b, c uint64) {
			if op.arity == 3 {
				if share++; *fullFlag || r.IntN(16) == 0 {
					add(a, b, c, modes[share%len(modes)])
				}
				return
			}
			for _, rm := range modes {
				add(a, b, c, rm)
			}
		})
		for range *casesFlag {
			a, b, c := op.operands(r)
			for _, rm := range modes {
				add(a, b, c, rm)
			}
		}
	}
	flush()
	t.Logf("%d cases, seed %d", cases, *seedFlag)
}
