package chipset

import (
	"strings"
	"testing"
)

func TestOptionsThatMeanNothingAreRefused(t *testing.T) {
	for _, tc := range []struct {
		change func(*Options)
		want   string
	}{
		{func(o *Options) {}, ""},
		{func(o *Options) { o.Kernel = "" }, "no kernel"},
		{func(o *Options) { o.MemoryBytes = 32 << 20 }, "must be 64 MiB to 64 GiB"},
		{func(o *Options) { o.MemoryBytes = 65 << 20 }, "in steps of 2 MiB"},
		{func(o *Options) { o.Cmdline = strings.Repeat("x", 1024) }, "the kernel keeps 1023"},
		{func(o *Options) { o.DiskSerial = strings.Repeat("x", 21) }, "a guest reads 20"},
		{func(o *Options) { o.Link, o.TAP = "net0", "tap0" }, "both a link"},
		{func(o *Options) { o.Link = "net0" }, "is no MAC"},
		{func(o *Options) { o.TAP, o.MAC = "tap0", "33:00:00:00:00:01" }, "is no MAC"},
		{func(o *Options) { o.TAP, o.MAC = "tap0", "02:00:00:00:00:01" }, ""},
		{func(o *Options) { o.Engine = "guess" }, "no engine"},
		{func(o *Options) { o.Compare = "sometimes" }, "no compare"},
	} {
		o := Options{Kernel: "/boot/vmlinux"}
		tc.change(&o)
		err := o.withDefaults().check()
		switch {
		case tc.want == "" && err != nil:
			t.Errorf("%+v: %v", o, err)
		case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
			t.Errorf("%+v: got %v, want %q", o, err, tc.want)
		}
	}
}
