// Package notify is the sd_notify protocol (sd_notify(3), sd_listen_fds(3)) as both
// ends of it: a driver process towards the keeper, the keeper towards systemd, and the
// keeper's own receiving end.
//
// Three words are our own, beside systemd's, which ignores them: FT_TOKEN says which
// start of a process speaks, FT_REPLACE makes a store replace what was stored under
// the name instead of adding to it, FT_EXIT announces how a process is about to end.
//
// Invariants:
//   - Sending never blocks: a notify socket holds 11 datagrams, and a keeper that
//     stands still must not stop a driver. What does not fit is dropped and counted.
//   - Only Confirm waits, and never longer than its deadline.
//   - Every descriptor that arrives is either handed to the caller or closed, and is
//     close-on-exec from the start.
package notify

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Environment variables of the protocol.
const (
	EnvSocket       = "NOTIFY_SOCKET"
	EnvWatchdogUsec = "WATCHDOG_USEC"
	EnvWatchdogPid  = "WATCHDOG_PID"
	EnvListenFds    = "LISTEN_FDS"
	EnvListenNames  = "LISTEN_FDNAMES"
	EnvListenPid    = "LISTEN_PID"
	// EnvToken is set by the keeper alone: it names this start of the process.
	EnvToken = "FT_TOKEN"
)

// How a process announces its end in Exit.
const (
	ExitStopped  = "stopped"  // as it was asked to: not to be restarted
	ExitHandOver = "handover" // a successor is to be started at once
)

// Exit codes that say the same, and what else the keeper acts on. The numbers above 64
// are those of sysexits.h.
const (
	CodeStopped  = 0
	CodeFailed   = 1
	CodeCrash    = 70 // EX_SOFTWARE
	CodeHandOver = 75 // EX_TEMPFAIL
	CodeConfig   = 78 // EX_CONFIG
)

// FdsMax is the most descriptors that one datagram carries (SCM_MAX_FD in the kernel's
// include/net/scm.h).
const FdsMax = 253

// statusMax and sizeMax bound a status text and a datagram, in bytes.
const (
	statusMax = 1024
	sizeMax   = 4096
)

// Message is one datagram. Its descriptors travel beside it.
type Message struct {
	Ready bool
	// Reloading says that the process reads its configuration again, until Ready. It
	// carries the time that systemd asks for since version 253.
	Reloading bool
	Stopping  bool
	Watchdog  bool
	Barrier   bool    // goes alone; answered by closing the one descriptor that comes with it
	Status    *string // nil: no change
	Store     string  // FDSTORE under this name
	Replace   bool    // Store replaces what is stored under the name
	NoPoll    bool    // FDPOLL=0: keep a descriptor that reports an error
	Remove    string  // FDSTOREREMOVE of this name
	Exit      string  // how the process is about to end
	Token     string
}

// Encode is the datagram of a message.
func (m Message) Encode() []byte {
	var b strings.Builder
	line := func(on bool, key, value string) {
		if on {
			b.WriteString(key + "=" + value + "\n")
		}
	}
	line(m.Ready, "READY", "1")
	line(m.Reloading, "RELOADING", "1")
	if m.Reloading {
		line(true, "MONOTONIC_USEC", strconv.FormatInt(monotonicUsec(), 10))
	}
	line(m.Stopping, "STOPPING", "1")
	line(m.Watchdog, "WATCHDOG", "1")
	line(m.Barrier, "BARRIER", "1")
	if m.Status != nil {
		line(true, "STATUS", oneLine(*m.Status))
	}
	line(m.Store != "", "FDSTORE", "1")
	line(m.Remove != "", "FDSTOREREMOVE", "1")
	line(m.Store+m.Remove != "", "FDNAME", m.Store+m.Remove)
	line(m.Replace, "FT_REPLACE", "1")
	line(m.NoPoll, "FDPOLL", "0")
	line(m.Exit != "", "FT_EXIT", m.Exit)
	line(m.Token != "", "FT_TOKEN", m.Token)
	return []byte(b.String())
}

// Parse reads a datagram. Lines that it does not know are skipped, as sd_notify(3)
// asks. A store or removal without a valid name is an error.
func Parse(b []byte) (Message, error) {
	var m Message
	var store, remove bool
	name := ""
	for line := range strings.Lines(string(b)) {
		key, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		if !ok {
			continue
		}
		switch key {
		case "READY":
			m.Ready = value == "1"
		case "RELOADING":
			m.Reloading = value == "1"
		case "STOPPING":
			m.Stopping = value == "1"
		case "WATCHDOG":
			m.Watchdog = value == "1"
		case "BARRIER":
			m.Barrier = value == "1"
		case "STATUS":
			text := oneLine(value)
			m.Status = &text
		case "FDSTORE":
			store = value == "1"
		case "FDSTOREREMOVE":
			remove = value == "1"
		case "FDNAME":
			name = value
		case "FT_REPLACE":
			m.Replace = value == "1"
		case "FDPOLL":
			m.NoPoll = value == "0"
		case "FT_EXIT":
			m.Exit = value
		case "FT_TOKEN":
			m.Token = value
		}
	}
	if !store && !remove {
		return m, nil
	}
	if store && remove {
		return m, fmt.Errorf("a store and a removal in one message")
	}
	if err := CheckName(name); err != nil {
		return m, err
	}
	if store {
		m.Store = name
	} else {
		m.Remove = name
	}
	return m, nil
}

// CheckName says whether name can name stored descriptors: systemd's fdname_is_valid,
// and short enough to be carried with a process's name before it.
func CheckName(name string) error {
	if name == "" || len(name) > 128 {
		return fmt.Errorf("a descriptor's name has 1 to 128 characters, %q has not", name)
	}
	for _, c := range []byte(name) {
		if c <= ' ' || c >= 127 || c == ':' {
			return fmt.Errorf("the character %q cannot be part of a descriptor's name (%q)", c, name)
		}
	}
	return nil
}

// monotonicUsec is CLOCK_MONOTONIC in microseconds.
func monotonicUsec() int64 {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t) // does not fail for this clock
	return t.Nano() / 1000
}

// oneLine makes text fit a line of a datagram.
func oneLine(text string) string {
	text = strings.Map(func(r rune) rune {
		if r == '\n' || r == '\r' || r == 0 {
			return ' '
		}
		return r
	}, text)
	if len(text) > statusMax {
		text = strings.ToValidUTF8(text[:statusMax], "")
	}
	return text
}
