package main

import (
	"errors"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// complaints are the kernel's own words about what must not happen: what it has logged
// since it started, sorted by kind.
type complaints struct {
	mu     sync.Mutex
	counts map[string]int
	lines  []string // the first linesMax
	missed int      // times that the log ran over before it was read
}

const linesMax = 200

// kinds of complaints; a line is counted as the first that it is.
var kinds = []struct {
	name string
	is   *regexp.Regexp
}{
	{"rcu", regexp.MustCompile(`^rcu: .*(stall|starved)|^rcu_\w+ .*(stall|starved)`)},
	{"hung", regexp.MustCompile(`blocked for more than \d+ seconds|soft lockup|hard LOCKUP|hung_task`)},
	{"io", regexp.MustCompile(`I/O error|EXT4-fs (error|warning)|EXT4-fs \(\w+\): .*(error|[Cc]orrupt|[Rr]emounting filesystem read-only)|JBD2: .*([Ee]rror|[Aa]bort)|Aborting journal|virtio.*(timeout|broken|[Ee]rror)`)},
	{"bug", regexp.MustCompile(`\bBUG: |kernel BUG at |UBSAN: |KFENCE: |KASAN: `)},
	{"oops", regexp.MustCompile(`\bOops\b|Unable to handle kernel|Kernel panic|unhandled signal|Out of memory: Killed`)},
	{"warn", regexp.MustCompile(`^WARNING: `)},
}

// errorLevel is the lowest of the kernel's levels at which any line is a complaint:
// KERN_ERR (include/linux/kern_levels.h).
const errorLevel = 3

// complaintIn says of what kind a record of /dev/kmsg is, "" when it is none, and its text:
// "priority,sequence,time,flags;text\n" and lines that begin with a space
// (Documentation/ABI/testing/dev-kmsg).
func complaintIn(record string) (kind, text string) {
	head, rest, ok := strings.Cut(record, ";")
	if !ok {
		return "", ""
	}
	text, _, _ = strings.Cut(rest, "\n")
	number, _, _ := strings.Cut(head, ",")
	priority, err := strconv.Atoi(number)
	if err != nil || priority>>3 != 0 {
		return "", text // not the kernel's: the facility is in the bits above the level
	}
	for _, k := range kinds {
		if k.is.MatchString(text) {
			return k.name, text
		}
	}
	if priority&7 <= errorLevel {
		return "error", text
	}
	return "", text
}

// watchKernel reads the kernel's log from its first line on, for as long as the process
// runs.
func watchKernel() (*complaints, error) {
	f, err := os.OpenFile("/dev/kmsg", os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	c := &complaints{counts: map[string]int{}}
	go func() {
		buf := make([]byte, 16<<10) // a record is at most 8 KiB
		for {
			n, err := f.Read(buf)
			switch {
			case err == nil:
				c.take(complaintIn(string(buf[:n])))
			case errors.Is(err, unix.EPIPE): // overwritten before we came
				c.mu.Lock()
				c.missed++
				c.mu.Unlock()
			default:
				say("read the kernel's log: %v", err)
				return
			}
		}
	}()
	return c, nil
}

func (c *complaints) take(kind, text string) {
	if kind == "" {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts[kind]++
	if len(c.lines) < linesMax {
		c.lines = append(c.lines, text)
	}
}

// complaintsReport is what the status shows of them.
type complaintsReport struct {
	Total int `json:"total"`
	Warn  int `json:"warn"`
	Bug   int `json:"bug"`
	Oops  int `json:"oops"`
	Hung  int `json:"hung"`
	RCU   int `json:"rcu"`
	IO    int `json:"io"`
	Error int `json:"error"` // other lines at the level of an error
	// Missed counts the times that lines were overwritten before they were read.
	Missed int      `json:"missed"`
	Lines  []string `json:"lines"`
}

func (c *complaints) report() complaintsReport {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := complaintsReport{
		Warn: c.counts["warn"], Bug: c.counts["bug"], Oops: c.counts["oops"], Hung: c.counts["hung"],
		RCU: c.counts["rcu"], IO: c.counts["io"], Error: c.counts["error"],
		Missed: c.missed, Lines: append([]string{}, c.lines...),
	}
	for _, n := range c.counts {
		r.Total += n
	}
	return r
}
