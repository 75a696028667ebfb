package legio

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Exit codes of blkid(8) with -p.
const (
	blkidNothing   = 2
	blkidAmbiguous = 8
)

// probeEnds is how much at either end of a device must be readable: where file systems
// and partition tables have their signatures. blkid calls blank what it cannot read.
const probeEnds = 256 << 10

// Foreign says what data of others is on the leg, as Probe does. Of an NBD server's export
// blkid is shown a copy of what lies at its ends.
func (l *Leg) Foreign(deadline time.Duration) (found string, err error) {
	if l.remote == nil {
		return Probe(l.Path, deadline)
	}
	copied, err := l.ends()
	if err != nil {
		return "", fmt.Errorf("see what is on %s: %w", l.Path, err)
	}
	defer copied.Close()
	return Probe(fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), copied.Fd()), deadline)
}

// remoteEnds is how much at either end of an export is shown to blkid: all that it looks at,
// but for a few kinds of swap and file systems of the past.
const remoteEnds = 1 << 20

// ends is a file in memory as large as the leg, with the leg's ends and nothing in between.
func (l *Leg) ends() (*os.File, error) {
	fd, err := unix.MemfdCreate("ends of an export", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), "the ends of "+l.Path)
	b := make([]byte, min(l.Bytes, remoteEnds))
	if err = f.Truncate(l.Bytes); err == nil {
		for _, off := range []int64{0, l.Bytes - int64(len(b))} {
			if _, err = l.ReadAt(b, off); err != nil {
				break
			}
			if _, err = f.WriteAt(b, off); err != nil {
				break
			}
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Probe says what data of others is on a device or file, e.g. "ext4 file system (label
// home)" or "GPT partition table"; "" when nothing known is there. It runs blkid(8),
// which reads the device, in a process of its own that is left behind if the device
// hangs.
func Probe(path string, deadline time.Duration) (found string, err error) {
	if deadline <= 0 {
		deadline = defaultDeadline
	}
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	type result struct {
		found string
		err   error
	}
	probed := make(chan result, 1)
	go func() {
		defer cancel()
		found, err := probe(ctx, path)
		probed <- result{found, err}
	}()
	var r result
	select {
	case r = <-probed:
	case <-ctx.Done():
		select {
		case r = <-probed: // it was that which cancelled
		default:
			r.err = fmt.Errorf("%w within %v", errNoAnswer, deadline)
		}
	}
	if r.err != nil {
		return "", fmt.Errorf("see what is on %s: %w", path, r.err)
	}
	return r.found, nil
}

func probe(ctx context.Context, path string) (string, error) {
	blkid, err := findBlkid()
	if err != nil {
		return "", err
	}
	if err := readEnds(path); err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, blkid, "-p", "-o", "export", "--", path) // a kill takes effect when the device answers
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return describeProbe(out.String()), nil
	case errors.As(err, &exit) && exit.ExitCode() == blkidNothing && complaint.Len() == 0:
		return "", nil
	case errors.As(err, &exit) && exit.ExitCode() == blkidAmbiguous:
		return "data of several kinds that contradict each other (blkid -p " + path + ")", nil
	}
	return "", fmt.Errorf("%s -p: %w: %s", blkid, err, strings.TrimSpace(complaint.String()))
}

func findBlkid() (string, error) {
	blkid, err := exec.LookPath("blkid")
	for _, p := range []string{"/usr/sbin/blkid", "/sbin/blkid"} { // a daemon's PATH may lack them
		if err == nil {
			break
		}
		blkid, err = exec.LookPath(p)
	}
	if err != nil {
		return "", fmt.Errorf("blkid is needed for that and was not found (package util-linux): %w", err)
	}
	return blkid, nil
}

func readEnds(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	b := make([]byte, min(size, probeEnds))
	for _, off := range []int64{0, size - int64(len(b))} {
		if _, err := f.ReadAt(b, off); err != nil {
			return fmt.Errorf("%d bytes at %d: %w", len(b), off, err)
		}
	}
	return nil
}

// describeProbe puts blkid's KEY=value lines into words.
func describeProbe(export string) string {
	v := map[string]string{}
	for line := range strings.Lines(export) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			v[key] = value
		}
	}
	var found []string
	if t := v["TYPE"]; t != "" {
		kind := map[string]string{"filesystem": " file system", "raid": " RAID member", "crypto": " encrypted volume"}[v["USAGE"]]
		text := t + kind
		if label := v["LABEL"]; label != "" {
			text += " (label " + label + ")"
		}
		found = append(found, text)
	}
	if t := v["PTTYPE"]; t != "" {
		name := map[string]string{"gpt": "GPT", "dos": "MBR"}[t]
		if name == "" {
			name = t
		}
		found = append(found, name+" partition table")
	}
	if len(found) == 0 && len(v) > 1 { // more than DEVNAME
		found = append(found, "data that blkid knows ("+strings.Join(strings.Fields(export), " ")+")")
	}
	return strings.Join(found, " and ")
}
