package main

import (
	"io"

	"ft/chipset/backplane"
	"ft/chipset/inside"
)

// runCPUModule is one CPU module: the process of a hart and its memory. A chipset starts it.
func runCPUModule(args []string, _, errs io.Writer) int {
	if _, err := backplane.Place(args); err != nil {
		return misused(errs, err)
	}
	return inside.Run(args, errs)
}
