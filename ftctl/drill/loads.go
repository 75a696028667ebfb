package drill

import (
	"context"
	"math/rand/v2"

	"ft/ftd/api"
)

// loadsOn makes the loads for a box. notes say what has none, or less than it could.
func loadsOn(ctx context.Context, box Box, st api.Status, o Setup) (loads []Load, notes []string) {
	drill := rand.Uint64()
	hangsOn := map[string]bool{}
	for _, d := range st.Devices {
		if d.Kind == kindMachine {
			for _, id := range needs(st, d) {
				hangsOn[id] = true
			}
		}
	}
	for _, d := range st.Devices {
		if d.State.String() != "duplex" {
			continue
		}
		switch d.Kind {
		case kindDisk:
			if hangsOn[d.ID] {
				continue // its machine is the load
			}
			l, note := newDiskLoad(d, drill)
			if l != nil {
				loads = append(loads, l)
			}
			if note != "" {
				notes = append(notes, note)
			}
		}
	}
	return loads, notes
}
