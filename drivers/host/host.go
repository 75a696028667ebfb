// Package host is the main loop of a driver process.
package host

// Exit codes of a driver process; the keeper acts on them.
const (
	ExitStopped  = 0  // stopped on request, the face is down: not restarted
	ExitFailed   = 1  // could not start: restarted after a delay
	ExitCrash    = 70 // a panic or Env.Fatal: a successor adopts
	ExitHandOver = 75 // the face waits for a successor: started at once
	ExitConfig   = 78 // the configuration makes no sense: not restarted until reset
)
