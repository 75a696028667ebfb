package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// store keeps files. A file is there whole or not at all: it is written beside the others,
// synced, moved into place, and the directory is synced before it is acknowledged. So a
// file that is open never changes.
type store struct {
	files    string // directory of what is there
	incoming string // directory of what is being written; emptied at the start

	mu sync.Mutex // held over changes of files, and over a look at all of them
}

const (
	nameMax  = 128
	filesMax = 4096 // a sum has all of them open at once
)

var (
	errName = fmt.Errorf("a name is of 1 to %d letters, digits, and . _ -, and begins with no dot", nameMax)
	errFull = fmt.Errorf("there are %d files, which is the most", filesMax)
)

// file is one that is there.
type file struct {
	Name string `json:"name"`
	Size int64  `json:"size"`
	Sum  string `json:"sha256"`
}

func openStore(dir string) (*store, error) {
	s := &store{files: filepath.Join(dir, "files"), incoming: filepath.Join(dir, "incoming")}
	if err := os.RemoveAll(s.incoming); err != nil { // what a crash has cut off
		return nil, fmt.Errorf("open the store: %w", err)
	}
	for _, d := range []string{s.files, s.incoming} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, fmt.Errorf("open the store: %w", err)
		}
	}
	if err := syncDir(dir); err != nil {
		return nil, fmt.Errorf("open the store: %w", err)
	}
	return s, nil
}

// path is a file's; nothing outside the directory has one.
func (s *store) path(name string) (string, error) {
	odd := func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r))
	}
	if name == "" || len(name) > nameMax || name[0] == '.' || strings.ContainsFunc(name, odd) {
		return "", errName
	}
	return filepath.Join(s.files, name), nil
}

// put stores a file and returns when it is stable. made says that the name was free.
func (s *store) put(name string, from io.Reader) (f file, made bool, err error) {
	path, err := s.path(name)
	if err != nil {
		return file{}, false, err
	}
	temp, err := os.CreateTemp(s.incoming, "")
	if err != nil {
		return file{}, false, err
	}
	defer os.Remove(temp.Name()) // when it has not been moved
	sum := sha256.New()
	size, err := io.Copy(temp, io.TeeReader(from, sum))
	if err == nil {
		err = temp.Sync()
	}
	if err := errors.Join(err, temp.Close()); err != nil {
		return file{}, false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err = os.Lstat(path)
	made = errors.Is(err, fs.ErrNotExist)
	if made {
		if all, err := os.ReadDir(s.files); err != nil || len(all) >= filesMax {
			return file{}, false, errors.Join(err, errFull)
		}
	}
	if err := os.Rename(temp.Name(), path); err != nil {
		return file{}, false, err
	}
	return file{name, size, hexSum(sum)}, made, syncDir(s.files)
}

// open gives a file's content as it is now, whatever becomes of its name.
func (s *store) open(name string) (*os.File, error) {
	path, err := s.path(name)
	if err != nil {
		return nil, err
	}
	return os.Open(path)
}

// remove removes a file and returns when that is stable.
func (s *store) remove(name string) error {
	path, err := s.path(name)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := os.Remove(path); err != nil {
		return err
	}
	return syncDir(s.files)
}

// sum reads all files as they were at one moment. The total is the SHA-256 of the lines
// "NAME SIZE SHA256\n", by name.
func (s *store) sum() (files []file, total string, err error) {
	open, err := s.openAll()
	defer func() {
		for _, f := range open {
			f.Close()
		}
	}()
	if err != nil {
		return nil, "", err
	}
	lines := sha256.New()
	for _, f := range open {
		content := sha256.New()
		size, err := io.Copy(content, f)
		if err != nil {
			return nil, "", err
		}
		files = append(files, file{filepath.Base(f.Name()), size, hexSum(content)})
		io.WriteString(lines, files[len(files)-1].line())
	}
	return files, hexSum(lines), nil
}

func (f file) line() string { return fmt.Sprintf("%s %d %s\n", f.Name, f.Size, f.Sum) }

func (s *store) openAll() (open []*os.File, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	entries, err := os.ReadDir(s.files)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	for _, e := range entries {
		f, err := os.Open(filepath.Join(s.files, e.Name()))
		if err != nil {
			return open, err
		}
		open = append(open, f)
	}
	return open, nil
}

func hexSum(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil)) }

// syncDir makes the names in a directory stable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
