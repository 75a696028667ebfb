package main

import (
	"context"
	"errors"
	"io"
	"path/filepath"

	"ft/drivers/host"
	"ft/drivers/keeper"
	"ft/ftd/api"

	_ "ft/mirror" // the driver of disks
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
	if err := keeper.Run(context.Background(), keeper.Options{RunDir: *run}); err != nil {
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
	if code, done := parse(f, args[2:], out, errs); done {
		return code
	}
	if *config == "" {
		return misused(errs, errors.New("driver needs --config FILE"))
	}
	return host.Run(context.Background(), kind, name, *config)
}
