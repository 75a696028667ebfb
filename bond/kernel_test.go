package bond

import (
	"testing"

	"ft/bond/datapath"
	"ft/drivers/kerneltest"
)

// guestModules are what the tests need of Debian's kernels.
var guestModules = []string{"bonding", "veth", "bridge", "8021q", "macvlan", "sch_ingress", "cls_u32", "cls_bpf", "act_mirred", "act_gact", "af_packet", "ipv6"}

// TestKernelBonding runs this package's tests over the kernel's bonding driver, and over
// the other paths on that kernel, each in a guest of its own.
func TestKernelBonding(t *testing.T) {
	for _, kind := range []string{datapath.Bonding, datapath.TCX, datapath.TC} {
		t.Run(kind, func(t *testing.T) {
			if testing.Short() && kind != datapath.Bonding {
				t.Skip("-short: these paths are tested on this machine's kernel; make test-kernels runs them on that one")
			}
			kerneltest.RunTests(t, kerneltest.Options{
				Modules: guestModules,
				// Tests of the core have no paths, and nothing of a kernel.
				Args: []string{"-test.run=./^" + kind + "$", "-test.skip=^TestKernelBonding|^TestCore|^TestDamping|^TestTranscripts|^TestFewerLosses"},
			}, "ft/bond")
		})
	}
}
