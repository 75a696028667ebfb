package metadata

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// The witness is one small JSON file a mirror, outside the legs. It is replaced whole:
// written beside, synced, renamed, and the directory synced, so that at any crash it is
// the old one or the new one. A checksum finds what a file system or an editor did to
// it since; a damaged one is refused, never guessed at, because taking it for absent
// could let a leg serve that is behind.

const (
	witnessFormat   = 1
	witnessBytesMax = 64 << 10
	witnessSuffix   = ".witness"
	witnessTemp     = ".witness.new" // one fixed name: it cannot pile up
)

// witnessFile is the stored form.
type witnessFile struct {
	Format     int               `json:"format"`
	Mirror     UUID              `json:"mirror"`
	Generation witnessGeneration `json:"generation"`
	Survivor   int8              `json:"survivor"`
	Resources  [2]string         `json:"resources"`
	Time       string            `json:"time"`
	// CRC32C of this object as encoding/json writes it, this field being "".
	CRC32C string `json:"crc32c"`
}

type witnessGeneration struct {
	Counter uint64 `json:"counter"`
	ID      UUID   `json:"id"`
}

// WitnessStore keeps the witness of one mirror in a directory. Its methods may block
// for as long as the file system does, and are not to be called at the same time.
type WitnessStore struct {
	dir, name string
}

// NewWitnessStore is the witness of the mirror called name in the directory dir. It
// touches nothing yet.
func NewWitnessStore(dir, name string) *WitnessStore { return &WitnessStore{dir: dir, name: name} }

// Path is where the witness is kept.
func (s *WitnessStore) Path() string { return filepath.Join(s.dir, s.name+witnessSuffix) }

func (s *WitnessStore) temp() string { return filepath.Join(s.dir, s.name+witnessTemp) }

// EncodeWitness gives the stored form.
func EncodeWitness(w *Witness) ([]byte, error) {
	f := witnessFile{
		Format: witnessFormat, Mirror: w.Mirror, Survivor: w.Survivor,
		Generation: witnessGeneration{w.Generation.Counter, w.Generation.ID},
	}
	for i, r := range w.Resources {
		f.Resources[i] = strings.ToValidUTF8(r, "�") // as JSON can hold it
	}
	if !w.Time.IsZero() {
		f.Time = w.Time.UTC().Format(witnessTime)
	}
	if what := w.implausible(); what != "" {
		return nil, fmt.Errorf("a witness with %s cannot be written", what)
	}
	var err error
	if f.CRC32C, err = f.checksum(); err != nil {
		return nil, fmt.Errorf("encoding the witness: %w", err)
	}
	b, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding the witness: %w", err)
	}
	return append(b, '\n'), nil
}

// DecodeWitness is the inverse of EncodeWitness. Its errors wrap ErrDamaged or ErrVersion.
func DecodeWitness(b []byte) (Witness, error) {
	var f witnessFile
	d := json.NewDecoder(bytes.NewReader(b))
	if err := d.Decode(&f); err != nil {
		return Witness{}, fmt.Errorf("%w: not a witness: %w", ErrDamaged, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Witness{}, fmt.Errorf("%w: more after the end of the witness", ErrDamaged)
	}
	if f.Format > witnessFormat {
		return Witness{}, fmt.Errorf("%w: witness of format %d, this program reads %d: use the version of ft that wrote it", ErrVersion, f.Format, witnessFormat)
	}
	if sum, err := f.checksum(); err != nil || sum != f.CRC32C {
		return Witness{}, fmt.Errorf("%w: checksum of the witness is %s, stored is %q", ErrDamaged, sum, f.CRC32C)
	}
	w := Witness{
		Mirror: f.Mirror, Survivor: f.Survivor, Resources: f.Resources,
		Generation: Generation{Counter: f.Generation.Counter, ID: f.Generation.ID},
	}
	if f.Time != "" {
		t, err := time.Parse(witnessTime, f.Time)
		if err != nil {
			return Witness{}, fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		w.Time = t.UTC()
	}
	if what := w.implausible(); what != "" || f.Format != witnessFormat {
		return Witness{}, fmt.Errorf("%w: witness of format %d with %s", ErrDamaged, f.Format, what)
	}
	return w, nil
}

// implausible says what no witness can be, or "".
func (w *Witness) implausible() string {
	switch {
	case w.Mirror.IsZero():
		return "no mirror"
	case w.Generation.IsZero():
		return "no generation"
	case w.Survivor < -1 || w.Survivor > 1:
		return fmt.Sprintf("survivor %d", w.Survivor)
	}
	return ""
}

const witnessTime = time.RFC3339Nano

func (f witnessFile) checksum() (string, error) {
	f.CRC32C = ""
	b, err := json.Marshal(f)
	return fmt.Sprintf("%08x", crc32.Checksum(b, castagnoli)), err
}

// Load reads the witness and removes what an interrupted Save left behind. The error is
// fs.ErrNotExist when there is none, ErrDamaged when it cannot be trusted.
func (s *WitnessStore) Load() (*Witness, error) {
	if err := os.Remove(s.temp()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove the unfinished witness: %w", err)
	}
	f, err := os.Open(s.Path())
	if err != nil {
		return nil, fmt.Errorf("witness of %s: %w", s.name, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, witnessBytesMax+1))
	if err != nil {
		return nil, fmt.Errorf("witness of %s: %w", s.name, err)
	}
	var w Witness
	if len(b) > witnessBytesMax {
		err = fmt.Errorf("%w: it is larger than %d bytes", ErrDamaged, witnessBytesMax)
	} else {
		w, err = DecodeWitness(b)
	}
	if err != nil {
		return nil, fmt.Errorf("the witness of %s, %s, cannot be trusted: %w. Put a good copy back; or, when both legs of %s are present, move the file away and start again",
			s.name, s.Path(), err, s.name)
	}
	return &w, nil
}

// Save stores the witness durably: when it returns nil, it is what Load finds after any
// crash. When it fails, the one before or this one is found, and this one must not be
// relied upon.
func (s *WitnessStore) Save(w *Witness) error {
	if err := s.save(w); err != nil {
		return fmt.Errorf("write the witness of %s: %w", s.name, err)
	}
	return nil
}

func (s *WitnessStore) save(w *Witness) error {
	b, err := EncodeWitness(w)
	if err != nil {
		return err
	}
	return replaceFile(s.Path(), s.temp(), b)
}

// ReplaceFile makes a file hold b, durably and whole: after a crash it is as it was, or as
// it is to be.
func ReplaceFile(path string, b []byte) error { return replaceFile(path, path+".new", b) }

func replaceFile(path, temp string, b []byte) error {
	err := writeSynced(temp, b)
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		os.Remove(temp)
		return err
	}
	return syncDir(filepath.Dir(path))
}

func writeSynced(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
