package metadata

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func testWitnessValue() Witness {
	return Witness{
		Mirror: UUID{0xaa, 15: 1}, Generation: Generation{7, UUID{0xbb}}, Survivor: 1,
		Resources: [2]string{"/dev/loop0", "/dev/disk/by-id/a b"}, Time: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC),
	}
}

func TestWitnessRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := Witness{
			Mirror: drawUUID(t, "mirror"), Generation: Generation{rapid.Uint64().Draw(t, "counter"), drawUUID(t, "id")},
			Survivor:  rapid.Int8Range(-1, 1).Draw(t, "survivor"),
			Resources: [2]string{rapid.String().Draw(t, "resource"), "bytes \xff\xfe"},
			Time:      time.Unix(rapid.Int64Range(0, 1<<35).Draw(t, "s"), rapid.Int64Range(0, 999999999).Draw(t, "ns")).UTC(),
		}
		b, err := EncodeWitness(&w)
		if err != nil {
			t.Fatal(err)
		}
		got, err := DecodeWitness(b)
		if err != nil {
			t.Fatalf("%v\n%s", err, b)
		}
		w.Resources[0] = strings.ToValidUTF8(w.Resources[0], "�")
		w.Resources[1] = "bytes �"
		if d := cmp.Diff(w, got); d != "" {
			t.Fatal(d)
		}
	})
}

// A file cut anywhere, or with any byte changed, is refused or says the same.
func TestWitnessDamageIsFound(t *testing.T) {
	w := testWitnessValue()
	b, err := EncodeWitness(&w)
	if err != nil {
		t.Fatal(err)
	}
	end := len(bytes.TrimSpace(b))
	for i := range end {
		if got, err := DecodeWitness(b[:i]); !errors.Is(err, ErrDamaged) {
			t.Fatalf("cut at %d: %+v, %v", i, got, err)
		}
		for _, x := range []byte{1, 2, 0x20, 0x80} {
			c := bytes.Clone(b)
			c[i] ^= x
			got, err := DecodeWitness(c)
			if err == nil && !cmp.Equal(got, w) {
				t.Fatalf("byte %d changed:\n%s\nis taken for %+v", i, c, got)
			}
			if err != nil && !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrVersion) {
				t.Fatal(err)
			}
		}
	}
	if _, err := DecodeWitness(append(bytes.Clone(b), b...)); !errors.Is(err, ErrDamaged) {
		t.Errorf("two in one file: %v", err)
	}
	if _, err := DecodeWitness(bytes.Replace(b, []byte(`"format": 1`), []byte(`"format": 2`), 1)); !errors.Is(err, ErrVersion) {
		t.Errorf("a later format: %v", err)
	}
}

func TestWitnessThatCannotBe(t *testing.T) {
	for _, change := range []func(w *Witness){
		func(w *Witness) { w.Mirror = UUID{} },
		func(w *Witness) { w.Generation = Generation{} },
		func(w *Witness) { w.Survivor = 2 },
		func(w *Witness) { w.Survivor = -2 },
	} {
		w := testWitnessValue()
		change(&w)
		if b, err := EncodeWitness(&w); err == nil {
			t.Errorf("written: %s", b)
		}
	}
}

func TestWitnessStore(t *testing.T) {
	dir := t.TempDir()
	s := NewWitnessStore(dir, "disk0")
	if w, err := s.Load(); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("%+v, %v", w, err)
	}
	one, two := testWitnessValue(), testWitnessValue()
	two.Generation.Counter, two.Survivor = 8, -1
	for _, w := range []Witness{one, two} {
		if err := s.Save(&w); err != nil {
			t.Fatal(err)
		}
		got, err := s.Load()
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(w, *got); d != "" {
			t.Fatal(d)
		}
	}
	onlyWitness(t, dir)

	// Killed while it wrote the next one: the last stands, and nothing is left over.
	if err := os.WriteFile(filepath.Join(dir, "disk0.witness.new"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Load(); err != nil || !cmp.Equal(*got, two) {
		t.Fatalf("%+v, %v", got, err)
	}
	onlyWitness(t, dir)

	// Another disk's is another file.
	if _, err := NewWitnessStore(dir, "disk1").Load(); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func onlyWitness(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 || entries[0].Name() != "disk0.witness" {
		t.Fatalf("the directory holds %v", entries)
	}
}

func TestWitnessStoreRefusesDamage(t *testing.T) {
	w := testWitnessValue()
	good, err := EncodeWitness(&w)
	if err != nil {
		t.Fatal(err)
	}
	for what, b := range map[string][]byte{
		"empty": {}, "zeroes": make([]byte, 4096), "changed": bytes.Replace(good, []byte(`"survivor": 1`), []byte(`"survivor": 0`), 1),
		"huge": append(good, bytes.Repeat([]byte(" "), witnessBytesMax)...),
	} {
		s := NewWitnessStore(t.TempDir(), "disk0")
		if err := os.WriteFile(s.Path(), b, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := s.Load()
		if !errors.Is(err, ErrDamaged) || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %+v, %v", what, got, err)
		} else if !strings.Contains(err.Error(), s.Path()) || !strings.Contains(err.Error(), "move the file away") {
			t.Errorf("%s: no way out in %q", what, err)
		}
		if after, err := os.ReadFile(s.Path()); err != nil || !bytes.Equal(after, b) {
			t.Errorf("%s: the file was touched: %v", what, err)
		}
	}
}

// A witness that cannot be written says so, leaves the old one, and nothing besides.
func TestWitnessStoreSaveFails(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	s := NewWitnessStore(dir, "disk0")
	w := testWitnessValue()
	if err := s.Save(&w); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "disk0") {
		t.Fatalf("no directory: %v", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	// A directory in the witness's place: the rename fails after all was written.
	if err := os.MkdirAll(filepath.Join(s.Path(), "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.Save(&w); err == nil {
		t.Fatal("saved over a directory")
	}
	onlyWitness(t, dir)
	if _, err := s.Load(); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a directory is taken for no witness: %v", err)
	}
}

func FuzzDecodeWitness(f *testing.F) {
	w := testWitnessValue()
	b, err := EncodeWitness(&w)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte("{}"))
	f.Add([]byte("null"))
	f.Fuzz(func(t *testing.T, b []byte) {
		w, err := DecodeWitness(b)
		if err != nil {
			return
		}
		again, err := EncodeWitness(&w)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := DecodeWitness(again); err != nil || !cmp.Equal(got, w) {
			t.Fatalf("%+v became %+v (%v)", w, got, err)
		}
	})
}
