package firmware

import "fmt"

// Where everything lies when the machine starts:
//
//	kernel where it wants to be, from the start of memory
//	…
//	initrd as high as it can be, page aligned
//	device tree in the last 2 MiB (aligned) of memory
//
// A kernel keeps its hands off both: they are named in the tree, or are the tree.

const (
	// treeSpace is how much is kept for the tree; Linux maps no more of it (MAX_FDT_SIZE).
	treeSpace = 2 << 20
	pageBytes = 4096
)

// Boot is a machine's memory and hart before its first step.
type Boot struct {
	Entry    uint64    // pc
	Tree     uint64    // a1; a0 is the hart's number, 0
	Segments []Segment // all that is not zero, ascending, without overlap
}

// Place lays out kernel, initrd (which may be empty) and the device tree of board in the
// board's memory. It fills in where the initrd lies.
func Place(board Board, kernel *Kernel, initrd []byte) (*Boot, error) {
	ram := board.Memory
	treeAt := (ram.End() - treeSpace) &^ (treeSpace - 1)
	if ram.Size < 2*treeSpace || treeAt < kernel.End() {
		return nil, fmt.Errorf("the kernel ends at %#x and memory at %#x: there is no room for a device tree of up to %s; give the machine more memory",
			kernel.End(), ram.End(), amount(treeSpace))
	}
	boot := &Boot{Entry: kernel.Entry, Tree: treeAt, Segments: append([]Segment(nil), kernel.Segments...)}
	if size := uint64(len(initrd)); size > 0 {
		free := treeAt - kernel.End()
		start := (treeAt - size) &^ (pageBytes - 1)
		if size > free || start < kernel.End() {
			return nil, fmt.Errorf("an initrd of %s does not fit between the kernel's end at %#x and the device tree at %#x; give the machine more memory",
				amount(size), kernel.End(), treeAt)
		}
		board.InitrdStart, board.InitrdEnd = start, start+size
		boot.Segments = append(boot.Segments, Segment{Addr: start, Data: initrd, Size: size})
	}
	tree, err := board.DeviceTree()
	if err != nil {
		return nil, err
	}
	if len(tree) > treeSpace {
		return nil, fmt.Errorf("a device tree of %s is more than a kernel maps, %s", amount(uint64(len(tree))), amount(treeSpace))
	}
	boot.Segments = append(boot.Segments, Segment{Addr: treeAt, Data: tree, Size: uint64(len(tree))})
	return boot, nil
}
