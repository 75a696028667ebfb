package testbox

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"ft/drivers"
	"ft/ftd/api"
	"ft/ftd/testbox/network"
)

const (
	startPoll    = 200 * time.Millisecond // while it comes up
	statusPoll   = time.Second            // afterwards
	progressStep = 20.0                   // percent between two lines of progress
	hintPatience = 20 * time.Second       // after which what to try is said also before it has settled
)

// interactive is what the box tells the person who started it.
type interactive struct {
	mu    sync.Mutex // guards Out: children report from goroutines of their own
	told  told
	began time.Time // of this box
}

// told is what was last said, so that only changes are.
type told struct {
	said    bool
	state   drivers.FaceState
	percent float64
	seq     uint64
}

func (b *box) say(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	fmt.Fprintf(b.Out, format+"\n", args...)
}

// follow tells what happens until a signal ends the box.
func (b *box) follow() error {
	client := api.NewClient(b.Socket)
	defer client.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if b.served() {
		go b.awaitGuest(ctx)
	}
	hinted, began := false, time.Now()
	tick := time.NewTicker(startPoll)
	defer tick.Stop()
	for {
		select {
		case s := <-b.signals:
			b.say("\n%s: removing the box", s)
			return nil
		case <-tick.C:
		}
		st, err := b.status(client)
		if err != nil {
			continue // starting, or being started again: children.go says so
		}
		b.tell(client, st)
		if !hinted && (settled(st) || time.Since(began) > hintPatience) {
			hinted = true
			b.hint(st)
			tick.Reset(statusPoll)
		}
	}
}

func (b *box) status(client *api.Client) (api.Status, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	return client.Status(ctx)
}

// settled says whether the box is as good as it gets: both sides of everything serve.
func settled(st api.Status) bool {
	for _, d := range st.Devices {
		if d.State != drivers.FaceDuplex {
			return false
		}
	}
	return len(st.Devices) > 0
}

// tell says what has changed: the events since the last time, progress, and the box.
func (b *box) tell(client *api.Client, st api.Status) {
	if st.System.Seq > b.told.seq {
		b.tellEvents(client, st.Modules)
	}
	for _, d := range st.Devices {
		for _, s := range d.Sides {
			if s.Progress != nil && s.Progress.Percent >= b.told.percent+progressStep {
				b.told.percent = s.Progress.Percent
				b.say("         %s %s %.0f %%", s.ID, s.Progress.What, s.Progress.Percent)
			}
		}
	}
	if !b.told.said || st.System.State != b.told.state {
		b.told.said, b.told.state, b.told.percent = true, st.System.State, 0
		b.say("box      %-8v %s", st.System.State, st.System.Verdict)
	}
}

// tellEvents leaves out what modules and the box go through: their sides say it.
func (b *box) tellEvents(client *api.Client, modules []api.ModuleStatus) {
	sums := map[string]bool{boxName: true}
	for _, m := range modules {
		sums[m.ID] = true
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	since := b.told.seq
	_ = client.Events(ctx, api.EventsQuery{Since: &since}, func(item api.StreamItem) error {
		if ev := item.Event; ev != nil && ev.Seq > b.told.seq {
			b.told.seq = ev.Seq
			// The log goes on where an earlier box of this directory ended.
			if ev.From != ev.To && !sums[ev.ID] && !ev.Time.Before(b.began) {
				b.say("%s %-10s %s -> %s  %s", ev.Time.Local().Format("15:04:05"), ev.ID, ev.From, ev.To, ev.Reason)
			}
		}
		return nil
	}) // what was not read is read at the next poll
}

// hint says what to try, in commands that can be pasted.
func (b *box) hint(st api.Status) {
	ftctl := "sudo " + ftctlPath()
	if b.Socket != api.DefaultSocket {
		ftctl += " --socket " + b.Socket
	}
	face := filepath.Join(b.DevDir, "disk0")
	b.say(`
The box is %s. In another terminal, try:

  %[2]s status
  %[2]s drill --minutes 5             # a fire drill: all that follows and more, under load, with a table at the end
  sudo mkfs.ext4 %[3]s && sudo mount %[3]s /mnt
  %[2]s inject pci1/disk0 vanish      # pull the leg out of PCI module 1
  sudo cp -r /usr/share/doc /mnt && sync    # write on, on the other leg
  %[2]s inject pci1/disk0 return      # put it back: only what it missed is copied
  %[2]s events
  %[2]s inject pci0/disk0 hang        # a leg that answers no more; ends with: inject pci0/disk0 clear
  %[2]s inject disk0 crash            # kill -9 of the mirror process, under load if you like
  %[2]s bringdown pci0/disk0; %[2]s bringup pci0/disk0
%[6]s%[7]s%[8]s
The legs, %[4]s, %[5]s and so on, stay for the next start.
Ctrl-C ends the box (unmount first).
`, st.System.State, ftctl, face, b.disks[0].legs[0], b.disks[0].legs[1], b.networkHint(ftctl), b.guestHint(ftctl), b.pageHint())
}

func (b *box) pageHint() string {
	if b.page() == "" {
		return ""
	}
	return fmt.Sprintf("\nThe box, drawn and live, in a browser: http://%s/\n", b.page())
}

// networkHint is the part about net0. The stream of datagrams is 5000 a second.
func (b *box) networkHint(ftctl string) string {
	if b.net.Box == "" {
		return ""
	}
	return fmt.Sprintf(`
  sudo ip netns exec %[2]s ping %[5]s    # net0, from the other end of its network
  sudo ip -n %[3]s link set %[6]s down    # pull the cable of eth0; up puts it back
  %[1]s inject pci0/net0 cable-pull    # the same as a drill; ends with: cable-return
  %[1]s switch net0    # the standby NIC becomes the active one
  sudo ip netns exec %[4]s iperf3 -s -1 -D    # a stream that shows what is lost meanwhile:
  sudo ip netns exec %[2]s iperf3 -u -l 100 -b 4M -t 30 -c %[5]s
`, ftctl, b.net.Peer, b.net.Switch, b.net.Box, network.BoxAddresses[0].Addr(), network.Ports[0])
}
