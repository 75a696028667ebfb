package cpu

import (
	"testing"

	"ft/chipset/firmware"
	"ft/chipset/lockstep"
	"ft/chipset/module"
	"ft/chipset/virtio"
)

const (
	ramSize = 4 << 20
	ramBase = firmware.RAMBase
)

// told is an executor and what it has answered, encoded.
type told struct {
	*Executor
	t       testing.TB
	number  uint64
	records []lockstep.Record
}

func newExecutor(t testing.TB, code []byte, options ...func(*Config)) *told {
	t.Helper()
	x := &told{t: t}
	cfg := Config{
		RAM: make([]byte, ramSize),
		Build: func(ram []byte, sink module.Sink, onFirstWrite func(page uint64)) (Machine, error) {
			m, err := module.New(module.Config{
				RAM: ram, Disk: &virtio.BlockConfig{Sectors: 2048, Serial: "test"}, Entropy: true, OnFirstWrite: onFirstWrite,
			}, sink)
			if err != nil {
				return nil, err
			}
			return m, m.Load(&firmware.Boot{Entry: ramBase, Segments: []firmware.Segment{{Addr: ramBase, Data: code}}})
		},
		Send: func(r *lockstep.Record) {
			c := *r
			c.Data = append([]byte(nil), r.Data...)
			c.Pages = append([]lockstep.Page(nil), r.Pages...)
			x.records = append(x.records, c)
		},
	}
	for _, o := range options {
		o(&cfg)
	}
	e, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	x.Executor = e
	return x
}

// do has a command done and returns the answers.
func (x *told) do(c lockstep.Command) []lockstep.Record {
	x.t.Helper()
	x.number++
	c.Number = x.number
	x.records = nil
	if err := x.Do(&c); err != nil {
		x.t.Fatal(err)
	}
	return x.records
}
