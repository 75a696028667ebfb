// Command ftctl is the admin's hand on a box: it asks ftd over its unix socket, and
// shows what it answers. It knows no rules: what may be done, ftd decides.
//
// One file a verb. The way of data: root.go parses and maps errors to exit codes, a
// verb's file asks through ftd/api's Client, view_*.go write what came back.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/term"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	a := &app{in: os.Args[1:], out: os.Stdout, err: os.Stderr, stdin: os.Stdin}
	if term.IsTerminal(int(os.Stdin.Fd())) {
		a.keys = os.Stdin
	}
	if term.IsTerminal(int(os.Stdout.Fd())) && os.Getenv("TERM") != "dumb" {
		a.terminal = os.Stdout
		a.colour = os.Getenv("NO_COLOR") == ""
	}
	code := a.run(ctx)
	stop()
	os.Exit(code)
}
