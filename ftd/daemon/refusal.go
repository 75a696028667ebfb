package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"ft/drivers/notify"
	"ft/ftd/api"
)

// This file is about a start that does not come about. The drivers go on meanwhile, and who
// asks with ftctl, where nobody answers, is told why: the sentence lies beside the socket until
// an ftd starts.

// Misconfigured is an error that lasts until somebody mends the configuration: to start ftd
// again and again does not help.
type Misconfigured struct{ err error }

func (m *Misconfigured) Error() string { return m.err.Error() }

func (m *Misconfigured) Unwrap() error { return m.err }

func misconfigured(format string, args ...any) error {
	return &Misconfigured{fmt.Errorf(format, args...)}
}

// noteRefusal tells systemd and ftctl. Called with the run directory locked, so that no ftd
// runs of which it would be said that it does not.
func (d *Daemon) noteRefusal(why error) {
	text := "the start was refused: " + why.Error()
	newNotifier(d.Log).send(notify.Message{Status: &text})
	path := d.refusalPath()
	err := os.WriteFile(path+".new", []byte(why.Error()+"\n"), 0o600)
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		d.Log.Warn("ftctl will not know why ftd has not started", "error", err)
	}
}

func (d *Daemon) forgetRefusal() {
	if err := os.Remove(d.refusalPath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.Log.Warn("why an earlier start was refused is still said", "error", err)
	}
}

func (d *Daemon) refusalPath() string { return filepath.Join(d.runDir, api.RefusalName) }
