package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// write gathers sources and reads the bundle back.
func write(t *testing.T, sources ...Source) (files map[string]string, items []Item) {
	t.Helper()
	var b bytes.Buffer
	if err := Write(context.Background(), &b, "b", time.Now(), sources, func(it Item) { items = append(items, it) }); err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(&b)
	if err != nil {
		t.Fatal(err)
	}
	files = map[string]string{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			return files, items
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files[h.Name] = string(content)
	}
}

func TestWhatFailsIsNamedAndTheRestIsThere(t *testing.T) {
	files, items := write(t,
		Source{"broken", func(context.Context) ([]byte, error) { return nil, errors.New("it is broken") }},
		Source{"half", func(context.Context) ([]byte, error) { return []byte("half"), errors.New("the rest is gone") }},
		Source{"../../etc/passwd", func(context.Context) ([]byte, error) { return []byte("whole"), nil }})
	if files["b/half"] != "half" || files["b/etc/passwd"] != "whole" {
		t.Errorf("%v", files)
	}
	if _, there := files["b/broken"]; there || len(items) != 3 || items[0].Error != "it is broken" {
		t.Errorf("%v", items)
	}
	for _, want := range []string{"it is broken", "the rest is gone", "half"} {
		if !strings.Contains(files["b/"+ManifestName], want) {
			t.Errorf("the manifest does not say %q:\n%s", want, files["b/"+ManifestName])
		}
	}
}

// What is broken hangs, and a pipe without a writer would wait for ever.
func TestWhatIsNoFileIsNotWaitedFor(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	sources := append(Tree("dir", dir, 10), File("fifo", filepath.Join(dir, "fifo")))
	files, items := write(t, sources...)
	if files["b/dir/file"] != "text" || !strings.Contains(files["b/dir/listing.txt"], "fifo") {
		t.Errorf("%v", files)
	}
	if last := items[len(items)-1]; !strings.Contains(last.Error, "is no file") {
		t.Errorf("%+v", last)
	}
}

func TestOfALongFileTheEndIsTaken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "long")
	f, err := os.Create(path)
	if err == nil {
		_, err = f.WriteAt([]byte("the end"), sourceBytes+100)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	files, items := write(t, File("long", path))
	if got := files["b/long"]; len(got) != sourceBytes || !strings.HasSuffix(got, "the end") || !strings.Contains(items[0].Error, "this is its end") {
		t.Errorf("%d bytes, %q", len(got), items[0].Error)
	}
}

// A command that prints without end, or does not come to one, costs its share and no more.
func TestACommandHasLimits(t *testing.T) {
	defer func(d time.Duration) { sourceMax = d }(sourceMax)
	sourceMax = 5 * time.Second // for the command to print more than its share
	began := time.Now()
	files, items := write(t, Command("endless", "sh", "-c", "yes | head -c 40000000; sleep 1000"), Command("none", "no-such-command"))
	if got := files["b/endless"]; len(got) < sourceBytes || len(got) > sourceBytes+100 || items[0].Error == "" {
		t.Errorf("%d bytes, %q", len(got), items[0].Error)
	}
	if !strings.Contains(files["b/none"], "is not installed") || items[1].Error != "" {
		t.Errorf("%q, %q", files["b/none"], items[1].Error)
	}
	if took := time.Since(began); took < sourceMax {
		t.Errorf("the command that does not end was given %v", took)
	}
}
