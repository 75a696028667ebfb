package daemon

import (
	"testing"
	"time"

	"ft/drivers/keeper"
)

func TestWhatIsABoot(t *testing.T) {
	began := time.Now()
	before, after := began.Add(-time.Second), began.Add(time.Second)
	for _, c := range []struct {
		what string
		ps   []keeper.Process
		boot bool
	}{
		{"nothing runs", nil, true},
		{"one was taken down", []keeper.Process{{Name: "disk0", State: keeper.Stopped, Started: before}}, true},
		{"started by a keeper that starts anew too", []keeper.Process{{Name: "disk0", State: keeper.Running, Pid: 7, Started: after}}, true},
		{"ftd alone was away", []keeper.Process{{Name: "disk0", State: keeper.Running, Pid: 7, Started: before}}, false},
		{"ftd and the keeper were away", []keeper.Process{{Name: "disk0", State: keeper.Running, Pid: 7, Started: after, Adopted: true}}, false},
	} {
		if got := noneBefore(c.ps, began); got != c.boot {
			t.Errorf("%s: a boot: %v", c.what, got)
		}
	}
}
