package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"ft/drivers/host"
	"ft/drivers/keeper"
	"ft/drivers/netns"
	"ft/drivers/notify"
	"ft/ftd/api"

	_ "ft/bond"    // the driver of NICs
	_ "ft/chipset" // the driver of machines
	_ "ft/mirror"  // the driver of disks
)

// runKeeper is the parent of the driver processes. It handles signals itself.
func runKeeper(args []string, out, errs io.Writer) int {
	f := flags()
	run := f.String("run", filepath.Dir(api.DefaultSocket), "")
	if code, done := parse(f, args, out, errs); done {
		return code
	}
	if err := absolute(run); err != nil {
		return failed(errs, err)
	}
	if err := keeper.Run(context.Background(), keeper.Options{RunDir: *run, Version: api.BuildVersion().Version}); err != nil {
		return failed(errs, err)
	}
	return exitDone
}

// runDriver is one driver process. It handles signals itself; its exit codes are the
// keeper's to read.
func runDriver(args []string, out, errs io.Writer) int {
	if len(args) < 2 || args[0] == "" || args[0][0] == '-' || args[1] == "" || args[1][0] == '-' {
		return misused(errs, errors.New("driver needs a KIND and a NAME"))
	}
	kind, name := args[0], args[1]
	f := flags()
	config := f.String("config", "", "")
	space := f.String("netns", "", "")
	if code, done := parse(f, args[2:], out, errs); done {
		return code
	}
	if *config == "" {
		return misused(errs, errors.New("driver needs --config FILE"))
	}
	if *space != "" {
		if err := netns.Enter(*space); err != nil {
			// Tried again by the keeper, with growing pauses: the namespace may come.
			text := err.Error()
			notify.SenderFromEnv().Send(notify.Message{Status: &text})
			fmt.Fprintf(errs, "driver %s: %v\n", name, err)
			return host.ExitFailed
		}
	}
	return host.Run(context.Background(), kind, name, *config)
}
