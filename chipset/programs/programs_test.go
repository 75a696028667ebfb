package programs

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ft/chipset/programs/plan"
	"ft/drivers/kerneltest"
	"ft/ftd/testbox/guest"
)

// patience is for a busy computer.
const (
	patienceShort = 10 * time.Minute
	patienceWhole = 28 * time.Minute
)

const memoryBytes = 1 << 30

// TestKernelPrograms: what real programs put out, and how they end, is the same on our
// machine as under QEMU, and the kernel under them has nothing to complain of.
func TestKernelPrograms(t *testing.T) {
	cache, done := kerneltest.Own(t, map[string]string{emulator: "qemu-system-misc", "xz": "xz-utils", "bzip2": "bzip2"})
	defer done()
	programs, commands, patience := wholeDistribution, wholeList(), patienceWhole
	if testing.Short() {
		programs, commands, patience = shortDistribution, shortList(), patienceShort
	}
	kernel, version, err := guest.Kernel(t.Context(), filepath.Join(cache, "guest-riscv64"), t.Logf)
	if err != nil {
		kerneltest.Missing(t, fmt.Sprintf("no kernel to boot: %v", err))
	}
	root, err := programs.find(t, cache)
	if err != nil {
		kerneltest.Missing(t, fmt.Sprintf("no programs to run: %v", err))
	}
	files := keyFiles(t)
	maps.Copy(files, scripts)
	if !testing.Short() {
		commands = append(commands, goTests(t, files)...)
	}
	commands = chosen(t, commands)
	g := machine{kernel: kernel, initrd: filepath.Join(t.TempDir(), "initrd"), memoryBytes: memoryBytes,
		// A host that is busy starves a machine, of which its kernel would complain.
		cmdline: guest.Cmdline(netip.Prefix{}, netip.Addr{}) + " loglevel=0 nowatchdog rcupdate.rcu_cpu_stall_suppress=1"}
	pack(t, g.initrd, root, files, commands)
	t.Logf("Linux %s, %d commands", version, len(commands))

	if deadline, ok := t.Deadline(); ok { // what has been run by then is still compared
		patience = min(patience, time.Until(deadline)-time.Minute)
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), patience, fmt.Errorf("it took longer than %v", patience))
	defer cancel()
	var got, want ending
	var both sync.WaitGroup
	both.Go(func() { got = ours(t, ctx, g, commands) })
	both.Go(func() { want = qemus(t, ctx, g, commands) })
	both.Wait()
	for who, e := range map[string]ending{"our machine": got, "QEMU": want} {
		if e.err != nil {
			t.Errorf("%s: %v\nthe last lines of its console:\n%s", who, e.err, strings.Join(e.console, "\n"))
		}
		if len(e.complaints) > 0 {
			t.Errorf("%s: the kernel complains:\n%s", who, strings.Join(e.complaints, "\n"))
		}
	}
	compare(t, commands, got.results, want.results)
}

// only names, in the environment, the commands to be run, by a regular expression: for
// whoever looks for what is wrong.
const only = "FT_PROGRAMS"

func chosen(t *testing.T, commands []plan.Command) (list []plan.Command) {
	t.Helper()
	re, err := regexp.Compile(os.Getenv(only))
	if err != nil {
		t.Fatalf("%s: %v", only, err)
	}
	for _, c := range commands {
		if re.MatchString(c.Name) {
			list = append(list, c)
		}
	}
	return list
}

// compare holds the results of our machine against QEMU's.
func compare(t *testing.T, commands []plan.Command, got, want []plan.Result) {
	t.Helper()
	same := 0
	for i := range min(len(got), len(want)) {
		g, w, name := got[i], want[i], commands[i].Name
		switch {
		case g.Status != w.Status || g.Sum != w.Sum:
			t.Errorf("%s: status %d and %d bytes (%s); under QEMU %d and %d bytes (%s)\n%s", name,
				g.Status, g.Bytes, g.Sum, w.Status, w.Bytes, w.Sum,
				cmp.Diff(strings.Split(w.Output, "\n"), strings.Split(g.Output, "\n")))
		case w.Status != 0:
			t.Errorf("%s: ends with %d on both machines: the command is wrong\n%s", name, w.Status, w.Output)
		default:
			same++
		}
	}
	t.Logf("%d of %d commands put out the same on both machines", same, len(commands))
}
