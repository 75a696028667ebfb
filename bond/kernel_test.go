package bond

import (
	"testing"

	"ft/drivers/kerneltest"
)

// guestModules are what the tests need of Debian's kernels.
var guestModules = []string{"bonding", "veth", "bridge", "8021q", "macvlan", "sch_ingress", "cls_u32", "cls_bpf", "act_mirred", "act_gact", "af_packet", "ipv6"}

// TestKernelBonding runs this package's tests over the kernel's bonding driver.
func TestKernelBonding(t *testing.T) {
	kerneltest.RunTests(t, kerneltest.Options{
		Modules: guestModules,
		Args:    []string{"-test.run=./^bonding$", "-test.skip=^TestKernel|^TestCore|^TestDamping|^TestTranscripts"},
	}, "ft/bond")
}
