package drill

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"ft/ftd/api"
)

// loadsOn makes the loads for what a plan may hit. notes say what has none, or less than it
// could.
func loadsOn(ctx context.Context, box Box, st api.Status, o Setup) (loads []Load, notes []string) {
	drill := rand.Uint64()
	note := func(format string, args ...any) { notes = append(notes, fmt.Sprintf(format, args...)) }
	var faces []nicFace
	var under []string // machines
	for _, d := range st.Devices {
		switch d.Kind {
		case kindNIC:
			faces = append(faces, faceOf(d))
		case kindMachine:
			under = append(under, needs(st, d)...)
		}
	}
	peer := findPeer(faces, o.PeerNetns)
	for _, d := range st.Devices {
		if d.State.String() != "duplex" {
			continue
		}
		switch d.Kind {
		case kindDisk:
			if slices.Contains(under, d.ID) {
				continue // its machine is the load
			}
			l, why := newDiskLoad(d, drill)
			if l != nil {
				loads = append(loads, l)
			}
			if why != "" {
				note("%s", why)
			}
		case kindNIC:
			i := slices.IndexFunc(faces, func(f nicFace) bool { return f.device == d.ID })
			more, why := netLoads(faces[i], peer)
			loads, notes = append(loads, more...), append(notes, why...)
		case kindMachine:
			l, why := machineLoad(ctx, box, d, o, peer, drill)
			loads = append(loads, l)
			if why != "" {
				note("%s", why)
			}
		}
	}
	return loads, notes
}

// machineLoad asks a machine's guest, or looks at the machine where that cannot be.
func machineLoad(ctx context.Context, box Box, d api.DeviceStatus, o Setup, peer string, drill uint64) (Load, string) {
	url := o.GuestURL
	if url == "" && peer != "" && o.PeerNetns == "" {
		url = testBoxGuest
	}
	if url == "" {
		return newStepsLoad(box, d.ID), d.ID + ": it is only looked at: nobody said where its guest's service answers (--guest-url)"
	}
	if d.Stats["nic"] == nil {
		return newStepsLoad(box, d.ID), d.ID + ": it is only looked at: it has no NIC that its guest could be asked through"
	}
	l, err := awaitGuest(ctx, d.ID, url, peer, drill, o.Say)
	if err != nil {
		return newStepsLoad(box, d.ID), fmt.Sprintf("%s: it is only looked at: %v", d.ID, err)
	}
	return l, ""
}

// awaitGuest waits for a guest's first answer: it may have been started a moment ago.
func awaitGuest(ctx context.Context, device, url, peer string, drill uint64, say func(string)) (*guestLoad, error) {
	deadline := time.Now().Add(guestBoots)
	for first := true; ; first = false {
		l, err := newGuestLoad(ctx, device, url, peer, drill)
		if err == nil || errors.Is(err, errStranger) || time.Now().After(deadline) || ctx.Err() != nil {
			return l, err
		}
		if first && say != nil {
			say(fmt.Sprintf("wait     for %s: nothing answers at %s yet; %s at most", device, url, clock(guestBoots)))
		}
		select {
		case <-ctx.Done():
		case <-time.After(guestPause):
		}
	}
}
