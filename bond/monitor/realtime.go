package monitor

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// realTimePriority of SCHED_FIFO is above all that is not real-time and below all that is.
const realTimePriority = 1

// becomeRealTime makes the calling thread, which must be locked, SCHED_FIFO: whoever looks
// for a failure must look in time also when the processors are busy, and it must be little
// that it does. It takes CAP_SYS_NICE, and a cgroup that grants real-time runtime.
func becomeRealTime() error {
	err := unix.SchedSetAttr(0, &unix.SchedAttr{
		Policy:   unix.SCHED_FIFO,
		Priority: realTimePriority,
		Flags:    unix.SCHED_FLAG_RESET_ON_FORK, // no other thread of ours becomes one
	}, 0)
	if err != nil {
		return fmt.Errorf("make a thread real-time (SCHED_FIFO): %w", err)
	}
	return nil
}
