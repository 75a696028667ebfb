package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestNetworkFromTheCommandLine(t *testing.T) {
	for cmdline, want := range map[string][]string{
		"console=ttyS0 quiet":      {"link set lo up"},
		"ft.address=192.0.2.20/24": {"link set lo up", "link set eth0 up", "addr add 192.0.2.20/24 dev eth0"},
		"quiet ft.address=192.0.2.20/24,2001:db8::20/64 ft.gateway=192.0.2.1\n": {
			"link set lo up", "link set eth0 up", "addr add 192.0.2.20/24 dev eth0",
			"addr add 2001:db8::20/64 dev eth0", "route add default via 192.0.2.1 dev eth0",
		},
	} {
		var got []string
		for _, c := range networkCommands(parameters(cmdline)) {
			got = append(got, strings.Join(c, " "))
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%q (-want +got):\n%s", cmdline, d)
		}
	}
}

// TestOnlyABlankDiskIsMade anew: what may be somebody's data is not overwritten.
func TestOnlyABlankDiskIsMade(t *testing.T) {
	with := func(at int, mark string) []byte {
		head := make([]byte, lookBytes)
		copy(head[at:], mark)
		return head
	}
	ext := with(superMagic, "\x53\xef\x01\x00")
	faulty := with(superMagic, "\x53\xef\x02\x00")
	for name, c := range map[string]struct {
		head []byte
		want content
	}{
		"zeros":                           {make([]byte, lookBytes), blank},
		"a disk of no size":               {nil, blank},
		"a mke2fs cut off before the end": {with(8192, "group descriptors"), blank},
		"ext4":                            {ext, extClean},
		"ext4 with errors":                {faulty, extFaulty},
		"a partition table":               {with(510, "\x55\xaa"), foreign},
		"GPT":                             {with(512, "EFI PART"), foreign},
		"XFS":                             {with(0, "XFSB"), foreign},
		"btrfs":                           {with(0x10040, "_BHRfS_M"), foreign},
		"swap":                            {with(4086, "SWAPSPACE2"), foreign},
		"a raid leg":                      {with(4096, "\xfc\x4e\x2b\xa9"), foreign},
	} {
		if got, what := lookAt(c.head); got != c.want || got == foreign && what == "" {
			t.Errorf("%s: %d (%s), want %d", name, got, what, c.want)
		}
	}
}
