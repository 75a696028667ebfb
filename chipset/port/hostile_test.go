package port

import (
	"errors"
	"math"
	"math/rand/v2"
	"testing"

	"ft/chipset/lockstep"
)

// What a module can write, and what the chipset has to say to it.
func TestWhatAModuleMayNotWriteIsRefused(t *testing.T) {
	for _, tc := range []struct {
		name  string
		write func(m memory)
	}{
		{"records from the future", func(m memory) { m.store(offRecordHead, RingBytes+8) }},
		{"records taken back", func(m memory) { m.store(offRecordHead, math.MaxUint64-7) }},
		{"half a word", func(m memory) { m.store(offRecordHead, 20) }},
		{"less than a message", func(m memory) { m.store(offRecordHead, 8) }},
		{"a message beyond the head", func(m memory) { m.records().setLength(0, 100); m.store(offRecordHead, 64) }},
		{"a message above the bound", func(m memory) {
			m.records().setLength(0, lockstep.MessageMax+1)
			m.store(offRecordHead, RingBytes)
		}},
		{"a length that overflows", func(m memory) { m.records().setLength(0, math.MaxUint64-15); m.store(offRecordHead, RingBytes) }},
		{"a negative length", func(m memory) { m.records().setLength(0, 1<<63); m.store(offRecordHead, RingBytes) }},
		{"two lengths", func(m memory) {
			m.records().setLength(0, 8)
			m.records().setLength(16, 9)
			m.store(offRecordHead, 24)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, m := ends(t)
			tc.write(m.mem)
			for range 2 { // for good
				if _, err := c.Receive(nil); !errors.Is(err, ErrBroken) {
					t.Errorf("received with %v", err)
				}
			}
		})
	}
	for name, taken := range map[string]uint64{"more than was sent": 72, "half a word": 4, "before the ring": math.MaxUint64 - 7, "given back": 0} {
		t.Run("commands taken: "+name, func(t *testing.T) {
			c, m := ends(t)
			for range 2 {
				if err := c.Send(make([]byte, 8), nil); err != nil {
					t.Fatal(err)
				}
				if _, err := m.Receive(); err != nil {
					t.Fatal(err)
				}
			}
			if err := c.Send(nil, nil); err != nil {
				t.Fatal(err)
			}
			m.mem.store(offCommandTail, taken)
			if err := c.Send(make([]byte, 100), nil); !errors.Is(err, ErrBroken) {
				t.Errorf("sent with %v", err)
			}
		})
	}
}

// Whatever is written to any word, the chipset's calls return, with a message in bounds or
// an error, and never more messages than the ring can hold.
func TestRandomWordsInAPort(t *testing.T) {
	const seed = 7
	r := rand.New(rand.NewPCG(seed, 1))
	words := []uint64{0, 1, 7, 8, 16, 24, 64, 4096, RingBytes - 8, RingBytes, RingBytes + 8, lockstep.MessageMax, 1 << 31, 1 << 32, 1 << 63, math.MaxUint64, math.MaxUint64 - 7, math.MaxUint64 - 15}
	for round := range 150 {
		c, m := ends(t)
		for i := range r.IntN(20) {
			command := lockstep.Command{Verb: lockstep.Run, Number: uint64(i + 1)}
			if err := c.Send(command.Append(nil), nil); err != nil {
				t.Fatal(err)
			}
			if err := m.Send(make([]byte, r.IntN(64)), false); err != nil {
				t.Fatal(err)
			}
		}
		for range 1 + r.IntN(8) {
			at := r.IntN(512/8) * 8
			switch r.IntN(3) {
			case 0:
				at = headerBytes + r.IntN(128)*8
			case 1:
				at = headerBytes + RingBytes + r.IntN(128)*8
			}
			v := words[r.IntN(len(words))]
			if r.IntN(4) == 0 {
				v = r.Uint64()
			}
			m.mem.store(at, v)
		}
		c.Tail(r.Uint64N(25))
		c.Last()
		c.Progress()
		_, _ = c.Config()
		_ = c.Send(make([]byte, 100), nil)
		c.Close()
		n := 0
		for {
			message, err := c.Receive(nil)
			if err != nil {
				break
			}
			if n++; len(message) > lockstep.MessageMax || n > RingBytes/overhead {
				t.Fatalf("seed %d, round %d: message %d of %d bytes", seed, round, n, len(message))
			}
		}
		memfd, bell := c.Descriptors()
		if next, err := Adopt(duplicate(t, memfd), duplicate(t, bell)); err == nil {
			next.Tail(r.Uint64N(25))
			next.Release()
		}
		c.Release()
	}
}
