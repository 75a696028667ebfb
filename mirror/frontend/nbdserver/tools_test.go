package nbdserver

// The clients that people use, against the server: libnbd's, and QEMU's.

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"ft/mirror/frontend"
	"ft/mirror/nbd"
)

// tool runs a program to its end and gives its output.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := tryTool(t, name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

func tryTool(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("%s is not there (.ci/needs test installs it)", name)
	}
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	return string(out), err
}

func uri(d *testDisk) string { return "nbd+unix:///disk0?socket=" + d.path }

func TestNbdinfoSeesWhatIsOffered(t *testing.T) {
	d := newTestDisk(t, Options{FastZero: func() bool { return true }})
	got := tool(t, "nbdinfo", uri(d))
	for _, want := range []string{
		"protocol: newstyle-fixed without TLS", "using structured packets", `export="disk0"`, "export-size: 67108864",
		"base:allocation", "can_flush: true", "can_fua: true", "can_multi_conn: true", "can_trim: true", "can_zero: true",
		"can_fast_zero: true", "can_df: true", "block_size_minimum: 512", "block_size_preferred: 4096", "block_size_maximum: 33554432",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("nbdinfo does not say %q:\n%s", want, got)
		}
	}
	if got := tool(t, "nbdinfo", "--list", "nbd+unix:///?socket="+d.path); !strings.Contains(got, `export="disk0"`) {
		t.Errorf("nbdinfo --list:\n%s", got)
	}
	if got, err := tryTool(t, "nbdinfo", "nbd+unix:///other?socket="+d.path); err == nil || !strings.Contains(got, "No such file or directory for export: other") {
		t.Errorf("an export that does not exist: %v\n%s", err, got)
	}
}

func TestCopiesAreExact(t *testing.T) {
	d := newTestDisk(t, Options{})
	dir := t.TempDir()
	in, out := filepath.Join(dir, "in"), filepath.Join(dir, "out")
	content := make([]byte, testBytes)
	rnd := rand.NewChaCha8([32]byte{7})
	for at := 0; at < len(content); at += 3 << 20 { // and zeroes in between
		rnd.Read(content[at : at+1<<20])
	}
	if err := os.WriteFile(in, content, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, copies := range map[string][2][]string{
		"nbdcopy":         {{"nbdcopy", "--flush", in, uri(d)}, {"nbdcopy", uri(d), out}},
		"nbdcopy, 32 MiB": {{"nbdcopy", "--request-size=33554432", in, uri(d)}, {"nbdcopy", "--request-size=33554432", uri(d), out}},
		"qemu-img":        {{"qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", in, uri(d)}, {"qemu-img", "convert", "-f", "raw", "-O", "raw", uri(d), out}},
	} {
		t.Run(name, func(t *testing.T) {
			d.mu.Lock()
			rand.NewChaCha8([32]byte{9}).Read(d.data)
			d.mu.Unlock()
			tool(t, copies[0][0], copies[0][1:]...)
			d.mu.Lock()
			same := bytes.Equal(d.data, content)
			d.mu.Unlock()
			if !same {
				t.Error("what was written is not what is there")
			}
			os.Remove(out)
			tool(t, copies[1][0], copies[1][1:]...)
			if back, err := os.ReadFile(out); err != nil || !bytes.Equal(back, content) {
				t.Errorf("what was read is not what was there (%v)", err)
			}
			tool(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", in, uri(d))
		})
	}
	if s := d.s.Stats(); s.Errors != 0 || s.Cut != 0 || s.Refused != 0 {
		t.Errorf("%+v", s)
	}
}

func TestQemuIOCommands(t *testing.T) {
	d := newTestDisk(t, Options{FastZero: func() bool { return true }})
	io := func(commands ...string) string {
		args := []string{"-f", "raw"}
		for _, c := range commands {
			args = append(args, "-c", c)
		}
		return tool(t, "qemu-io", append(args, uri(d))...)
	}
	io("write -P 0x5a 0 4M", "write -P 0xa5 -f 4096 512", "read -P 0x5a 0 4096", "read -P 0xa5 4096 512", "read -P 0x5a 4608 1M",
		"write -z -u 1M 1M", "read -P 0 1M 1M", "write -z 2M 64k", "read -P 0 2M 64k", "discard 3M 512k", "flush", "read -P 0x5a 2162688 512",
		"aio_write -P 1 8M 1M", "aio_write -P 2 9M 1M", "aio_flush", "read -P 1 8M 1M", "read -P 2 9M 1M")
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.flushes < 2 {
		t.Errorf("%d flushes for an FUA write, a flush and a close", d.flushes)
	}
}

func TestMapShowsHoles(t *testing.T) {
	d := newTestDisk(t, Options{Extents: func(off, n int64, most int) []nbd.Extent {
		var x []nbd.Extent
		for end := off + n; off < end; { // megabytes of data and of nothing in turn
			next := off/(1<<20)*(1<<20) + 1<<20
			e := nbd.Extent{Len: next - off}
			if off>>20&1 == 1 {
				e.State = nbd.StateHole | nbd.StateZero
			}
			x = append(x, e)
			off = next
		}
		return x
	}})
	got := tool(t, "nbdinfo", "--map", "--totals", uri(d))
	if !strings.Contains(got, "33554432  50.0%   0 data") || !strings.Contains(got, "33554432  50.0%   3 hole,zero") {
		t.Errorf("nbdinfo --map --totals:\n%s", got)
	}
	got = tool(t, "qemu-img", "map", "-f", "raw", "--output=json", uri(d))
	if n := strings.Count(got, `"data": true`); n != 32 {
		t.Errorf("qemu-img map has %d pieces of data:\n%s", n, got)
	}
}

func TestErrorsReachTheClient(t *testing.T) {
	d := newTestDisk(t, Options{})
	d.mu.Lock()
	d.fail = func(r *frontend.Request) syscall.Errno {
		if r.Op != frontend.Flush && r.Off <= 1<<20 && r.Off+r.Len > 1<<20 {
			return syscall.EIO
		}
		return 0
	}
	d.mu.Unlock()
	for _, c := range []string{"read 1M 4k", "write 1M 4k", "read 0 8M"} {
		out, _ := tryTool(t, "qemu-io", "-f", "raw", "-c", c, uri(d))
		if !strings.Contains(out, "Input/output error") {
			t.Errorf("%s: %s", c, out)
		}
	}
	tool(t, "qemu-io", "-f", "raw", "-c", "read 2M 4k", uri(d))
}
