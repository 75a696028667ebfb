package uevent

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		name, msg string
		want      Event
		ok        bool
	}{
		{"a loop device that got a file",
			"change@/devices/virtual/block/loop0\x00ACTION=change\x00DEVPATH=/devices/virtual/block/loop0\x00SUBSYSTEM=block\x00MAJOR=7\x00MINOR=0\x00DEVNAME=loop0\x00SEQNUM=12\x00",
			Event{Action: "change", DevPath: "/devices/virtual/block/loop0", Subsystem: "block", Name: "loop0", Major: 7, Seq: 12}, true},
		{"a NIC", "add@/devices/virtual/net/veth0\x00SUBSYSTEM=net\x00INTERFACE=veth0\x00IFINDEX=7\x00",
			Event{Action: "add", DevPath: "/devices/virtual/net/veth0", Subsystem: "net", Name: "veth0"}, true},
		{"udev's own format", "libudev\x00\xfe\xed\xca\xfe", Event{}, false},
		{"no end", "add@/x", Event{}, false},
		{"no path", "add@\x00SUBSYSTEM=block\x00", Event{}, false},
		{"no subsystem", "add@/x\x00MAJOR=1\x00", Event{}, false},
		{"empty", "", Event{}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, ok := parse([]byte(c.msg))
			if ok != c.ok {
				t.Fatalf("accepted: %v, want %v", ok, c.ok)
			}
			if ok && !cmp.Equal(got, c.want) {
				t.Fatal(cmp.Diff(c.want, got))
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("add@/devices/x\x00SUBSYSTEM=block\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if ev, ok := parse(b); ok && (ev.Action == "" || ev.DevPath == "" || ev.Subsystem == "") {
			t.Fatalf("accepted an event without its parts: %+v", ev)
		}
	})
}

// A loop device that gets its file and loses it again is seen, from the kernel.
func TestLoopDeviceComesAndGoes(t *testing.T) {
	l, err := Listen("block")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	events, ended := make(chan Event, 1024), make(chan error, 1)
	go func() { ended <- l.Run(ctx, func(ev Event) { events <- ev }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run ended with %v", err)
		}
	})

	file := filepath.Join(t.TempDir(), "leg.img")
	if err := os.WriteFile(file, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "--find", "--show", file).Output()
	if err != nil {
		t.Fatalf("losetup: %v", err)
	}
	node := strings.TrimSpace(string(out))
	detached := false
	t.Cleanup(func() {
		if !detached {
			exec.Command("losetup", "-d", node).Run()
		}
	})
	await(t, events, filepath.Base(node), 0)
	before := kernelSeq(t)
	if err := exec.Command("losetup", "-d", node).Run(); err != nil {
		t.Fatalf("losetup -d %s: %v", node, err)
	}
	detached = true
	await(t, events, filepath.Base(node), before)
}

func kernelSeq(t *testing.T) uint64 {
	t.Helper()
	b, err := os.ReadFile("/sys/kernel/uevent_seqnum")
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// await takes events until one for the device comes that is newer than after.
func await(t *testing.T, events <-chan Event, name string, after uint64) {
	t.Helper()
	deadline := time.After(time.Minute)
	for {
		select {
		case ev := <-events:
			if ev.Name == name && ev.Seq > after {
				return
			}
		case <-deadline:
			t.Fatalf("no event for %s after number %d", name, after)
		}
	}
}
