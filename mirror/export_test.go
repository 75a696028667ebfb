package mirror

import (
	"bytes"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ft/drivers"
)

// exported has the box serve its disk on a socket as well.
func (b *box) exported() (uri string) {
	var opt Options
	json.Unmarshal(b.cfg.Options, &opt)
	opt.NBD = filepath.Join(b.cfg.RunDir, "disk0.nbd")
	b.cfg.Options, _ = json.Marshal(opt)
	return "nbd+unix:///disk0?socket=" + opt.NBD
}

func (b *box) tool(name string, args ...string) string {
	b.t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		b.t.Skipf("%s is not there (.ci/needs test installs it)", name)
	}
	out, err := exec.CommandContext(b.t.Context(), name, args...).CombinedOutput()
	if err != nil {
		b.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// The block device and the socket are one disk: what is written to one is read from the
// other, and a leg may be lost meanwhile.
func TestOneDiskOnTheFaceAndOverNBD(t *testing.T) {
	b := newBox(t, 64<<20)
	uri := b.exported()
	b.start()
	b.attach(1)
	b.wait("duplex", func(st drivers.Status) bool { return st.State == drivers.FaceDuplex })
	face := filepath.Join(b.cfg.DevDir, "disk0")

	if out := b.tool("nbdinfo", "--map", "--totals", uri); !strings.Contains(out, "100.0%   3 hole,zero") {
		t.Errorf("a new mirror on sparse files is one hole:\n%s", out)
	}
	content := make([]byte, 8<<20)
	rand.NewChaCha8([32]byte{3}).Read(content)
	in := filepath.Join(t.TempDir(), "in")
	if err := os.WriteFile(in, content, 0o600); err != nil {
		t.Fatal(err)
	}
	b.tool("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", in, uri)
	if err := b.d.Inject(t.Context(), 1, drivers.Fault{Name: "vanish"}); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(in)
	if err != nil || !bytes.Equal(got, content) {
		t.Fatal(err)
	}
	// The block device has a page cache, which does not learn of what is written elsewhere.
	b.tool("sh", "-c", "dd if="+face+" bs=1M count=8 iflag=direct status=none | cmp - "+in)
	b.tool("dd", "if=/dev/zero", "of="+face, "bs=1M", "count=1", "seek=2", "oflag=direct", "conv=notrunc", "status=none")
	b.tool("qemu-io", "-f", "raw", "-c", "read -P 0 2M 1M", "-c", "write -P 9 3M 1M", "-c", "flush", uri)
	b.tool("sh", "-c", "dd if="+face+" bs=1M count=1 skip=3 iflag=direct status=none | tr -d '\\011' | wc -c | grep -qx 0")
	b.wait("simplex", func(st drivers.Status) bool { return st.State == drivers.FaceSimplex })

	// The clients are users: the disk is not taken down under them.
	client := exec.CommandContext(t.Context(), "qemu-io", "-f", "raw", uri)
	hold, err := client.StdinPipe()
	if err == nil {
		err = client.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	b.wait("the client to be there", func(st drivers.Status) bool {
		s, _ := json.Marshal(st.Stats["nbd"])
		return strings.Contains(string(s), `"connections":1`)
	})
	var ref *drivers.Refused
	if err := b.d.Stop(t.Context(), drivers.Remove); !errors.As(err, &ref) || !strings.Contains(ref.Sentence, "(qemu-io) over NBD") {
		t.Errorf("stopped under a client: %v", err)
	}
	hold.Close()
	client.Wait()
	b.wait("the client to be gone", func(st drivers.Status) bool {
		s, _ := json.Marshal(st.Stats["nbd"])
		return strings.Contains(string(s), `"connections":0`)
	})
	path := filepath.Join(b.cfg.RunDir, "disk0.nbd")
	b.stop()
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

// A socket that cannot be made is no reason for the disk not to be there, and is made as
// soon as it can be.
func TestAnNBDSocketThatCannotBeMadeIsTriedAgain(t *testing.T) {
	b := newBox(t, 64<<20)
	uri := b.exported()
	path := filepath.Join(b.cfg.RunDir, "disk0.nbd")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b.start()
	st := b.d.Status()
	if s, _ := json.Marshal(st.Stats["nbd"]); st.Face == "" || !strings.Contains(string(s), "something that is no socket") {
		t.Errorf("face %q, nbd %s", st.Face, s)
	}
	os.Remove(path)
	for until := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if _, err := os.Stat(path); err == nil {
			break
		}
		if time.Now().After(until) {
			t.Fatal("it is not tried again")
		}
	}
	b.tool("nbdinfo", uri)
}
