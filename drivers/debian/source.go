package debian

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Source fetches what a package is built from, of the version that the suite has, and
// returns its files: what comes from upstream, Debian's changes, and the description of
// both (NAME_VERSION.dsc). Signatures are checked as those of packages are.
//
// The lists of sources are read first, at each call: they are large, and few need them.
func (a *Apt) Source(ctx context.Context, name string) ([]string, error) {
	packages, err := os.ReadFile(filepath.Join(a.dir, "sources.list"))
	if err != nil {
		return nil, fmt.Errorf("the apt in %s: %w", a.dir, err)
	}
	sources := bytes.Replace(packages, []byte("deb ["), []byte("deb-src ["), 1)
	if err := os.WriteFile(filepath.Join(a.dir, "deb-src.list"), sources, 0o644); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(a.dir, "deb-src/partial"), 0o755); err != nil {
		return nil, err
	}
	own := []string{
		"-qq", "-o", "Dir::Etc::sourcelist=" + filepath.Join(a.dir, "deb-src.list"),
		"-o", "Dir::State::lists=" + filepath.Join(a.dir, "deb-src"),
	}
	if err := a.run(ctx, nil, "apt-get", append(own, "update")...); err != nil {
		return nil, fmt.Errorf("read the lists of Debian %s's sources from %s: %w", a.suite, a.mirror, err)
	}
	if err := a.run(ctx, nil, "apt-get", append(own, "source", "--download-only", name)...); err != nil {
		return nil, fmt.Errorf("download from Debian %s at %s: %w", a.suite, a.mirror, err)
	}
	found, _ := filepath.Glob(filepath.Join(a.dir, name+"_*")) // the pattern is well formed
	var files []string
	for _, f := range found {
		if !strings.HasSuffix(f, ".deb") {
			files = append(files, f)
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("apt-get source %s left no files", name)
	}
	return files, nil
}
