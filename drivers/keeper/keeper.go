// Package keeper is the parent of the driver processes.
package keeper

import (
	"log/slog"
	"time"
)

// Options of a keeper. Zero values mean the defaults given.
type Options struct {
	RunDir string // sockets, locks and logs; not persistent
	Log    *slog.Logger

	HealthyTime time.Duration   // served this long: a death is restarted at once; 5 s
	Delays      []time.Duration // before the next start after an early death; 1, 2, 4, 8, 16, 30 s
	EarlyMax    int             // early deaths in a row until failed; 10
	FenceGrace  time.Duration   // how long a successor waits for a dying process to be gone; 500 ms
	StopTimeout time.Duration   // for each driver's clean stop; 30 s
}
