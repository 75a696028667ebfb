package bundle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// File is a file as it is; of a longer one the end.
func File(name, from string) Source {
	return Source{name, func(context.Context) ([]byte, error) { return readTail(from) }}
}

// readTail opens without waiting for whatever is at the other end of a pipe or device.
func readTail(from string) ([]byte, error) {
	f, err := os.OpenFile(from, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no file", from)
	}
	var note error
	if over := st.Size() - sourceBytes; over > 0 {
		if _, err := f.Seek(over, io.SeekStart); err != nil {
			return nil, err
		}
		note = fmt.Errorf("%s has %d bytes: this is its end", from, st.Size())
	}
	b, err := io.ReadAll(io.LimitReader(f, sourceBytes))
	return b, errors.Join(err, note)
}

// Tree are the files of a directory, and of those below it, up to so many.
func Tree(name, dir string, most int) (sources []Source) {
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return nil // what cannot be read here is named in the listing
		case len(sources) == most:
			return fs.SkipAll
		case e.Type().IsRegular():
			if rel, err := filepath.Rel(dir, p); err == nil {
				sources = append(sources, File(path.Join(name, rel), p))
			}
		}
		return nil
	})
	if err != nil {
		sources = append(sources, failed(name, err))
	}
	return append(sources, Command(path.Join(name, "listing.txt"), "ls", "-laR", "--time-style=full-iso", dir))
}

func failed(name string, err error) Source {
	return Source{name, func(context.Context) ([]byte, error) { return nil, err }}
}

// Command is what a command prints. One that is not installed is no mistake.
func Command(name string, args ...string) Source {
	return Source{name, func(ctx context.Context) ([]byte, error) {
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		cmd.Env = append(os.Environ(), "LC_ALL=C", "PAGER=cat", "SYSTEMD_PAGER=cat")
		cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
		cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
		cmd.WaitDelay = time.Second
		var out limited
		cmd.Stdout, cmd.Stderr = &out, &out
		err := cmd.Run()
		head := "$ " + strings.Join(args, " ") + "\n"
		if errors.Is(err, exec.ErrNotFound) {
			return []byte(head + args[0] + " is not installed\n"), nil
		}
		if err != nil {
			err = fmt.Errorf("%s: %w", strings.Join(args, " "), err)
		}
		return append([]byte(head), out.Bytes()...), err
	}}
}

// limited keeps the beginning of what is written to it.
type limited struct{ bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	if room := sourceBytes - l.Len(); room < len(p) {
		l.Buffer.Write(p[:max(0, room)])
		return len(p), nil
	}
	return l.Buffer.Write(p)
}

// System is how the kernel and the distribution see the box.
func System() []Source {
	s := []Source{
		Command("system/uname.txt", "uname", "-a"),
		Command("system/dmesg.txt", "dmesg", "--time-format", "iso"),
		Command("system/processes.txt", "ps", "-eo", "pid,ppid,pgid,sid,stat,etime,time,rss,wchan:32,args"),
		Command("system/lsblk.txt", "lsblk", "-o", "NAME,MAJ:MIN,TYPE,SIZE,RO,LOG-SEC,PHY-SEC,FSTYPE,MOUNTPOINT,MODEL,SERIAL"),
		Command("system/losetup.txt", "losetup", "--list", "--output-all"),
		Command("system/links.txt", "ip", "-d", "-s", "link"),
		Command("system/addresses.txt", "ip", "address"),
		Command("system/namespaces.txt", "ip", "netns", "list-id"),
		Command("system/bpffs.txt", "ls", "-laR", "/sys/fs/bpf"),
		Command("system/units.txt", "systemctl", "--no-pager", "status", "ft-keeper.service", "ftd.service", "ftd.socket"),
		Command("system/unit-files.txt", "systemctl", "--no-pager", "cat", "ft-keeper.service", "ftd.service", "ftd.socket"),
		Command("system/journal.txt", "journalctl", "--no-pager", "--output=short-precise", "--lines=20000", "--unit=ft-keeper.service", "--unit=ftd.service"),
	}
	for _, p := range []string{"version", "cmdline", "uptime", "loadavg", "cpuinfo", "meminfo", "mounts", "partitions", "diskstats", "interrupts", "sys/kernel/tainted",
		"pressure/cpu", "pressure/io", "pressure/memory", "net/dev"} {
		s = append(s, File("system/proc/"+p, "/proc/"+p))
	}
	return append(s, File("system/os-release", "/etc/os-release"))
}

// Processes tells what each process of a program does: where its threads wait, and what it has
// open.
func Processes(is func(exe string) bool) (s []Source) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return []Source{failed("processes", err)}
	}
	for _, e := range entries {
		proc := "/proc/" + e.Name()
		exe, err := os.Readlink(proc + "/exe")
		if err != nil || !is(strings.TrimSuffix(exe, " (deleted)")) {
			continue
		}
		name := "processes/" + e.Name() + "/"
		for _, f := range []string{"status", "limits", "cgroup", "mountinfo", "cmdline", "oom_score_adj"} {
			s = append(s, File(name+f, proc+"/"+f))
		}
		s = append(s, Command(name+"descriptors.txt", "ls", "-la", proc+"/fd"), threads(name+"threads.txt", proc))
	}
	return s
}

// threads are where each thread of a process is in the kernel.
func threads(name, proc string) Source {
	return Source{name, func(context.Context) ([]byte, error) {
		tasks, err := os.ReadDir(proc + "/task")
		if err != nil {
			return nil, err
		}
		var b bytes.Buffer
		for _, t := range tasks {
			dir := proc + "/task/" + t.Name()
			fmt.Fprintf(&b, "thread %s\n", t.Name())
			for _, f := range []string{"comm", "stat", "wchan", "stack"} {
				text, err := os.ReadFile(dir + "/" + f)
				if err != nil {
					text = []byte(err.Error())
				}
				fmt.Fprintf(&b, "%s: %s\n", f, bytes.TrimSpace(text))
			}
		}
		return b.Bytes(), nil
	}}
}
