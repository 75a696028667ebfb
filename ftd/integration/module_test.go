package integration_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ft/ftd/api"
	"ft/ftd/testbox/guest/bare"
)

// newWholeBox is a box with a disk, a NIC and a machine that stands on both, so that pci1
// carries a leg and a NIC, and cpu1 half of a machine. Nothing runs yet.
func newWholeBox(t *testing.T, leg0, leg1 string) *nicBox {
	t.Helper()
	n := newNICBox(t)
	file := filepath.Join(n.dir, "ft.toml")
	text, err := os.ReadFile(file) // with the NIC
	if err != nil {
		t.Fatal(err)
	}
	text = fmt.Appendf(text, "\n[[disk]]\nname = \"disk0\"\npci0 = %q\npci1 = %q\n", leg0, leg1)
	text = fmt.Appendf(text, "%snic = \"net0\"\n", machineTable(t, n.box))
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return n
}

// verdict waits until the box says what is wrong in these words, and what to do about it.
func (b *box) verdict(verdict, action string) {
	b.t.Helper()
	var s api.SystemStatus
	defer func() {
		if b.t.Failed() {
			b.t.Logf("it says %q, %q", s.Verdict, s.Action)
		}
	}()
	await(b.t, 20*time.Second, fmt.Sprintf("the box to say %q, %q", verdict, action), func() bool {
		s = b.status().System
		return s.Verdict == verdict && s.Action == action
	})
}

// TestModuleIsTakenOutAsAWhole: first its NIC, then its leg; or nothing of it.
func TestModuleIsTakenOutAsAWhole(t *testing.T) {
	t.Parallel()
	leg1 := legFile(t, legBytes)
	n := newWholeBox(t, legFile(t, legBytes), leg1)
	n.up()
	n.wait("box", "duplex")
	if out := n.do("bringdown", "pci1"); !strings.HasPrefix(out, "pci1 is safe to pull") {
		t.Errorf("bringdown says %q", out)
	}
	nic, leg := n.box.lastEvent("pci1/net0", "offline"), n.box.lastEvent("pci1/disk0", "offline")
	if nic.Seq == 0 || leg.Seq < nic.Seq {
		t.Errorf("the NIC went with event %d, the leg with %d", nic.Seq, leg.Seq)
	}
	n.verdict("pci1 is out of service: taken out by an admin (root)", "ftctl bringup pci1 when the work on it is done")
	if st := deviceOf(t, n.status(), "guest").State.String(); st != "duplex" {
		t.Errorf("the machine is %s", st)
	}

	// The partner is all there is now. Of pci0, nothing is taken.
	seq := n.status().System.Seq
	says(t, n.refuse("bringdown", "pci0"), "is the only good side of", "--accept-risk=last-side")
	n.do("bringup", "pci1/net0")
	n.wait("net0", "duplex")
	says(t, n.refuse("bringdown", "pci0"), "pci0/disk0 is the only good side of")
	for _, e := range n.events(seq) {
		if e.From != e.To && strings.HasPrefix(e.ID, "pci0/") && (e.To == "offline" || e.To == "removed") {
			t.Errorf("it was refused, and %s went from %s to %s", e.ID, e.From, e.To)
		}
	}

	// What was taken out stays out, when every process is killed and the box starts again.
	n.do("bringdown", "pci1")
	n.killAll()
	n.start()
	n.wait("pci1", "offline")
	n.wait("disk0", "simplex")
	n.wait("net0", "simplex")
	n.do("bringup", "pci1")
	n.wait("box", "duplex") // the machine, too, whose driver may have been quicker than its disk's

	// Pulled without a word: first a part of it is missed, then all, which is the module.
	n.deleteNIC(1)
	n.wait("pci1/net0", "removed")
	if s := n.status().System; !strings.HasPrefix(s.Verdict, "pci1/net0 is not there: ") {
		t.Errorf("with its NIC gone the box says %q", s.Verdict)
	}
	show := hide(t, leg1)
	n.verdict("pci1 is gone: it was pulled, or has lost its power", "put pci1 back: what it carries then comes in by itself")
	show()
	n.makeNIC(1)
	n.wait("box", "duplex")
	n.stop()
}

