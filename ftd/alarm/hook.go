package alarm

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// reapMax is how long the pipes of a hook that was killed may stay open.
const reapMax = 2 * time.Second

// runHook runs a hook with the event on its standard input. It is in a process group of its
// own, which ends with it.
func runHook(ctx context.Context, path string, document []byte, env []string) error {
	ctx, cancel := context.WithTimeout(ctx, hookMax)
	defer cancel()
	cmd := exec.CommandContext(ctx, path)
	cmd.Env, cmd.Dir = env, "/"
	cmd.Stdin = bytes.NewReader(document)
	var out tail
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = reapMax
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", path, err)
	}
	err := cmd.Wait()
	_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL) // what it has left behind, if anything
	switch {
	case err == nil:
		return nil
	case ctx.Err() == context.DeadlineExceeded:
		err = fmt.Errorf("%s had not ended after %v", path, hookMax)
	default:
		err = fmt.Errorf("%s: %w", path, err)
	}
	if said := strings.TrimSpace(string(out.b)); said != "" {
		err = fmt.Errorf("%w; it said %q", err, said)
	}
	return err
}

// tail keeps the end of what is written to it.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if over := len(t.b) - outputMax; over > 0 {
		t.b = append(t.b[:0], t.b[over:]...)
	}
	return len(p), nil
}
