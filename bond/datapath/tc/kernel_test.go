package tc

import (
	"testing"

	"ft/drivers/kerneltest"
)

// Debian's kernels have gact: there the drops are its own.
func TestKernelWithGact(t *testing.T) {
	for _, k := range []kerneltest.Kernel{kerneltest.Linux612, kerneltest.Linux61} {
		t.Run(string(k), func(t *testing.T) {
			if testing.Short() && k != kerneltest.Linux612 {
				t.Skip("-short: one kernel will do; make test-kernels runs all")
			}
			kerneltest.RunTests(t, kerneltest.Options{
				Kernel:  k,
				Modules: []string{"veth", "bridge", "sch_ingress", "cls_u32", "cls_bpf", "act_mirred", "act_gact", "af_packet", "ipv6"},
				Args:    []string{"-test.skip=^TestKernel|^TestStream"}, // these say little there
			}, "ft/bond/datapath/tc")
		})
	}
}
