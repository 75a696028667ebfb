// Package bundle gathers what someone needs who was not there when a box went wrong: what ftd
// says, its event log and settings, the logs of its processes, and how the kernel sees it all.
//
//	sources (ftd's answers, files, commands) ─▶ one after the other, each with limits ─▶ tar.gz
//
// Invariants:
//   - It only reads, and nothing of the users' data: no leg, no guest's memory.
//   - Each source has a time limit and a size limit, for what is broken may well hang: one that
//     does is left behind, and the others are still gathered.
//   - What is missing is named in the bundle's manifest, with the reason.
package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"
)

// Limits of a bundle.
const (
	sourceBytes  = 16 << 20 // of each source
	sourcesLimit = 2000
)

// sourceMax is the time for each source; tests have less of it.
var sourceMax = 10 * time.Second

// Source is one thing to gather.
type Source struct {
	Name string // its path in the bundle
	// Read returns at most sourceBytes; it may return some of it beside an error.
	Read func(ctx context.Context) ([]byte, error)
}

// Item is what became of a source.
type Item struct {
	Name  string        `json:"name"`
	Bytes int           `json:"bytes"`
	Took  time.Duration `json:"took_ns"`
	Error string        `json:"error,omitempty"`
}

// ManifestName is the last file of a bundle.
const ManifestName = "manifest.txt"

// Write gathers all sources into a compressed tar file with one directory, and tells of each.
// It fails only when the file cannot be written.
func Write(ctx context.Context, to io.Writer, dir string, now time.Time, sources []Source, told func(Item)) error {
	zip := gzip.NewWriter(to)
	w := tar.NewWriter(zip)
	var items []Item
	for i, s := range sources {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if i == sourcesLimit {
			items = append(items, Item{Name: "…", Error: fmt.Sprintf("%d more are too many", len(sources)-i)})
			break
		}
		item, content := gather(ctx, s)
		if len(content) > 0 || item.Error == "" {
			if err := add(w, dir, s.Name, now, content); err != nil {
				return err
			}
		}
		items = append(items, item)
		told(item)
	}
	if err := add(w, dir, ManifestName, now, manifest(now, items)); err != nil {
		return err
	}
	return errors.Join(w.Close(), zip.Close())
}

// gather reads one source within its limits. One that does not heed ctx is left behind.
func gather(ctx context.Context, s Source) (Item, []byte) {
	ctx, cancel := context.WithTimeout(ctx, sourceMax)
	defer cancel()
	type result struct {
		content []byte
		err     error
	}
	began := time.Now()
	done := make(chan result, 1)
	go func() {
		content, err := s.Read(ctx)
		done <- result{content, err}
	}()
	var r result
	select {
	case r = <-done:
	case <-time.After(sourceMax + time.Second):
		r.err = fmt.Errorf("no answer within %v", sourceMax)
	}
	item := Item{Name: s.Name, Took: time.Since(began)}
	if len(r.content) > sourceBytes {
		r.content = r.content[:sourceBytes]
		r.err = errors.Join(r.err, fmt.Errorf("cut off at %d MiB", sourceBytes>>20))
	}
	item.Bytes = len(r.content)
	if r.err != nil {
		item.Error = r.err.Error()
	}
	return item, r.content
}

func add(w *tar.Writer, dir, name string, now time.Time, content []byte) error {
	h := &tar.Header{Name: path.Join(dir, path.Clean("/"+name)), Mode: 0o600, Size: int64(len(content)), ModTime: now, Format: tar.FormatPAX}
	if err := w.WriteHeader(h); err != nil {
		return fmt.Errorf("write the bundle: %w", err)
	}
	if _, err := w.Write(content); err != nil {
		return fmt.Errorf("write the bundle: %w", err)
	}
	return nil
}

func manifest(now time.Time, items []Item) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "gathered by ftctl support-bundle at %s\n\n%10s %9s  %s\n", now.Format(time.RFC3339), "bytes", "took", "name")
	for _, it := range items {
		fmt.Fprintf(&b, "%10d %9s  %s", it.Bytes, it.Took.Round(time.Millisecond), it.Name)
		if it.Error != "" {
			fmt.Fprintf(&b, "\n%22s not all of it: %s", "", strings.ReplaceAll(it.Error, "\n", "; "))
		}
		b.WriteByte('\n')
	}
	return b.Bytes()
}
