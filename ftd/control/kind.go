package control

import "ft/drivers"

// kind is what the core knows about a kind of device. All three are the same thing to
// it: a face over two sides. This table is the whole difference.
type kind struct {
	name       string
	modules    [2]string // the modules that carry side 0 and side 1
	part       string    // what a side is made of, in a sentence
	face       string    // what the face is, where it has no name yet
	syncing    string    // what a side is doing that is syncing
	kept       string    // what a person need not fear for when the driver is not started again
	switchable bool      // one side is active, the other stands by
	// returns: what its driver cuts a side off for may lie outside the part (a cable, the
	// path behind it). That is no fault of the part, and the driver alone sees when it is
	// over: it brings a side that is wanted in again by itself.
	returns bool
	// machine: it is switched on and off, and has words of its own for that (machine.go).
	machine bool
	cures   []cure
}

// cure is what a person can do about a side that is out for a reason with a word in it.
type cure struct{ word, action string } // action: with %s for what the side is made of

// nicCures know the words of package bond.
var nicCures = []cure{
	{" flaps", "see to the cable of %s and what it is plugged into: it returns by itself when it has been quiet"},
	{"the path behind", "look at the switch and cables behind %s: it returns by itself when the path is good"},
	{"no carrier", "put the cable of %s back: it then comes in by itself"},
}

var kinds = [...]kind{
	{name: "disk", modules: [2]string{"pci0", "pci1"}, part: "device", face: "disk", syncing: "being brought up to date", kept: "; the data is safe"},
	{name: "nic", modules: [2]string{"pci0", "pci1"}, part: "NIC", face: "interface", syncing: "waiting for the up-delay", switchable: true, returns: true, cures: nicCures},
	{name: "machine", modules: [2]string{"cpu0", "cpu1"}, part: "CPU module", face: "machine", syncing: "being brought up to date", machine: true},
}

// moduleIDs are the modules of a box, in the order in which they are shown.
var moduleIDs = [...]string{"cpu0", "cpu1", "pci0", "pci1"}

// ModuleIDs are the modules that a box may have.
func ModuleIDs() []string { return moduleIDs[:] }

func kindOf(name string) *kind {
	for i := range kinds {
		if kinds[i].name == name {
			return &kinds[i]
		}
	}
	return nil
}

// worst orders the states of a side for a module's state: the first that one of its
// sides is in. Empty stands last: what is not configured makes nothing worse.
var worst = [...]drivers.State{
	drivers.Broken, drivers.Shot, drivers.Removed, drivers.Dumping, drivers.Offline,
	drivers.Diagnostics, drivers.Syncing, drivers.Simplex, drivers.Duplex, drivers.Empty,
}

// onItsWay says whether a driver is at work to bring the side in.
func onItsWay(s drivers.State) bool { return s == drivers.Diagnostics || s == drivers.Syncing }

// withDriver says whether the driver has anything to do with the side now: it serves
// from it, or works on it.
func withDriver(s drivers.State) bool {
	return s.InService() || onItsWay(s) || s == drivers.Dumping
}
