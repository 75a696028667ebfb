package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"ft/ftctl/bundle"
	"ft/ftd/api"
)

// Where things are when ftd does not say.
const (
	configDefault = "/etc/ft/ft.toml"
	stateDefault  = "/var/lib/ft"
)

// bundleFilesMax bounds how many files of a directory go into a bundle.
const bundleFilesMax = 400

func (a *app) supportBundleCmd() *cobra.Command {
	var out string
	c := &cobra.Command{
		Use:   "support-bundle [--out FILE]",
		Short: "Gather all that helps to find out what went wrong",
		Long: `support-bundle writes a .tar.gz with what ftd says, its event log, configuration and state,
the logs of its processes, and how the kernel sees the box. It works also while ftd does not
run, and takes what it may read: as root, all. It has nothing of the disks' data and of a
guest's memory, but names, addresses and serial numbers: look through it before you pass it on.`,
		Example: "  ftctl support-bundle\n  ftctl support-bundle --out - | ssh support 'cat > box.tar.gz'",
		Args:    args(0, 0),
		RunE: a.verb(func(ctx context.Context, _ []string) error {
			if out == "" {
				out = bundleName() + ".tar.gz"
			}
			return a.supportBundle(ctx, out)
		}),
	}
	c.Flags().StringVar(&out, "out", "", "the `FILE`, or - for standard output; by default one in this directory, named by host and time")
	return c
}

func bundleName() string {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "host"
	}
	return "ft-bundle-" + host + "-" + now().UTC().Format("20060102T150405Z")
}

// bundleReport is what --json says of a bundle.
type bundleReport struct {
	File  string        `json:"file"`
	Bytes int64         `json:"bytes"`
	Items []bundle.Item `json:"items"`
}

func (a *app) supportBundle(ctx context.Context, out string) error {
	report := bundleReport{File: out}
	told := func(it bundle.Item) {
		report.Items = append(report.Items, it)
		if it.Error != "" && !a.json {
			fmt.Fprintf(a.err, "ftctl: %s: %s\n", it.Name, strings.ReplaceAll(it.Error, "\n", "; "))
		}
	}
	sources := a.bundleSources(ctx)
	if out == "-" {
		if a.json {
			return usagef("--json and --out - both want standard output: name a file")
		}
		return bundle.Write(ctx, a.out, bundleName(), now(), sources, told)
	}
	n, err := writeNew(out, func(w io.Writer) error {
		return bundle.Write(ctx, w, strings.TrimSuffix(filepath.Base(out), ".tar.gz"), now(), sources, told)
	})
	if err != nil {
		return err
	}
	report.Bytes = n
	if a.json {
		return a.writeJSON(report)
	}
	return a.say("%s: %s in %d files; look through it before you pass it on", out, humanSize(n), len(report.Items)+1)
}

// writeNew makes a file that only its owner reads; one that is there stays, and what could
// not be finished does not.
func writeNew(path string, write func(io.Writer) error) (bytes int64, err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return 0, fmt.Errorf("%s is there already: name another with --out", path)
	}
	if err != nil {
		return 0, fmt.Errorf("make the bundle: %w", err)
	}
	err = write(f)
	st, serr := f.Stat()
	if err = errors.Join(err, serr, f.Close()); err != nil {
		return 0, errors.Join(err, os.Remove(path))
	}
	return st.Size(), nil
}

// bundleSources are all that can be gathered of this box.
func (a *app) bundleSources(ctx context.Context) []bundle.Source {
	config, state := configDefault, stateDefault
	var s []bundle.Source
	box, err := a.client.Component(ctx, api.SystemID)
	if err != nil {
		sentence := err.Error()
		s = append(s, bundle.Source{Name: "ftd/unreachable", Read: func(context.Context) ([]byte, error) { return nil, errors.New(sentence) }})
	} else {
		if at, ok := box.Detail["config"].(string); ok {
			config = at
		}
		if at, ok := box.Detail["state_dir"].(string); ok {
			state = at
		}
		s = append(s, a.bundleAnswers(ctx)...)
	}
	s = append(s, bundle.File("ft.toml", config))
	s = append(s, bundle.Tree("state", state, bundleFilesMax)...)
	s = append(s, bundle.Tree("run", filepath.Dir(a.socket), bundleFilesMax)...)
	s = append(s, bundle.Processes(func(exe string) bool { return filepath.Base(exe) == "ftd" })...)
	return append(s, bundle.System()...)
}

// bundleAnswers are what ftd says.
func (a *app) bundleAnswers(ctx context.Context) []bundle.Source {
	answer := func(name, path string) bundle.Source {
		return bundle.Source{Name: name, Read: func(ctx context.Context) ([]byte, error) { return a.client.Raw(ctx, path) }}
	}
	s := []bundle.Source{
		answer("ftd/status.json", "/v1/status"),
		answer("ftd/version.json", "/v1/version"),
		answer("ftd/components.json", "/v1/components"),
		{Name: "ftd/metrics.txt", Read: func(ctx context.Context) ([]byte, error) { return a.client.Text(ctx, "/metrics") }},
		{Name: "ftd/events.jsonl", Read: a.bundleEvents},
	}
	list, err := a.client.Components(ctx)
	if err != nil {
		return s
	}
	for _, c := range list {
		s = append(s, answer("ftd/components/"+strings.ReplaceAll(c.ID, "/", "-")+".json", "/v1/components/"+c.ID))
	}
	return s
}

func (a *app) bundleEvents(ctx context.Context) (lines []byte, err error) {
	first := uint64(0)
	err = a.client.Events(ctx, api.EventsQuery{Since: &first}, func(item api.StreamItem) error {
		lines = append(append(lines, item.Raw...), '\n')
		return nil
	})
	return lines, err
}
