package tc

import (
	"testing"
	"time"

	"ft/drivers/kerneltest"
)

// Debian's kernels have gact: there the drops are its own.
func TestKernelWithGact(t *testing.T) {
	for _, k := range []kerneltest.Kernel{kerneltest.Linux612, kerneltest.Linux61} {
		t.Run(string(k), func(t *testing.T) {
			if testing.Short() && k != kerneltest.Linux612 {
				t.Skip("-short: one kernel will do")
			}
			kerneltest.RunTests(t, kerneltest.Options{
				Kernel:  k,
				Timeout: 5 * time.Minute, // a stream in a guest without KVM takes its time
				Modules: []string{"veth", "bridge", "sch_ingress", "cls_u32", "cls_bpf", "act_mirred", "act_gact", "af_packet", "ipv6"},
				Args:    []string{"-test.skip=^TestKernel|^TestStream"}, // these say little there
			}, "ft/bond/datapath/tc")
		})
	}
}
