package oracle

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"ft/chipset/rv64/oracle/asm"
)

var (
	seeds = flag.Uint64("oracle.seeds", 12, "how many seeds are tried")
	seed0 = flag.Uint64("oracle.seed0", 1, "the first of them")
)

// usual is the shape of a batch.
func usual(seed uint64) shape {
	return shape{seed: seed, streams: 60, cases: 24, items: 60, onlyStream: -1}
}

// TestUserStreams: the hart and qemu-riscv64 do the same with random instructions.
func TestUserStreams(t *testing.T) {
	path := qemu(t, "qemu-riscv64", "qemu-user")
	random := 0
	for seed := *seed0; seed < *seed0+*seeds; seed++ {
		b := makeBatch(usual(seed))
		if err := compareUser(t, path, b); err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, narrow(t, path, b))
		}
		random += b.random
	}
	t.Logf("%d seeds, %d random instructions at most, each on the hart three times", *seeds, random)
}

// compareUser runs a batch on all sides.
func compareUser(t testing.TB, path string, b *batch) error {
	want, err := qemuUser(t, path, b)
	if err != nil {
		return err
	}
	var prints []uint64
	for _, paged := range []bool{false, true, true} {
		var cut *rand.Rand
		if len(prints) == 1 {
			cut = rand.New(rand.NewPCG(b.seed, 5<<32))
		}
		u := newUserHart(b, paged)
		if err := u.run(cut); err != nil {
			return err
		}
		if got := u.result(); !bytes.Equal(got, want) {
			return b.difference(got, want)
		}
		prints = append(prints, u.Fingerprint())
	}
	if prints[1] != prints[2] {
		return fmt.Errorf("the fingerprint of a run in pieces is %016x, of one in one piece %016x", prints[1], prints[2])
	}
	return nil
}

// TestTheOracleFindsAMistake: one that turns up in few instructions is found, and traced to
// one of them.
func TestTheOracleFindsAMistake(t *testing.T) {
	path := qemu(t, "qemu-riscv64", "qemu-user")
	sh := shape{seed: 1, streams: 20, cases: 8, items: 25, onlyStream: -1}
	sh.spoil = func(c *asm.Code) []byte {
		image := bytes.Clone(c.Bytes)
		for at, text := range c.Texts {
			if strings.HasPrefix(text, "mulhu ") {
				image[at-base+1] ^= 0x20 // to mulh
			}
		}
		return image
	}
	b := makeBatch(sh)
	err := compareUser(t, path, b)
	if err == nil {
		t.Fatal("mulhu that multiplies signed numbers was not noticed")
	}
	report := narrow(t, path, b)
	if _, listing, _ := strings.Cut(report, "fcsr"); !strings.Contains(listing, "mulhu ") || strings.Count(listing, "\n") > 12 {
		t.Errorf("the mistake is in mulhu; the report is\n%v\n%s", err, report)
	}
}
