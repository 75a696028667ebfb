package legio

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// Exit codes of blkid(8) with -p.
const (
	blkidNothing   = 2
	blkidAmbiguous = 8
)

// Probe says what data of others is on a device or file, e.g. "ext4 file system (label
// home)" or "GPT partition table"; "" when nothing is known to be there. It runs
// blkid(8), which reads the device, in a process of its own that is left behind if
// the device hangs.
func Probe(path string, deadline time.Duration) (found string, err error) {
	blkid, err := exec.LookPath("blkid")
	if err != nil {
		for _, p := range []string{"/usr/sbin/blkid", "/sbin/blkid"} {
			if blkid, err = exec.LookPath(p); err == nil {
				break
			}
		}
	}
	if err != nil {
		return "", fmt.Errorf("see what is on %s: blkid is needed for that and was not found (package util-linux): %w", path, err)
	}
	if deadline <= 0 {
		deadline = defaultDeadline
	}
	cmd := exec.Command(blkid, "-p", "-o", "export", "--", path)
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("see what is on %s: start %s: %w", path, blkid, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	timer := time.NewTimer(deadline)
	defer timer.Stop()
	select {
	case err = <-ended:
	case <-timer.C:
		cmd.Process.Kill() // takes effect when the device answers
		return "", fmt.Errorf("see what is on %s: blkid: %w within %v", path, errNoAnswer, deadline)
	}
	var exit *exec.ExitError
	switch {
	case err == nil:
		return describeProbe(out.String()), nil
	case errors.As(err, &exit) && exit.ExitCode() == blkidNothing && complaint.Len() == 0:
		return "", nil
	case errors.As(err, &exit) && exit.ExitCode() == blkidAmbiguous:
		return "data of several kinds that contradict each other (blkid -p " + path + ")", nil
	}
	return "", fmt.Errorf("see what is on %s: %s -p: %w: %s", path, blkid, err, strings.TrimSpace(complaint.String()))
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
