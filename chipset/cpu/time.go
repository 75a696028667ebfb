package cpu

import (
	"time"

	"golang.org/x/sys/unix"
)

// processTime is the processor time that this process has used.
func processTime() time.Duration {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t) != nil {
		return 0 // there is always this clock
	}
	return time.Duration(t.Nano())
}

// spin uses up processor time.
func spin(d time.Duration) {
	for end := processTime() + d; processTime() < end; {
	}
}
