package control

import "ft/drivers"

// kind is what the core knows about a kind of device. All three are the same thing to
// it: a face over two sides. This table is the whole difference.
type kind struct {
	name       string
	modules    [2]string // the modules that carry side 0 and side 1
	part       string    // what a side is made of, in a sentence
	face       string    // what the face is, where it has no name yet
	switchable bool      // one side is active, the other stands by
}

var kinds = [...]kind{
	{name: "disk", modules: [2]string{"pci0", "pci1"}, part: "device", face: "disk"},
	{name: "nic", modules: [2]string{"pci0", "pci1"}, part: "NIC", face: "interface", switchable: true},
	{name: "machine", modules: [2]string{"cpu0", "cpu1"}, part: "CPU module", face: "machine"},
}

// moduleIDs are the modules of a box, in the order in which they are shown.
var moduleIDs = [...]string{"cpu0", "cpu1", "pci0", "pci1"}

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
