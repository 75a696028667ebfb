package main

import (
	"slices"
	"testing"

	"ft/chipset"
)

// What is offered for a CPU side is what its driver knows.
func TestFaultsOfACPUSideAreItsDrivers(t *testing.T) {
	if got := sideFaults[kindMachine]; !slices.Equal(got, chipset.Faults) {
		t.Errorf("ftctl offers %q, the driver knows %q", got, chipset.Faults)
	}
}
