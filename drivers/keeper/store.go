package keeper

import (
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"ft/drivers/notify"
)

// storeMax bounds the descriptors held for one process.
const storeMax = 1024

// store holds the descriptors of one process by name, in the order they came.
type store map[string][]int

func (s store) counts() map[string]int {
	counts := map[string]int{}
	for name, fds := range s {
		counts[name] = len(fds)
	}
	return counts
}

func (s store) total() (n int) {
	for _, fds := range s {
		n += len(fds)
	}
	return n
}

// keep takes fds over, under name; with replace instead of what was there.
func (k *keeper) keep(p *process, name string, fds []int, replace bool) error {
	var old []int
	if replace {
		old = p.store[name]
	}
	held := p.store.total() - len(old)
	switch {
	case len(fds) == 0:
		return fmt.Errorf("store as %s: no descriptor came with the message", name)
	case name == notify.GateName || name == notify.PredecessorName:
		closeAll(fds)
		return fmt.Errorf("the name %q is the keeper's own", name)
	case held+len(fds) > storeMax:
		closeAll(fds)
		return fmt.Errorf("store as %s: %d descriptors are held for %s, %d more are too many (%d)", name, held, p.name, len(fds), storeMax)
	}
	if p.store == nil {
		p.store = store{}
	}
	if replace {
		p.store[name] = nil
		k.upstream.remove(p.name, name)
	}
	p.store[name] = append(p.store[name], fds...)
	if !slices.Contains(p.stored, name) {
		p.stored = append(p.stored, name)
	}
	k.upstream.store(p.name, name, fds)
	closeAll(old)
	return nil
}

// drop closes what is held under name.
func (k *keeper) drop(p *process, name string) {
	fds, ok := p.store[name]
	if !ok {
		return
	}
	delete(p.store, name)
	p.stored = slices.DeleteFunc(p.stored, func(n string) bool { return n == name })
	closeAll(fds)
	k.upstream.remove(p.name, name)
}

// dropAll closes all that is held, in the reverse of the order in which it came: what
// came later may be what keeps the last close of the earlier from waiting for a server
// that is not there any more.
func (k *keeper) dropAll(p *process) {
	for _, name := range slices.Backward(slices.Clone(p.stored)) {
		k.drop(p, name)
	}
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// ownUser says whether uid may speak to this keeper.
func ownUser(uid uint32) bool { return uid == 0 || int(uid) == os.Geteuid() }
