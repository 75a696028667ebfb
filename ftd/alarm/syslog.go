package alarm

import (
	"fmt"
	"net"
	"os"
	"time"

	"ft/ftd/control"
	"ft/ftd/eventlog"
)

// syslogMax is how long the local syslog daemon may take for a message: it is a datagram,
// which waits while its queue is full.
const syslogMax = 2 * time.Second

// facilityDaemon is LOG_DAEMON of <syslog.h>.
const facilityDaemon = 3 << 3

// syslogPriority are the priorities of <syslog.h>.
var syslogPriority = map[control.Severity]int{
	control.Info: 6, control.Warning: 4, control.Error: 3, control.Critical: 2,
}

// toSyslog writes one message in the form that local daemons read (RFC 3164, without a host).
func (a *Alarms) toSyslog(e *eventlog.Entry, raise bool) error {
	path := a.DevLog
	if path == "" {
		path = "/dev/log"
	}
	c, err := net.DialTimeout("unixgram", path, syslogMax)
	if err != nil {
		return fmt.Errorf("syslog: %w (is a syslog daemon running? `syslog = false` in [alarms] does without)", err)
	}
	defer c.Close()
	_ = c.SetWriteDeadline(time.Now().Add(syslogMax))
	change := e.To
	if e.From != e.To {
		change = e.From + " -> " + e.To
	}
	_, err = fmt.Fprintf(c, "<%d>%s ftd[%d]: %s: %s %s: %s (event %d, %s)", facilityDaemon|syslogPriority[e.Severity],
		e.Time.Local().Format(time.Stamp), os.Getpid(), a.Box, e.ID, change, e.Reason, e.Seq, kind(raise))
	if err != nil {
		return fmt.Errorf("syslog: %w", err)
	}
	return nil
}
