package nic

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ft/drivers"
)

// changes counts the steps that change a NIC.
func changes(b *Book) *[]string {
	var steps []string
	b.before = func(what string) { steps = append(steps, what) }
	return &steps
}

func TestPreparingAgainChangesNothing(t *testing.T) {
	newNet(t)
	before := settled(t, "eth0")
	path := filepath.Join(t.TempDir(), "nics")
	b := open(t, path)
	first := changes(b)
	prepare(t, b, 0, "eth0", want())
	if len(*first) < 5 {
		t.Errorf("the first time it changed only %q", *first)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	// A later process has only the file.
	for _, b := range []*Book{b, open(t, path)} {
		again := changes(b)
		prepare(t, b, 0, "eth0", want())
		if len(*again) > 0 {
			t.Errorf("again: it changed %q", *again)
		}
	}
	if after, err := os.Stat(path); err != nil || !os.SameFile(info, after) {
		t.Errorf("the book was written again without need (%v)", err)
	}
	b = open(t, path)
	other := want()
	other.MTU = 1450
	prepare(t, b, 0, "eth0", other)
	prepare(t, open(t, path), 0, "eth0", want())
	restore(t, open(t, path), 0)
	returnsTo(t, "eth0", before)
	if left, err := os.ReadFile(path); err != nil || strings.Contains(string(left), "eth0") {
		t.Errorf("the book still knows a NIC that was put back: %s, %v", left, err)
	}
}

type crash struct{}

// crashing does something with a book that ends at the nth change, as in a crash. It says
// whether it came that far.
func crashing(t *testing.T, path string, nth int, do func(b *Book) error) (crashed bool) {
	t.Helper()
	b := open(t, path)
	steps := 0
	b.before = func(string) {
		if steps++; steps == nth {
			panic(crash{})
		}
	}
	defer func() {
		if r := recover(); r != nil {
			if _, ours := r.(crash); !ours {
				panic(r)
			}
			crashed = true
		}
	}()
	if err := do(b); err != nil {
		t.Fatal(err)
	}
	return false
}

// Whatever process dies at whatever change, the next one goes on, and in the end the NIC
// is what it was.
func TestCrashAtEveryChange(t *testing.T) {
	newNet(t)
	run(t, "ip link set eth0 down mtu 1600")
	before := state(t, "eth0")
	preparing := func(mtu int) func(b *Book) error {
		return func(b *Book) error {
			w := want()
			w.MTU = mtu
			_, err := b.Prepare(0, named(t, "eth0"), w)
			return err
		}
	}
	restoring := func(b *Book) error { return b.Restore(0) }

	ends := 0
	for nth := 1; ; nth++ {
		path := filepath.Join(t.TempDir(), "nics")
		crashed := crashing(t, path, nth, preparing(1400))
		switch nth % 3 {
		case 0: // put back at once
		case 1: // gone on with
			crashing(t, path, 0, preparing(1400))
		case 2: // gone on with to something else, and crashed in that too
			crashing(t, path, 1, preparing(1450))
			crashing(t, path, 0, preparing(1400))
		}
		restore(t, open(t, path), 0)
		returnsTo(t, "eth0", before)
		if !crashed {
			break
		}
		ends++
	}
	if ends < 5 {
		t.Errorf("preparing crashed at %d changes only", ends)
	}
	for nth := 1; ; nth++ {
		path := filepath.Join(t.TempDir(), "nics")
		crashing(t, path, 0, preparing(1400))
		crashed := crashing(t, path, nth, restoring)
		if nth%2 == 0 {
			crashing(t, path, 0, preparing(1450))
		}
		restore(t, open(t, path), 0)
		returnsTo(t, "eth0", before)
		if !crashed {
			if nth < 6 {
				t.Errorf("putting back crashed at %d changes only", nth-1)
			}
			return
		}
	}
}

// An interface index means nothing in another namespace, or in another boot.
func TestABookOfAnotherPlaceOrTime(t *testing.T) {
	newNet(t)
	for what, elsewhere := range map[string]func(b *Book){
		"another namespace": func(b *Book) { b.netns++ },
		"another boot":      func(b *Book) { b.boot = "00000000-0000-0000-0000-000000000000" },
	} {
		path := filepath.Join(t.TempDir(), "nics")
		there := open(t, path)
		elsewhere(there)
		prepare(t, there, 0, "eth0", want())
		run(t, "ip link set eth0 mtu 1400")
		restore(t, open(t, path), 0)
		if mtu := named(t, "eth0").MTU; mtu != 1400 {
			t.Errorf("%s: the MTU was put back to %d", what, mtu)
		}
		prepare(t, open(t, path), 0, "eth0", Want{FaceMAC: faceMAC, MTU: 1300})
		restore(t, open(t, path), 0)
		if mtu := named(t, "eth0").MTU; mtu != 1400 {
			t.Errorf("%s: the original was taken for %d, want 1400", what, mtu)
		}
		run(t, "ip link set eth0 mtu 1500")
	}
}

func TestABookThatCannotBeWrittenChangesNothing(t *testing.T) {
	newNet(t)
	before := settled(t, "eth0")
	b := open(t, filepath.Join(t.TempDir(), "missing", "nics"))
	if _, err := b.Prepare(0, named(t, "eth0"), want()); err == nil || !strings.Contains(err.Error(), "write down") {
		t.Errorf("got %v", err)
	}
	returnsTo(t, "eth0", before)
	if _, err := b.Prepare(drivers.Whole, named(t, "eth0"), want()); err == nil {
		t.Error("both sides at once were prepared")
	}
}

func TestADamagedBookIsSetAside(t *testing.T) {
	newNet(t)
	for i, text := range []string{"", "{", `{"version":2,"boot":"","sides":[null,null]}`, `{"version":1}x`} {
		path := filepath.Join(t.TempDir(), "nics")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		b := open(t, path)
		notes, err := b.Prepare(0, named(t, "eth0"), want())
		if err != nil || len(notes) != 1 || !strings.Contains(notes[0], path) || !strings.Contains(notes[0], "ip link set") {
			t.Errorf("%d: notes %q, error %v", i, notes, err)
		}
		if aside, err := os.ReadFile(path + ".damaged"); err != nil || string(aside) != text {
			t.Errorf("%d: set aside is %q, %v", i, aside, err)
		}
		prepare(t, b, 0, "eth0", want()) // said once
		restore(t, b, 0)
	}
}

func FuzzBook(f *testing.F) {
	f.Add([]byte(`{"version":1,"boot":"b","sides":[{"netns":1,"index":2,"name":"eth0","perm_mac":"00:00:5e:00:53:10","changed":{"mtu":{"original":"1500","ours":["1400","1450"]}},"filters":["02:46:54:00:00:01"]},null]}`))
	f.Add([]byte(`{"version":1,"sides":[{"index":2,"changed":{"../../x":{"original":"1","ours":[]}}},null]}`))
	f.Add([]byte(`{"version":1,"sides":[null,null]}{}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := decodeBook(text)
		if err != nil {
			return
		}
		for _, r := range p.Sides {
			if r == nil {
				continue
			}
			if r.Index <= 0 {
				t.Fatalf("index %d", r.Index)
			}
			for name, c := range r.Changed {
				if _, known := knobNamed(name); !known {
					t.Fatalf("knob %q", name)
				}
				for _, v := range append(c.Ours, c.Original) {
					var n int32
					if _, err := fmt.Sscan(v, &n); err != nil {
						t.Fatalf("%s = %q: %v", name, v, err)
					}
				}
			}
		}
	})
}
