package alarm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// reapMax is how long the pipes of a hook that was killed may stay open.
const reapMax = 2 * time.Second

// A hook has a process group of its own, which goes with it, and with ftd. Its leader is a guard,
// ftd in another role, that runs the hook: it reads from a pipe whose other end is ftd's alone,
// and when that ends, ftd has died without a word and the guard ends the group.

// Role is the guard's: ftd hook-guard HOOK.
const Role = "hook-guard"

// guarded is in a guard's environment, so that a program that does not know the role runs no
// guards of its own, and those no others.
const guarded = "FT_HOOK_GUARD"

// lifeline is the guard's descriptor of the pipe.
const lifeline = 3

// exitNotStarted is the guard's where there is no hook to run, as a shell's.
const exitNotStarted = 127

// Guard runs a hook and returns its exit status.
func Guard(args []string, errs io.Writer) int {
	if len(args) != 1 {
		fmt.Fprintf(errs, "ftd itself runs %s\n", Role)
		return exitNotStarted
	}
	unix.CloseOnExec(lifeline)
	if err := os.Unsetenv(guarded); err != nil {
		fmt.Fprintln(errs, err)
		return exitNotStarted
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.NewFile(lifeline, "lifeline"))
		_ = unix.Kill(0, unix.SIGKILL)
	}()
	cmd := exec.Command(args[0])
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case !errors.As(err, &exit):
		fmt.Fprintf(errs, "start it: %v\n", err)
		return exitNotStarted
	case exit.Exited():
		return exit.ExitCode()
	}
	fmt.Fprintln(errs, exit) // by a signal
	return 128 + int(exit.Sys().(syscall.WaitStatus).Signal())
}

// runHook runs a hook with the event on its standard input.
func runHook(ctx context.Context, path string, document []byte, env []string) error {
	if os.Getenv(guarded) != "" {
		return fmt.Errorf("start %s: the program that shall guard it, %s, knows no role %q", path, os.Args[0], Role)
	}
	ctx, cancel := context.WithTimeout(ctx, hookMax)
	defer cancel()
	held, ours, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("start %s: %w", path, err)
	}
	defer ours.Close()
	defer held.Close()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", Role, path) // this program, also when a newer one has taken its place
	cmd.ExtraFiles = []*os.File{held}
	cmd.Env, cmd.Dir = append(slices.Clip(env), guarded+"=1"), "/"
	cmd.Stdin = bytes.NewReader(document)
	var out tail
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = reapMax
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", path, err)
	}
	// What it has left behind goes, if anything, before the guard is reaped: until then its
	// number is nobody else's.
	for unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
	}
	_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
	err = cmd.Wait()
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