// TestModuleLosesItsPower: all that it carries goes at once, which is no fault of it, and
// comes back by itself; in between ftd and drivers are killed.
func TestModuleLosesItsPower(t *testing.T) {
	t.Parallel()
	leg0, _ := legLoop(t, legBytes)
	leg1, _ := legLoop(t, legBytes)
	n := newWholeBox(t, leg0, leg1)
	n.up()
	n.wait("box", "duplex")
	n.do("inject", "pci1", "power-off")
	dark := func() {
		t.Helper()
		n.wait("pci1", "removed")
		for _, id := range []string{"pci1/disk0", "pci1/net0"} {
			n.wait(id, "removed")
		}
		n.verdict("pci1 has lost its power", "a drill took its power: ftctl inject pci1 power-on gives it back")
	}
	dark()
	if e := n.box.lastEvent("pci1", "removed"); e.Reason != "pci1 has lost its power" {
		t.Errorf("the log has %+v", e)
	}
	says(t, n.refuse("bringup", "pci1"), "pci1 has no power: ftctl inject pci1 power-on gives it back")
	says(t, n.refuse("inject", "pci1/disk0", "return"), "pci1 has no power")

	n.killFtd()
	n.start()
	dark()
	for _, device := range []string{"disk0", "net0"} { // a successor finds its leg, its NIC, where it always was
		pid := deviceOf(t, n.status(), device).Pid
		n.do("inject", device, "crash")
		await(t, 20*time.Second, "the successor of "+device, func() bool {
			d := deviceOf(t, n.status(), device)
			return d.Pid != 0 && d.Pid != pid && d.Driver == "connected"
		})
	}
	dark()
	n.killFtd()
	n.start()
	n.do("inject", "pci1", "power-on")
	n.wait("box", "duplex")
	for _, id := range []string{"pci1/disk0", "pci1/net0"} {
		if m := sideOf(t, n.status(), id).MTBF; m.Faults+m.Injected != 0 {
			t.Errorf("%s has %+v", id, m)
		}
	}
	n.stop()
}

// TestFaultsAreRemembered: what happened to a part, and how that is judged, is known after
// ftd is killed; a part that is broken comes back by the word of a person.
func TestFaultsAreRemembered(t *testing.T) {
	t.Parallel()
	leg0, _ := legLoop(t, legBytes)
	leg1, _ := legLoop(t, legBytes)
	b := newBox(t, leg0, leg1)
	b.start()
	b.wait("disk0", "duplex")
	says(t, b.do("mtbf", "set", "pci1/disk0", "--policy", "threshold", "--min-faults", "2", "--threshold", "1h"),
		"the MTBF policy of pci1/disk0 is threshold: broken when the last 2 faults are less than 1 h apart in the mean")
	b.do("inject", "pci1/disk0", "write-error") // it fails, and fails again when it is resynced
	b.pattern('a')
	b.wait("pci1/disk0", "broken")
	b.do("inject", "pci1/disk0", "clear")
	remembered := func() {
		t.Helper()
		says(t, b.do("mtbf", "show", "pci1/disk0"), "verdict     broken: ", "action      replace pci1/disk0 (",
			"in drills   2, judged apart", "after 2 faults, broken when less than 1 h lie between them (set for pci1/disk0)", "drill  counts")
	}
	remembered()
	b.do("policy", "bringup", "defer")
	b.killFtd()
	b.start()
	b.wait("pci1/disk0", "broken")
	remembered()
	if out := b.do("policy", "bringup"); !strings.HasPrefix(out, "defer: ") {
		t.Errorf("the policy is %q", out)
	}
	says(t, b.do("mtbf", "clear", "pci1/disk0"), "the faults of pci1/disk0 are forgotten; ftctl bringup pci1/disk0 takes it in")
	b.wait("pci1/disk0", "offline")
	b.do("bringup", "pci1/disk0")
	b.wait("disk0", "duplex")
	if out := b.do("mtbf", "show", "pci1/disk0"); strings.Contains(out, "drill") {
		t.Errorf("they were forgotten, and there is\n%s", out)
	}
	b.stop()
}

// machineTable is guest of a box, on disk0, with a program of its own.
func machineTable(t *testing.T, b *box) string {
	t.Helper()
	kernel := filepath.Join(b.dir, "kernel")
	if err := os.WriteFile(kernel, bare.Program(), 0o600); err != nil {
		t.Fatal(err)
	}
	return "\n[[machine]]\nname = \"guest\"\nkernel = \"" + kernel + "\"\nmemory = \"64MiB\"\ndisk = \"disk0\"\n"
}
